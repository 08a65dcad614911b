//! The outside view: every test drives the real program over HTTP, with a server and a data directory of its own.
//!
//! One file per resource, named as in `src/api`. [`server`] is the only place that knows how the program is started and spoken to,
//! [`described`] the only one that reads its description of itself.

mod described;
mod server;
mod values;

mod auth;
mod config_external;
mod openapi;
mod query;
mod stream;
mod streamer;

mod bad_json;
mod canaries;
mod conformance;
mod faults;
mod import;
mod layouter;
mod lists;
mod loadtest;
mod long_poll;
mod readme;
mod restart;
mod round_trip;
