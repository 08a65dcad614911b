//! Lists: filters, search, order, pages and selection, as a client sees them.

use serde_json::{Value, json};

use crate::calls::{keys, names};
use weir_testkit::{TestServer, encode_segment};

/// Six streams that differ in every field of the queries below.
fn with_streams() -> TestServer {
    let server = TestServer::new();
    let nodes = json!([
        {"hostname": "s1", "role": "streamer", "cluster_key": "k"},
        {"hostname": "s2", "role": "streamer", "cluster_key": "k"},
    ]);
    server.put("/streamers/batch", nodes).expect(204);
    let streams = json!([
        {
            "name": "a", "title": "Alpha", "position": 3,
            "inputs": [{"url": "udp://239.0.0.1:1"}, {"url": "rtsp://cam/1", "priority": 2}],
            "layout": {"ingest": "s1", "dvr_backups": ["s2"]},
        },
        {
            "name": "b", "title": "beta", "position": -1, "static": false,
            "labels": {"zone": "north"}, "layout": {"ingest": "s2"},
        },
        {
            "name": "c", "title": "Gamma", "position": 3,
            "inputs": [{"url": "rtsp://user:hidden@cam/2", "priority": 1}],
        },
        {"name": "d", "inputs": [], "labels": {"zone": "south"}, "comment": "has alpha in it"},
        {"name": "e/1", "title": "Привет", "position": 20, "segment_duration": 5000},
        {"name": "f", "title": "100% & more", "disabled": true, "dvr": {"expiration": 3600}},
    ]);
    server.put("/streams/batch", streams).expect(204);
    server
}

/// Names of the streams of a page, with a space between.
fn joined_names(page: &Value) -> String {
    names(page).join(" ")
}

#[test]
fn filters_select_matching_streams() {
    let server = with_streams();
    let table = [
        ("", "a b c d e/1 f"),
        ("name=a", "a"),
        ("name=c,a,nobody", "a c"),
        ("name_ne=a,c", "b d e/1 f"),
        ("name=e%2F1", "e/1"),
        ("name_gt=b&name_lte=d", "c d"),
        ("position=3", "a c"),
        ("position=3,20", "a c e/1"),
        ("position_ne=3", "b d e/1 f"),
        ("position_gt=3", "e/1"),
        ("position_gte=3", "a c e/1"),
        ("position_lt=3", "b"),
        ("position_lte=3", "a b c"),
        ("position_is=null", "d f"),
        ("position_is_not=null", "a b c e/1"),
        ("title_like=a", "a b c"),
        ("title_like=A", "a"),
        ("title=%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82", "e/1"),
        ("title=100%25+%26+more", "f"),
        ("static=false", "b"),
        ("static=true", "a c d e/1 f"),
        ("disabled", "f"),
        ("disabled=true", "f"),
        ("disabled_ne=true", "a b c d e/1"),
        ("labels.zone=north", "b"),
        ("labels.zone_is_not=null", "b d"),
        ("labels.zone_like=th", "b d"),
        ("inputs.url_like=udp", "a"),
        ("inputs.url_like=cam", "a c"),
        ("inputs.priority=2", "a"),
        ("inputs.priority_gte=1", "a c"),
        ("inputs.url=rtsp%3A%2F%2Fcam%2F1", "a"),
        ("dvr.expiration_gt=3000", "f"),
        ("layout.ingest=s1", "a"),
        ("layout.ingest=s1,s2", "a b"),
        ("layout.ingest_is=null", "c d e/1 f"),
        ("layout.ingest_ne=s1", "b c d e/1 f"),
        ("layout.dvr_backups=s2", "a"),
        ("config_on_disk.static=false", "b"),
        ("updated_at_gt=0", "a b c d e/1 f"),
        ("updated_at_gt=9999999999999", ""),
        ("position=3&title=Gamma", "c"),
        ("position=1&position=3", "a c"),
        ("no_such_field=1", "a b c d e/1 f"),
        ("q=ALPHA", "a d"),
        ("q=%D0%9F%D0%A0%D0%98", "e/1"),
        ("q=cam%2F", "a c"),
        ("q=e%2F1", "e/1"),
        ("q=hidden", ""),
        ("q=alpha&position=3", "a"),
    ];
    for (query, expected) in table {
        let page = server.get(&format!("/streams?{query}")).expect(200).json();
        assert_eq!(joined_names(&page), expected, "{query}");
        let count = expected.split(' ').filter(|name| !name.is_empty()).count();
        assert_eq!(page["estimated_count"], count, "{query}");
        assert_eq!((&page["next"], &page["prev"]), (&Value::Null, &Value::Null));
        assert!(page["timing"].is_object());
    }
}

