//! The dashboard and the alert rules are about metrics that the server has.

use std::fs;

use serde_json::json;

use crate::python::{python, script};
use weir_testkit::{TestServer, run};

#[test]
fn dashboard_and_alerts_fit_the_metrics() {
    let server = TestServer::with(&["--layouter-enabled", "--streamer-queries"]);
    let body = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", body).expect(200);
    let report = json!({"stats": {"cpu_usage": 5, "total_clients": 1}});
    server.put("/streamers/s1/stats", report).expect(204);
    let metrics = server.get("/cluster/stats?format=openmetrics").expect(200);
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let file = |name: &str, text: &[u8]| {
        let path = scratch.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    let printed = |what: &str| {
        let output = run(&["print", what], &[], scratch.path());
        assert!(output.status.success(), "{output:?}");
        file(what, &output.stdout)
    };
    let output = python()
        .arg(script("monitoring.py"))
        .args([printed("grafana"), printed("alerts")])
        .arg(file("metrics", metrics.text().as_bytes()))
        .output()
        .expect("the interpreter starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let count = String::from_utf8_lossy(&output.stdout);
    let count: usize = count.trim().parse().expect("a number");
    assert!(count > 35, "{count}");
}
