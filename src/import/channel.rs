//! Turns the channels of a playlist into streams: name, title, position, inputs and labels.
//!
//! A name depends on the file alone, so importing the same file again finds the same streams:
//! * it is made from `tvg-id`, else the title, else `tvg-name`, else the path of the URL;
//! * letters, marks and digits of any script, `_` and `.` stay; every run of other characters
//!   becomes one `-`; dots and dashes at the ends are removed;
//! * if several channels have one name, the first in the file gets it, the others get `-2`, `-3`,
//!   ... in the order of the file, also if an earlier one cannot be imported: fixing a line does
//!   not rename other channels;
//! * a name with a special meaning in a path or a filter starts at `-2`.
//!
//! What a label cannot hold, for instance a group title in another script, goes into the comment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use regex_automata::meta::Regex;
use serde_json::{Map, json};

use super::address::input_url;
use super::playlist::{PlaylistEntry, PlaylistInput, Problem};
use crate::json::{Object, Value, parse};
use crate::schema::{self, Violation};
use crate::state::name::StreamName;

/// Lines of a comment: the beginning of the line, and its rest if the line is needed.
pub type Notes = BTreeMap<String, Option<String>>;

/// A stream made from a channel of a playlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub line: usize,
    pub name: String,
    /// The name without its number. Channels with the same one are namesakes.
    pub base: String,
    /// Empty: none.
    pub title: String,
    pub position: Option<i64>,
    /// At least one.
    pub inputs: Vec<PlaylistInput>,
    pub labels: BTreeMap<String, String>,
    pub notes: Notes,
    /// Further members of the stream, in the form of the API.
    pub members: BTreeMap<String, serde_json::Value>,
    /// The file gives the name, so no other stream is meant.
    pub is_named: bool,
}

impl Channel {
    /// The line that a message about a part of the stream is about.
    pub fn line_of(&self, pointer: &str) -> usize {
        let rest = pointer.split_once("/inputs").map(|(_, rest)| rest);
        let index = rest.map(|rest| rest.split('/').nth(1).and_then(|at| at.parse().ok()));
        let input = index.and_then(|index: Option<usize>| self.inputs.get(index.unwrap_or(0)));
        input.map_or(self.line, |input| input.line)
    }
}

/// Words that mean "absent" in a filter.
const ABSENT: [&str; 2] = ["null", "undefined"];

/// Leaves room for the prefix and the number in a file name or a path segment.
const NAME_BYTES_MAX: usize = 100;

/// The API's limit for the value of a label.
const LABEL_CHARS_MAX: usize = 40;

/// Channels that can be streams, in the order of the file; the others are problems.
pub fn channels(entries: &[PlaylistEntry], prefix: &str) -> (Vec<Channel>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut channels = Vec::new();
    for (entry, names) in entries.iter().zip(names(entries)) {
        let Some((base, name)) = names else {
            problems.push(Problem {
                line: entry.line,
                code: "no_name",
                reason: "has no title, attribute or address to make a name from".to_owned(),
            });
            continue;
        };
        let (mut labels, notes) = labels(entry);
        labels.extend(entry.given.labels.clone());
        let mut channel = Channel {
            line: entry.line,
            name: format!("{prefix}{name}"),
            base: format!("{prefix}{base}"),
            title: entry.title.clone(),
            position: position(entry),
            inputs: Vec::new(),
            labels,
            notes,
            members: entry.given.members.clone(),
            is_named: entry.given.name.is_some(),
        };
        for input in &entry.inputs {
            let input = PlaylistInput {
                url: input_url(&input.url),
                ..input.clone()
            };
            match check_input(&input) {
                Ok(()) => channel.inputs.push(input),
                Err(problem) => problems.push(problem),
            }
        }
        if channel.inputs.is_empty() {
            continue;
        }
        match check(&channel) {
            Ok(()) => channels.push(channel),
            Err(problem) => problems.push(problem),
        }
    }
    (channels, problems)
}

/// The name of the nth namesake.
pub fn numbered(base: &str, number: u64) -> String {
    match number {
        1 => base.to_owned(),
        _ => format!("{base}-{number}"),
    }
}

