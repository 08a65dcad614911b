//! Reads extended M3U: channels, and problems with their line numbers.
//!
//! The format has no specification, so this reads what players read: `#EXTINF:DURATION key="value"
//! ...,TITLE` followed by a URL, attributes in any order and with or without quotes, `#EXTGRP`,
//! URLs without `#EXTINF`, LF, CRLF or CR, a byte order mark. Unreadable lines are reported and
//! skipped with the lines that belong to them. Whether a streamer can pull a URL is decided in
//! `channel`.

/// Most channels of a playlist. Limits memory; the largest playlists in use have a tenth of it.
pub const ENTRIES_MAX: usize = 1_000_000;

/// The content of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Playlist {
    pub entries: Vec<PlaylistEntry>,
    pub problems: Vec<Problem>,
    /// Lines with options for players (`#EXTVLCOPT`, `#KODIPROP`), which streamers do not use.
    pub player_options: usize,
}

/// A channel as the file has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaylistEntry {
    /// Line of `#EXTINF`, or of the URL if it is absent.
    pub line: usize,
    pub url_line: usize,
    pub url: String,
    /// After the comma of `#EXTINF`; empty when absent.
    pub title: String,
    /// `#EXTGRP`, else empty.
    pub group: String,
    /// Names in lower case, in the order of the line.
    pub attributes: Vec<(String, String)>,
}

impl PlaylistEntry {
    /// The value of an attribute that is present and not empty.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .attributes
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())?;
        Some(value)
    }
}

/// A skipped line and the reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub line: usize,
    pub reason: String,
}

/// Reads a file. `Err`: the file as a whole is not a list of channels.
pub fn parse(bytes: &[u8]) -> Result<Playlist, Problem> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Problem {
            line: 1,
            reason: "the file is UTF-16; save it as UTF-8".to_owned(),
        });
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = PlaylistReader::default();
    for (index, line) in lines(bytes).enumerate() {
        reader.line(index + 1, line)?;
    }
    reader.close_pending();
    Ok(reader.playlist)
}

/// Lines end with LF, or with CR if the file has no LF.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = if bytes.contains(&b'\n') { b'\n' } else { b'\r' };
    bytes.split(move |byte| *byte == end)
}

#[derive(Default)]
struct PlaylistReader {
    playlist: Playlist,
    /// An `#EXTINF` whose URL was not read yet.
    pending: Option<PlaylistEntry>,
    group: String,
    /// The `#EXTINF` above was reported, so its URL is skipped.
    swallow_url: bool,
}

impl PlaylistReader {
    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), Problem> {
        let Ok(text) = std::str::from_utf8(line) else {
            self.not_utf8(number, line);
            return Ok(());
        };
        let text = text.trim();
        if text.is_empty() {
            return Ok(());
        }
        if !text.starts_with('#') {
            return self.url(number, text);
        }
        let (tag, value) = text.split_once(':').unwrap_or((text, ""));
        match tag.to_ascii_uppercase().as_str() {
            "#EXTINF" => {
                self.close_pending();
                match extinf(value) {
                    Ok(entry) => {
                        self.pending = Some(PlaylistEntry {
                            line: number,
                            ..entry
                        });
                        self.swallow_url = false;
                    }
                    Err(reason) => {
                        self.problem(number, reason);
                        self.swallow_url = true;
                    }
                }
            }
            "#EXTGRP" => value.trim().clone_into(&mut self.group),
            "#EXTVLCOPT" | "#KODIPROP" => self.playlist.player_options += 1,
            "#EXT-X-TARGETDURATION" | "#EXT-X-STREAM-INF" | "#EXT-X-MEDIA-SEQUENCE" => {
                return Err(Problem {
                    line: number,
                    reason: "this is the HLS playlist of one stream, not a list of channels"
                        .to_owned(),
                });
            }
            _ => {} // #EXTM3U and comments
        }
        Ok(())
    }

    fn url(&mut self, number: usize, text: &str) -> Result<(), Problem> {
        let group = std::mem::take(&mut self.group);
        if std::mem::take(&mut self.swallow_url) {
            return Ok(());
        }
        if self.playlist.entries.len() == ENTRIES_MAX {
            return Err(Problem {
                line: number,
                reason: format!("more than {ENTRIES_MAX} channels; divide the file"),
            });
        }
        let entry = self.pending.take().unwrap_or(PlaylistEntry {
            line: number,
            ..PlaylistEntry::default()
        });
        self.playlist.entries.push(PlaylistEntry {
            url_line: number,
            url: text.to_owned(),
            group,
            ..entry
        });
        Ok(())
    }

    fn not_utf8(&mut self, number: usize, line: &[u8]) {
        self.problem(number, "is not UTF-8".to_owned());
        if line.trim_ascii_start().starts_with(b"#") {
            let info = line
                .trim_ascii_start()
                .get(..7)
                .is_some_and(|tag| tag.eq_ignore_ascii_case(b"#EXTINF"));
            if info {
                self.close_pending();
                self.swallow_url = true;
            }
        } else {
            self.pending = None;
            self.swallow_url = false;
            self.group.clear();
        }
    }

    fn close_pending(&mut self) {
        if let Some(entry) = self.pending.take() {
            self.problem(entry.line, "has no URL after it".to_owned());
        }
    }

    fn problem(&mut self, line: usize, reason: String) {
        self.playlist.problems.push(Problem { line, reason });
    }
}

