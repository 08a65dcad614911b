//! Which texts are accepted and which are refused, case by case; properties of reading and writing.

use proptest::prelude::*;

use super::strict::NUMBER_CHARS_MAX;
use super::*;

/// What both readers return, after a check that they agree. The strict reader decides.
fn parse(body: &[u8]) -> Result<Value, ParseError> {
    let strict = strict::read(body);
    if let Some(value) = tape::read(body) {
        let shown = String::from_utf8_lossy(body);
        match &strict {
            Ok(expected) => assert_eq!(value.to_text(), expected.to_text(), "{shown}"),
            Err(error) => panic!("the tape accepts {shown}: {error:?}"),
        }
    }
    assert_eq!(super::parse(body), strict);
    let in_place = read_in_place(body, |value| Some((copied(value), value.to_value())));
    let (copied, whole) = in_place.unzip();
    assert_eq!(copied.as_ref(), strict.as_ref().ok());
    assert_eq!(whole, copied);
    strict
}

/// A value that is read in place, part by part.
fn copied(value: ValueRef<'_>) -> Value {
    assert_eq!(value.is_null(), matches!(value.shape(), ValueShape::Null));
    match value.shape() {
        ValueShape::Null => Value::Null,
        ValueShape::Bool(value) => Value::Bool(value),
        ValueShape::Number(number) => Value::Number(number),
        ValueShape::String(text) => Value::from(text),
        ValueShape::Array(items) => {
            let count = items.len();
            let items: Vec<Value> = items.map(copied).collect();
            assert_eq!(items.len(), count);
            Value::Array(items)
        }
        ValueShape::Object(members) => {
            let members: Vec<_> = members.map(|(key, value)| (key, copied(value))).collect();
            for (key, member) in &members {
                let found = value.get(key).expect("it is a member");
                assert_eq!(found.as_str(), member.as_str());
            }
            Value::Object(members.into_iter().collect())
        }
    }
}

