//! Weir: a control plane for clusters of video streaming servers.
//!
//! In one sentence: a deterministic state machine behind a durable log, whose state is an immutable
//! value that every core reads without locks, with plain HTTP at the edge and one feed of commits
//! that wakes the polls it concerns.
//!
//! # Threads
//!
//! ```text
//!   io core 0..N (io_uring)            writer                          layouter (own processor)
//!   ------------------------           -------------------------       ------------------------
//!   socket -> http::conn               commands of all cores           commits, reports, clock
//!     -> core::Core::admit               -> writer::machine              -> layouter::controller
//!     -> api handler(&State)               state::apply, one by one         -> layouter::engine
//!          |                             -> weir_storage, ONE fsync        |
//!          | Reply   -> socket           -> publish the State              | Command (layouts)
//!          | Command ------------------> -> replies, one Commit per core   |
//!          | List    -> core::lists              |        |                v
//!          | Park    -> feed::Waiters <----------+        +--> followers, layouter, writer
//!          | Pending -> core::pending <--- outbound pool, offload, what-if worker, other cores
//!   connector -> queries of its streamers -> reports, their configuration
//!
//!   outbound pool    blocking HTTP calls to streamers and authorization backends
//!   resolve          names of streamers that are queried
//!   offload          work of milliseconds: large bodies, large configurations, compression
//!   scans            scan streams for lists, facets and bulk changes, at a lower priority
//!   what-if worker   previews and explanations on a snapshot of the layouter, capacity on another
//!                    thread
//!   old states       a follower of commits: frees what no thread holds any more
//!   cluster-counts   counts streams and streamers by health, while callers want the counts and, of
//!                    a large cluster, at least every minute
//!   sampling         samples numbers of the cluster and of streamers, every 10 s
//!   publications     a follower of commits: when streams began and ended
//!   traces           sends spans of requests to a collector, if there is one
//!   settings         one thread per saved change of settings
//!   signals          the main thread: waits for TERM, INT, HUP
//! ```
//!
//! Connections, parked polls, pending requests and deadlines belong to one io core. The store and
//! the next state belong to the writer. The published [`state::State`] belongs to all and never
//! changes. Nothing is sent before it is on disk. A streamer's configuration is sent completely or
//! not at all.
//!
//! # Two requests, step by step
//!
//! **A PUT.** `http::conn` reads the head; `core::Core::admit` routes and authorises it and hands
//! on the endpoint and the caller. With the body complete, `api::stream::save` checks its shape and
//! returns `Outcome::Command`. The core sends it to the writer. `writer` takes what waits,
//! `state::apply` makes the next state, `weir_storage` commits the batch with one fsync, the state
//! is published, and one message per core carries the replies and the commit. The core renders the
//! answer (`api::done`).
//!
//! **A long poll of a streamer.** `api::config_external::streams` compares the client's `ETag` with
//! the generation of the node; equal: `Outcome::Park`. The poll is parked in `feed::Waiters` in the
//! same turn of the core in which it looked, so no commit falls in between. A commit that changes
//! the node's configuration names its hostname; `core::wake` answers its polls from the newest
//! state. At the deadline the answer is 304.
//!
//! # Glossary
//!
//! ```text
//! stream, streamer        video that is captured and delivered; a server that does so
//! node                    a host as the layouter sees it: streamer or inference server
//! agent                   a device behind NAT that relays video; it holds a control connection
//! operator, viewer        runs the cluster; watches streams
//! caller, right           the authorised sender of a request; an action on a collection
//! visibility              the entities that a caller may see
//! entity, kind, record    a stored thing with a key; its kind; its stored form
//! command, apply, changes a requested change; the pure function that makes it; its result
//! commit, revision        a durable batch of changes; its number in the log
//! stamp                   `updated_at`: wall-clock milliseconds, always growing
//! snapshot                a state held by a reader; paged snapshot: all pages of one revision
//! group commit            several commands, one fsync; its delay: waiting for more of them
//! bulk change             one change of all streams that match filters
//! pin                     the wish that a stream stays on its ingest node
//! merge patch             a partial change of a document (RFC 7396); effective: with defaults
//! retention, expiry       how long an entity is kept; its deletion after that
//! poll, park, wake        a request that may wait; keep it without a thread; answer it
//! generation              the revision at which a node's configuration last changed
//! delta, full resync      changes since a revision; the whole list, if a delta cannot express it
//! pending request         a request that is answered later: by a server, a thread, another core
//! ticket, outcome         names a waiting request; what a handler decided
//! offload, stall          do work on another thread; time for which one task keeps a core
//! scan, yield budget      a pass over all entities, in slices; work done before others run
//! part (of a scan)        streams that one thread at a time reads for it: a shard of the state
//! page, cursor            a part of a list; where the next part begins
//! slot, placement, layout one need of a stream (ingest, backup, inference); its node; all of them
//! move, evacuation        a slot changes its node; all slots leave a node
//! fail-over, fail-back    to another node after a loss; back when the node returns
//! handover                a planned move: the old node keeps the stream until the new one runs it
//! maintenance, cordon     work on a node; it keeps its streams and takes no new ones
//! flapping, back-off      losing and regaining a node repeatedly; trusting it later each time
//! preview, explain        what would change if; why a stream is where it is
//! activity, health        last signs of life of a node; what follows from them
//! report                  statistics that a streamer sends
//! query, connector        requests to a streamer for its report; what sends them
//! report gap              a time in which a streamer was not seen; its recordings fill it
//! provisioning, drift     writing configuration to streamers; its change there afterwards
//! egress policy           the addresses that outbound calls may reach
//! trace, span             requests that belong together, over several servers; one of them
//! session (of a browser)  a cookie that stands for a credential, for the web interface
//! drain                   the orderly end: answer polls, finish requests, commit, exit
//! ```
//!
//! # Floors
//!
//! A module imports only from its own line and the lines above it; a longer path wins. Files import
//! each other in no circle. Tests hold both.
//!
//! ```floors
//! authorities limits exit duration error stdout proptests metrics offload traces native_name
//! json rt
//! schema subnet scan_pool
//! http outbound
//! access ui
//! state
//! query access::auth access::compiled access::token
//! config
//! agents feed fleet::report fleet::repair fleet::healthcheck fleet::peer
//! core::message core::stats_watch core::metrics
//! writer
//! fleet followers
//! openapi::model openapi::words
//! layouter
//! api
//! connector core openapi client
//! operator demo
//! dist cli import bridge
//! server
//! program testing
//! ```
//!
//! # Not here, on purpose
//!
//! Async in the core, locks around the state, SQL, plugins, a second way to change state, a
//! registry of global metrics.

mod access;
mod agents;
mod api;
mod authorities;
mod bridge;
mod cli;
mod client;
mod config;
mod connector;
mod core;
mod demo;
mod dist;
mod duration;
mod error;
mod exit;
mod feed;
mod fleet;
mod followers;
mod http;
mod import;
mod json;
mod layouter;
mod limits;
mod metrics;
mod native_name;
mod offload;
mod openapi;
mod operator;
mod outbound;
mod program;
mod query;
mod rt;
mod scan_pool;
mod schema;
mod server;
mod state;
mod stdout;
mod subnet;
mod traces;
mod ui;
mod writer;

#[cfg(test)]
mod proptests;
#[cfg(feature = "testing")]
pub mod testing;

pub use self::program::run;
