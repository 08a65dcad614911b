//! Names on servers and URLs that are given to them.

use proptest::prelude::*;

use super::super::kind::{host_of, matches_glob, pull_url, tcp_address, without_credentials};
use crate::proptests::config_with_cases;

proptest! {
    #![proptest_config(config_with_cases(2000))]

    #[test]
    fn urls_that_are_given_have_no_odd_character(url in "(rtsp|http)://[a-z]{1,3}/.{0,12}") {
        if let Some(given) = pull_url(&url, &["rtsp", "http"]) {
            let odd = |letter: char| {
                !letter.is_ascii_graphic() || "\"'`\\{};<>|".contains(letter)
            };
            prop_assert!(!given.contains(odd), "{given}");
        }
    }
}

#[test]
fn only_urls_of_the_schemes_are_given() {
    let schemes = ["rtsp", "http"];
    let given = |url: &str| pull_url(url, &schemes);
    assert_eq!(
        given("RTSP://u:p@h:554/ä b?c=d").as_deref(),
        Some("rtsp://u:p@h:554/%C3%A4%20b?c=d")
    );
    assert_eq!(given("hls://h/a.m3u8").as_deref(), Some("http://h/a.m3u8"));
    for bad in [
        "file:///etc/passwd",
        "exec:ffmpeg -i x",
        "exec://x",
        "rtsp:///x",
        "rtsp://",
        "rtsp://u@/x",
        "rtsp://h:port/x",
        "rtsp://h/\";}",
        "rtsp://h/a;b",
        "rtsp://h/a\nb",
        "rtsp://h/a'b",
        "rtsp://h/a\\b",
        "rtsp://h/{a}",
        "rtsp://h/`a`",
        "rtsp://h/a\u{7f}",
        "rtsp://h/a\u{85}",
        "h/a",
        "",
    ] {
        assert_eq!(given(bad), None, "{bad:?}");
    }
    let long = format!("rtsp://h/{}", "a".repeat(5000));
    assert_eq!(given(&long), None);
}

#[test]
fn parts_of_urls_are_found() {
    assert_eq!(host_of("rtsp://u:p@h1:554/x"), "h1");
    assert_eq!(host_of("rtsp://[fd00::1]:554/x"), "fd00::1");
    assert_eq!(tcp_address("rtsp://u:p@h1/x"), Some(("h1", 554)));
    assert_eq!(tcp_address("http://h1:81/x"), Some(("h1", 81)));
    assert_eq!(tcp_address("udp://239.0.0.1:1"), None);
    let shown = without_credentials("rtsp://u:p@ss@h:1/a?password=b");
    assert_eq!(shown, "rtsp://h:1/a");
    for (pattern, text, matches) in [
        ("keep-*", "keep-1", true),
        ("keep-*", "kee", false),
        ("a", "a", true),
        ("a", "ab", false),
        ("*b*d", "abcd", true),
        ("*b*d", "abc", false),
        ("*", "", true),
    ] {
        assert_eq!(matches_glob(pattern, text), matches, "{pattern} {text}");
    }
}