/// Reads `DURATION key="value" key=value,TITLE`, the text after the tag. The duration is ignored:
/// live channels have none.
fn extinf(text: &str) -> Result<PlaylistEntry, String> {
    let mut entry = PlaylistEntry::default();
    let first = text.trim_start();
    let word_end = first
        .find(|c: char| c.is_whitespace() || c == ',')
        .unwrap_or(first.len());
    // Some programs omit the duration.
    let mut rest = if first[..word_end].contains('=') {
        first
    } else {
        &first[word_end..]
    };
    loop {
        rest = rest.trim_start();
        if let Some(title) = rest.strip_prefix(',') {
            entry.title = plain(title);
            return Ok(entry);
        }
        let key_end = rest
            .find(|c: char| c.is_whitespace() || c == ',' || c == '=')
            .unwrap_or(rest.len());
        let (key, tail) = rest.split_at(key_end);
        let Some(value) = tail.strip_prefix('=') else {
            if tail.is_empty() {
                return Ok(entry); // the end, without a title
            }
            rest = tail; // a word that is not an attribute
            continue;
        };
        let (value, tail) = attribute_value(value)
            .ok_or_else(|| format!("the quote after {key:?} is never closed"))?;
        entry
            .attributes
            .push((key.to_ascii_lowercase(), plain(value)));
        rest = tail;
    }
}

/// The value and what follows. Values with quotes inside are common, so a quote closes where the
/// value can end: before the title's comma, the next attribute or the end of the line. Only when
/// there is no such place, any space after a quote will do.
fn attribute_value(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|c: char| c.is_whitespace() || c == ',')
            .unwrap_or(text.len());
        return Some(text.split_at(end));
    };
    let ends = || {
        quoted
            .match_indices('"')
            .map(|(at, _)| (&quoted[..at], &quoted[at + 1..]))
    };
    let before_next = |(_, tail): &(&str, &str)| {
        let tail = tail.trim_start();
        let key_end = tail.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        tail.is_empty()
            || tail.starts_with(',')
            || key_end.is_some_and(|end| end > 0 && tail[end..].starts_with('='))
    };
    ends()
        .find(before_next)
        .or_else(|| ends().find(|(_, tail)| tail.starts_with(char::is_whitespace)))
}