#[test]
fn invalid_queries_are_refused() {
    let server = with_streams();
    let long = format!("q={}", "x".repeat(257));
    let fields: Vec<String> = (0..101).map(|i| format!("f{i}")).collect();
    let fields = format!("select={}", fields.join(","));
    let filters: Vec<String> = (0..65).map(|i| format!("title={i}")).collect();
    let filters = filters.join("&");
    let table = [
        ("limit=0", "input_out_of_range limit"),
        ("limit=10001", "input_out_of_range limit"),
        ("limit=-1", "input_out_of_range limit"),
        ("limit=ten", "not_integer limit"),
        ("limit=99999999999999999999", "input_out_of_range limit"),
        ("position=three", "not_integer position"),
        ("position_gt=1.5", "not_integer position_gt"),
        ("position_gt=9223372036854775808", "not_integer position_gt"),
        ("position=9007199254740993.0", "not_integer position"),
        ("poll_timeout=%2B1", "not_integer poll_timeout"),
        ("static=yes", "not_boolean static"),
        ("updated_at_gt=x", "not_integer updated_at_gt"),
        ("cursor=xx", "bad_cursor cursor"),
        ("title=%zz", "wrong_format title"),
        ("title=%ff", "wrong_format title"),
        ("poll_timeout=x", "not_integer poll_timeout"),
        ("poll_timeout=-1", "not_integer poll_timeout"),
        ("scheme=ftp", "unknown_enum_option scheme"),
        (
            "include_ingest_history=1",
            "not_boolean include_ingest_history",
        ),
        (
            "include_ingest_history=",
            "not_boolean include_ingest_history",
        ),
        (
            "jpeg_snapshot_sign_key=x",
            "secret_field jpeg_snapshot_sign_key",
        ),
        (
            "jpeg_snapshot_sign_key_like=x",
            "secret_field jpeg_snapshot_sign_key_like",
        ),
        ("sort=jpeg_snapshot_sign_key", "secret_field sort"),
        ("sort=a,b,c,d,e", "too_many_items sort"),
        (&long, "too_long q"),
        (&fields, "too_many_items select"),
        (&filters, "too_many_items title"),
    ];
    for (query, error) in table {
        let answer = server.get(&format!("/streams?{query}"));
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert_eq!(answer.errors(), [error], "{query}");
    }
}

#[test]
fn sort_order_is_total_in_both_directions() {
    let server = with_streams();
    let table = [
        ("name", "a b c d e/1 f"),
        ("-name", "f e/1 d c b a"),
        ("position", "d f b a c e/1"),
        ("-position", "e/1 a c b d f"),
        ("-position,-name", "e/1 c a b f d"),
        ("title", "d f a c b e/1"),
        ("labels.zone,name", "a c e/1 f b d"),
        ("layout.ingest", "c d e/1 f a b"),
        ("no_such_field", "a b c d e/1 f"),
    ];
    for (sort, expected) in table {
        let page = server
            .get(&format!("/streams?sort={sort}"))
            .expect(200)
            .json();
        assert_eq!(joined_names(&page), expected, "{sort}");
    }
}

#[test]
fn pages_in_both_directions_make_up_the_list() {
    let server = with_streams();
    for question in [
        "",
        "sort=-position",
        "sort=title",
        "position_is_not=null&sort=-name",
        "q=a",
        "name_gt=a",
    ] {
        let whole = joined_names(
            &server
                .get(&format!("/streams?{question}"))
                .expect(200)
                .json(),
        );
        for limit in 1..=7 {
            let ask = |cursor: &str| {
                let path = format!("/streams?{question}&limit={limit}&cursor={cursor}");
                server.get(&path).expect(200).json()
            };
            let mut forward = vec![ask("")];
            assert_eq!(forward[0]["prev"], Value::Null);
            while let Some(next) = forward.last().and_then(|page| page["next"].as_str()) {
                let page = ask(next);
                forward.push(page);
            }
            let joined: Vec<String> = forward.iter().map(joined_names).collect();
            assert_eq!(joined.join(" "), whole, "{question} by {limit}");
            // And back again: the same pages.
            let mut at = forward.len() - 1;
            let mut page = forward[at].clone();
            while let Some(prev) = page["prev"].as_str() {
                page = ask(prev);
                at -= 1;
                assert_eq!(
                    joined_names(&page),
                    joined[at],
                    "{question} by {limit}, back"
                );
            }
            assert_eq!(at, 0, "{question} by {limit}");
        }
    }
}

