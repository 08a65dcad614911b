//! The change that makes a stream of the server equal to a channel of a playlist.
//!
//! The file decides the members that it has: title, position, labels, the URLs of its inputs, and
//! what else a CSV file has. All other members stay, and so do inputs that an operator added. To
//! know its own inputs again, the importer keeps a record in `meta`: per input a digest of the
//! options that the file had and the URL without secrets. With it a new URL replaces only the URL
//! that an earlier import wrote, and options that an operator changed stay until the file has other
//! ones. A stream without a record was imported by an older version or made by hand: its first
//! inputs count as imported.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::channel::{Channel, Notes, input_document, without_secrets};
use super::player_options::InputOptions;
use super::playlist::PlaylistInput;
use crate::json;
use crate::schema;

/// The member of `meta` that holds the record.
pub const RECORD: &str = "weir_import";

/// A channel that has to be saved.
#[derive(Debug, Clone)]
pub struct ChannelChange {
    pub channel: Channel,
    /// The members that differ, as they are; `None`: the stream is new.
    pub before: Option<BTreeMap<String, String>>,
    /// The members that differ, as they will be. Secrets are masked in both.
    pub after: BTreeMap<String, String>,
    /// The body: the name and the members that differ.
    pub patch: Value,
}

/// The change that makes the server's stream equal to the channel; `None`: they are equal.
pub fn compare(channel: &Channel, current: Option<&Value>) -> Option<ChannelChange> {
    let empty = json!({});
    let stored = current.unwrap_or(&empty);
    let mut patch = Map::new();
    if !channel.title.is_empty() && stored["title"] != channel.title {
        patch.insert("title".to_owned(), json!(channel.title));
    }
    if channel.position.is_some() && stored["position"].as_i64() != channel.position {
        patch.insert("position".to_owned(), json!(channel.position));
    }
    let is_new = |(key, value): &(&String, &String)| stored["labels"][*key] != **value;
    let labels = channel.labels.iter().filter(is_new);
    let labels: Map<String, Value> = labels
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !labels.is_empty() {
        patch.insert("labels".to_owned(), Value::Object(labels));
    }
    let members = channel.members.iter();
    let members = members.filter(|(member, value)| stored[member.as_str()] != **value);
    patch.extend(members.map(|(member, value)| (member.clone(), value.clone())));
    let comment = stored["comment"].as_str().unwrap_or_default();
    let noted = comment_with(comment, &channel.notes);
    if noted != comment {
        patch.insert("comment".to_owned(), json!(noted));
    }
    let stored_inputs = stored["inputs"].as_array().map_or(&[][..], Vec::as_slice);
    let record = stored["meta"][RECORD].as_str();
    let merged = merge_inputs(&channel.inputs, stored_inputs, record);
    let inputs_differ = merged.inputs != stored_inputs;
    if inputs_differ {
        patch.insert("inputs".to_owned(), Value::Array(merged.inputs));
    }
    if record.map_or(inputs_differ, |record| record != merged.record) {
        patch.insert("meta".to_owned(), json!({ RECORD: merged.record }));
    }
    if patch.is_empty() && current.is_some() {
        return None;
    }
    let (before, after) = differences(stored, &patch);
    patch.insert("name".to_owned(), json!(channel.name));
    Some(ChannelChange {
        channel: channel.clone(),
        before: current.map(|_| before),
        after,
        patch: Value::Object(patch),
    })
}

/// Whether two URLs are the same, as far as the server shows the stored one.
pub fn is_same_url(stored: &str, url: &str) -> bool {
    stored == url || (is_masked(stored) && stored == without_secrets(url))
}

pub fn is_masked(text: &str) -> bool {
    text.contains(schema::MASK)
}

