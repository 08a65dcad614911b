//! Names on servers and URLs that are given to them.

use std::sync::Arc;

use clap::ValueEnum as _;
use proptest::prelude::*;

use super::super::desired::WantedDvr;
use super::super::kind::{
    ServerRules, host_of, matches_glob, pull_url, tcp_address, without_credentials,
};
use super::super::kinds::srs_ingest::{IngestOptions, is_harmless};
use super::super::kinds::{ServerKind, ServerOptions, connect};
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
    for (url, address) in [
        ("udp://239.0.0.1:1", None),
        ("udp+mpegts://239.0.0.1:1", None),
        ("onvif://u:p@h1", Some(("h1", 80))),
        ("dvrip://u:p@h1?channel=0", Some(("h1", 34_567))),
        ("webrtc:http://h1/whep", Some(("h1", 80))),
        ("webrtc:https://h1:8/whep", Some(("h1", 8))),
        ("tcp://h1:5", Some(("h1", 5))),
        ("tcp://h1", None),
        ("rtsp:///x", None),
    ] {
        assert_eq!(tcp_address(url), address, "{url}");
    }
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

fn options(kind: ServerKind) -> ServerOptions {
    ServerOptions {
        kind,
        api: kind.usual_api().to_owned(),
        login: None,
        media: "127.0.0.1:1".into(),
        play_base: String::new(),
        record_dir: None,
        ingest: IngestOptions {
            file: "ingest.conf".into(),
            publish: "rtmp://127.0.0.1".into(),
            ffmpeg: "ffmpeg".into(),
        },
    }
}

fn rules(kind: ServerKind) -> Arc<dyn ServerRules> {
    connect(&options(kind)).rules
}

/// What each kind is given of a URL; `-` where the kind does not take it.
#[rustfmt::skip]
const GIVEN: [(&str, [&str; 4]); 27] = {
    const SAME: &str = "=";
    const NO: &str = "-";
    [
        // URL, and what mediamtx, go2rtc, node-media-server and srs are given.
        ("rtsp://h/a",                    [SAME, SAME, SAME, SAME]),
        ("rtsps://h/a",                   [SAME, SAME, NO, SAME]),
        ("rtmp://h/a",                    [SAME, SAME, SAME, SAME]),
        ("rtmps://h/a",                   [SAME, SAME, NO, SAME]),
        ("srt://h:9000",                  [SAME, NO, NO, SAME]),
        ("udp://239.0.0.1:5000",          ["udp+mpegts://239.0.0.1:5000", NO, NO, SAME]),
        ("udp+mpegts://239.0.0.1:5000",   [SAME, NO, NO, "udp://239.0.0.1:5000"]),
        ("rtp://239.0.0.1:5000",          ["udp+rtp://239.0.0.1:5000", NO, NO, NO]),
        ("udp+rtp://239.0.0.1:5000",      [SAME, NO, NO, NO]),
        ("http://h/a",                    [SAME, SAME, NO, SAME]),
        ("https://h/a.flv",               [SAME, SAME, NO, SAME]),
        ("hls://h/a",                     ["http://h/a", "http://h/a", NO, "http://h/a"]),
        ("tshttps://h/a",                 ["https://h/a", "https://h/a", NO, "https://h/a"]),
        ("whep://h/a/whep",               [SAME, "webrtc:http://h/a/whep", NO, NO]),
        ("wheps://h/a/whep",              [SAME, "webrtc:https://h/a/whep", NO, NO]),
        ("rist://h:5000",                 [NO, NO, NO, SAME]),
        ("onvif://u:p@h",                 [NO, SAME, NO, NO]),
        ("dvrip://u:p@h:34567?channel=0", [NO, SAME, NO, NO]),
        ("tcp://h:5000",                  [NO, SAME, NO, NO]),
        ("m4s://h/a",                     [NO, NO, NO, NO]),
        ("file://h/a",                    [NO, NO, NO, NO]),
        ("exec://h/a",                    [NO, NO, NO, NO]),
        ("echo://h/a",                    [NO, NO, NO, NO]),
        ("expr://h/a",                    [NO, NO, NO, NO]),
        ("ffmpeg://h/a",                  [NO, NO, NO, NO]),
        ("webrtc:http://h/a",             [NO, NO, NO, NO]),
        ("unix+mpegts://h/a",             [NO, NO, NO, NO]),
    ]
};

