//! The table of what is served, and the routes, rights and methods that follow from it.

use super::auth::{Access, Needs, TokenNeed};
use super::call::{Call, Outcome};
use super::router::{self, Found, Parameter, Route};
use super::token::Demand;
use super::{
    agent, auth_backend, balancer, cluster, config, config_external, control, dvr, episode, event,
    external_episodes, layout, monitoring, person, session_auth, srt_port, stats, stream, streamer,
    token,
};
use crate::access::rights::Action::{self, Execute, List, Read, Write};
use crate::error::{self, ApiError};
use crate::http::Method;

/// Largest body of an ordinary request, bytes.
pub const BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Largest body that carries a batch, bytes.
pub const BATCH_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One operation of the API.
pub struct Endpoint {
    pub route: Route,
    /// The reference's `operationId`.
    pub id: &'static str,
    /// Who may call it.
    pub permission: Permission,
    pub body_bytes_max: u64,
    pub(crate) handler: Handler,
}

pub type Handler = fn(&Call<'_>) -> Result<Outcome, ApiError>;

/// Who may call an operation. Administrators may call all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    pub access: Access,
    /// What it asks of an API token.
    pub token: TokenNeed,
}

/// Open without credentials: probes, redirects of players, the handshake of agents.
const PUBLIC: Permission = Permission {
    access: Access::Public,
    token: TokenNeed::Any,
};
/// Not for tokens: they could give themselves more.
const ADMINISTRATOR: Permission = Permission {
    access: Access::Admin,
    token: TokenNeed::Never,
};
/// For the streamer that the path names, by its cluster key. A configuration holds the passwords of its
/// streams: for tokens it is more than reading the streamer.
const NODE: Permission = Permission {
    access: Access::Config,
    token: TokenNeed::Right(Demand {
        collection: "streamers",
        action: Execute,
    }),
};

/// For tokens with the right to an action on a collection; the key is the path's parameter.
const fn right(collection: &'static str, action: Action) -> Permission {
    Permission {
        access: Access::Admin,
        token: TokenNeed::Right(Demand { collection, action }),
    }
}

/// For a list that tokens are shown whole or not at all.
const fn whole(collection: &'static str) -> Permission {
    Permission {
        access: Access::Admin,
        token: TokenNeed::WholeList(collection),
    }
}

impl Endpoint {
    const fn new(method: Method, path: (&'static str, Parameter, &'static str)) -> Self {
        let (head, parameter, tail) = path;
        Self {
            route: Route {
                method,
                head,
                parameter,
                tail,
            },
            id: "",
            permission: ADMINISTRATOR,
            body_bytes_max: BODY_BYTES_MAX,
            handler: |_| Err(error::NOT_FOUND.error()),
        }
    }

    const fn serves(self, id: &'static str, permission: Permission, handler: Handler) -> Self {
        Self {
            id,
            permission,
            handler,
            ..self
        }
    }

    const fn batch(self) -> Self {
        self.body_max(BATCH_BODY_BYTES_MAX)
    }

    const fn body_max(self, body_bytes_max: u64) -> Self {
        Self {
            body_bytes_max,
            ..self
        }
    }
}

const NO_KEY: Parameter = Parameter::None;
const HOST_PORT: Parameter = Parameter::Pair("hostname", "port");
const NAME: Parameter = Parameter::Tail("name");
const HOSTNAME: Parameter = Parameter::Segment("hostname");
const EPISODE_ID: Parameter = Parameter::Segment("episode_id");
const PERSON_ID: Parameter = Parameter::Segment("person_id");
const ENTITY_NAME: Parameter = Parameter::Segment("name");
/// Taken apart by the handler, because a stream's name must be one segment before it is decoded.
const WANTED: Parameter =
    Parameter::Tail("loadbalancer_name}/{escaped_stream_name}/{multi_segment_suffix");
const AGENT: Parameter = Parameter::Segment("id");

macro_rules! methods {
    ($($name:ident $method:ident),*) => {$(
        const fn $name(
            path: (&'static str, Parameter, &'static str),
            id: &'static str,
            permission: Permission,
            handler: Handler,
        ) -> Endpoint {
            Endpoint::new(Method::$method, path).serves(id, permission, handler)
        }
    )*};
}
methods!(get Get, put Put, post Post, delete Delete);