/// Without control characters (a tab is a space) and outer spaces.
fn plain(text: &str) -> String {
    let spaced = text.replace('\t', " ");
    spaced.trim().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> PlaylistEntry {
        let mut playlist = parse(text.as_bytes()).expect("a list of channels");
        assert_eq!(playlist.problems, vec![]);
        assert_eq!(playlist.entries.len(), 1, "{playlist:?}");
        playlist.entries.remove(0)
    }

    fn problems(bytes: &[u8]) -> Vec<(usize, String)> {
        let playlist = parse(bytes).expect("a list of channels");
        playlist
            .problems
            .into_iter()
            .map(|problem| (problem.line, problem.reason))
            .collect()
    }

    #[test]
    fn attributes_title_and_url_are_read() {
        let entry = one(
            "#EXTM3U\n#EXTINF:-1 tvg-id=\"A.al\" TVG-Country=AL group-title=\"News, all\",\
             A, the first\nhttp://h/a.m3u8\n",
        );
        assert_eq!((entry.line, entry.url_line), (2, 3));
        assert_eq!(entry.attribute("tvg-id"), Some("A.al"));
        assert_eq!(entry.attribute("tvg-country"), Some("AL"));
        assert_eq!(entry.attribute("group-title"), Some("News, all"));
        assert_eq!(entry.title, "A, the first");
        assert_eq!(entry.url, "http://h/a.m3u8");
    }

    #[test]
    fn quotes_inside_values_and_titles_stay() {
        let entry = one(
            "#EXTINF:0 tvg-name=\"The \"Best\" TV\"group-title=\"\" tvg-id=\"b\",The \"Best\", TV\n\
             udp://239.0.0.1:5000",
        );
        assert_eq!(entry.attribute("tvg-name"), Some("The \"Best\" TV"));
        assert_eq!(entry.attribute("group-title"), None, "empty is absent");
        assert_eq!(entry.attribute("tvg-id"), Some("b"));
        assert_eq!(entry.title, "The \"Best\", TV");
    }

    #[test]
    fn bom_line_ends_and_blank_lines_are_ignored() {
        let plain = "#EXTM3U\n\n#EXTINF:-1,日本 / Japan\nhttp://h/1.m3u8\n";
        let entry = one(plain);
        assert_eq!(entry.title, "日本 / Japan");
        for variant in [
            format!("\u{feff}{plain}"),
            plain.replace('\n', "\r\n"),
            plain.replace('\n', "\r"),
        ] {
            assert_eq!(one(&variant), entry, "{variant:?}");
        }
    }

    #[test]
    fn bare_urls_groups_and_missing_durations_are_accepted() {
        let entry = one("rtmp://h/live/a");
        assert_eq!(
            (entry.line, entry.url_line, entry.title.as_str()),
            (1, 1, "")
        );
        let file = b"#EXTINF:tvg-id=\"x\",X\n#EXTGRP: Sport \n#EXTVLCOPT:http-user-agent=Y\n\
            http://h/x.ts\nhttp://h/y.ts\n";
        let playlist = parse(file).expect("channels");
        assert_eq!(playlist.entries[0].attribute("tvg-id"), Some("x"));
        assert_eq!(playlist.entries[0].group, "Sport");
        assert_eq!(
            playlist.entries[1].group, "",
            "a group applies to one channel"
        );
        assert_eq!(playlist.player_options, 1);
    }

    #[test]
    fn unreadable_lines_are_reported_and_skipped_with_their_url() {
        let file = b"#EXTM3U\n#EXTINF:-1,no url\n\
            #EXTINF:-1 tvg-id=\"open,title\nhttp://h/lost.m3u8\n\
            #EXTINF:-1,caf\xe9\nhttp://h/cafe.m3u8\n\
            #EXTINF:-1,bad url\nhttp://h/\xff.m3u8\n\
            #EXTINF:-1,good\nhttp://h/good.m3u8\n#EXTINF:-1,last";
        assert_eq!(
            problems(file),
            [
                (2, "has no URL after it".to_owned()),
                (3, "the quote after \"tvg-id\" is never closed".to_owned()),
                (5, "is not UTF-8".to_owned()),
                (8, "is not UTF-8".to_owned()),
                (11, "has no URL after it".to_owned()),
            ]
        );
        let entries = parse(file).expect("channels").entries;
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].line, entries[0].title.as_str()), (9, "good"));
    }

    #[test]
    fn files_that_are_not_channel_lists_are_refused() {
        assert_eq!(
            parse(b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nseg.ts\n")
                .expect_err("HLS")
                .line,
            2
        );
        assert!(
            parse(b"\xff\xfe#\0")
                .expect_err("UTF-16")
                .reason
                .contains("UTF-16")
        );
    }

    fn bytes_of_playlists() -> impl Strategy<Value = Vec<u8>> {
        let special = prop_oneof![
            Just(b'\n'),
            Just(b'"'),
            Just(b','),
            Just(b'='),
            Just(b'#'),
            any::<u8>()
        ];
        proptest::collection::vec(special, 0..200)
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        #[test]
        fn no_bytes_panic_and_no_line_is_lost(bytes in bytes_of_playlists()) {
            if let Ok(playlist) = parse(&bytes) {
                prop_assert!(playlist.entries.iter().all(|entry| !entry.url.is_empty()));
            }
        }

        #[test]
        fn every_extinf_is_an_entry_or_a_problem(
            infos in proptest::collection::vec("[ a-z\"=,]{0,20}", 0..20)
        ) {
            let line = |info: &String| format!("#EXTINF:-1 {info}\nhttp://h/a.ts\n");
            let file: String = infos.iter().map(line).collect();
            let playlist = parse(file.as_bytes()).expect("no HLS tag in it");
            prop_assert_eq!(playlist.entries.len() + playlist.problems.len(), infos.len());
        }
    }
}