/// The comment with the lines of the file; other lines stay.
fn comment_with(comment: &str, notes: &Notes) -> String {
    let mut lines: Vec<String> = comment.lines().map(str::to_owned).collect();
    let mut is_changed = false;
    for (beginning, rest) in notes {
        let wanted = rest.as_ref().map(|rest| format!("{beginning}{rest}"));
        let place = lines.iter().position(|line| line.starts_with(beginning));
        match (place, wanted) {
            (Some(at), Some(line)) if lines[at] == line => continue,
            (Some(at), Some(line)) => lines[at] = line,
            (Some(at), None) => _ = lines.remove(at),
            (None, Some(line)) => lines.push(line),
            (None, None) => continue,
        }
        is_changed = true;
    }
    if is_changed {
        lines.join("\n")
    } else {
        comment.to_owned()
    }
}

/// The inputs of a stream after an import, and the record of those that the file has.
#[derive(Debug, PartialEq, Eq)]
struct MergedInputs {
    inputs: Vec<Value>,
    record: String,
}

/// A line of the record.
struct RecordedInput<'r> {
    /// Of the options; empty if there were none.
    digest: &'r str,
    /// Without secrets.
    url: &'r str,
    /// The stored input that it is about, if that is there.
    place: Option<usize>,
}

fn recorded<'r>(record: &'r str, stored: &[Value]) -> Vec<RecordedInput<'r>> {
    let mut is_taken = vec![false; stored.len()];
    let lines = record.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(digest, url)| {
            let is_it = |(at, input): (usize, &Value)| {
                !is_taken[at] && without_secrets(url_of(input)) == url
            };
            let place = stored.iter().enumerate().position(is_it);
            if let Some(at) = place {
                is_taken[at] = true;
            }
            RecordedInput { digest, url, place }
        })
        .collect()
}

fn url_of(input: &Value) -> &str {
    input["url"].as_str().unwrap_or_default()
}

/// Puts the inputs of the file among the stored ones.
fn merge_inputs(inputs: &[PlaylistInput], stored: &[Value], record: Option<&str>) -> MergedInputs {
    let recorded = recorded(record.unwrap_or_default(), stored);
    let places = places(inputs, stored, record.map(|_| &recorded[..]));
    let mut merged = stored.to_vec();
    let mut lines = String::new();
    for (input, place) in inputs.iter().zip(&places) {
        let known = recorded
            .iter()
            .find(|known| known.place.is_some() && known.place == *place);
        let digest = digest(&input.options);
        if let Some(at) = *place {
            let stored = &mut merged[at];
            if !is_same_url(url_of(stored), &input.url) {
                stored["url"] = json!(input.url);
            }
            let is_unchanged = known.is_some_and(|known| known.digest == digest);
            if !is_unchanged {
                set_options(stored, &input.options, known.is_some());
            }
        }
        _ = writeln!(lines, "{digest} {}", without_secrets(&input.url));
    }
    for known in &recorded {
        if known.place.is_some() && !places.contains(&known.place) {
            _ = writeln!(lines, "{} {}", known.digest, known.url);
        }
    }
    MergedInputs {
        inputs: arranged(merged, inputs, &places, &recorded),
        record: lines.trim_end().to_owned(),
    }
}

/// For each input of the file the stored input that it is; `None`: it is new.
fn places(
    inputs: &[PlaylistInput],
    stored: &[Value],
    recorded: Option<&[RecordedInput]>,
) -> Vec<Option<usize>> {
    let mut is_taken = vec![false; stored.len()];
    let mut places = Vec::with_capacity(inputs.len());
    for input in inputs {
        let is_it = |at: &usize| !is_taken[*at] && is_same_url(url_of(&stored[*at]), &input.url);
        let place = (0..stored.len()).find(is_it);
        if let Some(at) = place {
            is_taken[at] = true;
        }
        places.push(place);
    }
    // What an earlier import wrote and the file has no longer: its URL changed.
    let imported: Vec<usize> = match recorded {
        Some(recorded) => recorded.iter().filter_map(|known| known.place).collect(),
        None => (0..stored.len().min(inputs.len())).collect(),
    };
    let mut imported = imported.into_iter().filter(|at| !is_taken[*at]);
    for place in places.iter_mut().filter(|place| place.is_none()) {
        *place = imported.next();
    }
    places
}

