//! What Weir wants to run on the server: answers, checked as a whole, and news merged into what is
//! known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::caller::{CallAnswer, CallFault};

/// A source without a time of its own is replaced after this silence.
pub const SOURCE_TIMEOUT: Duration = Duration::from_mins(1);
/// Names in one question about streams that vanished, and the bytes of them.
const NAMES_PER_QUESTION: usize = 200;
const NAME_BYTES_PER_QUESTION: usize = 6 << 10;

/// A stream as the bridge uses it. Other members of its configuration make no difference to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedStream {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<WantedInput>,
    /// How it is to be recorded, if it is.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "kept_dvr"
    )]
    pub dvr: Option<Box<WantedDvr>>,
}

/// A recording as Weir wants it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WantedDvr {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Box<str>>,
    /// Seconds after which it is removed; `None` or 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<u64>,
    /// It has a schedule, limits, or a form that is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_more: bool,
}

/// Reads `true` too, which was all that earlier versions kept.
fn kept_dvr<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<WantedDvr>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum KeptDvr {
        Switch(bool),
        Known(Box<WantedDvr>),
    }
    Ok(match KeptDvr::deserialize(from)? {
        KeptDvr::Switch(false) => None,
        KeptDvr::Switch(true) => Some(Box::default()),
        KeptDvr::Known(dvr) => Some(dvr),
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedInput {
    pub url: Box<str>,
    /// Seconds of silence after which the next input is tried; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_timeout: Option<u32>,
}

impl WantedInput {
    pub fn timeout(&self) -> Option<Duration> {
        match self.source_timeout {
            None => Some(SOURCE_TIMEOUT),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds.into())),
        }
    }
}

/// The streams of the server, by name.
pub type Wanted = BTreeMap<Box<str>, WantedStream>;

/// Whether a stream is to be recorded.
pub fn has_recordings(wanted: &Wanted) -> bool {
    wanted.values().any(|stream| stream.dvr.is_some())
}

/// The list of an answer, in the form that Weir documents.
#[derive(Deserialize)]
struct ListAnswer {
    streams: Vec<AnsweredStream>,
    estimated_count: Option<u64>,
    next: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct AnsweredStream {
    name: Box<str>,
    #[serde(default)]
    inputs: Vec<AnsweredInput>,
    dvr: Option<AnsweredDvr>,
    #[serde(rename = "static")]
    is_static: Option<bool>,
}

/// A recording, in a form that is known or another one.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnsweredDvr {
    Known(AnsweredDvrSpec),
    Other(IgnoredAny),
}

#[derive(Deserialize)]
struct AnsweredDvrSpec {
    root: Option<Box<str>>,
    expiration: Option<u64>,
    schedule: Option<IgnoredAny>,
    storage_limit: Option<IgnoredAny>,
    disk_usage_limit: Option<IgnoredAny>,
}

impl AnsweredDvr {
    fn wanted(self) -> WantedDvr {
        let Self::Known(spec) = self else {
            return WantedDvr {
                needs_more: true,
                ..WantedDvr::default()
            };
        };
        let limits = [spec.schedule, spec.storage_limit, spec.disk_usage_limit];
        WantedDvr {
            root: spec.root,
            expiration: spec.expiration.filter(|seconds| *seconds > 0),
            needs_more: limits.iter().any(Option::is_some),
        }
    }
}

#[derive(Deserialize)]
struct AnsweredInput {
    url: Option<Box<str>>,
    source_timeout: Option<SourceTimeout>,
}

/// Seconds, or `false` for ever.
#[derive(Deserialize)]
#[serde(untagged)]
enum SourceTimeout {
    Seconds(u32),
    Switch(bool),
    Other(IgnoredAny),
}

impl AnsweredStream {
    fn wanted(self) -> (Box<str>, WantedStream) {
        let inputs = self.inputs.into_iter().filter_map(|input| {
            let source_timeout = match input.source_timeout {
                Some(SourceTimeout::Seconds(seconds)) => Some(seconds),
                Some(SourceTimeout::Switch(false)) => Some(0),
                _ => None,
            };
            Some(WantedInput {
                url: input.url?,
                source_timeout,
            })
        });
        let mut inputs: Vec<WantedInput> = inputs.collect();
        inputs.shrink_to_fit();
        let dvr = self.dvr.map(|dvr| Box::new(dvr.wanted()));
        (self.name, WantedStream { inputs, dvr })
    }
}

/// Reads a whole list. Whatever is odd about the answer makes it none.
pub fn read_list(answer: CallAnswer) -> Result<Wanted, CallFault> {
    let streams = read_answer(answer, true)?.into_iter();
    let count = streams.len();
    // Collected at once, the nodes of the map are full.
    let wanted: Wanted = streams.map(AnsweredStream::wanted).collect();
    if wanted.len() < count || wanted.contains_key("") {
        return Err(CallFault::Unexpected("a stream without a name, or twice"));
    }
    Ok(wanted)
}

/// Reads the answer to a question about streams that vanished: those that are to keep running here.
/// A restream on demand is not one of them.
pub fn read_kept(answer: CallAnswer) -> Result<Wanted, CallFault> {
    let streams = read_answer(answer, false)?.into_iter();
    let kept = streams.filter(|stream| stream.is_static != Some(false));
    Ok(kept.map(AnsweredStream::wanted).collect())
}

fn read_answer(answer: CallAnswer, is_whole: bool) -> Result<Vec<AnsweredStream>, CallFault> {
    let answer = answer.success()?;
    if answer.status != 200 {
        return Err(CallFault::Status(answer.status, String::new()));
    }
    let list: ListAnswer = answer.json()?;
    if list.next.is_some() {
        return Err(CallFault::Unexpected("a part of the list"));
    }
    if is_whole && list.estimated_count != Some(list.streams.len() as u64) {
        return Err(CallFault::Unexpected(
            "a list of another length than it states",
        ));
    }
    Ok(list.streams)
}

/// Groups of names for the questions about streams that vanished.
pub fn questions(known: &Wanted, fresh: &Wanted) -> Vec<Vec<Box<str>>> {
    let mut groups: Vec<Vec<Box<str>>> = Vec::new();
    let mut bytes = 0;
    for name in known.keys().filter(|name| !fresh.contains_key(*name)) {
        bytes += name.len() * 3;
        match groups.last_mut() {
            Some(group) if group.len() < NAMES_PER_QUESTION && bytes < NAME_BYTES_PER_QUESTION => {
                group.push(name.clone());
            }
            _ => {
                bytes = name.len() * 3;
                groups.push(vec![name.clone()]);
            }
        }
    }
    groups
}

/// The new list with those of the vanished streams that are to stay: what the second question
/// confirmed, and what it could not clear up.
pub fn merged(known: &Wanted, fresh: Wanted, kept: Wanted, unclear: &BTreeSet<Box<str>>) -> Wanted {
    let mut merged = fresh;
    for (name, stream) in kept {
        if known.contains_key(&name) {
            merged.entry(name).or_insert(stream);
        }
    }
    for name in unclear {
        if let Some(stream) = known.get(name) {
            merged.entry(name.clone()).or_insert_with(|| stream.clone());
        }
    }
    merged
}
