//! The outside view: every test drives the real program over HTTP, with a server and a data
//! directory of its own.
//!
//! One file per resource, named as in `src/api`. The program is started and called through
//! `weir-testkit`; [`described`] reads its OpenAPI document, [`calls`] holds the calls that several
//! files make.

mod bridges;
mod calls;
mod cameras;
mod described;
mod environment;
mod fleet;
mod mmdb;
mod node;
mod node_load;
mod node_media;
mod pinned;
mod placement;
mod python;
#[allow(dead_code, reason = "other users of it need more")]
#[path = "../sim/random.rs"]
mod random;
mod streaming_endpoint;
mod strict;
mod stub;
mod summary;
mod values;

mod access_matrix;
mod agent;
mod auth;
mod auth_backend;
mod authorities;
mod backup;
mod balancer;
mod bridge;
mod bridge_front;
mod bridge_kinds;
mod bridge_real;
mod browser_session;
mod bulk;
mod cluster;
mod config;
mod config_external;
mod connector;
mod connector_gaps;
mod connector_hostile;
mod connector_layouter;
mod connector_provision;
mod demo;
mod docs;
mod draining;
mod episode;
mod etag;
mod event;
mod event_subjects;
mod metrics;
mod monitoring;
mod negotiation;
mod offline;
mod openapi;
mod operator;
mod person;
mod pieces;
mod query;
mod session_auth;
mod stats;
mod stream;
mod streamer;
mod tidy;
mod token;
mod traces;
mod ui;
mod ui_build;
mod unconfigured;

mod bad_json;
mod canaries;
mod clients;
mod conformance;
mod faults;
mod guessing;
mod handover;
mod held;
mod history;
mod import;
mod joining;
mod kill;
mod layout_preview;
mod layouter;
mod layouter_calm;
mod layouter_failures;
mod layouter_kinds;
mod layouter_labels;
mod layouter_limits;
mod layouter_random;
mod layouter_status;
mod layouter_steady;
mod layouter_storm;
mod lists;
mod loadtest;
mod long_poll;
mod maintenance;
mod memory;
mod paging;
mod pausing;
mod permission;
mod readme;
mod restart;
mod restricted;
mod round_trip;
mod rules;
mod safe_mode;
mod saved_again;
mod schemathesis;
mod stalls;
mod validator;
