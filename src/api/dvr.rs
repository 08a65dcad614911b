//! Storages for recordings: the possible values of `dvr.reference` of a stream.
//!
//! They are configured on the streamers, which report them. The list is the union over all
//! streamers of the cluster, each name once.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::{Call, Outcome};
use crate::error::ApiError;
use crate::http::Response;
use crate::json::write_string;
use crate::query::{Document, Execution, KeyOrder, ListKind, Raw, SearchField, Source};
use crate::schema;

/// One storage name.
struct DvrDoc<'a>(&'a str);

impl Document for DvrDoc<'_> {
    fn key(&self) -> &str {
        self.0
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        (name == "name").then_some(Raw::Text(self.0))
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"name\":");
        write_string(out, self.0);
        out.push(b'}');
    }
}

/// All storage names.
struct DvrNames(BTreeSet<Box<str>>);

impl Source for DvrNames {
    type Doc<'a>
        = DvrDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.0.len() as u64
    }

    fn get(&self, key: &str) -> Option<DvrDoc<'_>> {
        self.0.get(key).map(|name| DvrDoc(name))
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = DvrDoc<'a>> {
        let range = self.0.range::<str, _>((from, Bound::Unbounded));
        range.map(|name| DvrDoc(name))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = DvrDoc<'a>> {
        let range = self.0.range::<str, _>((Bound::Unbounded, from)).rev();
        range.map(|name| DvrDoc(name))
    }
}

/// The description of storages for the query engine.
pub static KIND: ListKind = ListKind {
    collection: "dvrs",
    key: "name",
    key_order: KeyOrder::Text,
    default_sort: "name",
    stamp: None,
    required: || schema::dvr().required(),
    search: &[SearchField {
        path: "name",
        url: false,
    }],
    field: |path| crate::query::field(schema::dvr(), path),
    secret: |path| schema::dvr().is_secret(path),
    schema: || Some(schema::dvr()),
};

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let query = call.query(&KIND)?;
    let mut names = BTreeSet::new();
    for facts in call.shared.fleet.streamers() {
        // The report of a deleted streamer is kept for a while and no longer counts.
        if call.state.streamer(&facts.hostname).is_none() {
            continue;
        }
        let dvrs = facts.dvrs.iter().flat_map(|dvrs| dvrs.names.iter());
        names.extend(dvrs.cloned());
    }
    let page = Execution::new(&query).run(&DvrNames(names));
    Ok(Outcome::Reply(Response::json(200, page.into_body(""))))
}
