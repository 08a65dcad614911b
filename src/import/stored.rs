//! The streams of the server that a playlist is about.
//!
//! A channel is known again by a URL before its number: if the first of two namesakes is gone from
//! the file, the other one still is the stream with `-2`. So the streams of all namesakes are read,
//! also those with higher numbers than the file has.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::channel::{Channel, numbered, without_secrets};
use super::compare::{is_masked, is_same_url};
use crate::client::{self, ApiClient, ClientError};
use crate::operator::progress;

/// Most bytes of the names in one request. Percent-encoded in the target, they fit the server's
/// limit for a request head.
const NAMES_BYTES_MAX: usize = 4_000;

/// How many numbers above the highest known one are looked for.
const NUMBERS_ABOVE: u64 = 2;

/// Reads the server's streams and gives each channel the name of its stream. Returns the streams of
/// these names, with their secrets.
pub fn find(
    server: &ApiClient,
    channels: &mut [Channel],
    is_quiet: bool,
) -> Result<HashMap<String, Value>, ClientError> {
    let mut streams = HashMap::new();
    let names: Vec<String> = channels
        .iter()
        .map(|channel| channel.name.clone())
        .collect();
    read(server, &names, &mut streams, is_quiet)?;
    let mut above: BTreeMap<String, u64> = BTreeMap::new();
    for channel in channels.iter().filter(|channel| !channel.is_named) {
        let highest = above.entry(channel.base.clone()).or_insert(1);
        *highest = number(channel).max(*highest);
    }
    while !above.is_empty() {
        let numbers = |highest: u64| highest + 1..=highest + NUMBERS_ABOVE;
        let more = above
            .iter()
            .flat_map(|(base, highest)| numbers(*highest).map(|number| numbered(base, number)));
        let more: Vec<String> = more.collect();
        read(server, &more, &mut streams, is_quiet)?;
        let mut next = BTreeMap::new();
        for (base, highest) in above {
            let found = |number: &u64| streams.contains_key(&numbered(&base, *number));
            if let Some(highest) = numbers(highest).rev().find(found) {
                next.insert(base, highest);
            }
        }
        above = next;
    }
    settle_names(channels, &streams);
    let bar = progress::bar(is_quiet, channels.len());
    for channel in channels.iter() {
        // Lists hide secrets; the stream itself shows them to an administrator.
        if let Some(stream) = streams.get_mut(&channel.name)
            && is_masked(&stream["inputs"].to_string())
        {
            let path = format!("/streams/{}", client::escape(&channel.name));
            *stream = as_stored(server.get(&path)?);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(streams)
}

/// The number of a channel among its namesakes.
fn number(channel: &Channel) -> u64 {
    let rest = channel.name.strip_prefix(&channel.base);
    let number = rest.and_then(|rest| rest.strip_prefix('-'));
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// Reads the streams of these names.
fn read(
    server: &ApiClient,
    names: &[String],
    into: &mut HashMap<String, Value>,
    is_quiet: bool,
) -> Result<(), ClientError> {
    let bar = progress::bar(is_quiet, names.len());
    let mut rest = names;
    while !rest.is_empty() {
        let mut query = String::new();
        let mut count = 0;
        for name in rest {
            let name = client::escape(name);
            if count > 0 && query.len() + 1 + name.len() > NAMES_BYTES_MAX {
                break;
            }
            if count > 0 {
                query.push(',');
            }
            query.push_str(&name);
            count += 1;
        }
        let path = format!("/streams?select=name,config_on_disk&limit={count}&name={query}");
        let response = server.get(&path)?;
        let list = response
            .get("streams")
            .and_then(Value::as_array)
            .ok_or_else(|| ClientError::Unexpected("a list without streams".to_owned()))?;
        for stream in list {
            let Some(name) = stream.get("name").and_then(Value::as_str) else {
                let what = "a stream without a name".to_owned();
                return Err(ClientError::Unexpected(what));
            };
            into.insert(name.to_owned(), as_stored(stream.clone()));
        }
        rest = &rest[count..];
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

/// A stream without the defaults that the server fills in.
fn as_stored(mut stream: Value) -> Value {
    match stream.get_mut("config_on_disk") {
        Some(stored) => stored.take(),
        None => stream,
    }
}

fn urls(stream: &Value) -> Vec<&str> {
    let inputs = stream["inputs"].as_array().map_or(&[][..], Vec::as_slice);
    let urls = inputs.iter().filter_map(|input| input["url"].as_str());
    urls.collect()
}

/// Whether a stream has one of the channel's URLs.
fn has_url(stream: &Value, channel: &Channel) -> bool {
    urls(stream).into_iter().any(|stored| {
        let mut inputs = channel.inputs.iter();
        inputs.any(|input| is_same_url(stored, &input.url))
    })
}

/// Gives each channel the name of the stream that has its URL, else the first free name.
fn settle_names(channels: &mut [Channel], streams: &HashMap<String, Value>) {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, channel) in channels.iter().enumerate() {
        if channel.is_named {
            continue;
        }
        groups.entry(channel.base.clone()).or_default().push(at);
    }
    let natural: HashSet<String> = channels
        .iter()
        .map(|channel| channel.name.clone())
        .collect();
    for (base, places) in groups {
        let members: Vec<&Channel> = places.iter().map(|at| &channels[*at]).collect();
        let highest = members.iter().map(|member| number(member)).max();
        let others = stored_numbers(&base, highest.unwrap_or(1), streams);
        // A name that another channel of the file has by its own is not a namesake.
        let others = others.into_iter().filter(|name| !natural.contains(name));
        let names = settled_names(&members, others, streams);
        for (at, name) in places.into_iter().zip(names) {
            channels[at].name = name;
        }
    }
}

/// The namesakes on the server, with numbers a little above the highest known one.
fn stored_numbers(base: &str, highest: u64, streams: &HashMap<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    let mut missing = 0;
    for number in 1.. {
        let name = numbered(base, number);
        if streams.contains_key(&name) {
            missing = 0;
            found.push(name);
            continue;
        }
        missing += 1;
        if missing > NUMBERS_ABOVE && number > highest {
            break;
        }
    }
    found
}

/// The names of one group of namesakes: that of the stream with the channel's URL, its own first;
/// else its own; else the first own name of the group that is free.
fn settled_names(
    members: &[&Channel],
    others: impl Iterator<Item = String>,
    streams: &HashMap<String, Value>,
) -> Vec<String> {
    let own = members.iter().map(|member| member.name.clone());
    let candidates: Vec<String> = own.chain(others).collect();
    let mut by_url: HashMap<String, Vec<&String>> = HashMap::new();
    for name in &candidates {
        for url in streams.get(name).map(urls).unwrap_or_default() {
            let named = by_url.entry(without_secrets(url)).or_default();
            named.push(name);
        }
    }
    let has = |name: &String, member: &Channel| {
        let stream = streams.get(name);
        stream.is_some_and(|stream| has_url(stream, member))
    };
    let mut taken: HashSet<&String> = HashSet::new();
    let mut settled: Vec<Option<&String>> = Vec::with_capacity(members.len());
    for (member, own) in members.iter().zip(&candidates) {
        let name = has(own, member).then_some(own);
        taken.extend(name);
        settled.push(name);
    }
    for (member, name) in members.iter().zip(&mut settled) {
        if name.is_none() {
            let urls = member.inputs.iter();
            let mut named = urls.filter_map(|input| by_url.get(&without_secrets(&input.url)));
            let free = |name: &&String| !taken.contains(*name) && has(name, member);
            *name = named.find_map(|names| names.iter().copied().find(free));
            taken.extend(*name);
        }
    }
    for (own, name) in candidates.iter().zip(&mut settled) {
        if name.is_none() && taken.insert(own) {
            *name = Some(own);
        }
    }
    let mut free = candidates.iter().filter(|name| !taken.contains(*name));
    let mut first_free = || free.next().expect("there are as many names as channels");
    settled
        .into_iter()
        .map(|name| name.unwrap_or_else(&mut first_free).clone())
        .collect()
}
