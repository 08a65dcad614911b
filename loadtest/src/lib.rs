//! weir-loadtest: fleets of simulated streamers and operators against a running server.
//!
//! Measures open-loop and proves: every simulated streamer builds its own copy from the answers it
//! gets, and at the end the copies, fresh lists and the operators' acknowledged changes must agree.
//! A run with a missed, duplicated, shortened, stale, torn or lost stream fails.
//!
//! In reading order: `cli` and `scenario` define a run, `plan` what its threads share,
//! `streamers` and `requests` are the load (`agents` another one, with `agent_scenario`,
//! `failover` a third, and `story_fleet` a fourth, with `story`, `polled` and `queried`), `copy`, `judge` and `truth` the proof, `net` and `answer` the machinery.
//! HTTP framing and system calls are those of `weir-testkit`.
//!
//! Deliberately not here: TLS, HTTP/2, several targets, anything that starts or stops the server.

#![cfg_attr(test, allow(clippy::unwrap_used))] // a test that unwraps says where it failed

pub mod agent_scenario;
pub mod agents;
pub mod answer;
pub mod cli;
pub mod control;
pub mod copy;
pub mod failover;
pub mod judge;
pub mod net;
pub mod page;
pub mod plan;
pub mod polled;
pub mod prepare;
pub mod queried;
pub mod report;
pub mod requests;
pub mod roster;
pub mod scenario;
pub mod schedule;
pub mod seed;
pub mod story;
pub mod story_fleet;
pub mod streamers;
pub mod truth;
