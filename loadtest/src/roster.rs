//! The cluster as operators read it from the server: streamers, streams, and which streamer must
//! run what.
//!
//! Read from `/streamers` and `/streams` page by page. It is a source of its own: the lists of
//! single streamers are compared with it.

use crate::answer;
use crate::control::Control;
use crate::seed::Key;
use serde::Deserialize;
use std::collections::HashMap;

const PAGE: usize = 10_000;

#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    /// Streams that every complete answer must name, sorted.
    pub assigned: Vec<Key>,
}

#[derive(Clone, Debug)]
pub struct Stream {
    pub name: String,
    pub key: Key,
    pub ingest: Option<u32>,
    /// Other nodes that receive it: backups and inference.
    pub others: Vec<u32>,
    pub updated_at: u64,
    /// The greatest edit its rendered fields carry.
    pub edit: u64,
    /// Disabled, or not static: whether streamers receive it is not checked.
    pub unsure: bool,
    /// Moved between streamers during the run: in no `assigned`.
    pub mover: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Roster {
    pub hosts: Vec<Host>,
    pub streams: Vec<Stream>,
    names: HashMap<Key, u32>,
}

#[derive(Deserialize)]
struct HostPage {
    streamers: Vec<RawHost>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct RawHost {
    hostname: String,
}

#[derive(Deserialize, Default)]
struct RawLayout {
    ingest: Option<String>,
    dvr_backups: Option<Vec<String>>,
    inference: Option<String>,
}

#[derive(Deserialize)]
struct RawStream {
    layout: Option<RawLayout>,
    disabled: Option<bool>,
    #[serde(rename = "static")]
    is_static: Option<bool>,
}

/// Reads one page and returns the cursor of the next.
type ReadPage<'a> = dyn FnMut(&[u8]) -> Result<Option<String>, String> + 'a;

/// Walks a collection by its cursors.
fn walk(control: &mut Control, path: &str, each: &mut ReadPage<'_>) -> Result<(), String> {
    let mut cursor = None::<String>;
    loop {
        let mut page = path.to_owned();
        if let Some(cursor) = &cursor {
            page.push_str("&cursor=");
            page.push_str(&weir_testkit::encode_segment(cursor));
        }
        let response = control.expect("GET", &page, None)?;
        let next = each(&response.body)?;
        if next.is_some() && next == cursor {
            return Err(format!("GET {path}: the cursor does not move"));
        }
        cursor = next;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

impl Roster {
    /// Reads it from the server.
    pub fn load(control: &mut Control) -> Result<Roster, String> {
        let mut roster = Roster::default();
        let mut by_name = HashMap::new();
        walk(
            control,
            &format!("/streamers?select=hostname&limit={PAGE}"),
            &mut |body| {
                let page: HostPage = serde_json::from_slice(body)
                    .map_err(|error| format!("list of streamers: {error}"))?;
                for host in page.streamers {
                    by_name.insert(host.hostname.clone(), roster.hosts.len() as u32);
                    roster.hosts.push(Host {
                        name: host.hostname,
                        assigned: Vec::new(),
                    });
                }
                Ok(page.next)
            },
        )?;
        let select = "name,layout,updated_at,disabled,static,title,inputs";
        walk(
            control,
            &format!("/streams?select={select}&limit={PAGE}"),
            &mut |body| {
                let mut bad = None;
                let envelope = answer::read(body, &mut |item| {
                    let raw: RawStream = match serde_json::from_slice(item.text) {
                        Ok(raw) => raw,
                        Err(error) => {
                            bad = Some(format!("list of streams: {}: {error}", item.name));
                            return;
                        }
                    };
                    let layout = raw.layout.unwrap_or_default();
                    let host = |name: &String| by_name.get(name).copied();
                    let mut others: Vec<u32> = layout
                        .dvr_backups
                        .iter()
                        .flatten()
                        .filter_map(host)
                        .collect();
                    others.extend(layout.inference.as_ref().and_then(host));
                    let key = item.key();
                    if roster
                        .names
                        .insert(key, roster.streams.len() as u32)
                        .is_some()
                    {
                        bad = Some(format!("the list of streams names {} twice", item.name));
                    }
                    roster.streams.push(Stream {
                        key,
                        ingest: layout.ingest.as_ref().and_then(host),
                        others,
                        updated_at: item.updated_at.unwrap_or(0),
                        edit: item.edit(),
                        unsure: raw.disabled == Some(true) || raw.is_static == Some(false),
                        mover: false,
                        name: item.name.into_owned(),
                    });
                });
                let envelope = envelope.map_err(|what| format!("list of streams: {what}"))?;
                bad.map_or(Ok(envelope.next), Err)
            },
        )?;
        roster.assign();
        Ok(roster)
    }

    /// From parts, for tests.
    pub fn new(hosts: &[&str], streams: Vec<Stream>) -> Roster {
        let hosts = hosts
            .iter()
            .map(|name| Host {
                name: (*name).to_owned(),
                assigned: Vec::new(),
            })
            .collect();
        let names = streams
            .iter()
            .enumerate()
            .map(|(at, stream)| (stream.key, at as u32))
            .collect();
        let mut roster = Roster {
            hosts,
            streams,
            names,
        };
        roster.assign();
        roster
    }

    /// Chooses one in `share` of the streams without backup and inference to be moved during the
    /// run.
    pub fn choose_movers(&mut self, share: u64) {
        for stream in &mut self.streams {
            stream.mover = share > 0
                && crate::seed::mix(stream.key.0).is_multiple_of(share)
                && stream.ingest.is_some()
                && stream.others.is_empty()
                && !stream.unsure;
        }
        self.assign();
    }

    fn assign(&mut self) {
        for host in &mut self.hosts {
            host.assigned.clear();
        }
        for stream in self
            .streams
            .iter()
            .filter(|stream| !stream.unsure && !stream.mover)
        {
            for host in stream.ingest.iter().chain(&stream.others) {
                self.hosts[*host as usize].assigned.push(stream.key);
            }
        }
        for host in &mut self.hosts {
            host.assigned.sort_unstable();
            host.assigned.dedup();
        }
    }

    pub fn find(&self, key: Key) -> Option<&Stream> {
        self.names.get(&key).map(|at| &self.streams[*at as usize])
    }

    /// The name behind a key, for reports.
    pub fn name_of(&self, key: Key) -> String {
        self.find(key).map_or_else(
            || format!("(unknown stream {:016x})", key.0),
            |stream| stream.name.clone(),
        )
    }
}
