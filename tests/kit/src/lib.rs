//! Shared by the tests, the load tool and the comparison with other servers: one HTTP/1.1 client,
//! one way to start a server under test, one set of system-call wrappers.
//!
//! ```text
//!  response   bytes -> responses: incremental parser and framer, over httparse
//!  request    writes requests, percent-encodes path segments
//!  client     blocking connections with a deadline on every read
//!  documented compares errors with the API document of the program under test
//!  server     starts and stops the real program on a scratch directory
//!  fake       media servers, to be driven by the bridge
//!  wait       bounded waits that fail with what they saw
//!  sys        epoll, sockets with a source address, limits, affinity, CPU time
//! ```
//!
//! Has the API's prefixes and credentials; independent of resources. Depends on no crate of this
//! workspace.

pub mod certificate;
mod client;
mod documented;
pub mod fake;
pub mod request;
mod response;
mod server;
pub mod sys;
mod wait;

pub use client::{Client, ClientError, KeepAlive};
pub use request::encode_segment;
pub use response::{Encoding, Frame, Response, ResponseParser, frame, header};
pub use server::{
    API_KEY, EDIT_AUTH, PREFIX, STREAMER_PREFIX, TestServer, new_client_address, program, run,
};
pub use sys::Signal;
pub use wait::{SetOnDrop, WAIT_MAX, wait_until};
