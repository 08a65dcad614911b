//! Single rules, case by case.

use super::*;
use crate::query::params::{Flag, Parameter, ParameterValues as _, Text};

const OWN: Text = Text::new("own", "A text.");
const BRIEF: Flag = Flag::new("brief", false, "Leaves fields out.");

fn three() -> Things {
    let mut things = Things {
        parts: 1,
        ..Things::default()
    };
    things.insert(json!({
        "name": "a", "updated_at": 1, "n": 1, "s": "Ab", "b": true,
        "list": [{"n": 1, "url": "rtsp://root:pw@cam-1/x"}, {"n": 7}], "deep": {"a": {"b": "q"}},
    }));
    things.insert(json!({
        "name": "b", "updated_at": 2, "s": "undefined", "b": false, "list": [],
        "title": "İstanbul \"K\"\u{212a}",
    }));
    things.insert(
        json!({"name": "c", "updated_at": 3, "n": 5, "s": "a,b", "o": "5", "list": "none"}),
    );
    things
}

fn found(raw: &str) -> String {
    let (_, body) = answer(&three(), &KIND, raw).unwrap_or_else(|error| panic!("{raw}: {error:?}"));
    names(&body).concat()
}

#[test]
fn parameters_select_what_the_reference_says() {
    for (raw, expected) in [
        ("", "abc"),
        ("&&", "abc"),
        ("n=1", "a"),
        ("n=1,5", "ac"),
        ("n=1%2C5", "ac"),
        ("n_ne=1", "bc"),
        ("n_gt=1", "c"),
        ("n_gte=1", "ac"),
        ("n_lt=5", "a"),
        ("n_lte=5", "ac"),
        ("n_gt=0&n_lt=5", "a"),
        ("n=1&n=5", "c"),
        ("n_is=null", "b"),
        ("n_is_not=null", "ac"),
        ("s_is=null", "b"),
        ("s_like=b", "ac"),
        ("s_like=B", ""),
        ("n_like=1", ""),
        ("b", "a"),
        ("b=false", "b"),
        ("b_ne=true", "bc"),
        ("s=Ab", "a"),
        ("s=a%2Cb", ""),
        ("s_gt=Ab", "c"),
        ("o=5", "c"),
        ("list.n=7", "a"),
        ("list.n_ne=7", "abc"),
        ("list.url_like=cam-1", "a"),
        ("list.url_is=null", "abc"),
        ("list_is=null", ""),
        ("deep.a.b=q", "a"),
        ("unknown=1&unknown_gt=x&list.unknown=1", "abc"),
        ("n_is=5", "abc"),
        ("name=c,a,zzz", "ac"),
        ("name=", ""),
        ("updated_at_gt=1&sort=-updated_at", "cb"),
        ("sort=-n", "cab"),
        ("sort=n", "bac"),
        ("sort=,,-name", "cba"),
        ("sort=unknown", "abc"),
        ("q=CAM-1%2FX", "a"),
        ("q=rtsp://cam", "a"),
        ("q=root", ""),
        ("q=pw%40", ""),
        ("q=istanbul", "b"),
        ("q=%22kk", ""),
        ("q=%22k%22k", "b"),
        ("q=.*", ""),
        ("q=", "abc"),
        ("limit=1", "a"),
        ("limit=1&$reversed=true", "c"),
        ("poll_timeout=5", "abc"),
    ] {
        assert_eq!(found(raw), expected, "{raw}");
    }
    let (_, body) = answer(&three(), &KIND_DOWN, "").expect("the empty query is fine");
    assert_eq!(names(&body).concat(), "cba");
}

