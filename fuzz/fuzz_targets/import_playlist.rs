//! Playlists: every line is a channel, belongs to one, or is reported; names are good and unique, and the same file gives the same names.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use weir::testing::import::channels;
use weir::testing::import::parse;
use weir::testing::state::name::StreamName;

/// Schemes by which media servers run commands or read their own files.
const PROGRAMS: [&str; 6] = ["echo", "exec", "expr", "ffmpeg", "pipe", "unix"];

fuzz_target!(|data: &[u8]| {
    let Ok(playlist) = parse(data) else {
        return;
    };
    let lines = 1 + data
        .iter()
        .filter(|byte| matches!(byte, b'\n' | b'\r'))
        .count();
    for problem in &playlist.problems {
        assert!((1..=lines).contains(&problem.line) && !problem.reason.is_empty());
    }
    for entry in &playlist.entries {
        assert!(!entry.inputs.is_empty());
        for input in &entry.inputs {
            assert!(entry.line <= input.line && (1..=lines).contains(&input.line));
            assert!(!input.url.is_empty());
        }
    }
    let (found, problems) = channels(&playlist.entries, "tv/");
    // A channel with several URLs is one even if some of them are problems.
    assert!(found.len() <= playlist.entries.len());
    assert!(found.len() + problems.len() >= playlist.entries.len());
    let mut names = BTreeSet::new();
    for channel in &found {
        assert!(
            StreamName::parse(&channel.name).is_ok(),
            "{:?}",
            channel.name
        );
        assert!(names.insert(&channel.name), "{:?} twice", channel.name);
        for input in &channel.inputs {
            let scheme = input.url.split(':').next().unwrap_or_default();
            assert!(!PROGRAMS.contains(&scheme), "{:?}", input.url);
        }
    }
    assert_eq!(channels(&playlist.entries, "tv/").0, found);
});
