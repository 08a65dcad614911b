//! From a method and a path to an endpoint, and from credentials to a yes.
//!
//! `cargo run --release -p weir-bench --bin route_auth -- [CALLS PER ROUND]`

use weir::testing::access::{Access, Auth, Needs, TokenNeed, Tokens};
use weir::testing::api::OPERATIONS;
use weir::testing::api::{Found, Route, Router};
use weir::testing::http::Method;
use weir_bench::{measure, size, world};

fn main() {
    let calls = size(100_000);
    let routes: Vec<Route> = OPERATIONS.iter().map(|endpoint| endpoint.route).collect();
    let router = Router::new(&routes);
    let found = |method, path: &str| match router.find(method, path) {
        Ok(Found::Endpoint(index, ..)) => index,
        other => panic!("{path} leads to {other:?}"),
    };
    for (name, method, path) in [
        (
            "GET /streams/{name}",
            Method::Get,
            "/central/api/v3/streams/site-0001/camera-00000001",
        ),
        (
            "GET /streams/{name}, escaped",
            Method::Get,
            "/central/api/v3/streams/site-0001%2Fcamera-00000001",
        ),
        (
            "PUT /streams/{name}",
            Method::Put,
            "/central/api/v3/streams/site-0001/camera-00000001",
        ),
        (
            "GET /streamers/{hostname}/streams",
            Method::Get,
            "/streamer/api/v3/streamers/streamer-00001.example.com/streams",
        ),
        (
            "GET /openapi.json (the last one)",
            Method::Get,
            "/central/api/v3/openapi.json",
        ),
    ] {
        measure(name, calls, || found(method, path));
    }
    let auth = Auth::new(
        "0123456789abcdef0123456789abcdef",
        Some(("admin", "a-long-password")),
    );
    let state = world::state(1, 1);
    let mut tokens = Tokens::default();
    let host = world::host(0);
    let signed = "Cluster 1700000000:63d20a4a6dc0ba6ed5a3dc9ecb4a1ef4bd1de9e5";
    for (name, header, is_known) in [
        ("Bearer", "Bearer 0123456789abcdef0123456789abcdef", true),
        (
            "Bearer, wrong",
            "Bearer 0123456789abcdef0123456789abcdee",
            false,
        ),
        ("Basic", "Basic YWRtaW46YS1sb25nLXBhc3N3b3Jk", true),
        ("Cluster, wrong", signed, false),
    ] {
        measure(name, calls, || {
            let header = Some(header.as_bytes());
            let needs = Needs {
                access: Access::Config,
                token: TokenNeed::Never,
                key: Some(&host),
                hostname: Some(&host),
            };
            let known = auth.authorize(needs, header, &mut tokens, &state, || 1_700_000_000);
            assert_eq!(known.is_ok(), is_known, "{name}");
        });
    }
}
