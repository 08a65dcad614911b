//! Reads extended M3U: channels, and problems with their line numbers.
//!
//! The format has no specification, so this reads what players read: `#EXTINF:DURATION key="value"
//! ...,TITLE` followed by URLs, attributes in any order, in double, single or no quotes, `#EXTGRP`
//! above channels or below their `#EXTINF`, options for players in lines of their own and behind a
//! pipe, URLs without `#EXTINF`, LF, CRLF or CR, a byte order mark. Unreadable lines are reported
//! and skipped with the lines that belong to them. Whether a streamer can pull a URL is decided in
//! `channel`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::player_options::{InputOptions, plain};

/// Most channels of a playlist. Limits memory; the largest playlists in use have a tenth of it.
pub const ENTRIES_MAX: usize = 1_000_000;

/// The content of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Playlist {
    pub entries: Vec<PlaylistEntry>,
    pub problems: Vec<Problem>,
    /// Options for players that streamers do not have.
    pub player_options: usize,
}

/// A channel as the file has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaylistEntry {
    /// Line of `#EXTINF`, or of the URL if it is absent.
    pub line: usize,
    /// The members that a table gives as they are.
    pub given: GivenMembers,
    /// At least one, in the order of the file.
    pub inputs: Vec<PlaylistInput>,
    /// After the comma of `#EXTINF`; empty when absent.
    pub title: String,
    /// `#EXTGRP`, else empty.
    pub group: String,
    /// Names in lower case, in the order of the line.
    pub attributes: Vec<(String, String)>,
}

/// Members of a stream that a table gives as they are; a playlist has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenMembers {
    /// The name of the stream; `None`: it is made from what else is known.
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Further members, in the form of the API.
    pub members: BTreeMap<String, Value>,
}

/// A URL of a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaylistInput {
    pub line: usize,
    /// Without the options behind its pipe.
    pub url: String,
    pub options: InputOptions,
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
    /// A word for programs, the same for every line with this reason.
    pub code: &'static str,
    pub reason: String,
}

/// Reads a file. `Err`: the file as a whole is not a list of channels.
pub fn parse(bytes: &[u8]) -> Result<Playlist, Problem> {
    if let Some(kind) = foreign_kind(bytes) {
        return Err(not_a_list(1, kind));
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut reader = PlaylistReader::default();
    for (index, line) in lines(bytes).enumerate() {
        reader.line(index + 1, line)?;
    }
    reader.close_pending();
    Ok(reader.playlist)
}

pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub fn not_a_list(line: usize, reason: impl Into<String>) -> Problem {
    Problem {
        line,
        code: "not_a_playlist",
        reason: reason.into(),
    }
}

/// What a file is that is not a text of lines in UTF-8, by its first bytes.
pub fn foreign_kind(bytes: &[u8]) -> Option<&'static str> {
    const BEGINNINGS: [(&[u8], &str); 7] = [
        (b"\xff\xfe", "the file is UTF-16; save it as UTF-8"),
        (b"\xfe\xff", "the file is UTF-16; save it as UTF-8"),
        (b"\x1f\x8b", "the file is compressed with gzip; unpack it"),
        (b"BZh", "the file is compressed with bzip2; unpack it"),
        (b"\xfd7zXZ", "the file is compressed with xz; unpack it"),
        (
            b"\x28\xb5\x2f\xfd",
            "the file is compressed with zstd; unpack it",
        ),
        (b"PK\x03\x04", "the file is a zip archive; unpack it"),
    ];
    let mut beginnings = BEGINNINGS.iter();
    if let Some((_, kind)) = beginnings.find(|(beginning, _)| bytes.starts_with(beginning)) {
        return Some(kind);
    }
    let head = &bytes[..bytes.len().min(64)];
    let letters = head.split(|byte| *byte == 0).flatten().count();
    if (head.len() - letters) * 3 > head.len() {
        return Some("the file is UTF-16 without a byte order mark; save it as UTF-8");
    }
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let text = text.trim_ascii_start();
    let begins = |word: &str| {
        let beginning = text.get(..word.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(word.as_bytes()))
    };
    if begins("<!doctype html") || begins("<html") {
        return Some("the file is an HTML page: the server sent no playlist");
    }
    begins("<").then_some("the file is XML, not a playlist")
}

