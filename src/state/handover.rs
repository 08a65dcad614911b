//! Handovers: make before break for planned moves.
//!
//! When a planned move takes a stream from its ingest node, the old node is sent the stream
//! unchanged until the new one reports that it runs there, or a time limit ends it. The old node is
//! part of the stream's record, so a restart forgets no handover and all cores see the same one.
//!
//! Only a stream that may run twice is handed over. It must not record, because two recorders may
//! have one archive; push, because one destination may have one sender; be published or come from
//! an agent, because its source sends to one node; or have a template, which may do any of these on
//! the streamer. And the old node must still be allowed to have it.

use super::State;
use super::agent::agents_of;
use super::label;
use super::record::{ArchivedNodeRole, Layout, Stream};
use crate::json::scan;

/// Members of a configuration that rule out that the stream runs twice.
const RUNS_ONCE: [&str; 5] = ["dvr", "pushes", "srt2_publish", "srt_publish", "template"];

/// The nodes of a stream become those of `next`. A node that keeps the stream already goes on,
/// because it is the one that runs it; else `left`, the ingest node before a planned change, may
/// keep it.
pub fn moved(state: &State, stream: &mut Stream, left: Option<String>, next: &Layout) {
    let kept = stream.handover_from.take();
    if kept.is_some() && kept == next.ingest {
        // Back again: it runs there.
        return;
    }
    let candidates = [kept, left];
    stream.handover_from = candidates.into_iter().flatten().find(|from| {
        next.ingest.as_ref().is_some_and(|ingest| ingest != from)
            && !next.dvr_backups.contains(from)
            && may_keep(state, stream, from)
    });
}

/// Ends the handover of an edited stream that the old node may not keep any longer.
pub fn recheck(state: &State, stream: &mut Stream) {
    if let Some(from) = stream.handover_from.take() {
        stream.handover_from = Some(from).filter(|from| may_keep(state, stream, from));
    }
}

/// Whether a node may keep a stream that moves away from it.
pub fn may_keep(state: &State, stream: &Stream, from: &str) -> bool {
    let Some(node) = state.streamer(from) else {
        return false;
    };
    let namespace = node
        .namespace
        .as_ref()
        .map(rkyv::string::ArchivedString::as_str);
    !stream.disabled
        && matches!(node.role, ArchivedNodeRole::Streamer)
        && namespace == stream.namespace.as_deref()
        && may_run_twice(&stream.config)
        && label::fit(&stream.config, &node.config)
}

/// Whether a stream may run on two nodes for a while.
fn may_run_twice(config: &str) -> bool {
    let is_given = |value: &str| !matches!(value, "null" | "false" | "[]");
    let runs_once = |(key, value): (&str, &str)| RUNS_ONCE.contains(&key) && is_given(value);
    let is_published = |input: &str| {
        let url = scan::member(input, "url").and_then(scan::string);
        url.is_some_and(|url| url.starts_with("publish://"))
    };
    let inputs = scan::member(config, "inputs").unwrap_or("[]");
    !scan::members(config).any(runs_once)
        && !scan::elements(inputs).any(is_published)
        && agents_of(config).is_empty()
}