#[test]
fn object_of_many_members_is_read_in_place_from_a_tree() {
    for count in [1, 63, 64, 65, 300] {
        let members: Vec<String> = (0..count).map(|n| format!(r#""k{n}":{n}"#)).collect();
        let text = format!("[{{{}}},1]", members.join(","));
        parse(text.as_bytes()).expect("different keys");
        let twice = format!(r#"[{{{},"k{}":0}},1]"#, members.join(","), count / 2);
        parse(twice.as_bytes()).expect_err("a key that is there twice");
    }
}

fn text_of(body: &[u8]) -> String {
    parse(body)
        .unwrap_or_else(|error| panic!("{}: {error:?}", String::from_utf8_lossy(body)))
        .to_text()
}

/// Body and its canonical text.
const ACCEPTED: &[(&str, &str)] = &[
    ("null", "null"),
    (" \t\r\n true \t\r\n", "true"),
    ("false", "false"),
    ("0", "0"),
    ("-0", "0"),
    ("-0.0", "-0.0"),
    ("0.0", "0.0"),
    ("0e0", "0.0"),
    ("0e+1", "0.0"),
    ("1", "1"),
    ("-1", "-1"),
    ("123", "123"),
    ("9007199254740993", "9007199254740993"),
    ("9223372036854775807", "9223372036854775807"),
    ("9223372036854775808", "9223372036854775808"),
    ("18446744073709551615", "18446744073709551615"),
    ("-9223372036854775808", "-9223372036854775808"),
    ("1.5", "1.5"),
    ("5.0", "5.0"),
    ("1e2", "100.0"),
    ("1E2", "100.0"),
    ("1E+2", "100.0"),
    ("1e-2", "0.01"),
    ("20e1", "200.0"),
    ("123.456e78", "1.23456e80"),
    ("1.7976931348623157e308", "1.7976931348623157e308"),
    ("5e-324", "5e-324"),
    ("0.1", "0.1"),
    ("0.30000000000000004", "0.30000000000000004"),
    ("1e21", "1e21"),
    ("100000000000000000000.0", "1e20"),
    ("0e999999", "0.0"),
    ("-0e-999999", "-0.0"),
    (
        "-0.000000000000000000000000000000000000000000000000000000000000000000000000000001",
        "-1e-78",
    ),
    (
        "0.1000000000000000055511151231257827021181583404541015625",
        "0.1",
    ),
    (r#""""#, r#""""#),
    (r#"" ""#, r#"" ""#),
    (r#""a""#, r#""a""#),
    (r#""\"\\\/\b\f\n\r\t""#, r#""\"\\/\b\f\n\r\t""#),
    (r#""\u0001\u001f\u007f""#, "\"\\u0001\\u001f\u{7f}\""),
    (r#""\u0041\u00e9\u20AC""#, "\"A\u{e9}\u{20ac}\""),
    (r#""\ud83d\ude00""#, "\"\u{1f600}\""),
    (r#""\uD83D\uDE00""#, "\"\u{1f600}\""),
    (r#""\udbff\udfff""#, "\"\u{10ffff}\""),
    (r#""\uFFFF\ufdd0""#, "\"\u{ffff}\u{fdd0}\""),
    (r#""\u2028\u2029""#, "\"\u{2028}\u{2029}\""),
    (r#""\ufeff""#, "\"\u{feff}\""),
    ("\"\u{2028}\u{7f}\u{feff}\"", "\"\u{2028}\u{7f}\u{feff}\""),
    (r#""\\u0000""#, r#""\\u0000""#),
    (r#""12345678""#, r#""12345678""#),
    (r#""1234567\"""#, r#""1234567\"""#),
    ("\"e\u{301}\u{e9}\"", "\"e\u{301}\u{e9}\""),
    ("[]", "[]"),
    ("[ ]", "[]"),
    ("[1]", "[1]"),
    ("[ 1 , 2 ]", "[1,2]"),
    ("[[],[[]],{}]", "[[],[[]],{}]"),
    (
        "[null,true,false,\"x\",1,{\"a\":[]}]",
        "[null,true,false,\"x\",1,{\"a\":[]}]",
    ),
    ("{}", "{}"),
    ("{ }", "{}"),
    (r#"{"":0}"#, r#"{"":0}"#),
    (r#"{"b":1,"a":2}"#, r#"{"a":2,"b":1}"#),
    (r#"{ "a" : { "b" : [ ] } }"#, r#"{"a":{"b":[]}}"#),
    (r#"{"a":1,"A":2}"#, r#"{"A":2,"a":1}"#),
    (r#"{"a":1,"aa":2,"":3}"#, r#"{"":3,"a":1,"aa":2}"#),
    (
        "{\"\u{e9}\":1,\"e\u{301}\":2}",
        "{\"e\u{301}\":2,\"\u{e9}\":1}",
    ),
    (r#"{"\u0061\n":1}"#, r#"{"a\n":1}"#),
    (
        r#"{"z":{"b":1,"a":2},"y":[{"d":1,"c":2}]}"#,
        r#"{"y":[{"c":2,"d":1}],"z":{"a":2,"b":1}}"#,
    ),
];

#[test]
fn special_bytes_are_found_in_texts_of_every_length() {
    for len in 0..40 {
        for begin in 0..=len {
            let mut text = vec![b'~'; len];
            assert_eq!(special_from(&text, begin), None, "{len} from {begin}");
            for at in begin..len {
                for special in [b'"', b'\\', 0, 0x1f] {
                    text[at] = special;
                    assert_eq!(special_from(&text, begin), Some(at), "{len} from {begin}");
                }
                for plain in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff] {
                    text[at] = plain;
                    assert_eq!(special_from(&text, begin), None, "{plain} at {at} of {len}");
                }
                text[at] = b'~';
            }
        }
    }
}

#[test]
fn accepted_text_is_written_canonically() {
    for (body, canonical) in ACCEPTED {
        assert_eq!(text_of(body.as_bytes()), *canonical, "{body}");
        // Zeros with a negative exponent and long integers are left to the strict reader.
        let is_left =
            *body == "-0e-999999" || [body, canonical].map(|it| has_long_integer(it)) != [false; 2];
        let read = tape::read(body.as_bytes()).is_some();
        assert!(read || is_left, "the tape reads {body}");
        assert_eq!(
            text_of(canonical.as_bytes()),
            *canonical,
            "canonical text is a fixed point"
        );
    }
}

/// Body, code, offset, pointer.
const REFUSED: &[(&[u8], &str, usize, &str)] = &[
    (b"", "invalid_json", 0, ""),
    (b" \n", "invalid_json", 2, ""),
    (b"nul", "invalid_json", 0, ""),
    (b"nulls", "invalid_json", 4, ""),
    (b"True", "invalid_json", 0, ""),
    (b"NaN", "invalid_json", 0, ""),
    (b"Infinity", "invalid_json", 0, ""),
    (b"-Infinity", "invalid_json", 1, ""),
    (b"-", "invalid_json", 1, ""),
    (b"--1", "invalid_json", 1, ""),
    (b"+1", "invalid_json", 0, ""),
    (b".5", "invalid_json", 0, ""),
    (b"5.", "invalid_json", 2, ""),
    (b"5.e1", "invalid_json", 2, ""),
    (b"-.5", "invalid_json", 1, ""),
    (b"01", "invalid_json", 0, ""),
    (b"-01", "invalid_json", 1, ""),
    (b"00", "invalid_json", 0, ""),
    (b"-00.5", "invalid_json", 1, ""),
    (b"1e", "invalid_json", 2, ""),
    (b"1e+", "invalid_json", 3, ""),
    (b"1e1.5", "invalid_json", 3, ""),
    (b"1_000", "invalid_json", 1, ""),
    (b"0x10", "invalid_json", 1, ""),
    (b"1a", "invalid_json", 1, ""),
    (b"1 2", "invalid_json", 2, ""),
    (b"{}{}", "invalid_json", 2, ""),
    (b"[]]", "invalid_json", 2, ""),
    (b"{} x", "invalid_json", 3, ""),
    (b"\"a\" \"b\"", "invalid_json", 4, ""),
    (b"null\0", "invalid_json", 4, ""),
    (b"\0", "invalid_json", 0, ""),
    (b"\x0cnull", "invalid_json", 0, ""),
    (b"\x0bnull", "invalid_json", 0, ""),
    (b"\xc2\xa0null", "invalid_json", 0, ""),
    (b"// c\nnull", "invalid_json", 0, ""),
    (b"/* c */null", "invalid_json", 0, ""),
    (b"null // c", "invalid_json", 5, ""),
    (b"[1,]", "invalid_json", 3, "/1"),
    (b"[,1]", "invalid_json", 1, "/0"),
    (b"[1,,2]", "invalid_json", 3, "/1"),
    (b"[1 2]", "invalid_json", 3, ""),
    (b"[1", "invalid_json", 2, ""),
    (b"[", "invalid_json", 1, "/0"),
    (b"[1,", "invalid_json", 3, "/1"),
    (b"]", "invalid_json", 0, ""),
    (b"[1}", "invalid_json", 2, ""),
    (b"{", "invalid_json", 1, ""),
    (b"}", "invalid_json", 0, ""),
    (b"{\"a\"", "invalid_json", 4, "/a"),
    (b"{\"a\":", "invalid_json", 5, "/a"),
    (b"{\"a\":1", "invalid_json", 6, ""),
    (b"{\"a\":1,", "invalid_json", 7, ""),
    (b"{\"a\":1,}", "invalid_json", 7, ""),
    (b"{,\"a\":1}", "invalid_json", 1, ""),
    (b"{\"a\" 1}", "invalid_json", 5, "/a"),
    (b"{\"a\"::1}", "invalid_json", 5, "/a"),
    (b"{a:1}", "invalid_json", 1, ""),
    (b"{'a':1}", "invalid_json", 1, ""),
    (b"{1:1}", "invalid_json", 1, ""),
    (b"{null:1}", "invalid_json", 1, ""),
    (b"{\"a\"}", "invalid_json", 4, "/a"),
    (b"{\"a\":1 \"b\":2}", "invalid_json", 7, ""),
    (b"{\"a\":1]", "invalid_json", 6, ""),
    (b"{\"a\":{\"b\":[0,x]}}", "invalid_json", 13, "/a/b/1"),
    (b"{\"a/b~c\":[x]}", "invalid_json", 10, "/a~1b~0c/0"),
    (b"'a'", "invalid_json", 0, ""),
    (b"\"", "invalid_json", 1, ""),
    (b"\"abc", "invalid_json", 4, ""),
    (b"\"\\", "invalid_json", 2, ""),
    (b"\"\\\"", "invalid_json", 3, ""),
    (b"\"abcdefghijk\\", "invalid_json", 13, ""),
    (b"\"\\x41\"", "invalid_json", 1, ""),
    (b"\"\\'\"", "invalid_json", 1, ""),
    (b"\"\\a\"", "invalid_json", 1, ""),
    (b"\"\\U0041\"", "invalid_json", 1, ""),
    (b"\"\\u\"", "invalid_json", 3, ""),
    (b"\"\\u00\"", "invalid_json", 5, ""),
    (b"\"\\u00g0\"", "invalid_json", 5, ""),
    (b"\"\\u+041\"", "invalid_json", 3, ""),
    (b"\"\\\xc3\xa9\"", "invalid_json", 1, ""),
    (b"\"a\nb\"", "invalid_json", 2, ""),
    (b"\"a\tb\"", "invalid_json", 2, ""),
    (b"\"a\0b\"", "invalid_json", 2, ""),
    (b"\"12345678\x1f\"", "invalid_json", 9, ""),
    (b"\"\\n\x01\"", "invalid_json", 3, ""),
    (b"{\"a\tb\":1}", "invalid_json", 3, ""),
    (b"\"\\u0000\"", "nul_character", 1, ""),
    (b"{\"a\":\"x\\u0000y\"}", "nul_character", 7, "/a"),
    (b"{\"\\u0000\":1}", "nul_character", 2, ""),
    (b"\"\\ud800\"", "lone_surrogate", 1, ""),
    (b"\"\\udc00\"", "lone_surrogate", 1, ""),
    (b"\"\\ud800x\"", "lone_surrogate", 1, ""),
    (b"\"\\ud800\\n\"", "lone_surrogate", 1, ""),
    (b"\"\\ud800\\u0041\"", "lone_surrogate", 1, ""),
    (b"\"\\ud800\\ud800\"", "lone_surrogate", 1, ""),
    (b"\"\\udc00\\ud800\"", "lone_surrogate", 1, ""),
    (b"[\"a\",\"\\udfff\"]", "lone_surrogate", 6, "/1"),
    (b"\"\\ud800\\u\"", "invalid_json", 9, ""),
    (b"\xef\xbb\xbfnull", "byte_order_mark", 0, ""),
    (b"\xef\xbb\xbf", "byte_order_mark", 0, ""),
    (b"\xfe\xff\x00n", "invalid_utf8", 0, ""),
    (b"\xff\xfen\x00", "invalid_utf8", 0, ""),
    (b"\"\xff\"", "invalid_utf8", 1, ""),
    (b"\"\x80\"", "invalid_utf8", 1, ""),
    (b"\"\xc3\"", "invalid_utf8", 1, ""),
    (b"\"\xc0\xaf\"", "invalid_utf8", 1, ""),
    (b"\"\xe0\x80\xaf\"", "invalid_utf8", 1, ""),
    (b"\"\xed\xa0\x80\"", "invalid_utf8", 1, ""),
    (b"\"\xf4\x90\x80\x80\"", "invalid_utf8", 1, ""),
    (b"[1,\xff]", "invalid_utf8", 3, ""),
    (b"18446744073709551616", "number_out_of_range", 0, ""),
    (b"99999999999999999999", "number_out_of_range", 0, ""),
    (b"100000000000000000000", "number_out_of_range", 0, ""),
    (b"-9223372036854775809", "number_out_of_range", 0, ""),
    (b"-18446744073709551615", "number_out_of_range", 0, ""),
    (b"1e400", "number_out_of_range", 0, ""),
    (b"-1e400", "number_out_of_range", 0, ""),
    (b"1e309", "number_out_of_range", 0, ""),
    (b"1e99999999999999999999", "number_out_of_range", 0, ""),
    (b"1e-400", "number_out_of_range", 0, ""),
    (b"{\"a\":[1,1e400]}", "number_out_of_range", 8, "/a/1"),
    (b"[[1,1e400]]", "number_out_of_range", 4, "/0/1"),
    (b"[7,{\"a\":[1,2,x]}]", "invalid_json", 13, "/1/a/2"),
    (b"{\"a\":1,\"a\":2}", "duplicate_key", 7, "/a"),
    (b"{\"a\":1,\"a\":1}", "duplicate_key", 7, "/a"),
    (b"{\"a\":1,\"\\u0061\":2}", "duplicate_key", 7, "/a"),
    (
        b"{\"b\":{},\"a\":[\"a\"],\"c\":3, \"a\" : 2}",
        "duplicate_key",
        25,
        "/a",
    ),
    (b"{\"\":1,\"\":2}", "duplicate_key", 6, "/"),
    (
        b"[{\"x\":{\"k/1\":1,\"k/1\":2}}]",
        "duplicate_key",
        15,
        "/0/x/k~11",
    ),
];

#[test]
fn refused_text_has_code_offset_and_pointer() {
    for (body, code, offset, pointer) in REFUSED {
        let shown = String::from_utf8_lossy(body);
        match parse(body) {
            Ok(value) => panic!("{shown} was read as {value}"),
            Err(error) => {
                assert_eq!(
                    (error.code, error.offset, &*error.pointer),
                    (*code, *offset, *pointer),
                    "{shown}: {error:?}"
                );
                assert!(
                    error.title.ends_with(&format!("(byte {offset}).")),
                    "{}",
                    error.title
                );
            }
        }
    }
}

#[test]
fn every_prefix_of_a_document_is_refused() {
    let body = br#"{"a":[1,-2.5e3,"x\u00e9\ud83d\ude00",{"b":null,"c":true}],"d":""}"#;
    parse(body).expect("it is whole");
    for end in 0..body.len() {
        assert!(
            parse(&body[..end]).is_err(),
            "{}",
            String::from_utf8_lossy(&body[..end])
        );
    }
}

#[test]
fn nesting_deeper_than_the_limit_is_refused() {
    let nest = |open: &str, close: &str, depth: usize| {
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        assert!(parse(nest(open, close, DEPTH_MAX).as_bytes()).is_ok());
        for depth in [DEPTH_MAX + 1, 100_000] {
            let error = parse(nest(open, close, depth).as_bytes()).expect_err("too deep");
            assert_eq!(
                (error.code, error.offset),
                ("json_too_deep", open.len() * DEPTH_MAX)
            );
        }
        let error = parse(open.repeat(100_000).as_bytes()).expect_err("too deep");
        assert_eq!(error.code, "json_too_deep");
    }
    // Only open arrays and objects count.
    assert!(parse(format!("[{}1]", "[[]],".repeat(1000)).as_bytes()).is_ok());
}

#[test]
fn numbers_longer_than_the_limit_are_refused() {
    for body in [
        "1".repeat(1_000_000),
        format!("-{}", "9".repeat(1_000_000)),
        format!("0.{}", "1".repeat(1_000_000)),
        format!("1e{}", "0".repeat(1_000_000)),
    ] {
        assert_eq!(
            parse(body.as_bytes()).expect_err("too long").code,
            "number_out_of_range"
        );
    }
    // Up to the limit they are exact.
    let tie = format!("2251799813685248.25{}1", "0".repeat(700));
    assert_eq!(text_of(tie.as_bytes()), "2251799813685248.5");
}

#[test]
fn strings_are_scanned_at_every_alignment() {
    for length in 0..40 {
        for special in ["\\n", "\\\"", "\\\\", "\u{e9}", "\u{ff}", "\\u0001"] {
            let body = format!("\"{}{special}{}\"", "a".repeat(length), "b".repeat(11));
            assert_eq!(text_of(body.as_bytes()), body);
        }
        for bad in ["\u{1f}", "\u{0}", "\t"] {
            let body = format!("\"{}{bad}{}\"", "\u{80}".repeat(length), "b".repeat(11));
            assert_eq!(
                parse(body.as_bytes())
                    .expect_err("control character")
                    .offset,
                1 + 2 * length
            );
        }
    }
}

fn any_float() -> impl Strategy<Value = f64> {
    any::<u64>()
        .prop_map(f64::from_bits)
        .prop_filter("finite", |value| value.is_finite())
}

/// Whether a canonical text may have a float that is an integer of more digits than all floats
/// keep.
fn has_long_integer(text: &str) -> bool {
    let numbers = text.split(|c: char| !matches!(c, '0'..='9' | '-' | '.' | 'e' | 'E'));
    numbers
        .filter(|number| number.len() > 15 && number.contains(['.', 'e']))
        .filter_map(|number| number.parse::<f64>().ok())
        .any(|number| number.fract() == 0.0)
}

/// Whether its text is read as an integer, because 64 bits hold it exactly.
fn is_large_integer(value: f64) -> bool {
    value.fract() == 0.0 && (2_f64.powi(53)..2_f64.powi(64)).contains(&value.abs())
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-d]{0,3}",
        "[ -~]{0,20}",
        "\\PC{0,8}",
        "[\u{1}-\u{1f}\"\\\\/\u{7f}\u{2028}]{0,9}"
    ]
}

/// Whether serde_json read the same value; its floats may differ in the last digit.
fn same(ours: &Value, theirs: &serde_json::Value) -> bool {
    match (ours, theirs) {
        (Value::Array(ours), serde_json::Value::Array(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .zip(theirs)
                    .all(|(ours, theirs)| same(ours, theirs))
        }
        (Value::Object(ours), serde_json::Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .all(|(key, value)| theirs.get(key).is_some_and(|theirs| same(value, theirs)))
        }
        (Value::Number(Number::Float(ours)), serde_json::Value::Number(theirs)) => {
            theirs.is_f64()
                && theirs
                    .as_f64()
                    .is_some_and(|theirs| (ours - theirs).abs() <= ours.abs() * 1e-15)
        }
        (ours, theirs) => serde_json::from_str::<serde_json::Value>(&ours.to_text())
            .is_ok_and(|ours| ours == *theirs),
    }
}

/// Any value that a reader can return.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any_float()
            .prop_filter("floats as text", |value| !is_large_integer(*value))
            .prop_map(|value| Value::Number(Number::Float(value))),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((any_text(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(crate::proptests::config())]
    #[test]
    fn written_values_are_read_back(value in any_value()) {
        let text = value.to_text();
        let read = parse(text.as_bytes()).expect("canonical text is JSON");
        prop_assert_eq!(&read, &value);
        prop_assert_eq!(read.to_text(), text);
    }

    #[test]
    fn serde_json_reads_the_same_value(value in any_value()) {
        let text = value.to_text();
        let theirs: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        prop_assert!(same(&value, &theirs), "{} {}", value, theirs);
    }

    #[test]
    fn floats_are_exact(bits in any_float()) {
        let text = Value::Number(Number::Float(bits)).to_text();
        let Ok(Value::Number(read)) = parse(text.as_bytes()) else {
            panic!("{text} is a number")
        };
        prop_assert_eq!(read.as_f64().to_bits(), bits.to_bits());
    }

    #[test]
    fn random_bytes_do_not_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body);
    }

    /// Text that serde_json refuses is refused; text that only serde_json accepts breaks a rule of
    /// ours.
    #[test]
    fn text_refused_by_serde_json_is_refused(body in "[\\[\\]{}\",:0-9eE.+tfn\\\\u d8\\-]{0,24}") {
        let theirs = serde_json::from_str::<serde_json::Value>(&body);
        match parse(body.as_bytes()) {
            Ok(value) => {
                prop_assert!(theirs.is_ok(), "{}", body);
                prop_assert_eq!(parse(value.to_text().as_bytes()).expect("canonical"), value);
            }
            Err(error) => prop_assert!(
                theirs.is_err()
                    || matches!(
                        error.code,
                        "duplicate_key" | "number_out_of_range" | "nul_character"
                    ),
                "{} {:?}", body, error
            ),
        }
    }

    #[test]
    fn tape_reads_what_the_strict_reader_reads(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12),
        indent in 0..140_usize,
    ) {
        let mut body = vec![b' '; indent];
        body.push(b'[');
        body.extend(pieces.concat());
        body.push(b']');
        let _ = parse(&body);
    }

    /// The value is placed behind and before enough space for the tape, at every alignment.
    #[test]
    fn tape_reads_values_at_every_alignment(value in any_value(), indent in 0..70_usize) {
        let text = value.to_text();
        let body = format!("{}{text}{}", " ".repeat(indent), " ".repeat(TAPE_BYTES_MIN));
        let read = parse(body.as_bytes()).expect("canonical text is JSON");
        prop_assert_eq!(&read.to_text(), &text);
        prop_assert!(tape::read(body.as_bytes()).is_some() || has_long_integer(&text));
    }

    #[test]
    fn tape_rounds_floats_as_the_strict_reader_does(
        digits in "[1-9][0-9]{0,24}",
        fraction in "[0-9]{1,30}",
        exponent in -345..320_i32,
    ) {
        for body in [
            format!("[{digits}.{fraction}]"),
            format!("[{digits}.{fraction}e{exponent},0.0]"),
            format!("[-{digits}E{exponent}]"),
        ] {
            let _ = parse(body.as_bytes());
        }
    }

    /// Halfway between two neighbouring doubles, and just above.
    #[test]
    fn tape_rounds_ties_as_the_strict_reader_does(
        mantissa in (1_u64 << 52)..(1 << 53),
        shift in 0..10,
        above in "0{0,30}1?",
    ) {
        let tie = (u128::from(mantissa) * 2 + 1) << shift;
        let body = format!("[{tie}.0{above}]");
        // An integer of 64 bits is kept, and a fraction is not lost.
        let exact = u64::try_from(tie).ok().filter(|_| !above.contains('1'));
        match parse(body.as_bytes()) {
            Ok(read) => prop_assert_eq!(read.to_text(), format!("[{}]", exact.expect("exact"))),
            Err(error) => {
                prop_assert_eq!(error.code, "number_out_of_range");
                prop_assert!(exact.is_none());
            }
        }
        // As an exponent makes them small, they are floats.
        let body = format!("[{tie}.0{above}e-30]");
        parse(body.as_bytes()).expect("a float");
        prop_assert!(tape::read(body.as_bytes()).is_some());
    }
}

/// Tokens of JSON, and of what is almost JSON.
#[rustfmt::skip]
const PIECES: &[&[u8]] = &[
    b"{", b"}", b"[", b"]", b",", b":", b"\"", b"\"a\"", b"\"a\":", b"\"b\":1", b"\"\\u0061\":",
    b"{}", b"[]", b"1", b"0", b"-", b".", b"e", b"E", b"+", b"9", b"0.0", b"-0", b"-0.0", b"1e400",
    b"1e-400", b"5e-324", b"2e-324", b"18446744073709551615", b"18446744073709551616",
    b"-9223372036854775808", b"-9223372036854775809", b"9007199254740993.0", b"null", b"true",
    b"false", b"nul", b"\\", b"\\n", b"\\u", b"\\u0000", b"\\ud83d", b"\\ude00", b"\xff",
    b"\xc3\xa9", b"\xef\xbb\xbf", b"\0", b"\x0b", b"\x0c", b"\x1f", b"\x7f", b" ", b"\n", b"\t",
    b"/", b"'", b"x", b"-1e-5",
];

#[test]
fn tape_leaves_underflow_and_long_numbers_to_the_strict_reader() {
    let zeros = "0".repeat(400);
    for (body, read) in [
        ("[0.0,1e-9]".to_owned(), false),
        ("[0.0,1e-400]".to_owned(), false),
        (format!("[0.{zeros}1]"), false),
        (format!("[0.0,\"1e-a\",\"{zeros}\"]"), false),
        ("[0.0,1e9,\"1e-9\",\"a-1\"]".to_owned(), true),
        ("[1e-9]".to_owned(), true),
        (format!("[1.{}]", "5".repeat(NUMBER_CHARS_MAX - 2)), true),
        (format!("[1.{}]", "5".repeat(NUMBER_CHARS_MAX - 1)), false),
        ("[12345678901234.0]".to_owned(), true),
        ("[-123456789012345.0]".to_owned(), false),
        ("[0.99999999999999999]".to_owned(), false),
        ("[1e15,123.456e78]".to_owned(), true),
        ("[9007199254740993.0]".to_owned(), false),
        ("[1e16]".to_owned(), false),
    ] {
        let _ = parse(body.as_bytes());
        assert_eq!(tape::read(body.as_bytes()).is_some(), read, "{body}");
    }
}

#[test]
fn buffers_of_a_large_body_do_not_change_the_next_result() {
    let large = format!("[{}0.5]", "\"text\\n\",".repeat(20_000));
    for _ in 0..3 {
        parse(large.as_bytes()).expect("a large array");
        assert_eq!(text_of(b"[\"a\\tb\"]"), "[\"a\\tb\"]");
        assert!(tape::read(b"[\"a").is_none());
    }
}
