//! Facets: numbers of streams by the values of fields.

use serde_json::{Value, json};

use crate::cluster::count;
use crate::restricted::token;
use weir_testkit::{TestServer, wait_until};

/// Twelve streams of two customers and three sites, on two streamers.
fn server() -> TestServer {
    let server = TestServer::new();
    for host in ["s1", "s2"] {
        let node = json!({"role": "streamer", "cluster_key": "k"});
        server.put(&format!("/streamers/{host}"), node).expect(200);
    }
    let streams = (0..12).map(|n| {
        let customer = if n < 9 { "acme" } else { "borealis" };
        let mut labels = json!({"customer": customer, "required.site": format!("site{}", n % 3)});
        if n == 0 {
            labels = json!({});
        }
        json!({
            "name": format!("{customer}/c{n:02}"), "labels": labels, "disabled": n == 11,
            "layout": {"ingest": if n % 4 == 0 { "s1" } else { "s2" }},
            "template": if n == 5 { json!("t\"1\"") } else { Value::Null },
        })
    });
    let streams: Vec<Value> = streams.collect();
    server.put("/streams/batch", json!(streams)).expect(204);
    server
}

fn facets(server: &TestServer, query: &str) -> Value {
    let path = format!("/facets?of=streams&{query}");
    server.get(&path).expect(200).json()
}

/// A field in short: its name, the values with their counts, and the others.
type FacetInShort = (String, Vec<(String, u64)>, u64);

fn of_fields(facets: &Value) -> Vec<FacetInShort> {
    let facets = facets["facets"].as_array().expect("facets").iter();
    let pair = |value: &Value| {
        let name = value["value"].as_str().expect("a value").to_owned();
        (name, value["count"].as_u64().expect("a count"))
    };
    let in_short = facets.map(|facet| {
        let values = facet["values"].as_array().expect("values");
        (
            facet["field"].as_str().expect("a field").to_owned(),
            values.iter().map(pair).collect(),
            facet["other"].as_u64().expect("a count"),
        )
    });
    in_short.collect()
}

fn field(name: &str, values: &[(&str, u64)], other: u64) -> FacetInShort {
    let values = values.iter().map(|(value, n)| ((*value).to_owned(), *n));
    (name.to_owned(), values.collect(), other)
}

#[test]
fn facets_count_what_lists_with_their_values_count() {
    let mut server = server();
    let all = "fields=labels,template,layout.ingest,namespace";
    let expected = [
        field("labels.customer", &[("acme", 8), ("borealis", 3)], 0),
        field(
            "labels.required.site",
            &[("site1", 4), ("site2", 4), ("site0", 3)],
            0,
        ),
        field("template", &[("t\"1\"", 1)], 0),
        field("layout.ingest", &[("s2", 9), ("s1", 3)], 0),
        field("namespace", &[], 0),
    ];
    let seen = facets(&server, all);
    assert_eq!(of_fields(&seen), expected, "{seen}");
    // A scan with a filter that all streams pass has the same numbers.
    let scanned = facets(&server, &format!("{all}&name_gte=a"));
    assert_eq!(of_fields(&scanned), expected, "{scanned}");
    for (name, values, _) in &expected[..2] {
        for (value, streams) in values {
            assert_eq!(count(&server, &format!("{name}={value}")), *streams);
        }
    }
    server.restart();
    let seen = facets(&server, all);
    assert_eq!(of_fields(&seen), expected, "{seen}");
    // What is saved is counted by a request that comes after it.
    server.delete("/streams/borealis%2Fc11").expect(204);
    let moved = json!({"labels": {"customer": "corvus"}});
    server.put("/streams/acme%2Fc01", moved).expect(200);
    let seen = facets(&server, "fields=labels.customer");
    let expected = [("acme", 7), ("borealis", 2), ("corvus", 1)];
    let expected = [field("labels.customer", &expected, 0)];
    assert_eq!(of_fields(&seen), expected, "{seen}");
}