/// The inputs with new ones behind the input before them in the file, and in the order of the file
/// if that changed. What others added keeps its place.
fn arranged(
    merged: Vec<Value>,
    inputs: &[PlaylistInput],
    places: &[Option<usize>],
    recorded: &[RecordedInput],
) -> Vec<Value> {
    let rank = |place: &usize| {
        recorded
            .iter()
            .position(|known| known.place == Some(*place))
    };
    let contents: Vec<usize> = places.iter().flatten().copied().collect();
    let ranks: Vec<usize> = contents.iter().filter_map(rank).collect();
    let mut slots = contents.clone();
    if !ranks.is_sorted() {
        slots.sort_unstable();
    }
    let content_of: BTreeMap<usize, usize> = slots.iter().copied().zip(contents).collect();
    let mut after: BTreeMap<Option<usize>, Vec<Value>> = BTreeMap::new();
    let mut taken = slots.iter().copied();
    let mut last = None;
    for (input, place) in inputs.iter().zip(places) {
        if place.is_some() {
            last = taken.next();
        } else {
            let new = Value::Object(input_document(input));
            after.entry(last).or_default().push(new);
        }
    }
    let mut arranged = after.remove(&None).unwrap_or_default();
    for at in 0..merged.len() {
        let from = content_of.get(&at).copied().unwrap_or(at);
        arranged.push(merged[from].clone());
        arranged.extend(after.remove(&Some(at)).unwrap_or_default());
    }
    arranged
}

/// Adds the options of the file to a stored input; those that are there are replaced only if the
/// file had others before.
fn set_options(stored: &mut Value, options: &InputOptions, replace: bool) {
    if let Some(user_agent) = &options.user_agent
        && (replace || stored["user_agent"].is_null())
    {
        stored["user_agent"] = json!(user_agent);
    }
    for (name, value) in &options.headers {
        let headers = stored["headers"].as_object();
        let is_it = |(key, _): &(&String, &Value)| key.eq_ignore_ascii_case(name);
        let key = headers.and_then(|headers| headers.iter().find(is_it).map(|(key, _)| key));
        let key = key.cloned();
        if replace || key.is_none() {
            stored["headers"][key.as_ref().unwrap_or(name)] = json!(value);
        }
    }
}

/// Shows whether the options of the file changed without showing them; `-` if it has none.
fn digest(options: &InputOptions) -> String {
    if options.is_empty() {
        return "-".to_owned();
    }
    let mut hash = Sha256::new();
    hash.update(options.user_agent.as_deref().unwrap_or_default());
    for (name, value) in &options.headers {
        hash.update([0]);
        hash.update(name);
        hash.update([0]);
        hash.update(value);
    }
    let digest = hash.finalize();
    digest[..8].iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// The members that differ, before and after, by their paths and with secrets masked.
fn differences(
    stored: &Value,
    patch: &Map<String, Value>,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let mut result = json!({});
    for (key, value) in patch {
        result[key] = stored[key].clone();
        merge(&mut result[key], value);
    }
    let (mut shown_before, mut shown_after) = (BTreeMap::new(), BTreeMap::new());
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    leaves("", stored, &mut before);
    leaves("", &result, &mut after);
    leaves("", &masked(stored), &mut shown_before);
    leaves("", &masked(&result), &mut shown_after);
    let is_patched = |path: &String| patch.contains_key(path.split('.').next().unwrap_or_default());
    let differs = |path: &String| is_patched(path) && before.get(path) != after.get(path);
    shown_before.retain(|path, _| differs(path));
    shown_after.retain(|path, _| differs(path));
    (shown_before, shown_after)
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        merge(&mut target[key], value);
    }
}

/// The texts and numbers in a value, by their paths.
fn leaves(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    let below = |step: &str| match path {
        "" => step.to_owned(),
        _ => format!("{path}.{step}"),
    };
    match value {
        Value::Null => {}
        Value::String(text) => _ = into.insert(path.to_owned(), text.clone()),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                leaves(&below(&at.to_string()), item, into);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                leaves(&below(key), member, into);
            }
        }
        other => _ = into.insert(path.to_owned(), other.to_string()),
    }
}