/// Query string, the parameter that the error names, its code.
#[rustfmt::skip]
const BAD_PARAMETERS: &[(&str, &str, &str)] = &[
    ("limit=0", "limit", "input_out_of_range"),
    ("limit=-1", "limit", "input_out_of_range"),
    ("limit=10001", "limit", "input_out_of_range"),
    ("limit=9223372036854775808", "limit", "input_out_of_range"),
    ("limit=99999999999999999999999", "limit", "input_out_of_range"),
    ("limit=ten", "limit", "not_integer"),
    ("limit=1.5", "limit", "not_integer"),
    ("limit=", "limit", "not_integer"),
    ("limit=-", "limit", "not_integer"),
    ("limit", "limit", "not_integer"),
    ("s=%", "s", "wrong_format"),
    ("s=%4", "s", "wrong_format"),
    ("s=%zz", "s", "wrong_format"),
    ("s=%+1", "s", "wrong_format"),
    ("s=%ff", "s", "wrong_format"),
    ("s=%c0%80", "s", "wrong_format"),
    ("s=%ed%a0%80", "s", "wrong_format"),
    ("%ff=1", "%ff", "wrong_format"),
    ("n=x", "n", "not_integer"),
    ("n=", "n", "not_integer"),
    ("n", "n", "not_integer"),
    ("n=1,x", "n", "not_integer"),
    ("n_gt=1.5", "n_gt", "not_integer"),
    ("n=18446744073709551616", "n", "not_integer"),
    ("f=1e999", "f", "not_number"),
    ("f=nan", "f", "not_number"),
    ("b=1", "b", "not_boolean"),
    ("secret=x", "secret", "secret_field"),
    ("secret_like=x", "secret_like", "secret_field"),
    ("sort=-secret", "sort", "secret_field"),
    ("sort=a,b,c,d,e", "sort", "too_many_items"),
    ("select=a.b.c.d.e.f.g.h.i", "select", "too_deep"),
    ("cursor=AAAA", "cursor", "bad_cursor"),
    ("cursor=%00", "cursor", "bad_cursor"),
    ("cursor=JTI0cG9zaXRpb25fZ3Q9MA%3D%3D", "cursor", "bad_cursor"),
    ("$reversed=perhaps", "$reversed", "not_boolean"),
];

#[test]
fn bad_parameters_are_refused_by_name() {
    let long = |piece: &str, count: usize| vec![piece; count].join(",");
    let filters: Vec<String> = (0..=FILTERS_MAX).map(|i| format!("x{i}=1")).collect();
    let long_lists = [
        (
            format!("select={}", long("a", SELECT_PATHS_MAX + 1)),
            "select",
            "too_many_items",
        ),
        (
            format!("s={}", long("a", FILTER_VALUES_MAX + 1)),
            "s",
            "too_many_items",
        ),
        (
            format!("q={}", "a".repeat(Q_BYTES_MAX + 1)),
            "q",
            "too_long",
        ),
        (filters.join("&"), "x64", "too_many_items"),
    ];
    let beyond_the_bounds = long_lists
        .iter()
        .map(|(raw, name, code)| (&**raw, *name, *code));
    for (raw, parameter, code) in BAD_PARAMETERS.iter().copied().chain(beyond_the_bounds) {
        let error = refused(raw);
        assert_eq!(
            error.items[0].parameter.as_deref(),
            Some(parameter),
            "{raw:.80}"
        );
        assert_eq!(error.items[0].code, code, "{raw:.80}");
    }
    // At the bounds.
    for raw in [
        format!("select={}", long("a", SELECT_PATHS_MAX)),
        format!("s={}", long("a", FILTER_VALUES_MAX)),
        format!("q={}", "a".repeat(Q_BYTES_MAX)),
        filters[1..].join("&"),
        "limit=10000&sort=n,s,f,b&select=a.b.c.d.e.f.g.h".to_owned(),
    ] {
        assert!(Query::parse(&raw, &KIND, &[]).is_ok(), "{raw:.80}");
    }
}

#[test]
fn random_query_strings_are_answered_or_refused() {
    let things = three();
    for seed in 0..5000 {
        let mut random = Random(seed);
        const PIECES: [&str; 24] = [
            "n",
            "s",
            "list.n",
            "=",
            "=",
            "&",
            "&",
            "%",
            "%2",
            "%2C",
            "+",
            ",",
            ".",
            "_gt",
            "_ne",
            "_is=null",
            "sort=",
            "-",
            "select=",
            "limit=1",
            "cursor=",
            "bmFtZV9ndD1h",
            "q=",
            "\u{e9}",
        ];
        let raw: String = (0..random.below(14)).map(|_| random.of(&PIECES)).collect();
        if let Err(error) = answer(&things, &KIND, &raw) {
            assert_eq!(error.status, 400, "{raw}");
        }
    }
}

