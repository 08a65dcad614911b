//! Addresses of inputs as the API writes them.

/// Folders of relays that send MPEG-TS over HTTP: `http://box:4022/rtp/239.0.0.1:5000`.
const RELAYS: [&str; 2] = ["rtp", "udp"];

/// The scheme in lower case; `tshttp` and `hls` for http addresses that show their kind in a way
/// that inputs with `http` do not have.
pub fn input_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let is_scheme = |c: u8| c.is_ascii_alphanumeric() || b"+-.".contains(&c);
    if !scheme.bytes().all(is_scheme) {
        return url.to_owned();
    }
    let scheme = scheme.to_ascii_lowercase();
    let secure = match scheme.as_str() {
        "http" => "",
        "https" => "s",
        _ => return format!("{scheme}://{rest}"),
    };
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    let (_, path) = path.split_once('/').unwrap_or((path, ""));
    let ending = |text| str::rsplit_once(text, '.').map_or("", |(_, ending)| ending);
    let is_plain_ts = ending(rest) == "ts" || rest.ends_with("/mpegts");
    let ending = ending(path);
    let is_relay = path
        .split_once('/')
        .is_some_and(|(folder, rest)| RELAYS.contains(&folder) && !rest.is_empty());
    if ending == "m3u8" || is_plain_ts {
        format!("{scheme}://{rest}")
    } else if ending.eq_ignore_ascii_case("m3u8") {
        format!("hls{secure}://{rest}")
    } else if is_relay || ending.eq_ignore_ascii_case("ts") || path.ends_with("/mpegts") {
        format!("tshttp{secure}://{rest}")
    } else {
        format!("{scheme}://{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::input_url;

    #[test]
    fn addresses_are_written_as_the_api_has_them() {
        for (url, written) in [
            ("HTTP://H/A.m3u8", "http://H/A.m3u8"),
            ("Udp://239.0.0.1:5000", "udp://239.0.0.1:5000"),
            ("http://h/a.M3U8?x", "hls://h/a.M3U8?x"),
            ("http://h/a.ts", "http://h/a.ts"),
            ("https://h/a.ts?token=1", "tshttps://h/a.ts?token=1"),
            ("http://h/a/mpegts?x", "tshttp://h/a/mpegts?x"),
            (
                "http://box:4022/rtp/239.0.0.1:5000",
                "tshttp://box:4022/rtp/239.0.0.1:5000",
            ),
            ("http://box/udp/239.0.0.1:1", "tshttp://box/udp/239.0.0.1:1"),
            ("http://box/rtp/", "http://box/rtp/"),
            ("http://h/rtp/a.m3u8", "http://h/rtp/a.m3u8"),
            ("https://h/watch?v=/rtp/1", "https://h/watch?v=/rtp/1"),
            ("[NO STREAM]", "[NO STREAM]"),
        ] {
            assert_eq!(input_url(url), written, "{url}");
        }
    }
}