/// Lines end with LF, or with CR if the file has no LF.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = if bytes.contains(&b'\n') { b'\n' } else { b'\r' };
    bytes.split(move |byte| *byte == end)
}

#[derive(Default)]
struct PlaylistReader {
    playlist: Playlist,
    urls: usize,
    /// An `#EXTINF` whose first URL was not read yet.
    pending: Option<PlaylistEntry>,
    /// The last entry has an `#EXTINF`, so further URLs are inputs of it.
    is_open: bool,
    /// The `#EXTINF` above was reported, so its URLs are skipped.
    swallow_urls: bool,
    /// `#EXTGRP` before an `#EXTINF`: for all channels until the next.
    group: String,
    /// `#EXTGRP` below an `#EXTINF`: for this channel.
    own_group: Option<String>,
    options: InputOptions,
    /// A URL had the options, so they end with its channel.
    options_are_used: bool,
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
            "#EXTINF" => self.extinf(number, value),
            "#EXTGRP" if self.pending.is_some() => self.own_group = Some(plain(value)),
            "#EXTGRP" => self.group = plain(value),
            "#EXTVLCOPT" | "#KODIPROP" => self.option_line(|options| options.read_line(value)),
            "#EXTHTTP" => self.option_line(|options| options.read_json(value)),
            "#EXT-X-TARGETDURATION" | "#EXT-X-STREAM-INF" | "#EXT-X-MEDIA-SEQUENCE" => {
                let reason = "this is the HLS playlist of one stream, not a list of channels";
                return Err(not_a_list(number, reason));
            }
            _ => {} // #EXTM3U and comments
        }
        Ok(())
    }

    fn extinf(&mut self, number: usize, text: &str) {
        self.close_pending();
        self.is_open = false;
        self.end_used_options();
        match extinf(text) {
            Ok(entry) => {
                let line = number;
                self.pending = Some(PlaylistEntry { line, ..entry });
                self.swallow_urls = false;
            }
            Err(reason) => {
                self.problem(number, "open_quote", reason);
                self.swallow_urls = true;
            }
        }
    }

    fn option_line(&mut self, read: impl FnOnce(&mut InputOptions) -> usize) {
        self.end_used_options();
        self.playlist.player_options += read(&mut self.options);
    }

    fn end_used_options(&mut self) {
        if std::mem::take(&mut self.options_are_used) {
            self.options = InputOptions::default();
        }
    }

    fn url(&mut self, number: usize, text: &str) -> Result<(), Problem> {
        if self.swallow_urls {
            return Ok(());
        }
        if self.urls == ENTRIES_MAX {
            let reason = format!("more than {ENTRIES_MAX} channels; divide the file");
            return Err(not_a_list(number, reason));
        }
        self.urls += 1;
        if let Some(mut entry) = self.pending.take() {
            entry.group = self.own_group.take().unwrap_or_else(|| self.group.clone());
            self.playlist.entries.push(entry);
            self.is_open = true;
        } else if !self.is_open {
            self.end_used_options();
            self.playlist.entries.push(PlaylistEntry {
                line: number,
                group: self.own_group.take().unwrap_or_else(|| self.group.clone()),
                ..PlaylistEntry::default()
            });
        }
        self.options_are_used = true;
        let entry = self.playlist.entries.last_mut().expect("one was added");
        let mut options = InputOptions::of_attributes(&entry.attributes);
        options.add(&self.options);
        let (url, ignored) = options.read_pipe(text);
        self.playlist.player_options += ignored;
        let (line, url) = (number, url.to_owned());
        entry.inputs.push(PlaylistInput { line, url, options });
        Ok(())
    }

    fn not_utf8(&mut self, number: usize, line: &[u8]) {
        self.problem(number, "not_utf8", "is not UTF-8".to_owned());
        let line = line.trim_ascii_start();
        if line.starts_with(b"#") {
            let tag = line.get(..7);
            if tag.is_some_and(|tag| tag.eq_ignore_ascii_case(b"#EXTINF")) {
                self.close_pending();
                self.is_open = false;
                self.end_used_options();
                self.swallow_urls = true;
            }
        } else if self.pending.take().is_some() {
            self.swallow_urls = true;
            self.own_group = None;
            self.options_are_used = true;
        }
    }

    fn close_pending(&mut self) {
        if let Some(entry) = self.pending.take() {
            self.problem(entry.line, "no_url", "has no URL after it".to_owned());
        }
    }

    fn problem(&mut self, line: usize, code: &'static str, reason: String) {
        let problem = Problem { line, code, reason };
        self.playlist.problems.push(problem);
    }
}