#[test]
fn selection_has_the_requested_and_the_required_fields() {
    let (_, body) = answer(
        &three(),
        &KIND,
        "select=list.url,deep.a,deep.a.b,n,nope,s.below,deep.x.y&name=a",
    )
    .expect("the query is fine");
    assert_eq!(
        body["things"][0],
        json!({
            "deep": {"a": {"b": "q"}, "x": null},
            "list": [{"url": "rtsp://root:pw@cam-1/x"}, {"url": null}],
            "n": 1, "name": "a", "nope": null, "s": null, "updated_at": 1
        })
    );
    let (_, body) = answer(&three(), &KIND, "select=n&name=b").expect("the query is fine");
    assert_eq!(
        body["things"][0],
        json!({"n": null, "name": "b", "updated_at": 2})
    );
}

#[test]
fn envelope_is_that_of_the_reference() {
    let query = Query::parse("limit=2", &KIND, &[]).expect("the query is fine");
    let page = Execution::new(&query).run(&three());
    let body: Value =
        serde_json::from_slice(&page.into_body("\"updated_at\":9")).expect("an answer is JSON");
    assert_eq!(body["estimated_count"], 3);
    assert_eq!(body["next"], "bmFtZV9ndD1i");
    assert_eq!(body["prev"], Value::Null);
    assert_eq!(body["updated_at"], 9);
    for part in ["filter", "sort", "limit", "select", "load"] {
        assert!(body["timing"][part].is_f64(), "{part}");
    }
    let (page, _) = answer(&three(), &KIND, "limit=2&cursor=bmFtZV9ndD1i").expect("a cursor");
    assert_eq!((page.items, page.next), (1, None));
    assert_eq!(
        page.prev.as_deref(),
        Some("bmFtZV9sdD1jJiUyNHJldmVyc2VkPXRydWU=")
    );
    // Past the end there are no documents in either direction.
    let (page, _) = answer(&three(), &KIND, "cursor=bmFtZV9ndD1j").expect("a cursor");
    assert_eq!((page.items, page.next, page.prev), (0, None, None));
}

#[test]
fn cursor_is_accepted_only_with_its_own_query() {
    let things = three();
    let next = |raw: &str| {
        answer(&things, &KIND, raw)
            .expect("valid")
            .0
            .next
            .expect("more")
    };
    let filtered = next("n_is_not=null&limit=1");
    for raw in [
        "",
        "n_is=null",
        "n_is_not=null&q=a",
        "n_is_not=null&sort=-name",
    ] {
        let error = refused(&format!("{raw}&cursor={}", filtered.replace('=', "%3D")));
        assert_eq!(error.items[0].code, "bad_cursor");
    }
    // The size and the fields of the page are not part of the scope.
    for raw in ["n_is_not=null", "sort=name&n_is_not=null&limit=7&select=n"] {
        let raw = format!("{raw}&cursor={}", filtered.replace('=', "%3D"));
        assert_eq!(found(&raw), "c", "{raw}");
    }
}

#[test]
fn cursors_carry_the_revision_of_a_paged_snapshot() {
    let mut query = Query::parse("limit=1&n_is_not=null", &KIND, &[]).expect("valid");
    query.pin_revision(77);
    let next = Execution::new(&query)
        .run(&three())
        .next
        .expect("there is more");
    let raw = format!("limit=1&n_is_not=null&cursor={}", next.replace('=', "%3D"));
    let query = Query::parse(&raw, &KIND, &[]).expect("a cursor that was encoded here");
    assert_eq!(query.revision(), Some(77));
}