/// Everything that is served, below either prefix. Of one head, longer tails first.
#[rustfmt::skip]
pub const ENDPOINTS: &[Endpoint] = &[
    get(("/streams", NO_KEY, ""), "streams_list", right("streams", List), stream::list),
    put(("/streams/batch", NO_KEY, ""),
        "streams_batch_update", right("streams", Write), stream::save_batch).batch(),
    post(("/streams/layouts", NO_KEY, ""),
        "batch_update_streams_layouts", right("streams", Write), stream::set_layouts).batch(),
    post(("/streams/preview_layout_change", NO_KEY, ""),
        "batch_stream_layout_preview", right("streams", Execute), layout::preview_streams).batch(),
    post(("/streams/", NAME, "/preview_layout_change"),
        "preview_layout_change_for_stream_config", right("streams", Execute), layout::preview_stream),
    get(("/streams/", NAME, "/layout/explain"),
        "stream_layout_explain", right("streams", Read), layout::explain),
    get(("/streams/", NAME, "/layouts"),
        "stream_layouts_get", right("streams", Read), stream::layouts),
    get(("/streams/", NAME, ""), "stream_get", right("streams", Read), stream::get),
    put(("/streams/", NAME, ""), "stream_save", right("streams", Write), stream::save),
    delete(("/streams/", NAME, ""), "stream_delete", right("streams", Write), stream::delete),
    get(("/streamers", NO_KEY, ""), "streamers_list", right("streamers", List), streamer::list),
    put(("/streamers/batch", NO_KEY, ""),
        "streamers_batch_update", right("streamers", Write), streamer::save_batch).batch(),
    post(("/streamers/preview_layout_change", NO_KEY, ""),
        "batch_streamer_layout_preview", right("streamers", Execute), layout::preview_streamers).batch(),
    post(("/streamers/", HOSTNAME, "/preview_layout_change"),
        "preview_layout_change_for_streamer_config", right("streamers", Execute), layout::preview_streamer),
    post(("/cluster/preview", NO_KEY, ""),
        "cluster_preview", right("cluster", Execute), layout::preview_cluster).batch(),
    get(("/cluster/capacity", NO_KEY, ""),
        "cluster_capacity_get", right("cluster", Read), layout::capacity),
    get(("/streamers/", HOSTNAME, "/streams"),
        "streamer_streams_list", NODE, config_external::streams),
    get(("/streamers/", HOSTNAME, "/update-streams"),
        "streamer_update_streams_list", NODE, config_external::update_streams),
    get(("/streamers/", HOSTNAME, "/dynamic-streams"),
        "streamer_dynamic_streams_list", NODE, config_external::dynamic_streams),
    put(("/streamers/", HOSTNAME, "/stats"),
        "streamer_stats_report", NODE, stats::report).body_max(stats::BODY_BYTES_MAX),
    get(("/streamers/", HOSTNAME, "/episodes"),
        "external_episodes_list", NODE, external_episodes::list),
    get(("/streamers/", HOST_PORT, "/srt_port_resolve/"),
        "srt_port_resolve", NODE, srt_port::resolve),
    get(("/streamers/", HOSTNAME, ""), "streamer_get", right("streamers", Read), streamer::get),
    put(("/streamers/", HOSTNAME, ""), "streamer_save", right("streamers", Write), streamer::save),
    delete(("/streamers/", HOSTNAME, ""),
        "streamer_delete", right("streamers", Write), streamer::delete),
    get(("/episodes", NO_KEY, ""), "episodes_list", right("episodes", List), episode::list),
    get(("/episodes/", EPISODE_ID, ""), "episode_get", right("episodes", Read), episode::get),
    put(("/episodes/", EPISODE_ID, ""), "episode_save", right("episodes", Write), episode::save),
    delete(("/episodes/", EPISODE_ID, ""),
        "episode_delete", right("episodes", Write), episode::delete),
    get(("/persons", NO_KEY, ""), "persons_list", right("persons", List), person::list),
    get(("/persons/", PERSON_ID, ""), "person_get", right("persons", Read), person::get),
    put(("/persons/", PERSON_ID, ""), "person_save", right("persons", Write), person::save),
    delete(("/persons/", PERSON_ID, ""), "person_delete", right("persons", Write), person::delete),
    get(("/dvrs", NO_KEY, ""), "dvrs_list", whole("dvrs"), dvr::list),
    get(("/events", NO_KEY, ""), "central_events_list", right("events", List), event::list),
    get(("/config", NO_KEY, ""), "config_get", right("config", Read), config::get),
    put(("/config", NO_KEY, ""), "config_save", ADMINISTRATOR, config::save),
    get(("/cluster/stats", NO_KEY, ""),
        "cluster_stats_get", right("cluster", Read), cluster::stats),
    get(("/auth_backends", NO_KEY, ""),
        "auth_backends_list", right("auth_backends", List), auth_backend::list),
    get(("/auth_backends/", ENTITY_NAME, ""),
        "auth_backend_get", right("auth_backends", Read), auth_backend::get),
    put(("/auth_backends/", ENTITY_NAME, ""),
        "auth_backend_save", right("auth_backends", Write), auth_backend::save),
    delete(("/auth_backends/", ENTITY_NAME, ""),
        "auth_backend_delete", right("auth_backends", Write), auth_backend::delete),
    get(("/auth", NO_KEY, ""), "auth_request", right("auth", Execute), session_auth::request),
    get(("/api_tokens", NO_KEY, ""), "api_tokens_list", right("api_tokens", List), token::list),
    get(("/api_tokens/", ENTITY_NAME, ""), "api_token_get", right("api_tokens", Read), token::get),
    put(("/api_tokens/", ENTITY_NAME, ""), "api_token_save", ADMINISTRATOR, token::save),
    delete(("/api_tokens/", ENTITY_NAME, ""), "api_token_delete", ADMINISTRATOR, token::delete),
    get(("/load-balancers", NO_KEY, ""),
        "load_balancers_list", right("load-balancers", List), balancer::list),
    get(("/load-balancers/", ENTITY_NAME, ""),
        "load_balancer_get", right("load-balancers", Read), balancer::get),
    put(("/load-balancers/", ENTITY_NAME, ""),
        "load_balancer_save", right("load-balancers", Write), balancer::save),
    delete(("/load-balancers/", ENTITY_NAME, ""),
        "load_balancer_delete", right("load-balancers", Write), balancer::delete),
    get(("/lb/", WANTED, ""), "streaming_lb_playback", PUBLIC, balancer::send_on),
    post(("/lb/", WANTED, ""), "streaming_lb_publish", PUBLIC, balancer::send_on),
    get(("/agents", NO_KEY, ""), "agents_list", right("agents", List), agent::list),
    post(("/agents/layouts", NO_KEY, ""),
        "batch_update_agents_layouts", right("agents", Write), agent::set_layouts).batch(),
    post(("/agents/", AGENT, "/reboot"), "agent_reboot", right("agents", Execute), agent::reboot),
    post(("/agents/", AGENT, "/reset"), "agent_reset", right("agents", Execute), agent::reset),
    post(("/agents/", AGENT, "/disconnect"),
        "agent_disconnect", right("agents", Execute), agent::disconnect),
    get(("/agents/", AGENT, "/logs"), "agent_logs_get", right("agents", Execute), agent::logs),
    get(("/agents/", AGENT, ""), "agent_get", right("agents", Read), agent::get),
    put(("/agents/", AGENT, ""), "agent_save", right("agents", Write), agent::save),
    delete(("/agents/", AGENT, ""), "agent_delete", right("agents", Write), agent::delete),
    post(("/endpoint/connect", NO_KEY, ""), "endpoint_connect", PUBLIC, control::connect),
    get(("/monitoring/liveness", NO_KEY, ""), "liveness_probe", PUBLIC, monitoring::liveness),
    get(("/monitoring/readiness", NO_KEY, ""), "readiness_probe", PUBLIC, monitoring::readiness),
    get(("/openapi.json", NO_KEY, ""), "openapi_get", right("openapi", Read), monitoring::openapi),
];

pub static ROUTES: std::sync::LazyLock<Vec<Route>> =
    std::sync::LazyLock::new(|| ENDPOINTS.iter().map(|endpoint| endpoint.route).collect());

/// What an endpoint asks of the caller who calls it for `parameter`.
pub fn needs<'a>(endpoint: &Endpoint, parameter: &'a str) -> Needs<'a> {
    let named = matches!(
        endpoint.route.parameter,
        Parameter::Segment("hostname") | Parameter::Pair("hostname", _)
    );
    let keyed = endpoint.route.parameter != Parameter::None;
    Needs {
        access: endpoint.permission.access,
        token: endpoint.permission.token,
        key: keyed.then_some(parameter),
        hostname: named.then_some(parameter),
    }
}

/// The value of `Allow` for a path.
pub fn allowed(path: &str) -> &'static str {
    let serves = |method| matches!(router::find(&ROUTES, method, path), Ok(Found::Endpoint(..)));
    let served = [Method::Get, Method::Put, Method::Post, Method::Delete].map(serves);
    ALLOWED[served
        .iter()
        .fold(0, |at, serves| at * 2 + usize::from(*serves))]
}

/// By GET, PUT, POST and DELETE, the first of them the highest bit.
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
}
