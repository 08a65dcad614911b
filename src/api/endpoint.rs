//! The table of all operations, and the routes, permissions and methods derived from it.

use std::ops::Deref;

use super::call::{Call, Outcome};
use super::operation::{
    BATCH_BODY_BYTES_MAX, BODY_BYTES_MAX, Conditions, Operation, RequiredPermission,
};
use super::router::{Found, PathParameter, Route, Router};
use super::{
    agent, auth_backend, auth_test, backup, balancer, browser_session, bulk, capacity, cluster,
    config, config_external, control, dvr, dvr_presence, episode, event, external_episodes, facets,
    history, layout, layouter, monitoring, person, session_auth, srt_port, stats, stats_format,
    stream, streamer, streamer_check, summary, token,
};
use crate::access::auth::{Access, Needs, TokenNeed};
use crate::access::rights::Action::{self, Execute, List, Read, Write};
use crate::access::token::Demand;
use crate::error::ApiError;
use crate::http::Method;
use crate::limits::{BULK_BODY_BYTES_MAX, PUBLIC_BODY_BYTES_MAX};
use crate::openapi::model::{OperationDoc, Security};
use crate::openapi::words;
use crate::query::params::{FILTERS, LIST, PAGE, Parameter};

/// An operation and the handler that serves it.
pub struct Endpoint {
    pub operation: Operation,
    pub(crate) handler: Handler,
}

impl Deref for Endpoint {
    type Target = Operation;

    fn deref(&self) -> &Operation {
        &self.operation
    }
}

pub type Handler = fn(&Call<'_>) -> Result<Outcome, ApiError>;

/// No credentials are required: probes, redirects of players.
const PUBLIC: RequiredPermission = RequiredPermission {
    access: Access::Public,
    token: TokenNeed::Any,
    security: Security::Open,
};
/// No credentials are required; the handshake itself checks the proof of the agent.
const AGENT_PROOF: RequiredPermission = RequiredPermission {
    security: Security::Agent,
    ..PUBLIC
};
/// For every caller with valid credentials, whatever they permit.
const VALID: RequiredPermission = RequiredPermission {
    access: Access::Admin,
    token: TokenNeed::Any,
    security: Security::Administrator,
};
/// Not for tokens, which could extend their own permissions.
const ADMINISTRATOR: RequiredPermission = RequiredPermission {
    access: Access::Admin,
    token: TokenNeed::Never,
    security: Security::Administrator,
};
/// For the streamer in the path, by its cluster key. A configuration holds the passwords of
/// its streams: for tokens it is more than reading the streamer.
const NODE: RequiredPermission = RequiredPermission {
    access: Access::Config,
    token: TokenNeed::Right(Demand {
        collection: "streamers",
        action: Execute,
    }),
    security: Security::Node,
};

/// For tokens with a right to an action on a collection; the key is the parameter of the path.
const fn right(collection: &'static str, action: Action) -> RequiredPermission {
    RequiredPermission {
        access: Access::Admin,
        token: TokenNeed::Right(Demand { collection, action }),
        security: Security::Administrator,
    }
}

/// For tokens with a right to an action on a part of a collection. The operation leaves out what is
/// not in it.
const fn part(collection: &'static str, action: Action) -> RequiredPermission {
    RequiredPermission {
        token: TokenNeed::Part(Demand { collection, action }),
        ..right(collection, action)
    }
}

/// For a list that tokens may read completely or not at all.
const fn whole(collection: &'static str) -> RequiredPermission {
    RequiredPermission {
        access: Access::Admin,
        token: TokenNeed::WholeList(collection),
        security: Security::Administrator,
    }
}

impl Endpoint {
    /// Takes these query parameters.
    const fn query(mut self, parameters: &'static [&'static dyn Parameter]) -> Self {
        self.operation.parameters = parameters;
        self
    }

    /// A list with filters; takes these query parameters besides those of every list.
    const fn list(mut self, parameters: &'static [&'static dyn Parameter]) -> Self {
        self.operation.list_parameters = LIST;
        self.query(parameters)
    }

    /// Takes filters and these query parameters, and is no list.
    const fn filtered(mut self, parameters: &'static [&'static dyn Parameter]) -> Self {
        self.operation.list_parameters = &[&FILTERS];
        self.query(parameters)
    }

    /// A list without filters.
    const fn page(mut self, parameters: &'static [&'static dyn Parameter]) -> Self {
        self.operation.list_parameters = PAGE;
        self.query(parameters)
    }

    /// About one entity: its answers have a tag, and its conditions are judged.
    const fn entity(mut self) -> Self {
        self.operation.conditions = Conditions::Entity;
        self
    }

    /// A batch whose items may have conditions.
    const fn items(mut self) -> Self {
        self.operation.conditions = Conditions::Items;
        self
    }

    const fn batch(self) -> Self {
        self.body_max(BATCH_BODY_BYTES_MAX)
    }

    const fn body_max(mut self, body_bytes_max: u64) -> Self {
        self.operation.body_bytes_max = body_bytes_max;
        self
    }
}