#[test]
fn only_equal_queries_have_equal_canonical_texts() {
    let canonical = |raw: &str| {
        Query::parse(raw, &KIND, &[&POLL_TIMEOUT])
            .expect("valid")
            .canonical()
    };
    for (a, b) in [
        ("", "limit=100"),
        ("n=1,2&s=x", "s=%78&n=2,1,1&poll_timeout=3"),
        ("sort=name", ""),
        ("sort=n", "sort=n,name,s"),
        ("select=n,s", "select=s,n,name"),
        ("q=ABC", "q=abc"),
        ("b", "b=true"),
        ("unknown=1", ""),
    ] {
        assert_eq!(canonical(a), canonical(b), "{a} {b}");
    }
    let different = [
        "",
        "limit=1",
        "n=1",
        "n_ne=1",
        "n_gt=1",
        "n_gte=1",
        "n_lt=1",
        "n_lte=1",
        "s=1",
        "s_like=1",
        "n_is=null",
        "n_is_not=null",
        "n=1,2",
        "s=1,2",
        "s=1%26n=2",
        "sort=n",
        "sort=-n",
        "sort=n,s",
        "select=n",
        "select=deep.a",
        "select=deep",
        "q=1",
        "cursor=bmFtZV9ndD1i",
        "$reversed=true",
    ];
    let texts: BTreeSet<String> = different.iter().map(|raw| canonical(raw)).collect();
    assert_eq!(texts.len(), different.len());
}

#[test]
fn hints_hold_the_conditions_for_indexes() {
    let query = Query::parse(
        "updated_at_gt=5&updated_at_gte=4&s=b,a&s_ne=c&n=1&name=x,y&own=1",
        &KIND,
        &[&OWN],
    )
    .expect("valid");
    let hints = query.hints();
    assert_eq!(hints.stamp_min, Some(6));
    let texts = |path: &str| {
        let (_, texts) = hints.equal.iter().find(|(known, _)| *known == path)?;
        Some(texts.join(","))
    };
    assert_eq!(texts("s").as_deref(), Some("a,b"));
    assert_eq!(texts("n"), None);
    assert_eq!(
        query.keys().map(|keys| keys.join(",")).as_deref(),
        Some("x,y")
    );
    assert_eq!(query.text(&OWN).expect("given").as_deref(), Some("1"));
}

#[test]
fn decimal_keys_are_in_the_order_of_numbers() {
    static EPISODES: ListKind = ListKind {
        key_order: KeyOrder::Decimal,
        default_sort: "n",
        ..THINGS
    };
    let mut things = Things {
        parts: 1,
        ..Things::default()
    };
    for name in ["9", "10", "2", "100"] {
        things.insert(json!({"name": name, "updated_at": 1}));
    }
    let (page, body) = answer(&things, &EPISODES, "limit=3").expect("valid");
    assert_eq!(names(&body), ["2", "9", "10"]);
    let next = page.next.expect("one is left");
    let (_, body) = answer(
        &things,
        &EPISODES,
        &format!("cursor={}", next.replace('=', "%3D")),
    )
    .expect("valid");
    assert_eq!(names(&body), ["100"]);
}

#[test]
fn whole_list_has_a_limit_only_on_request() {
    let mut things = Things {
        parts: 1,
        ..Things::default()
    };
    for i in 0..300 {
        things.insert(json!({"name": format!("{i:03}"), "updated_at": i}));
    }
    for (raw, items) in [("", 300), ("s_is=null&sort=-n", 300), ("limit=7", 7)] {
        let mut query = Query::parse(raw, &KIND, &[]).expect("valid");
        query.set_default_limit(0);
        let page = Execution::new(&query).run(&things);
        assert_eq!(
            (page.items, page.next.is_some()),
            (items, items == 7),
            "{raw}"
        );
    }
}

