//! Names on servers and URLs that are given to them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::kind::{
    ServerRules, escape, host_of, is_plain, matches_glob, native_in_app, pull_url, tcp_address,
    unescape, without_credentials,
};
use super::super::kinds::mediamtx::MediaMtxRules;
use crate::proptests::config_with_cases;

/// Names full of what escaped names are made of.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[_x0-9A-F./ab]{1,12}",
        "[_xäю/. A-F0-9\\-]{1,8}",
        any::<String>().prop_filter("not empty", |text| !text.is_empty()),
    ]
}

fn mediamtx() -> MediaMtxRules {
    MediaMtxRules {
        play_base: "http://h:8888".to_owned(),
    }
}

proptest! {
    #![proptest_config(config_with_cases(2000))]

    #[test]
    fn escaped_names_read_back(name in name()) {
        let escaped = escape(&name, is_plain);
        prop_assert!(escaped.chars().all(is_plain), "{escaped}");
        prop_assert_eq!(unescape(&escaped), name);
    }

    #[test]
    fn names_on_mediamtx_are_allowed_and_read_back(name in name()) {
        let native = mediamtx().native(&name);
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        prop_assert!(native.split('/').all(is_part), "{native}");
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-/.".contains(letter);
        prop_assert!(native.chars().all(is_letter), "{native}");
        prop_assert_eq!(unescape(&native), name);
    }

    #[test]
    fn names_in_applications_are_distinct(names in prop::collection::btree_set(name(), 2..40)) {
        let mut known: BTreeMap<Box<str>, String> = BTreeMap::new();
        for name in names {
            let native = native_in_app(&name, "live");
            let parts: Vec<&str> = native.split('/').collect();
            prop_assert!(parts.len() == 3 && parts[0].is_empty(), "{native}");
            prop_assert!(parts[1..].iter().all(|part| !part.is_empty()), "{native}");
            let other = known.insert(native.clone(), name.clone());
            prop_assert_eq!(other, None, "{} is {}", name, native);
        }
    }

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
fn plain_names_stay_as_they_are() {
    let rules = mediamtx();
    for name in ["cam_01", "a/b.c-d", "_x", "_x_", "_xyz_", "x41_"] {
        assert_eq!(&*rules.native(name), name);
    }
    assert_eq!(&*rules.native("/a"), "_x2F_a");
    assert_eq!(&*rules.native("a/../b"), "a_x2F__x2E__x2E__x2F_b");
    assert_eq!(&*rules.native("_x41_"), "_x5F_x41_");
    assert_eq!(&*native_in_app("cam", "live"), "/live/cam");
    assert_eq!(&*native_in_app("a/b", "live"), "/a/b");
    assert_eq!(&*native_in_app("live/b", "live"), "/live/live_x2F_b");
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