const NO_KEY: PathParameter = PathParameter::None;
const HOST_PORT: PathParameter = PathParameter::Pair("hostname", "port");
const NAME: PathParameter = PathParameter::Tail("name");
const HOSTNAME: PathParameter = PathParameter::Segment("hostname");
const EPISODE_ID: PathParameter = PathParameter::Segment("episode_id");
const EVENT_ID: PathParameter = PathParameter::Segment("event_id");
const PERSON_ID: PathParameter = PathParameter::Segment("person_id");
const ENTITY_NAME: PathParameter = PathParameter::Segment("name");
/// Split by the handler, because a stream name must be one segment before it is decoded.
const PLAYBACK_PATH: PathParameter =
    PathParameter::Tail("loadbalancer_name}/{escaped_stream_name}/{multi_segment_suffix");
const AGENT: PathParameter = PathParameter::Segment("id");

macro_rules! methods {
    ($($name:ident $method:ident),*) => {$(
        const fn $name(
            path: (&'static str, PathParameter, &'static str),
            id: &'static str,
            permission: RequiredPermission,
            handler: Handler,
            doc: &'static OperationDoc,
        ) -> Endpoint {
            let (head, parameter, tail) = path;
            let operation = Operation {
                route: Route {
                    method: Method::$method,
                    head,
                    parameter,
                    tail,
                },
                id,
                permission,
                body_bytes_max: match permission.access {
                    Access::Public => PUBLIC_BODY_BYTES_MAX,
                    Access::Admin | Access::Config => BODY_BYTES_MAX,
                },
                parameters: &[],
                list_parameters: &[],
                conditions: Conditions::None,
                doc,
            };
            Endpoint { operation, handler }
        }
    )*};
}
methods!(get Get, put Put, post Post, delete Delete);

