//! Streamers: the nodes that capture, keep and analyse streams.
//!
//! Saved by an operator under their hostname; `role` decides which fields exist. The cluster key is shown to an administrator who reads one
//! streamer and masked everywhere else.

use std::borrow::Cow;
use std::ops::Bound;
use std::rc::Rc;

use super::query::{Document, KeyOrder, Kind, Query, Raw, Search, Source};
use super::{Call, Collection, Outcome};
use crate::http::Response;
use crate::http::error::ApiError;
use crate::json::{Number, scan, write_string};
use crate::schema;
use crate::state::State;
use crate::state::apply::streamer_not_found;
use crate::state::command::{Command, batch_items, streamer_patch};
use crate::state::name::Hostname;
use crate::state::record::StreamerRecord;

/// Renders one streamer. `masked` hides secrets.
pub fn render(streamer: &StreamerRecord, masked: bool, out: &mut Vec<u8>) {
    StreamerDoc::new(streamer, masked).render(out);
}

/// A streamer as the API shows it.
pub struct StreamerDoc<'a> {
    streamer: &'a StreamerRecord,
    config: Cow<'a, str>,
}

impl<'a> StreamerDoc<'a> {
    pub fn new(streamer: &'a StreamerRecord, masked: bool) -> Self {
        let config = streamer.config.as_str();
        let config = if masked && streamer.has_secrets {
            Cow::Owned(schema::streamer().mask(config))
        } else {
            Cow::Borrowed(config)
        };
        Self { streamer, config }
    }
}

impl Document for StreamerDoc<'_> {
    fn key(&self) -> &str {
        &self.streamer.hostname
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        match name {
            "hostname" => Some(Raw::Text(&self.streamer.hostname)),
            "updated_at" => Some(Raw::Number(Number::Unsigned(
                self.streamer.updated_at.to_native(),
            ))),
            _ => scan::member(&self.config, name).map(|text| Raw::Json(Cow::Borrowed(text))),
        }
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"hostname\":");
        write_string(out, &self.streamer.hostname);
        out.push(b',');
        // A streamer has at least a role and a cluster key.
        out.extend_from_slice(&self.config.as_bytes()[1..self.config.len() - 1]);
        out.extend_from_slice(b",\"stats\":null,\"updated_at\":");
        out.extend_from_slice(
            itoa::Buffer::new()
                .format(self.streamer.updated_at.to_native())
                .as_bytes(),
        );
        out.push(b'}');
    }
}

/// All streamers of a state, as the query engine wants them.
pub struct Streamers<'s> {
    state: &'s State,
}

impl<'s> Streamers<'s> {
    pub fn new(state: &'s State) -> Self {
        Self { state }
    }
}

impl Source for Streamers<'_> {
    type Doc<'a>
        = StreamerDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.state.streamers().len() as u64
    }

    fn get(&self, key: &str) -> Option<StreamerDoc<'_>> {
        self.state
            .streamer(key)
            .map(|streamer| StreamerDoc::new(streamer, true))
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = StreamerDoc<'a>> {
        let range = self
            .state
            .streamers()
            .range::<_, str>((from, Bound::Unbounded));
        range.map(|(_, streamer)| StreamerDoc::new(streamer, true))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = StreamerDoc<'a>> {
        let range = self
            .state
            .streamers()
            .range::<_, str>((Bound::Unbounded, from))
            .rev();
        range.map(|(_, streamer)| StreamerDoc::new(streamer, true))
    }
}

/// What the query engine has to know about streamers.
pub static KIND: Kind = Kind {
    collection: "streamers",
    key: "hostname",
    key_order: KeyOrder::Text,
    default_sort: "hostname",
    stamp: Some("updated_at"),
    required: || schema::streamer().required(),
    search: &[
        Search {
            path: "hostname",
            url: false,
        },
        Search {
            path: "api_url",
            url: true,
        },
    ],
    field_type: |path| super::field_type(schema::streamer(), path),
    secret: |path| schema::streamer().is_secret(path),
};

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let query = Query::parse(call.request.query, &KIND, &[])?;
    Ok(Outcome::List {
        of: Collection::Streamers,
        query: Rc::new(query),
        wait: None,
    })
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let streamer = call
        .state
        .streamer(&call.hostname()?)
        .ok_or_else(streamer_not_found)?;
    let mut body = Vec::new();
    render(streamer, call.masks(), &mut body);
    Ok(Outcome::Reply(Response::json(200, body)))
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let patch = streamer_patch(call.json()?, &hostname, "")?;
    Ok(Outcome::Command(Command::SaveStreamer { hostname, patch }))
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    Ok(Outcome::Command(Command::DeleteStreamer {
        hostname: call.hostname()?,
    }))
}

pub fn save_batch(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let items = batch_items(call.json()?, "hostname", Hostname::parse)?
        .into_iter()
        .enumerate()
        .map(|(i, (hostname, item))| {
            let patch = streamer_patch(item, &hostname, &format!("/{i}"))?;
            Ok((hostname, patch))
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    Ok(Outcome::Command(Command::SaveStreamers { items }))
}