/// A base and a name for each entry, the name unique in the file.
fn names(entries: &[PlaylistEntry]) -> Vec<Option<(String, String)>> {
    let bases: Vec<Option<String>> = entries.iter().map(base_name).collect();
    // A channel with this name keeps it, also if a numbered name of an earlier channel would be
    // equal.
    let mut taken: HashSet<String> = bases.iter().flatten().cloned().collect();
    let given = entries.iter().filter_map(|entry| entry.given.name.clone());
    let mut borne: HashSet<String> = given.collect();
    let mut next: HashMap<&str, u64> = HashMap::new();
    let mut named = Vec::with_capacity(bases.len());
    for (entry, base) in entries.iter().zip(&bases) {
        named.push(base.as_ref().map(|base| {
            if entry.given.name.is_some() {
                return (base.clone(), base.clone());
            }
            if !is_reserved(base) && borne.insert(base.clone()) {
                return (base.clone(), base.clone());
            }
            let number = next.entry(base).or_insert(2);
            loop {
                let name = numbered(base, *number);
                *number += 1;
                if taken.insert(name.clone()) {
                    return (base.clone(), name);
                }
            }
        }));
    }
    named
}

/// Names that the API refuses or that mean "absent" in a filter.
fn is_reserved(name: &str) -> bool {
    ABSENT.contains(&name) || StreamName::parse(name).is_err()
}

fn base_name(entry: &PlaylistEntry) -> Option<String> {
    if let Some(name) = &entry.given.name {
        return Some(name.clone());
    }
    let written = [
        entry.attribute("tvg-id"),
        Some(entry.title.as_str()),
        entry.attribute("tvg-name"),
    ];
    written
        .into_iter()
        .flatten()
        .map(slug)
        .chain(std::iter::once_with(|| {
            let first = entry.inputs.first();
            first.map_or_else(String::new, |input| slug(url_path(&input.url)))
        }))
        .find(|name| !name.is_empty())
}

/// `live/one` of `http://host/live/one/index.m3u8?x=y`: the path without the query, the extension
/// and the usual file names; host and port if the URL has no path. Never the credentials.
fn url_path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return authority.rsplit('@').next().unwrap_or(authority);
    }
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    if !folder.is_empty()
        && [
            "index",
            "playlist",
            "master",
            "mono",
            "video",
            "live",
            "chunklist",
            "mpegts",
        ]
        .contains(&stem)
    {
        return folder;
    }
    &path[..path.len() - (file.len() - stem.len())]
}

/// A valid name made from any text; empty if no character of it is allowed.
fn slug(text: &str) -> String {
    static KEPT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{L}\p{M}\p{Nd}_.]+").expect("the pattern is a constant"));
    let mut name = String::new();
    for run in KEPT.find_iter(text) {
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&text[run.range()]);
    }
    let end = (0..=NAME_BYTES_MAX.min(name.len()))
        .rev()
        .find(|at| name.is_char_boundary(*at))
        .unwrap_or(0);
    name[..end].trim_matches(['.', '-']).to_owned()
}

/// Checks a prefix: the characters of names, and slashes after folders.
pub fn check_prefix(prefix: &str) -> Result<(), String> {
    let parts: Vec<&str> = prefix.split('/').collect();
    let (last, folders) = parts
        .split_last()
        .expect("splitting gives at least one part");
    let legal =
        |part: &str| part.is_empty() || slug(&part.replace('-', "_")) == part.replace('-', "_");
    if folders.iter().all(|part| !part.is_empty() && legal(part))
        && legal(last.trim_end_matches('.'))
    {
        return Ok(());
    }
    Err("may contain letters, digits, _ . - and a / after each folder".to_owned())
}

/// The number of a channel, if it is a whole one: `5.1` is not.
fn position(entry: &PlaylistEntry) -> Option<i64> {
    entry.attribute("tvg-chno")?.trim().parse().ok()
}

/// The labels of a channel, and the lines of the comment for what they cannot hold.
fn labels(entry: &PlaylistEntry) -> (BTreeMap<String, String>, Notes) {
    let group = entry.attribute("group-title").unwrap_or(&entry.group);
    let values = [
        ("country", entry.attribute("tvg-country").unwrap_or("")),
        ("group", group),
        ("language", entry.attribute("tvg-language").unwrap_or("")),
    ];
    let mut labels = BTreeMap::new();
    let mut notes = BTreeMap::new();
    if let Some(number) = entry.attribute("tvg-chno") {
        let is_note = position(entry).is_none();
        let note = is_note.then(|| number.to_owned());
        notes.insert("Playlist number: ".to_owned(), note);
    }
    for (key, text) in values {
        if text.is_empty() {
            continue;
        }
        let value = label(text);
        let is_lossy = value.is_empty()
            || value.len() < label_untruncated(text).len()
            || text.chars().any(|c| c.is_alphanumeric() && !c.is_ascii());
        notes.insert(
            format!("Playlist {key}: "),
            is_lossy.then(|| text.to_owned()),
        );
        if !value.is_empty() {
            labels.insert(key.to_owned(), value);
        }
    }
    (labels, notes)
}

