//! `weir cordon` and `weir uncordon`.

use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

use super::connection::Connection;
use crate::client::escape;
use crate::exit::{Exit, Failure};

#[derive(Debug, Args)]
pub struct CordonFlags {
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
    /// Why, for those who see it in the interface.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct UncordonFlags {
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
}

pub fn cordon(server: &Connection, flags: &CordonFlags) -> Result<Exit, Failure> {
    let mut wanted = json!({"mode": "cordon"});
    if let Some(reason) = &flags.reason {
        wanted["reason"] = Value::from(reason.as_str());
    }
    save(server, &flags.hosts, &wanted)
}

pub fn uncordon(server: &Connection, flags: &UncordonFlags) -> Result<Exit, Failure> {
    save(server, &flags.hosts, &json!({"mode": "none"}))
}

fn save(server: &Connection, hosts: &[String], wanted: &Value) -> Result<Exit, Failure> {
    for host in hosts {
        let path = format!("/streamers/{}/maintenance", escape(host));
        let saved = server.send(Method::PUT, &path, &[], Some(wanted));
        saved.map_err(|failure| {
            Failure::new(failure.exit, format!("{host}: {}", failure.message))
        })?;
        let mode = wanted["mode"].as_str().unwrap_or_default();
        server.note(&format!("{host}: maintenance {mode}"));
    }
    Ok(Exit::Done)
}