#[test]
fn parked_polls_share_an_answer_only_if_it_is_the_same() {
    const PARAMETERS: &[&dyn Parameter] = &[&BRIEF, &OWN, &POLL_TIMEOUT];
    let canonical = |raw: &str| {
        let query = Query::parse(raw, &KIND, PARAMETERS).expect("valid");
        query.canonical()
    };
    let brief = canonical("brief=true");
    assert_ne!(brief, canonical(""));
    assert_ne!(brief, canonical("brief=false"));
    assert_ne!(brief, canonical("own=brief"));
    assert_ne!(canonical("own=a%26$brief=true"), canonical("own=a&brief"));
    assert_eq!(brief, canonical("poll_timeout=5&brief"));
    assert_eq!(canonical("own=x&brief"), canonical("brief&own=x"));
}

#[test]
#[should_panic(expected = "does not name the parameter `brief`")]
fn reading_a_parameter_that_was_not_parsed_panics() {
    let query = Query::parse("own=1&brief", &KIND, &[&OWN]).expect("valid");
    assert!(query.text(&OWN).is_ok());
    let _refused = query.flag(&BRIEF);
}

fn visible(raw: &str, keys: &'static str) -> Query {
    let mut query = Query::parse(raw, &KIND, &[]).expect("valid");
    query.restrict(Restriction::new(keys, |key| keys.contains(key)));
    query
}

#[test]
fn invisible_documents_do_not_exist_for_a_query() {
    let things = three();
    for raw in [
        "",
        "sort=-name",
        "sort=n",
        "n_ne=9",
        "name=a,b,c",
        "limit=1",
    ] {
        let query = visible(raw, "b");
        let (page, body) = opened(Execution::new(&query).run(&things));
        assert_eq!(names(&body), ["b"], "{raw}");
        assert_eq!(page.estimated_count, 1, "{raw}");
        assert_eq!((page.next, page.prev), (None, None), "{raw}");
        for (name, thing) in &things.all {
            assert_eq!(query.matches(&thing), name == "b", "{raw}");
        }
    }
}

#[test]
fn cursor_of_another_caller_shows_only_visible_documents() {
    let things = three();
    for raw in ["limit=1", "limit=1&sort=updated_at", "limit=1&n_ne=9"] {
        let all = Query::parse(raw, &KIND, &[]).expect("valid");
        let next = Execution::new(&all).run(&things).next.expect("two more");
        let raw = format!("{raw}&cursor={}", next.replace('=', "%3D"));
        let (page, body) = opened(Execution::new(&visible(&raw, "c")).run(&things));
        assert_eq!(names(&body), ["c"], "{raw}");
        // A cursor back would reveal that a document comes before.
        assert_eq!((page.estimated_count, page.prev), (1, None), "{raw}");
    }
}

#[test]
fn differently_restricted_queries_differ_in_canonical_text() {
    let all = Query::parse("", &KIND, &[]).expect("valid").canonical();
    let texts = ["", "a", "b", "a&limit=1"].map(|keys| visible("", keys).canonical());
    let different: BTreeSet<&String> = texts.iter().chain([&all]).collect();
    assert_eq!(different.len(), texts.len() + 1);
    assert_eq!(visible("", "a").canonical(), texts[1]);
}

#[test]
fn comparisons_of_the_key_are_a_range_to_scan() {
    let inside = |raw: &str| -> String {
        let query = Query::parse(raw, &KIND, &[]).expect("valid");
        let hints = query.hints();
        let keys = ["a", "b", "c", "d"].into_iter();
        let from = (hints.key_from, Bound::Unbounded);
        keys.filter(|key| RangeBounds::<str>::contains(&from, *key))
            .take_while(|key| !hints.ends_before(key))
            .collect()
    };
    for (raw, expected) in [
        ("n_gt=3", "abcd"),
        ("name_gt=b", "cd"),
        ("name_gte=b", "bcd"),
        ("name_lt=c", "ab"),
        ("name_lte=c", "abc"),
        ("name_gte=b&name_lt=d", "bc"),
        ("name_gt=a&name_gt=b&name_lte=d&name_lte=c", "c"),
        ("name_gt=a&name_gte=a", "bcd"),
        // Nothing matches, which the filters find out.
        ("name_gt=c&name_lt=b", "d"),
        ("name_ne=b", "abcd"),
    ] {
        assert_eq!(inside(raw), expected, "{raw}");
    }
}