/// All operations, served below either prefix. Rows with equal heads are ordered by longest tail.
#[rustfmt::skip]
pub const OPERATIONS: &[Endpoint] = &[
    get(("/streams", NO_KEY, ""),
        "streams_list", right("streams", List), stream::list, &words::stream::STREAMS_LIST)
            .list(stream::LIST_PARAMETERS),
    put(("/streams/batch", NO_KEY, ""),
        "streams_batch_update", right("streams", Write), stream::save_batch,
        &words::stream::STREAMS_BATCH_UPDATE).batch().items(),
    post(("/streams/batch_by_filter", NO_KEY, ""),
        "streams_batch_update_by_filter", part("streams", Write), bulk::change,
        &words::bulk::STREAMS_BATCH_UPDATE_BY_FILTER)
            .filtered(bulk::PARAMETERS).body_max(BULK_BODY_BYTES_MAX),
    post(("/streams/layouts", NO_KEY, ""),
        "batch_update_streams_layouts", right("streams", Write), stream::set_layouts,
        &words::stream::BATCH_UPDATE_STREAMS_LAYOUTS)
            .query(stream::SET_LAYOUTS_PARAMETERS).batch().items(),
    post(("/streams/preview_layout_change", NO_KEY, ""),
        "batch_stream_layout_preview", right("streams", Execute), layout::preview_streams,
        &words::stream::BATCH_STREAM_LAYOUT_PREVIEW).page(&[]).batch(),
    post(("/streams/", NAME, "/preview_layout_change"),
        "preview_layout_change_for_stream_config", right("streams", Execute),
        layout::preview_stream, &words::stream::PREVIEW_LAYOUT_CHANGE_FOR_STREAM_CONFIG).page(&[]),
    get(("/streams/", NAME, "/layout/explain"),
        "stream_layout_explain", right("streams", Read), layout::explain,
        &words::stream::STREAM_LAYOUT_EXPLAIN).query(layout::EXPLAIN_PARAMETERS),
    get(("/streams/", NAME, "/layouts"),
        "stream_layouts_get", right("streams", Read), stream::layouts,
        &words::stream::STREAM_LAYOUTS_GET).page(stream::LAYOUTS_PARAMETERS),
    get(("/streams/", NAME, ""),
        "stream_get", right("streams", Read), stream::get, &words::stream::STREAM_GET).entity(),
    put(("/streams/", NAME, ""),
        "stream_save", right("streams", Write), stream::save, &words::stream::STREAM_SAVE).entity(),
    delete(("/streams/", NAME, ""),
        "stream_delete", right("streams", Write), stream::delete, &words::stream::STREAM_DELETE)
            .entity(),
    get(("/streamers", NO_KEY, ""),
        "streamers_list", right("streamers", List), streamer::list,
        &words::streamer::STREAMERS_LIST).list(&[]),
    get(("/streamers/histories", NO_KEY, ""),
        "streamers_histories_get", right("streamers", List), history::nodes,
        &words::history::STREAMERS_HISTORIES_GET).query(history::NODES_PARAMETERS),
    put(("/streamers/batch", NO_KEY, ""),
        "streamers_batch_update", right("streamers", Write), streamer::save_batch,
        &words::streamer::STREAMERS_BATCH_UPDATE).batch().items(),
    post(("/streamers/preview_layout_change", NO_KEY, ""),
        "batch_streamer_layout_preview", right("streamers", Execute), layout::preview_streamers,
        &words::streamer::BATCH_STREAMER_LAYOUT_PREVIEW).page(&[]).batch(),
    post(("/streamers/", HOSTNAME, "/preview_layout_change"),
        "preview_layout_change_for_streamer_config", right("streamers", Execute),
        layout::preview_streamer, &words::streamer::PREVIEW_LAYOUT_CHANGE_FOR_STREAMER_CONFIG)
            .page(&[]),
    post(("/cluster/preview", NO_KEY, ""),
        "cluster_preview", right("cluster", Execute), layout::preview_cluster,
        &words::cluster::CLUSTER_PREVIEW).batch(),
    get(("/facets", NO_KEY, ""),
        "facets_get", right("streams", List), facets::get, &words::stream::FACETS_GET)
            .filtered(facets::PARAMETERS),
    get(("/cluster/summary", NO_KEY, ""),
        "cluster_summary_get", right("cluster", Read), summary::get,
        &words::cluster::CLUSTER_SUMMARY_GET),
    get(("/cluster/history", NO_KEY, ""),
        "cluster_history_get", right("cluster", Read), history::cluster,
        &words::history::CLUSTER_HISTORY_GET).query(history::CLUSTER_PARAMETERS),
    get(("/cluster/capacity", NO_KEY, ""),
        "cluster_capacity_get", right("cluster", Read), capacity::get,
        &words::cluster::CLUSTER_CAPACITY_GET),
    get(("/layouter", NO_KEY, ""),
        "layouter_get", right("layouter", Read), layouter::get, &words::cluster::LAYOUTER_GET),
    put(("/layouter", NO_KEY, ""),
        "layouter_change", right("layouter", Write), layouter::change,
        &words::cluster::LAYOUTER_CHANGE),
    get(("/streamers/", HOSTNAME, "/streams"),
        "streamer_streams_list", NODE, config_external::streams,
        &words::config_external::STREAMER_STREAMS_LIST).query(config_external::PARAMETERS),
    get(("/streamers/", HOSTNAME, "/update-streams"),
        "streamer_update_streams_list", NODE, config_external::update_streams,
        &words::config_external::STREAMER_UPDATE_STREAMS_LIST)
            .query(config_external::NAMED_PARAMETERS),
    get(("/streamers/", HOSTNAME, "/dynamic-streams"),
        "streamer_dynamic_streams_list", NODE, config_external::dynamic_streams,
        &words::config_external::STREAMER_DYNAMIC_STREAMS_LIST)
            .query(config_external::NAMED_PARAMETERS),
    put(("/streamers/", HOSTNAME, "/stats"),
        "streamer_stats_report", NODE, stats::report,
        &words::streamer::STREAMER_STATS_REPORT).body_max(stats::BODY_BYTES_MAX),
    put(("/streamers/", HOSTNAME, "/maintenance"),
        "streamer_maintenance_save", right("streamers", Write), streamer::save_maintenance,
        &words::streamer::STREAMER_MAINTENANCE_SAVE).entity()
        .query(streamer::MAINTENANCE_PARAMETERS),
    get(("/streamers/", HOSTNAME, "/episodes"),
        "external_episodes_list", NODE, external_episodes::list,
        &words::config_external::EXTERNAL_EPISODES_LIST).page(external_episodes::PARAMETERS),
    get(("/streamers/", HOSTNAME, "/auth"),
        "streamer_auth_request", NODE, session_auth::request_of_streamer,
        &words::auth::STREAMER_AUTH_REQUEST).query(session_auth::PARAMETERS),
    get(("/streamers/", HOST_PORT, "/srt_port_resolve/"),
        "srt_port_resolve", NODE, srt_port::resolve, &words::config_external::SRT_PORT_RESOLVE)
            .query(&[&srt_port::MODE]),
    get(("/streamers/", HOSTNAME, "/history"),
        "streamer_history_get", right("streamers", Read), history::node,
        &words::history::STREAMER_HISTORY_GET).query(history::NODE_PARAMETERS),
    get(("/streamers/", HOSTNAME, ""),
        "streamer_get", right("streamers", Read), streamer::get, &words::streamer::STREAMER_GET)
            .entity(),
    put(("/streamers/", HOSTNAME, ""),
        "streamer_save", right("streamers", Write), streamer::save,
        &words::streamer::STREAMER_SAVE).query(&[&streamer_check::CHECKS_ENABLE]).entity(),
    delete(("/streamers/", HOSTNAME, ""),
        "streamer_delete", right("streamers", Write), streamer::delete,
        &words::streamer::STREAMER_DELETE).entity(),
    get(("/episodes", NO_KEY, ""),
        "episodes_list", right("episodes", List), episode::list, &words::episode::EPISODES_LIST)
            .list(episode::LIST_PARAMETERS),
    get(("/episodes/", EPISODE_ID, ""),
        "episode_get", right("episodes", Read), episode::get, &words::episode::EPISODE_GET)
            .query(&[&dvr_presence::DVR_PRESENCE_CHECK]).entity(),
    put(("/episodes/", EPISODE_ID, ""),
        "episode_save", right("episodes", Write), episode::save, &words::episode::EPISODE_SAVE)
            .entity(),
    delete(("/episodes/", EPISODE_ID, ""),
        "episode_delete", right("episodes", Write), episode::delete,
        &words::episode::EPISODE_DELETE).entity(),
    get(("/persons", NO_KEY, ""),
        "persons_list", right("persons", List), person::list, &words::person::PERSONS_LIST)
            .list(person::LIST_PARAMETERS),
    get(("/persons/", PERSON_ID, ""),
        "person_get", right("persons", Read), person::get, &words::person::PERSON_GET).entity(),
    put(("/persons/", PERSON_ID, ""),
        "person_save", right("persons", Write), person::save, &words::person::PERSON_SAVE).entity(),
    delete(("/persons/", PERSON_ID, ""),
        "person_delete", right("persons", Write), person::delete, &words::person::PERSON_DELETE)
            .entity(),
    get(("/dvrs", NO_KEY, ""), "dvrs_list", whole("dvrs"), dvr::list, &words::dvr::DVRS_LIST)
            .list(&[]),
    get(("/events", NO_KEY, ""),
        "central_events_list", right("events", List), event::list,
        &words::event::CENTRAL_EVENTS_LIST).list(event::PARAMETERS),
    get(("/events/", EVENT_ID, ""),
        "central_event_get", right("events", Read), event::get, &words::event::CENTRAL_EVENT_GET)
            .entity(),
    get(("/config", NO_KEY, ""),
        "config_get", right("config", Read), config::get, &words::config::CONFIG_GET)
            .query(&[&stats_format::FORMAT]),
    put(("/config", NO_KEY, ""),
        "config_save", ADMINISTRATOR, config::save, &words::config::CONFIG_SAVE),
    get(("/backup", NO_KEY, ""),
        "backup_get", ADMINISTRATOR, backup::get, &words::backup::BACKUP_GET),
    get(("/cluster/stats", NO_KEY, ""),
        "cluster_stats_get", right("cluster", Read), cluster::stats,
        &words::cluster::CLUSTER_STATS_GET).query(&[&stats_format::FORMAT]),
    get(("/auth_backends", NO_KEY, ""),
        "auth_backends_list", right("auth_backends", List), auth_backend::list,
        &words::auth::AUTH_BACKENDS_LIST).list(&[]),
    post(("/auth_backends/", ENTITY_NAME, "/test"),
        "auth_backend_test", right("auth_backends", Execute), auth_test::test,
        &words::auth::AUTH_BACKEND_TEST),
    get(("/auth_backends/", ENTITY_NAME, ""),
        "auth_backend_get", right("auth_backends", Read), auth_backend::get,
        &words::auth::AUTH_BACKEND_GET).entity(),
    put(("/auth_backends/", ENTITY_NAME, ""),
        "auth_backend_save", right("auth_backends", Write), auth_backend::save,
        &words::auth::AUTH_BACKEND_SAVE).entity(),
    delete(("/auth_backends/", ENTITY_NAME, ""),
        "auth_backend_delete", right("auth_backends", Write), auth_backend::delete,
        &words::auth::AUTH_BACKEND_DELETE).entity(),
    get(("/auth", NO_KEY, ""),
        "auth_request", right("auth", Execute), session_auth::request, &words::auth::AUTH_REQUEST)
            .query(session_auth::PARAMETERS),
    get(("/api_tokens", NO_KEY, ""),
        "api_tokens_list", right("api_tokens", List), token::list, &words::token::API_TOKENS_LIST)
            .list(&[]),
    get(("/api_tokens/", ENTITY_NAME, ""),
        "api_token_get", right("api_tokens", Read), token::get, &words::token::API_TOKEN_GET)
            .entity(),
    put(("/api_tokens/", ENTITY_NAME, ""),
        "api_token_save", ADMINISTRATOR, token::save, &words::token::API_TOKEN_SAVE).entity(),
    delete(("/api_tokens/", ENTITY_NAME, ""),
        "api_token_delete", ADMINISTRATOR, token::delete, &words::token::API_TOKEN_DELETE).entity(),
    get(("/load-balancers", NO_KEY, ""),
        "load_balancers_list", right("load-balancers", List), balancer::list,
        &words::balancer::LOAD_BALANCERS_LIST).list(&[]),
    get(("/load-balancers/", ENTITY_NAME, ""),
        "load_balancer_get", right("load-balancers", Read), balancer::get,
        &words::balancer::LOAD_BALANCER_GET).entity(),
    put(("/load-balancers/", ENTITY_NAME, ""),
        "load_balancer_save", right("load-balancers", Write), balancer::save,
        &words::balancer::LOAD_BALANCER_SAVE).entity(),
    delete(("/load-balancers/", ENTITY_NAME, ""),
        "load_balancer_delete", right("load-balancers", Write), balancer::delete,
        &words::balancer::LOAD_BALANCER_DELETE).entity(),
    get(("/lb/", PLAYBACK_PATH, ""),
        "streaming_lb_playback", PUBLIC, balancer::redirect_client,
        &words::balancer::STREAMING_LB_PLAYBACK),
    post(("/lb/", PLAYBACK_PATH, ""),
        "streaming_lb_publish", PUBLIC, balancer::redirect_client,
        &words::balancer::STREAMING_LB_PUBLISH),
    get(("/agents", NO_KEY, ""),
        "agents_list", right("agents", List), agent::list, &words::agent::AGENTS_LIST)
            .list(agent::LIST_PARAMETERS),
    post(("/agents/layouts", NO_KEY, ""),
        "batch_update_agents_layouts", right("agents", Write), agent::set_layouts,
        &words::agent::BATCH_UPDATE_AGENTS_LAYOUTS).batch().items(),
    post(("/agents/", AGENT, "/reboot"),
        "agent_reboot", right("agents", Execute), agent::reboot, &words::agent::AGENT_REBOOT),
    post(("/agents/", AGENT, "/reset"),
        "agent_reset", right("agents", Execute), agent::reset, &words::agent::AGENT_RESET),
    post(("/agents/", AGENT, "/disconnect"),
        "agent_disconnect", right("agents", Execute), agent::disconnect,
        &words::agent::AGENT_DISCONNECT),
    get(("/agents/", AGENT, "/logs"),
        "agent_logs_get", right("agents", Execute), agent::logs, &words::agent::AGENT_LOGS_GET),
    get(("/agents/", AGENT, ""),
        "agent_get", right("agents", Read), agent::get, &words::agent::AGENT_GET).entity(),
    put(("/agents/", AGENT, ""),
        "agent_save", right("agents", Write), agent::save, &words::agent::AGENT_SAVE).entity(),
    delete(("/agents/", AGENT, ""),
        "agent_delete", right("agents", Write), agent::delete, &words::agent::AGENT_DELETE)
            .entity(),
    get(("/session", NO_KEY, ""),
        "session_get", VALID, browser_session::get, &words::session::SESSION_GET),
    post(("/session", NO_KEY, ""),
        "session_open", PUBLIC, browser_session::open, &words::session::SESSION_OPEN),
    delete(("/session", NO_KEY, ""),
        "session_close", VALID, browser_session::close, &words::session::SESSION_CLOSE),
    post(("/endpoint/connect", NO_KEY, ""),
        "endpoint_connect", AGENT_PROOF, control::connect, &words::agent::ENDPOINT_CONNECT),
    get(("/monitoring/liveness", NO_KEY, ""),
        "liveness_probe", PUBLIC, monitoring::liveness, &words::monitoring::LIVENESS_PROBE),
    get(("/monitoring/readiness", NO_KEY, ""),
        "readiness_probe", PUBLIC, monitoring::readiness, &words::monitoring::READINESS_PROBE),
    get(("/openapi.json", NO_KEY, ""),
        "openapi_get", right("openapi", Read), monitoring::openapi,
        &words::monitoring::OPENAPI_GET),
];

