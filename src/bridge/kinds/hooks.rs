//! What the servers send to the hook when a viewer wants to play, in the form of each kind.

use serde::Deserialize;

use super::query_pairs;
use crate::bridge::kind::{BadHook, HookQuestion};
use crate::client::escape;

/// What `authHTTPAddress` of MediaMTX receives.
#[derive(Deserialize)]
struct MediaMtxHook {
    action: Box<str>,
    path: Box<str>,
    ip: Box<str>,
    #[serde(default)]
    protocol: Box<str>,
    #[serde(default)]
    query: Box<str>,
    #[serde(default)]
    token: Box<str>,
    #[serde(default)]
    password: Box<str>,
    #[serde(default)]
    id: Box<str>,
}

pub fn mediamtx(body: &[u8]) -> Result<Option<HookQuestion>, BadHook> {
    let body: MediaMtxHook = serde_json::from_slice(body).map_err(|_| BadHook)?;
    if !matches!(&*body.action, "read" | "playback") {
        return Ok(None);
    }
    let pairs = query_pairs(&body.query);
    let named = pairs.get("token").map(String::as_str);
    let given = [&*body.token, named.unwrap_or_default(), &*body.password];
    let token = given.into_iter().find(|text| !text.is_empty());
    Ok(Some(HookQuestion {
        native: body.path,
        ip: body.ip,
        protocol: body.protocol,
        token: token.unwrap_or_default().into(),
        session: body.id,
        query: body.query,
    }))
}

/// What `notify.url` of node-media-server receives.
#[derive(Deserialize)]
struct NodeMediaHook {
    action: Box<str>,
    app: Box<str>,
    name: Box<str>,
    ip: Box<str>,
    #[serde(default)]
    protocol: Box<str>,
    #[serde(default)]
    id: serde_json::Value,
    #[serde(default)]
    query: serde_json::Map<String, serde_json::Value>,
}

pub fn node_media_server(body: &[u8]) -> Result<Option<HookQuestion>, BadHook> {
    let body: NodeMediaHook = serde_json::from_slice(body).map_err(|_| BadHook)?;
    if !matches!(&*body.action, "prePlay" | "postPlay") {
        return Ok(None);
    }
    let pairs = body.query.iter();
    let pairs = pairs.filter_map(|(name, value)| Some((name, value.as_str()?)));
    let pairs: Vec<(&String, &str)> = pairs.collect();
    let token = pairs.iter().find(|(name, _)| *name == "token");
    let query = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)));
    let query: Vec<String> = query.collect();
    Ok(Some(HookQuestion {
        native: format!("/{}/{}", body.app, body.name).into(),
        ip: without_port(&body.ip).into(),
        protocol: body.protocol,
        token: token.map_or("", |(_, value)| value).into(),
        session: body.id.to_string().trim_matches('"').into(),
        query: query.join("&").into(),
    }))
}

/// The address in `::ffff:10.0.0.1:5432`, `10.0.0.1:5432` or `10.0.0.1`.
fn without_port(text: &str) -> &str {
    let text = text.trim_start_matches("::ffff:");
    match text.rsplit_once(':') {
        Some((ip, _)) if ip.parse::<std::net::IpAddr>().is_ok() => ip,
        _ => text,
    }
}

/// What `on_play` of SRS receives.
#[derive(Deserialize)]
struct SrsHook {
    action: Box<str>,
    app: Box<str>,
    stream: Box<str>,
    ip: Box<str>,
    #[serde(default)]
    param: Box<str>,
    #[serde(default)]
    client_id: Box<str>,
}

pub fn srs(body: &[u8]) -> Result<Option<HookQuestion>, BadHook> {
    let body: SrsHook = serde_json::from_slice(body).map_err(|_| BadHook)?;
    if &*body.action != "on_play" {
        return Ok(None);
    }
    let query = body.param.trim_start_matches('?');
    let pairs = query_pairs(query);
    Ok(Some(HookQuestion {
        native: format!("/{}/{}", body.app, body.stream).into(),
        ip: body.ip,
        protocol: "rtmp".into(),
        token: pairs.get("token").map_or("", String::as_str).into(),
        session: body.client_id,
        query: query.into(),
    }))
}