/// A stream as lists of the API show it.
fn masked(stream: &Value) -> Value {
    let Ok(mut value) = json::parse(stream.to_string().as_bytes()) else {
        return Value::Null;
    };
    schema::stream().mask_value(&mut value);
    serde_json::from_str(&value.to_text()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn channel(urls: &[String], agent: Option<u8>) -> Channel {
        let options = InputOptions {
            user_agent: agent.map(|agent| format!("file-{agent}")),
            ..InputOptions::default()
        };
        let input = |url: &String| PlaylistInput {
            line: 2,
            url: url.clone(),
            options: options.clone(),
        };
        Channel {
            line: 1,
            name: "a".to_owned(),
            base: "a".to_owned(),
            title: "A".to_owned(),
            position: Some(1),
            inputs: urls.iter().map(input).collect(),
            labels: BTreeMap::from([("group".to_owned(), "News".to_owned())]),
            notes: BTreeMap::from([("Playlist group: ".to_owned(), Some("日本".to_owned()))]),
            members: BTreeMap::new(),
            is_named: false,
        }
    }

    fn urls(stream: &Value) -> Vec<&str> {
        let inputs = stream["inputs"].as_array().expect("inputs");
        inputs.iter().map(url_of).collect()
    }

    fn import(stream: &mut Value, channel: &Channel) -> bool {
        let change = compare(channel, Some(stream));
        if let Some(change) = &change {
            merge(stream, &change.patch);
        }
        change.is_some()
    }

    #[test]
    fn a_changed_url_replaces_what_the_import_wrote() {
        let text = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let mut stream = json!({});
        import(&mut stream, &channel(&text(&["udp://1:1"]), None));
        let inputs = stream["inputs"].as_array_mut().expect("inputs");
        inputs[0]["user_agent"] = json!("mine");
        inputs.insert(0, json!({"url": "udp://9:9", "headers": {"X": "y"}}));
        inputs.push(json!({"url": "fake://spare"}));
        import(&mut stream, &channel(&text(&["udp://2:2"]), None));
        assert_eq!(
            stream["inputs"],
            json!([
                {"url": "udp://9:9", "headers": {"X": "y"}},
                {"url": "udp://2:2", "user_agent": "mine"},
                {"url": "fake://spare"},
            ])
        );
        // The order of the file, unless an operator made another.
        import(
            &mut stream,
            &channel(&text(&["udp://2:2", "udp://3:3"]), None),
        );
        assert_eq!(
            urls(&stream),
            ["udp://9:9", "udp://2:2", "udp://3:3", "fake://spare"]
        );
        import(
            &mut stream,
            &channel(&text(&["udp://3:3", "udp://2:2"]), None),
        );
        assert_eq!(
            urls(&stream),
            ["udp://9:9", "udp://3:3", "udp://2:2", "fake://spare"]
        );
        stream["inputs"].as_array_mut().expect("inputs").reverse();
        let before = stream.clone();
        assert!(!import(
            &mut stream,
            &channel(&text(&["udp://3:3", "udp://2:2"]), None)
        ));
        assert_eq!(stream, before);
    }

    #[test]
    fn a_removed_import_never_replaces_an_own_input() {
        let mut stream = json!({});
        import(&mut stream, &channel(&["udp://1:1".to_owned()], None));
        stream["inputs"] = json!([{"url": "fake://mine"}]);
        import(&mut stream, &channel(&["udp://2:2".to_owned()], None));
        assert_eq!(urls(&stream), ["udp://2:2", "fake://mine"]);
    }

    #[test]
    fn options_of_the_file_replace_its_own_when_they_change() {
        let one = ["udp://1:1".to_owned()];
        let mut stream = json!({});
        import(&mut stream, &channel(&one, Some(1)));
        stream["inputs"][0]["user_agent"] = json!("mine");
        assert!(
            !import(&mut stream, &channel(&one, Some(1))),
            "the file has not changed"
        );
        assert!(import(&mut stream, &channel(&one, Some(2))));
        assert_eq!(stream["inputs"][0]["user_agent"], "file-2");
        // Imported by a version without options and records: what is there stays.
        let mut old = json!({"title": "A", "inputs": [{"url": "udp://1:1", "user_agent": "mine"}]});
        import(&mut old, &channel(&one, Some(1)));
        assert_eq!(old["inputs"][0]["user_agent"], "mine");
    }

    /// What an operator or the author of the file does between two imports.
    #[derive(Debug, Clone)]
    enum Edit {
        InsertInput(usize),
        RemoveInput(usize),
        MoveInput(usize, usize),
        UserAgent(usize),
        Header(usize),
        Comment,
        FileUrl(usize),
        FileOrder,
        FileMore,
    }

    fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let at = || 0..6_usize;
        let edit = prop_oneof![
            at().prop_map(Edit::InsertInput),
            at().prop_map(Edit::RemoveInput),
            (at(), at()).prop_map(|(from, to)| Edit::MoveInput(from, to)),
            at().prop_map(Edit::UserAgent),
            at().prop_map(Edit::Header),
            Just(Edit::Comment),
            at().prop_map(Edit::FileUrl),
            Just(Edit::FileOrder),
            Just(Edit::FileMore),
        ];
        proptest::collection::vec(edit, 1..12)
    }

    /// Applies an edit; `number` makes its texts unique.
    fn apply(edit: &Edit, number: usize, stream: &mut Value, file: &mut Vec<String>) {
        let inputs = stream["inputs"].as_array_mut().expect("inputs");
        let count = inputs.len();
        match edit {
            Edit::InsertInput(at) => {
                let own = json!({"url": format!("fake://{number}"), "timeout": number});
                inputs.insert(at % (count + 1), own);
            }
            Edit::RemoveInput(at) => _ = (count > 0).then(|| inputs.remove(at % count)),
            Edit::MoveInput(from, to) if count > 0 => {
                let input = inputs.remove(from % count);
                inputs.insert(to % count, input);
            }
            Edit::UserAgent(at) if count > 0 => {
                inputs[at % count]["user_agent"] = json!(format!("own-{number}"));
            }
            Edit::Header(at) if count > 0 => {
                inputs[at % count]["headers"]["X"] = json!(format!("own-{number}"));
            }
            Edit::MoveInput(..) | Edit::UserAgent(_) | Edit::Header(_) => {}
            Edit::Comment => {
                let comment = stream["comment"].as_str().unwrap_or_default();
                stream["comment"] = json!(format!("own-{number}\n{comment}"));
            }
            Edit::FileUrl(at) => {
                let at = at % file.len();
                file[at] = format!("udp://{number}:1");
            }
            Edit::FileOrder => file.reverse(),
            Edit::FileMore => file.push(format!("udp://{number}:2")),
        }
    }

    /// What an operator added: own inputs in their order, and own members of any input.
    fn additions(stream: &Value) -> (Vec<Value>, Vec<String>) {
        let inputs = stream["inputs"].as_array().expect("inputs");
        let own = |input: &&Value| url_of(input).starts_with("fake:");
        let mut members = BTreeMap::new();
        leaves("", stream, &mut members);
        let mut texts: Vec<String> = members.into_values().collect();
        texts.retain(|text| text.starts_with("own-"));
        texts.sort();
        (inputs.iter().filter(own).cloned().collect(), texts)
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        #[test]
        fn additions_survive_edits_and_imports(
            steps in proptest::collection::vec(edits(), 1..6)
        ) {
            let mut file = vec!["udp://0:1".to_owned()];
            let mut stream = json!({});
            import(&mut stream, &channel(&file, None));
            let mut number = 0;
            for step in steps {
                for edit in &step {
                    number += 1;
                    apply(edit, number, &mut stream, &mut file);
                }
                let added = additions(&stream);
                let count = stream["inputs"].as_array().expect("inputs").len();
                let channel = channel(&file, None);
                import(&mut stream, &channel);
                prop_assert_eq!(additions(&stream), added);
                let after = urls(&stream);
                prop_assert!(after.len() >= count, "nothing is removed");
                for url in &file {
                    prop_assert_eq!(after.iter().filter(|after| *after == url).count(), 1);
                }
                prop_assert!(!import(&mut stream.clone(), &channel), "a second import changes");
            }
        }
    }
}