#[test]
fn facets_of_filters_count_the_streams_that_match() {
    let server = server();
    for (query, expected) in [
        (
            "fields=labels.customer&layout.ingest=s1",
            field("labels.customer", &[("acme", 2)], 0),
        ),
        (
            "fields=layout.ingest&labels.customer=borealis&disabled=false",
            field("layout.ingest", &[("s2", 2)], 0),
        ),
        (
            "fields=labels.required.site&q=borealis&values=1",
            field("labels.required.site", &[("site0", 1)], 2),
        ),
        (
            "fields=layout.ingest&values=1",
            field("layout.ingest", &[("s2", 9)], 3),
        ),
        (
            "fields=labels.none&health=operational",
            field("labels.none", &[], 0),
        ),
    ] {
        let seen = facets(&server, query);
        assert_eq!(of_fields(&seen), [expected], "{query}: {seen}");
    }
}

#[test]
fn token_counts_the_streams_that_it_may_list() {
    let server = server();
    let with = |name: &str, scope: &str, action: &str| {
        let permissions = json!([{"scopes": [scope], action: true}]);
        token(&server, name, json!({ "permissions": permissions }))
    };
    let path = "/facets?of=streams&fields=labels.customer,layout.ingest";
    let get = |token: &str| server.call_as("GET", path, Some(token));
    let part = get(&with("part", "streams/borealis%2F*", "list")).expect(200);
    let expected = [
        field("labels.customer", &[("borealis", 3)], 0),
        field("layout.ingest", &[("s2", 3)], 0),
    ];
    assert_eq!(of_fields(&part.json()), expected);
    let whole = get(&with("whole", "streams", "list")).expect(200).json();
    assert_eq!(of_fields(&whole)[0].1.len(), 2, "{whole}");
    get(&with("reads", "streams", "read")).expect(403);
    get(&with("other", "streamers", "list")).expect(403);
}

#[test]
fn parameters_of_facets_are_bounded() {
    let server = server();
    let many: Vec<String> = (0..21).map(|n| format!("labels.l{n}")).collect();
    for (query, name) in [
        ("fields=labels", "of"),
        ("of=agents&fields=labels", "of"),
        ("of=streams", "fields"),
        ("of=streams&fields=title", "fields"),
        ("of=streams&fields=labels,", "fields"),
        (&format!("of=streams&fields={}", many.join(",")), "fields"),
        ("of=streams&fields=labels&values=0", "values"),
        ("of=streams&fields=labels&values=101", "values"),
        ("of=streams&fields=labels&limit=1", "limit"),
        ("of=streams&fields=labels&titel=x", "titel"),
        (
            "of=streams&fields=labels&inputs.url.password=x",
            "inputs.url.password",
        ),
    ] {
        let refused = server.get(&format!("/facets?{query}")).expect(400).json();
        let parameter = &refused["errors"][0]["source"]["parameter"];
        assert_eq!(parameter, name, "{query}: {refused}");
    }
}

#[test]
fn facets_of_a_large_cluster_are_those_of_the_shared_count() {
    // Goal: other callers of the counts do not take the facets away. Method: a cluster in which
    // counts are reused, both kinds of callers by turns.
    let server = TestServer::new();
    for part in 0..3 {
        let streams = (0..8000).map(
            |n| json!({"name": format!("part{part}/c{n}"), "labels": {"part": part.to_string()}}),
        );
        let streams: Vec<Value> = streams.collect();
        server.put("/streams/batch", json!(streams)).expect(204);
    }
    let expected = [field(
        "labels.part",
        &[("0", 8000), ("1", 8000), ("2", 8000)],
        0,
    )];
    for _ in 0..3 {
        server.get("/cluster/stats").expect(200);
        let seen = facets(&server, "fields=labels");
        assert_eq!(of_fields(&seen), expected, "{seen}");
    }
    let path = "/streams/part0%2Fc1";
    server
        .put(path, json!({"labels": {"part": "9"}}))
        .expect(200);
    let look = || {
        server.get("/cluster/stats").expect(200);
        of_fields(&facets(&server, "fields=labels.part&values=100"))
    };
    wait_until("the next count", look, |seen| {
        seen[0].1.last() == Some(&("9".to_owned(), 1))
    });
}