/// The value of a label: `News (EN)` becomes `News-EN`. Labels are ASCII; an empty value is
/// omitted.
fn label(text: &str) -> String {
    let mut value = label_untruncated(text);
    value.truncate(LABEL_CHARS_MAX);
    value.trim_end_matches('-').to_owned()
}

/// The value of a label without the limit of its length.
fn label_untruncated(text: &str) -> String {
    let mut value = String::new();
    for part in text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
        .filter(|part| !part.is_empty())
    {
        if !value.is_empty() {
            value.push('-');
        }
        value.push_str(part);
    }
    value
}

/// An input in the API.
pub fn input_document(input: &PlaylistInput) -> Map<String, serde_json::Value> {
    let mut document = Map::new();
    document.insert("url".to_owned(), json!(input.url));
    input.options.write(&mut document);
    document
}

/// The first violation of the server's own rules by a stream with these members.
fn violation(document: &serde_json::Value) -> Result<(), Violation> {
    let document = parse(document.to_string().as_bytes()).map_err(|error| Violation {
        pointer: String::new(),
        code: error.code,
        title: error.title,
        meta: Vec::new(),
    })?;
    let Err(violations) = schema::stream().check(&document) else {
        return Ok(());
    };
    let first = violations.into_iter().next();
    Err(first.expect("a refused document has a violation"))
}

/// Checks an input as the server will. The message shows no password.
fn check_input(input: &PlaylistInput) -> Result<(), Problem> {
    let document = json!({ "inputs": [input_document(input)] });
    let violation = violation(&document).err();
    let why = match &violation {
        Some(violation) if violation.code == "discriminator_unmapped" => {
            "no input type has such an address"
        }
        Some(violation) => &violation.title,
        None if is_page(&input.url) => HTTP_ENDINGS,
        None => return Ok(()),
    };
    let shown = shorten(&without_secrets(&input.url));
    Err(Problem {
        line: input.line,
        code: "not_an_input",
        reason: format!("{shown:?} is not an input: {why}"),
    })
}

/// Checks the other members of a channel as the server will.
fn check(channel: &Channel) -> Result<(), Problem> {
    let problem = |reason| Problem {
        line: channel.line,
        code: "invalid_value",
        reason,
    };
    if let Err(why) = StreamName::parse(&channel.name) {
        return Err(problem(format!("the name {:?} {why}", channel.name)));
    }
    let mut document = json!({
        "title": channel.title,
        "position": channel.position,
        "labels": channel.labels,
    });
    for (member, value) in &channel.members {
        document[member] = value.clone();
    }
    violation(&document)
        .map_err(|violation| problem(format!("{}: {}", violation.pointer, violation.title)))
}

pub const HTTP_ENDINGS: &str =
    "an http address without an ending such as .m3u8, .ts, /mpegts or .flv is taken for a web page";

/// Whether a URL is probably that of a web page, of which playlists have many. The API takes any
/// address, because a person chose it.
fn is_page(url: &str) -> bool {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let path = rest.map(|rest| rest.split(['?', '#']).next().unwrap_or(rest));
    let Some(path) = path else {
        return false;
    };
    let last = path.split_once('/').map_or("", |(_, path)| path);
    let last = last.rsplit('/').next().unwrap_or_default();
    match last.rsplit_once('.') {
        Some((_, ending)) => matches!(&*ending.to_ascii_lowercase(), "html" | "htm"),
        None => !url.ends_with("/mpegts"),
    }
}

/// The URL as lists of the API show it: `rtsp://user:***@host/path?token=***`.
pub fn without_secrets(url: &str) -> String {
    let input: Object = [("url", Value::String(url.into()))].into_iter().collect();
    let inputs = Value::Array(vec![Value::Object(input)]);
    let mut stream = Value::Object([("inputs", inputs)].into_iter().collect());
    schema::stream().mask_value(&mut stream);
    stream
        .get("inputs")
        .and_then(Value::as_array)
        .and_then(|inputs| inputs.first()?.get("url")?.as_str())
        .expect("masking keeps the shape")
        .to_owned()
}

fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    if text.chars().count() <= CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CHARS_MAX).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn input(url: &str) -> PlaylistInput {
        PlaylistInput {
            line: 2,
            url: url.to_owned(),
            ..PlaylistInput::default()
        }
    }

    fn entry(id: &str, title: &str) -> PlaylistEntry {
        PlaylistEntry {
            line: 1,
            inputs: vec![input("http://h/a.m3u8")],
            title: title.to_owned(),
            attributes: vec![("tvg-id".to_owned(), id.to_owned())],
            ..PlaylistEntry::default()
        }
    }

    fn named(list: &[(&str, &str)]) -> Vec<String> {
        let entries: Vec<PlaylistEntry> = list.iter().map(|(id, title)| entry(id, title)).collect();
        names(&entries)
            .into_iter()
            .map(|names| names.expect("something makes a name").1)
            .collect()
    }

    #[test]
    fn names_keep_letters_and_digits_of_any_script() {
        for (text, name) in [
            ("A2CNN.al", "A2CNN.al"),
            ("TV Orbis", "TV-Orbis"),
            ("Kanali 7 Ⓢ", "Kanali-7"),
            ("日本 / Japan", "日本-Japan"),
            ("ČT24", "ČT24"),
            ("हिन्दी", "हिन्दी"),
            ("AnimaxAsia.sg@Japan", "AnimaxAsia.sg-Japan"),
            ("Super!.it", "Super-.it"),
            ("a  --  b", "a-b"),
            ("../../etc/passwd", "etc-passwd"),
            ("..", ""),
            ("a\u{202e}b", "a-b"),
            ("[NO]", "NO"),
            ("!!!", ""),
        ] {
            assert_eq!(slug(text), name, "{text:?}");
        }
        assert_eq!(slug(&"é".repeat(80)).len(), 100);
    }

    #[test]
    fn names_come_from_the_id_else_the_title_else_the_address() {
        assert_eq!(named(&[("X.id", "Title")]), ["X.id"]);
        assert_eq!(named(&[("", "Title")]), ["Title"]);
        assert_eq!(named(&[("???", "Title")]), ["Title"]);
        for (url, name) in [
            ("http://h/live/one/index.m3u8?x=/y", "live-one"),
            ("http://h/live/one.m3u8", "live-one"),
            ("http://h/index.m3u8", "index"),
            ("udp://239.0.0.1:5000", "239.0.0.1-5000"),
            ("http://h/one/mpegts", "one"),
            ("rtsp://user:hidden@h:554/", "h-554"),
        ] {
            let bare = PlaylistEntry {
                inputs: vec![input(url)],
                ..PlaylistEntry::default()
            };
            assert_eq!(base_name(&bare).as_deref(), Some(name), "{url}");
        }
    }

    #[test]
    fn equal_names_are_numbered_in_file_order() {
        assert_eq!(
            named(&[("a", ""), ("a", ""), ("b", ""), ("a", "")]),
            ["a", "a-2", "b", "a-3"]
        );
        assert_eq!(
            named(&[("a", ""), ("a", ""), ("a-2", "")]),
            ["a", "a-3", "a-2"],
            "an own name is not taken by a number"
        );
        assert_eq!(
            named(&[("batch", ""), ("null", ""), ("layout", ""), ("layout", "")]),
            ["batch-2", "null-2", "layout-2", "layout-3"]
        );
    }

    #[test]
    fn a_skipped_channel_keeps_its_number() {
        let mut entries = vec![entry("a", ""), entry("a", "")];
        entries[0].inputs = vec![input("https://www.youtube.com/watch?v=1")];
        let (channels, problems) = channels(&entries, "tv/");
        assert_eq!(channels.len(), 1);
        assert_eq!(channels[0].name, "tv/a-2");
        assert_eq!(problems[0].line, 2);
    }

    fn check_url(url: &str) -> Result<(), String> {
        let entry = PlaylistEntry {
            inputs: vec![input(url)],
            ..entry("a", "")
        };
        let (_, problems) = channels(&[entry], "");
        problems
            .into_iter()
            .next()
            .map_or(Ok(()), |problem| Err(problem.reason))
    }

    #[test]
    fn addresses_without_an_input_type_are_reported() {
        for url in [
            "http://h/a.m3u8",
            "HTTP://h/a.m3u8",
            "https://h/a.m3u8?x=1",
            "http://h/a.m3u8#x",
            "http://h/a.ts",
            "http://h/a/mpegts",
            "rtmp://h/a",
            "rtsp://u:p@h/a",
            "udp://239.0.0.1:1",
            "tshttp://h/a",
            "hls://h/a",
            "srt://h:1?streamid=a",
            "http://h/a.m3u8s",
            "http://h/a.mpd",
            "http://h/live/a.flv?x=/y",
            "wheps://h/a/whep",
            "udp+mpegts://239.0.0.1:1",
        ] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for (url, why) in [
            ("[NO PUBLIC STREAM]", "no input type has such an address"),
            ("seg.ts", "no input type has such an address"),
            ("mms://h/a", "no input type has such an address"),
            ("exec:ffmpeg", "no input type has such an address"),
            ("pipe://h/a", "no input type has such an address"),
            ("https://www.youtube.com/@x/live", HTTP_ENDINGS),
            ("https://h/live.v2/", HTTP_ENDINGS),
            ("https://h", HTTP_ENDINGS),
            ("https://h/a.HTML?x=a.m3u8x", HTTP_ENDINGS),
        ] {
            let reason = check_url(url).expect_err(url);
            assert!(reason.ends_with(why), "{url}: {reason}");
        }
        assert!(
            !check_url("http://u:hidden@h/x")
                .expect_err("no input")
                .contains("hidden")
        );
    }

    #[test]
    fn labels_fit_the_limits_of_the_api() {
        for (text, value) in [
            ("IT", "IT"),
            ("日本 / Japan", "Japan"),
            ("Bosnia and Herzegovina", "Bosnia-and-Herzegovina"),
            ("News (EN)", "News-EN"),
            ("日本", ""),
            ("US;CA", "US-CA"),
        ] {
            assert_eq!(label(text), value, "{text}");
        }
    }

    #[test]
    fn prefixes_are_folders_and_beginnings_of_names() {
        for prefix in ["", "iptv/", "iptv-", "a/b/", "é.", "tv_"] {
            assert_eq!(check_prefix(prefix), Ok(()), "{prefix:?}");
        }
        for prefix in ["/", "/a", "a//b", "../", "a b", "a?", "a,", "./x", "%2F"] {
            assert!(check_prefix(prefix).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn secrets_are_masked_as_the_api_does() {
        assert_eq!(
            without_secrets("rtsp://user:p@ss@h:554/a?x=1@2"),
            "rtsp://user:***@2"
        );
        assert_eq!(
            without_secrets("rtsp://user@h/a:b@c"),
            "rtsp://user@h/a:***@c"
        );
        assert_eq!(without_secrets("text"), "text");
        assert_eq!(
            without_secrets("http://h/a.m3u8?x=1&token=t0ken&y"),
            "http://h/a.m3u8?x=1&token=***&y"
        );
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        #[test]
        fn names_are_valid_unique_and_repeatable(
            list in proptest::collection::vec(("(a|b|a-2|batch|\\PC{0,6})", "\\PC{0,12}"), 0..40)
        ) {
            let entries: Vec<_> = list.iter().map(|(id, title)| entry(id, title)).collect();
            let first = names(&entries);
            prop_assert_eq!(&first, &names(&entries));
            let given: Vec<&String> = first.iter().flatten().map(|(_, name)| name).collect();
            let unique: HashSet<&String> = given.iter().copied().collect();
            prop_assert_eq!(given.len(), unique.len());
            for name in given {
                prop_assert!(!is_reserved(name), "{}", name);
                prop_assert!(!name.starts_with(['.', '-']) && !name.ends_with(['.', '-']));
                let is_special =
                    |c: char| c.is_whitespace() || c.is_control() || "/,?#%&\"\\".contains(c);
                prop_assert!(!name.contains(is_special), "{}", name);
            }
        }

        #[test]
        fn labels_are_valid(text in "\\PC{0,80}") {
            let value = label(&text);
            prop_assert!(value.len() <= LABEL_CHARS_MAX);
            prop_assert!(value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)));
        }
    }
}