/// Reads `DURATION key="value" key=value,TITLE`, the text after the tag. The duration is ignored:
/// live channels have none. Commas between attributes, and a title without a comma, are read too.
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
    let mut words = None;
    loop {
        rest = rest.trim_start();
        if let Some(title) = rest.strip_prefix(',') {
            if is_quoted_attribute(title.trim_start()) {
                rest = title;
                continue;
            }
            entry.title = plain(title);
            return Ok(entry);
        }
        let key_end = rest
            .find(|c: char| c.is_whitespace() || c == ',' || c == '=')
            .unwrap_or(rest.len());
        let (key, tail) = rest.split_at(key_end);
        let Some(value) = tail.strip_prefix('=') else {
            let words = *words.get_or_insert(rest);
            if tail.is_empty() {
                entry.title = plain(words);
                return Ok(entry);
            }
            rest = tail; // a word that is not an attribute
            continue;
        };
        words = None;
        let (value, tail) = attribute_value(value)
            .ok_or_else(|| format!("the quote after {key:?} is never closed"))?;
        entry
            .attributes
            .push((key.to_ascii_lowercase(), plain(value)));
        rest = tail;
    }
}

/// Whether the text begins with `key="` or `key='`.
fn is_quoted_attribute(text: &str) -> bool {
    let key_end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    key_end.is_some_and(|end| {
        end > 0 && (text[end..].starts_with("=\"") || text[end..].starts_with("='"))
    })
}

/// The value and what follows. Values with quotes inside are common, so a quote closes where the
/// value can end: before the title's comma, the next attribute or the end of the line. Only when
/// there is no such place, any space after a quote will do.
fn attribute_value(text: &str) -> Option<(&str, &str)> {
    let quote = if text.starts_with('\'') { '\'' } else { '"' };
    let word = || {
        let end = text.find(|c: char| c.is_whitespace() || c == ',');
        Some(text.split_at(end.unwrap_or(text.len())))
    };
    let Some(quoted) = text.strip_prefix(quote) else {
        return word();
    };
    let ends = || {
        quoted
            .match_indices(quote)
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
        // An apostrophe may begin a value that is not quoted.
        .or_else(|| word().filter(|_| quote == '\''))
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
        assert_eq!((entry.line, entry.inputs[0].line), (2, 3));
        assert_eq!(entry.attribute("tvg-id"), Some("A.al"));
        assert_eq!(entry.attribute("tvg-country"), Some("AL"));
        assert_eq!(entry.attribute("group-title"), Some("News, all"));
        assert_eq!(entry.title, "A, the first");
        assert_eq!(entry.inputs[0].url, "http://h/a.m3u8");
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
            (entry.line, entry.inputs[0].line, entry.title.as_str()),
            (1, 1, "")
        );
        let file = b"#EXTINF:tvg-id=\"x\",X\n#EXTGRP: Sport \n#EXTVLCOPT:http-user-agent=Y\n\
            http://h/x.ts\n#EXTINF:,Y\nhttp://h/y.ts\n";
        let playlist = parse(file).expect("channels");
        assert_eq!(playlist.entries[0].attribute("tvg-id"), Some("x"));
        assert_eq!(playlist.entries[0].group, "Sport");
        assert_eq!(
            playlist.entries[1].group, "",
            "a group applies to one channel"
        );
        let agent = |entry: usize| playlist.entries[entry].inputs[0].options.user_agent.clone();
        assert_eq!((agent(0).as_deref(), agent(1)), (Some("Y"), None));
        assert_eq!(playlist.player_options, 0);
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
                prop_assert!(playlist.entries.iter().all(|entry| !entry.inputs.is_empty()));
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