#[test]
fn pages_end_at_a_size_as_well() {
    // Goal: no page is much larger than the setting, and the pages make up the list, in each order
    // and in both directions.
    const BYTES_MAX: usize = 64 * 1024;
    let server = TestServer::with(&["--list-page-bytes", "64KiB"]);
    let stream = |i: u32| {
        let comment = "x".repeat(700);
        json!({"name": format!("s{i:03}"), "comment": comment, "position": 1000 - i})
    };
    // Two groups with the same stamp, each larger than a page.
    for half in [0..150, 150..300] {
        let streams: Value = half.map(stream).collect();
        server.put("/streams/batch", streams).expect(204);
    }
    let expected = |descending: bool| -> Vec<String> {
        let mut names: Vec<String> = (0..300).map(|i| format!("s{i:03}")).collect();
        if descending {
            names.reverse();
        }
        names
    };
    for (question, descending) in [
        ("", false),
        ("sort=-name", true),
        ("sort=position", true),
        ("comment_is_not=null", false),
        ("q=s&sort=-position", false),
    ] {
        let get = |cursor: &str| {
            let path = format!("/streams?{question}&limit=1000&cursor={cursor}");
            let answer = server.get(&path).expect(200);
            let bytes = answer.body.len();
            assert!(bytes < BYTES_MAX + 2048, "{question}: {bytes}");
            answer.json()
        };
        let mut pages = vec![get("")];
        assert!(
            pages[0]["streams"]
                .as_array()
                .is_some_and(|it| it.len() < 150)
        );
        assert_eq!(pages[0]["estimated_count"], 300);
        while let Some(next) = pages.last().and_then(|page| page["next"].as_str()) {
            let page = get(next);
            pages.push(page);
        }
        let forward: Vec<String> = pages.iter().flat_map(names).collect();
        assert_eq!(forward, expected(descending), "{question}");
        // Back, where the pages may end elsewhere.
        let mut page = pages.pop().expect("pages");
        let mut backward = vec![names(&page)];
        while let Some(prev) = page["prev"].as_str() {
            page = get(prev);
            backward.push(names(&page));
        }
        backward.reverse();
        assert_eq!(backward.concat(), expected(descending), "{question}, back");
    }
    // A client that continues by the last stamp gets groups whole.
    let mut seen = Vec::new();
    let mut since = 0;
    loop {
        let path = format!("/streams?updated_at_gt={since}&sort=updated_at&limit=1000");
        let page = server.get(&path).expect(200).json();
        let streams = page["streams"].as_array().expect("streams");
        let Some(last) = streams.last() else { break };
        assert_eq!(streams.len(), 150);
        since = last["updated_at"].as_u64().expect("a stamp");
        seen.extend(names(&page));
    }
    assert_eq!(seen, expected(false));
    // A poll is answered with a page as well.
    let poll = server
        .get("/streams?poll_timeout=5&q=s&limit=1000")
        .expect(200);
    assert!(poll.body.len() < BYTES_MAX + 2048);
}