pub static ROUTES: std::sync::LazyLock<Vec<Route>> =
    std::sync::LazyLock::new(|| OPERATIONS.iter().map(|operation| operation.route).collect());

pub static ROUTER: std::sync::LazyLock<Router> = std::sync::LazyLock::new(|| Router::new(&ROUTES));

/// The requirements of an operation for the caller of one path.
pub fn needs<'a>(operation: &Operation, parameter: &'a str) -> Needs<'a> {
    let named = matches!(
        operation.route.parameter,
        PathParameter::Segment("hostname") | PathParameter::Pair("hostname", _)
    );
    let keyed = operation.route.parameter != PathParameter::None;
    Needs {
        access: operation.permission.access,
        token: operation.permission.token,
        key: keyed.then_some(parameter),
        hostname: named.then_some(parameter),
    }
}

/// The value of header `Allow` for a path.
pub fn allowed(path: &str) -> &'static str {
    let serves = |method| matches!(ROUTER.find(method, path), Ok(Found::Endpoint(..)));
    let served = [Method::Get, Method::Put, Method::Post, Method::Delete].map(serves);
    ALLOWED[served
        .iter()
        .fold(0, |at, serves| at * 2 + usize::from(*serves))]
}

/// Indexed by four bits: GET (highest), PUT, POST, DELETE.
const ALLOWED: [&str; 16] = [
    "OPTIONS",
    "DELETE, OPTIONS",
    "POST, OPTIONS",
    "POST, DELETE, OPTIONS",
    "PUT, OPTIONS",
    "PUT, DELETE, OPTIONS",
    "PUT, POST, OPTIONS",
    "PUT, POST, DELETE, OPTIONS",
    "GET, HEAD, OPTIONS",
    "GET, HEAD, DELETE, OPTIONS",
    "GET, HEAD, POST, OPTIONS",
    "GET, HEAD, POST, DELETE, OPTIONS",
    "GET, HEAD, PUT, OPTIONS",
    "GET, HEAD, PUT, DELETE, OPTIONS",
    "GET, HEAD, PUT, POST, OPTIONS",
    "GET, HEAD, PUT, POST, DELETE, OPTIONS",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::entity::{Key, Kind};
    use crate::state::name::{
        Hostname, RESERVED_HOSTNAMES, RESERVED_KEYS, RESERVED_TAILS, StreamName,
    };

    #[test]
    fn allow_header_lists_every_served_method() {
        for (at, listed) in ALLOWED.iter().enumerate() {
            let listed: Vec<&str> = listed.split(", ").collect();
            for (bit, name) in ["DELETE", "POST", "PUT", "GET"].into_iter().enumerate() {
                assert_eq!(listed.contains(&name), at >> bit & 1 == 1, "{at} {name}");
            }
            assert_eq!(listed.contains(&"GET"), listed.contains(&"HEAD"), "{at}");
            assert_eq!(listed.last(), Some(&"OPTIONS"), "{at}");
        }
    }

    #[test]
    fn every_fixed_tail_is_reserved() {
        let keyed = |route: &Route| route.parameter != PathParameter::None;
        let heads: Vec<&str> = ROUTES
            .iter()
            .filter(|it| keyed(it))
            .map(|it| it.head)
            .collect();
        for route in ROUTES.iter() {
            for head in &heads {
                // A literal where a key could be.
                if let Some(literal) = route.head.strip_prefix(head)
                    && !literal.is_empty()
                {
                    assert!(Hostname::parse(literal).is_err());
                    if *head == "/streamers/" && RESERVED_HOSTNAMES.contains(&literal) {
                        continue;
                    }
                    assert!(RESERVED_KEYS.contains(&literal), "{}", route.template());
                    assert!(StreamName::parse(literal).is_err());
                    assert!(Key::parse(Kind::Agent, literal).is_err());
                }
            }
            // A literal where a longer key could go on.
            if matches!(route.parameter, PathParameter::Tail(_)) && !route.tail.is_empty() {
                let tail = &route.tail[1..];
                assert!(RESERVED_TAILS.contains(&tail), "{}", route.template());
                for name in [format!("a{}", route.tail), tail.to_owned()] {
                    assert!(StreamName::parse(&name).is_err(), "{name}");
                }
            }
        }
    }
}