#[test]
fn each_kind_is_given_urls_of_its_schemes() {
    for (at, kind) in ServerKind::value_variants().iter().enumerate() {
        let rules = rules(*kind);
        for (url, given) in GIVEN {
            let expected = match given[at] {
                "=" => Some(url),
                "-" => None,
                other => Some(other),
            };
            assert_eq!(rules.source(url).as_deref(), expected, "{kind:?} {url}");
        }
        // The list has no scheme that this table lacks.
        for scheme in rules.schemes() {
            let begin = format!("{scheme}://");
            let is_there = GIVEN.iter().any(|(url, _)| url.starts_with(&begin));
            assert!(is_there, "{kind:?} {scheme}");
        }
    }
}

#[test]
fn recordings_stay_below_their_directory() {
    let options = |record_dir: Option<&str>| ServerOptions {
        record_dir: record_dir.map(Into::into),
        ..options(ServerKind::Mediamtx)
    };
    let root = |rules: &dyn ServerRules, root: Option<&str>| {
        let dvr = WantedDvr {
            root: root.map(Into::into),
            expiration: Some(60),
            needs_more: false,
        };
        rules
            .recording(&dvr)
            .map(|recording| recording.root.into_string())
    };
    let rules = connect(&options(Some("/rec/dir"))).rules;
    for (given, expected) in [
        (None, "/rec/dir"),
        (Some("/rec/dir"), "/rec/dir"),
        (Some("/rec/dir/"), "/rec/dir"),
        (Some("/rec/dir/a-1/b_2.x"), "/rec/dir/a-1/b_2.x"),
    ] {
        assert_eq!(root(&*rules, given).as_deref(), Ok(expected), "{given:?}");
    }
    for bad in [
        "",
        "/",
        "/rec",
        "/rec/dir2",
        "/rec/dir/..",
        "/rec/dir/../../etc",
        "/rec/dir/./a",
        "/rec/dir//a",
        "rec/dir",
        "a",
        "../rec/dir",
        "/rec/dir/%path",
        "/rec/dir/$HOME",
        "/rec/dir/a b",
        "/rec/dir/a\nb",
        "/rec/dir/\u{e4}",
        "s3://key:secret@host/rec/dir",
    ] {
        assert!(root(&*rules, Some(bad)).is_err(), "{bad:?}");
    }
    let long = format!("/rec/dir/{}", "a".repeat(2000));
    assert!(root(&*rules, Some(&long)).is_err());
    let limited = WantedDvr {
        needs_more: true,
        ..WantedDvr::default()
    };
    assert!(rules.recording(&limited).is_err());
    let forever = WantedDvr {
        expiration: Some(u64::MAX),
        ..WantedDvr::default()
    };
    let forever = rules.recording(&forever).expect("it is recorded");
    assert_eq!(forever.delete_after, 0);
    let rules = connect(&options(None)).rules;
    assert!(root(&*rules, Some("/rec/dir")).is_err());
    for kind in [
        ServerKind::Go2rtc,
        ServerKind::NodeMediaServer,
        ServerKind::Srs,
    ] {
        let options = ServerOptions {
            kind,
            ..options(Some("/rec/dir"))
        };
        let rules = connect(&options).rules;
        assert!(rules.recording(&WantedDvr::default()).is_err(), "{kind:?}");
    }
}

#[test]
fn urls_of_srs_mean_nothing_in_its_configuration() {
    let rules = rules(ServerKind::Srs);
    for (url, _) in GIVEN {
        let given = rules.source(url);
        assert!(given.as_deref().is_none_or(is_harmless), "{url}");
    }
}