#[test]
fn paging_shows_constant_items_exactly_once() {
    let server = TestServer::new();
    let stays: Value = (0..40)
        .map(|i| json!({"name": format!("stay{i:02}")}))
        .collect();
    server.put("/streams/batch", stays).expect(204);
    let mut seen = Vec::new();
    let mut cursor = String::new();
    let mut turn = 0;
    loop {
        let page = server
            .get(&format!("/streams?limit=3&cursor={cursor}"))
            .expect(200)
            .json();
        seen.extend(
            page["streams"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|stream| stream["name"].as_str())
                .filter(|name| name.starts_with("stay"))
                .map(str::to_owned),
        );
        // Before, inside and after the place of the walk.
        server
            .put(&format!("/streams/a{turn}"), json!({}))
            .expect(200);
        server
            .put(&format!("/streams/stay{:02}b", turn * 3), json!({}))
            .expect(200);
        server.delete(&format!("/streams/a{turn}")).expect(204);
        server
            .delete(&format!("/streams/stay{:02}b", turn * 3))
            .expect(204);
        turn += 1;
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    let expected: Vec<String> = (0..40).map(|i| format!("stay{i:02}")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn foreign_and_damaged_cursors_are_refused() {
    let server = with_streams();
    let cursor = |question: &str| {
        let page = server
            .get(&format!("/streams?limit=2&{question}"))
            .expect(200)
            .json();
        page["next"].as_str().expect("there is more").to_owned()
    };
    let plain = cursor("");
    let filtered = cursor("position_is_not=null");
    for (question, cursor) in [
        ("sort=-name", &plain),
        ("sort=title", &plain),
        ("position=3", &filtered),
        ("", &cursor("sort=title")),
        ("q=a&position_is_not=null", &filtered),
    ] {
        let answer = server
            .get(&format!("/streams?{question}&cursor={cursor}"))
            .expect(400);
        assert_eq!(answer.errors(), ["bad_cursor cursor"], "{question}");
    }
    // Another page size is allowed.
    server
        .get(&format!("/streams?limit=5&cursor={plain}"))
        .expect(200);
    // A cursor cut short or with a byte exchanged is refused or, at worst, another place: never a
    // failure of the server.
    for at in 0..filtered.len() {
        let mut bytes = filtered.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let exchanged = String::from_utf8(bytes).expect("ASCII");
        for damaged in [&exchanged, &filtered[..at]] {
            let answer = server.get(&format!("/streams?position_is_not=null&cursor={damaged}"));
            assert!(matches!(answer.status, 200 | 400), "{damaged}: {answer:?}");
            if answer.status == 400 {
                assert_eq!(answer.errors(), ["bad_cursor cursor"]);
            }
        }
    }
}

#[test]
fn select_returns_named_and_required_fields() {
    let server = with_streams();
    let one = |select: &str| {
        server
            .get(&format!("/streams?name=a&select={select}"))
            .expect(200)
            .json()["streams"][0]
            .clone()
    };
    let full = one("");
    let short = one("title");
    assert_eq!(
        (&short["name"], &short["title"]),
        (&json!("a"), &json!("Alpha"))
    );
    assert_eq!(short["updated_at"], full["updated_at"], "always there");
    assert_eq!(short.get("inputs"), None);
    let nested = one("inputs.url,layout.ingest");
    assert_eq!(
        nested["inputs"],
        json!([{"url": "udp://239.0.0.1:1"}, {"url": "rtsp://cam/1"}])
    );
    assert_eq!(nested["layout"], json!({"ingest": "s1"}));
    assert_eq!(one("layout")["layout"], full["layout"]);
    assert_eq!(
        one("config_on_disk")["config_on_disk"],
        full["config_on_disk"]
    );
}

#[test]
fn keys_of_maps_may_have_dots() {
    let server = TestServer::new();
    let deep = "a.b.c.d.e.f.g.h.i.j";
    for (name, zone, host) in [("a", "north", "x"), ("b", "south", "y"), ("c", "east", "z")] {
        let stream = json!({
            "labels": {"required.zone": zone, "required": "yes", "zone": host},
            "meta": {deep: host, "a.b": zone},
        });
        server.put(&format!("/streams/{name}"), stream).expect(200);
        let node = json!({
            "role": "streamer", "cluster_key": "k", "labels": {"required.zone": zone},
            "config": {
                "rproxy": {
                    "forward_ports": {"a.b": {"handler": host}, "a": {"handler": "q"}},
                    "streampoint_key": "k",
                },
                "event_sinks": [{"name": "s", "url": "http://h/", "extra": {"x.y": zone}}],
            },
        });
        server.put(&format!("/streamers/{name}"), node).expect(200);
    }
    for (query, expected) in [
        ("/streams?labels.required.zone=south", "b"),
        ("/streams?labels.required=yes&labels.zone=x", "a"),
        ("/streams?labels.required.zone_ne=south,east", "a"),
        ("/streams?labels.required.zone_like=th", "a b"),
        ("/streams?labels.required.zone_gt=east", "a b"),
        ("/streams?labels.required.zone_is=null", ""),
        ("/streams?labels.required.zone_is_not=null", "a b c"),
        ("/streams?labels.required.host_is=null", "a b c"),
        ("/streams?sort=-labels.required.zone", "b a c"),
        ("/streams?sort=meta.a.b&limit=10", "c a b"),
        ("/streams?meta.a.b.c.d.e.f.g.h.i.j=y", "b"),
        ("/streams?meta.a.b=north&labels.required.zone=north", "a"),
        ("/streamers?labels.required.zone=south", "b"),
        ("/streamers?sort=-labels.required.zone", "b a c"),
        ("/streamers?config.event_sinks.extra.x.y=east", "c"),
        ("/streamers?config.rproxy.forward_ports.a.b.handler=y", "b"),
        (
            "/streamers?config.rproxy.forward_ports.a.handler=q",
            "a b c",
        ),
    ] {
        let (list, key) = if query.starts_with("/streams?") {
            ("streams", "name")
        } else {
            ("streamers", "hostname")
        };
        let page = server.get(query).expect(200).json();
        assert_eq!(keys(&page, list, key).join(" "), expected, "{query}");
    }
    let one = |path: &str| server.get(path).expect(200).json();
    let page = one(&format!(
        "/streams?name=a&select=labels.required.zone,meta.{deep},meta.a.b"
    ));
    assert_eq!(
        page["streams"][0]["labels"],
        json!({"required.zone": "north"})
    );
    assert_eq!(
        page["streams"][0]["meta"],
        json!({deep: "x", "a.b": "north"})
    );
    let select = "config.rproxy.forward_ports.a.b.handler,config.event_sinks.extra.x.y";
    let page = one(&format!("/streamers?hostname=a&select={select}"));
    let node = &page["streamers"][0];
    assert_eq!(
        node["config"]["rproxy"],
        json!({"forward_ports": {"a.b": {"handler": "x"}}})
    );
    assert_eq!(
        node["config"]["event_sinks"],
        json!([{"extra": {"x.y": "north"}}])
    );
    // A walk in an order by such a key.
    let mut cursor = String::new();
    let mut walked = Vec::new();
    while walked.len() < 3 {
        let page = one(&format!(
            "/streams?sort=labels.required.zone&limit=1&cursor={cursor}"
        ));
        walked.extend(names(&page));
        cursor = encode_segment(page["next"].as_str().unwrap_or_default());
    }
    assert_eq!(walked, ["c", "a", "b"]);
}

#[test]
fn repeated_select_and_sort_are_joined() {
    let server = with_streams();
    let get = |query: &str| server.get(&format!("/streams?{query}"));
    for (repeated, joined) in [
        ("sort=position&sort=-name", "sort=position,-name"),
        (
            "sort=-position&limit=3&sort=title,name",
            "sort=-position,title,name&limit=3",
        ),
        (
            "select=title&select=inputs.url,position",
            "select=title,inputs.url,position",
        ),
        (
            "select=&select=title&sort=&sort=-name&select",
            "select=title&sort=-name",
        ),
        ("sort=position&sort=position", "sort=position"),
    ] {
        let (a, b) = (
            get(repeated).expect(200).json(),
            get(joined).expect(200).json(),
        );
        assert_eq!(a["streams"], b["streams"], "{repeated}");
        assert_eq!(a["next"], b["next"], "{repeated}");
    }
    // The cursor of one form goes on in the other.
    let page = get("sort=position&sort=-name&limit=2").json();
    let cursor = encode_segment(page["next"].as_str().expect("a cursor"));
    let next = get(&format!("sort=position,-name&limit=2&cursor={cursor}")).expect(200);
    assert_eq!(joined_names(&next.json()), "b c");
    // The maximum is that of all together, and secrets are refused in each.
    let sorts = "sort=a,b&sort=c&sort=title,name";
    assert_eq!(get(sorts).expect(400).errors(), ["too_many_items sort"]);
    let sorts = "sort=jpeg_snapshot_sign_key&sort=name";
    assert_eq!(get(sorts).expect(400).errors(), ["secret_field sort"]);
    let fields: Vec<String> = (0..51).map(|i| format!("f{i}")).collect();
    let select = format!("select={0}&select={0}", fields.join(","));
    assert_eq!(get(&select).expect(400).errors(), ["too_many_items select"]);
    // Lists of names as well: none is lost.
    for names_of in ["name=a&name=c", "name=c&name=a"] {
        let path = format!("/streamers/s1/dynamic-streams?{names_of}");
        let config = server.get(&path).expect(200).json();
        assert_eq!(names(&config), ["a"], "{names_of}");
    }
}

#[test]
fn limit_is_honoured_up_to_its_maximum() {
    let server = TestServer::new();
    let many: Value = (0..150)
        .map(|i| json!({"name": format!("s{i:03}")}))
        .collect();
    server.put("/streams/batch", many).expect(204);
    for (query, count) in [
        ("", 100),
        ("limit=1", 1),
        ("limit=149", 149),
        ("limit=150", 150),
        ("limit=10000", 150),
    ] {
        let page = server.get(&format!("/streams?{query}")).expect(200).json();
        assert_eq!(
            page["streams"].as_array().map(Vec::len),
            Some(count),
            "{query}"
        );
        assert_eq!(page["estimated_count"], 150);
        assert_eq!(page["next"].is_string(), count < 150, "{query}");
    }
}

#[test]
fn following_stamps_misses_nothing() {
    let server = TestServer::new();
    // Batches share a stamp, so that pages by stamp could end inside of one.
    for batch in 0..4 {
        let streams: Value = (0..5)
            .map(|i| json!({"name": format!("b{batch}-{i}")}))
            .collect();
        server.put("/streams/batch", streams).expect(204);
    }
    let mut seen = Vec::new();
    let mut last = 0;
    loop {
        let page = server
            .get(&format!(
                "/streams?sort=updated_at&limit=2&updated_at_gt={last}"
            ))
            .expect(200)
            .json();
        let streams = page["streams"].as_array().expect("a list");
        let Some(stream) = streams.last() else { break };
        last = stream["updated_at"].as_u64().expect("a stamp");
        seen.extend(
            streams
                .iter()
                .map(|stream| stream["name"].as_str().expect("a name").to_owned()),
        );
    }
    seen.sort();
    let expected: Vec<String> = (0..20).map(|i| format!("b{}-{}", i / 5, i % 5)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn limit_holds_after_a_batch_unless_a_walk_needs_its_stamp() {
    let server = TestServer::new();
    let streams: Value = (0..50)
        .map(|i| json!({"name": format!("a{i:02}")}))
        .collect();
    server.put("/streams/batch", streams).expect(204);
    for (query, count) in [
        ("sort=-updated_at&limit=1", 1),
        ("sort=updated_at&limit=1", 1),
        ("sort=-updated_at&limit=7&updated_at_gt=0", 7),
        ("sort=updated_at&limit=7&updated_at_lt=9000000000000", 7),
        ("sort=name,updated_at&limit=7&updated_at_gt=0", 7),
        ("sort=updated_at&limit=1&updated_at_gt=0", 50),
        ("sort=updated_at,-name&limit=1&updated_at_gte=0", 50),
    ] {
        let page = server.get(&format!("/streams?{query}")).expect(200).json();
        assert_eq!(
            page["streams"].as_array().map(Vec::len),
            Some(count),
            "{query}"
        );
        assert_eq!(page["next"].is_string(), count < 50, "{query}");
    }
    // A cursor goes on inside a group.
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/streams?sort=-updated_at&limit=20{cursor}");
        let page = server.get(&path).expect(200).json();
        seen.extend(names(&page));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", next.replace('=', "%3D")),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen.len(), 50);
    seen.dedup();
    assert_eq!(seen.len(), 50);
}

#[test]
fn streamer_lists_follow_the_same_rules_without_secrets() {
    let server = TestServer::new();
    let nodes = json!([
        {
            "hostname": "s1", "role": "streamer", "cluster_key": "canary-1",
            "api_url": "http://u:canary-2@10.0.0.1", "labels": {"zone": "north"},
        },
        {"hostname": "s2", "role": "streamer", "cluster_key": "canary-3", "channel_limit": 9},
        {"hostname": "i1", "role": "inference", "cluster_key": "canary-4"},
    ]);
    server.put("/streamers/batch", nodes).expect(204);
    let table = [
        ("", "i1 s1 s2"),
        ("role=inference", "i1"),
        ("role_ne=inference&sort=-hostname", "s2 s1"),
        ("labels.zone=north", "s1"),
        ("channel_limit_gt=5", "s2"),
        ("q=10.0.0", "s1"),
        ("q=canary", ""),
        ("api_url_like=canary", ""),
        ("limit=1", "i1"),
        ("select=cluster_key,api_url", "i1 s1 s2"),
    ];
    for (query, expected) in table {
        let answer = server.get(&format!("/streamers?{query}")).expect(200);
        assert!(
            !answer.text().contains("canary"),
            "{query}: {}",
            answer.text()
        );
        let page = answer.json();
        let hosts: Vec<&str> = page["streamers"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|node| node["hostname"].as_str())
            .collect();
        assert_eq!(hosts.join(" "), expected, "{query}");
    }
    for (query, error) in [
        ("cluster_key=canary-1", "secret_field cluster_key"),
        ("cluster_key_like=c", "secret_field cluster_key_like"),
        ("cluster_key_gt=a", "secret_field cluster_key_gt"),
        ("cluster_key_is=null", "secret_field cluster_key_is"),
        ("sort=-cluster_key", "secret_field sort"),
    ] {
        assert_eq!(
            server
                .get(&format!("/streamers?{query}"))
                .expect(400)
                .errors(),
            [error]
        );
    }
}

#[test]
fn queries_cannot_distinguish_secrets() {
    // Goal: a list does not depend on what is masked in it. Method: two streams that differ in
    // nothing but secrets, one of which is greater than the other in every comparison; every query
    // finds both or neither, and keeps them in the order of names.
    let server = TestServer::new();
    let stream = |name: &str, secret: &str| {
        json!({
            "name": name, "inputs": [{"url": format!("rtsp://u:{secret}@cam/1")}],
            "jpeg_snapshot_sign_key": secret,
            "pushes": [{"url": format!("rtmp://u:{secret}@out/1")}],
        })
    };
    server
        .put(
            "/streams/batch",
            json!([stream("x", "aaaa"), stream("y", "zzzz")]),
        )
        .expect(204);
    let mut refused = 0;
    for path in [
        "inputs.url",
        "pushes.url",
        "jpeg_snapshot_sign_key",
        "config_on_disk.inputs.url",
        "config_on_disk.pushes.url",
        "config_on_disk.jpeg_snapshot_sign_key",
    ] {
        for value in [
            "aaaa",
            "a",
            "mmmm",
            "***",
            "rtsp%3A%2F%2Fu%3Amm",
            "rtsp%3A%2F%2Fu%3Aaaaa@cam%2F1",
            "rtmp%3A%2F%2Fu%3Aaaaa@out%2F1",
        ] {
            for suffix in ["", "_ne", "_gt", "_lt", "_gte", "_lte", "_like"] {
                let answer = server.get(&format!("/streams?{path}{suffix}={value}"));
                if answer.status == 400 {
                    refused += 1;
                    assert!(answer.errors()[0].starts_with("secret_field "));
                } else {
                    let found = joined_names(&answer.expect(200).json());
                    assert!(
                        matches!(&*found, "" | "x y"),
                        "{path}{suffix}={value}: {found}"
                    );
                }
            }
        }
        for order in ["", "-"] {
            let answer = server.get(&format!("/streams?sort={order}{path}"));
            if answer.status == 200 {
                assert_eq!(joined_names(&answer.json()), "x y", "{order}{path}");
            }
        }
    }
    assert!(refused > 0);
    for q in ["aaaa", "a", "zzzz", "u%3Aaaaa", "u%3A"] {
        let found = joined_names(&server.get(&format!("/streams?q={q}")).expect(200).json());
        assert!(matches!(&*found, "" | "x y"), "q={q}: {found}");
    }
}

#[test]
fn ranges_of_names_have_exactly_the_names_in_them() {
    let server = with_streams();
    let all: Vec<String> = names(&server.get("/streams").expect(200).json());
    let bounds = ["a", "b", "b/", "e/1", "e/1/", "f", "zz"];
    for low in bounds {
        for high in bounds {
            for (from, is_above) in [("gt", false), ("gte", true)] {
                for (to, is_below) in [("lt", false), ("lte", true)] {
                    let path = format!("/streams?name_{from}={low}&name_{to}={high}&sort=-name");
                    let page = server.get(&path).expect(200).json();
                    let mut expected: Vec<String> = all
                        .iter()
                        .filter(|it| it.as_str() > low || is_above && it.as_str() == low)
                        .filter(|it| it.as_str() < high || is_below && it.as_str() == high)
                        .cloned()
                        .collect();
                    assert_eq!(page["estimated_count"], expected.len(), "{path}");
                    expected.reverse();
                    assert_eq!(names(&page), expected, "{path}");
                }
            }
        }
    }
}
