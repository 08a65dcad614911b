//! JSON Merge Patch (RFC 7396) with the control members of the reference API.
//!
//! Objects are merged, `null` removes a member, everything else replaces, arrays as a whole. An
//! object with `"$reset": true` replaces the stored object, at any level. `$position`, `$index` and
//! `$delete`, which the reference API accepts but does not define, are dropped.

use super::{Object, Value};

/// The control member that makes its object replace the stored one.
pub const RESET: &str = "$reset";

/// Whether a member controls the merge; such members are never stored.
pub fn is_control(key: &str) -> bool {
    matches!(key, RESET | "$position" | "$index" | "$delete")
}

/// Pointer to the first `$reset` that is neither `true` nor `false`. Arrays are not searched: it
/// has no effect in them.
pub fn misused_reset(patch: &Value) -> Option<String> {
    let object = patch.as_object()?;
    object.iter().find_map(|(key, value)| {
        let below = if key == RESET {
            value.as_bool().is_none().then(String::new)
        } else {
            misused_reset(value)
        }?;
        let mut pointer = String::new();
        super::push_pointer(&mut pointer, key);
        Some(pointer + &below)
    })
}

/// Applies `patch` to `target`. Recursion is bounded by the depth of the patch; the result is no
/// deeper than the deeper of the two.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(mut members) = patch else {
        let value = without_controls(patch);
        // Equal numbers may be written in two ways, and some clients write 1.0 as 1.
        if *target != value {
            *target = value;
        }
        return;
    };
    if members.remove(RESET) == Some(Value::Bool(true)) {
        *target = Value::Object(Object::new());
    }
    if !matches!(target, Value::Object(_)) {
        *target = Value::Object(Object::new());
    }
    let Value::Object(object) = target else {
        unreachable!("the target was made an object above")
    };
    // Both are sorted, so one pass over both is enough.
    let mut held = std::mem::take(object).into_members().into_iter().peekable();
    let mut merged = Vec::with_capacity(held.len() + members.len());
    for (key, value) in members.into_members() {
        while let Some(other) = held.next_if(|(other, _)| *other < key) {
            merged.push(other);
        }
        let mut value_held = held
            .next_if(|(other, _)| *other == key)
            .map_or(Value::Null, |(_, value)| value);
        if !value.is_null() && !is_control(&key) {
            merge(&mut value_held, value);
            merged.push((key, value_held));
        }
    }
    merged.extend(held);
    *object = Object::from_sorted(merged);
}

/// In arrays nothing is merged and `null` stays, but control members are dropped too.
fn without_controls(mut value: Value) -> Value {
    fn clean(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(clean),
            Value::Object(object) => object.retain(|key, value| {
                clean(value);
                !is_control(key)
            }),
            _ => {}
        }
    }
    clean(&mut value);
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::parse;

    fn merged(target: &str, patch: &str) -> String {
        let mut target = parse(target.as_bytes()).expect("target");
        merge(&mut target, parse(patch.as_bytes()).expect("patch"));
        target.to_text()
    }

    #[test]
    fn reset_that_is_not_a_boolean_is_found() {
        for (patch, pointer) in [
            (r#"{"$reset":true,"a":{"$reset":false}}"#, None),
            (r#"{"a":[{"$reset":1}],"b":"$reset"}"#, None),
            (r#"{"$reset":1}"#, Some("/$reset")),
            (r#"{"$reset":null}"#, Some("/$reset")),
            (r#"{"a":1,"b/c":{"$reset":"true"}}"#, Some("/b~1c/$reset")),
        ] {
            let patch = parse(patch.as_bytes()).expect("test data");
            assert_eq!(misused_reset(&patch).as_deref(), pointer, "{patch}");
        }
    }

    /// The table of RFC 7396, appendix A.
    #[test]
    fn examples_of_the_rfc_hold() {
        let table = [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ];
        for (target, patch, result) in table {
            assert_eq!(merged(target, patch), result, "{target} + {patch}");
        }
    }

    #[test]
    fn reset_replaces_its_object() {
        let table = [
            (
                r#"{"a":1,"b":{"c":2}}"#,
                r#"{"$reset":true,"d":3}"#,
                r#"{"d":3}"#,
            ),
            (
                r#"{"a":1,"b":{"c":2,"d":3}}"#,
                r#"{"b":{"$reset":true,"d":4}}"#,
                r#"{"a":1,"b":{"d":4}}"#,
            ),
            (
                r#"{"a":1}"#,
                r#"{"$reset":false,"b":2}"#,
                r#"{"a":1,"b":2}"#,
            ),
            (r#"{"a":1}"#, r#"{"$reset":null,"b":2}"#, r#"{"a":1,"b":2}"#),
            (
                r#"{"a":1}"#,
                r#"{"$reset":"true","b":2}"#,
                r#"{"a":1,"b":2}"#,
            ),
            (r#"{"a":1}"#, r#"{"$reset":true}"#, "{}"),
            (
                r#"{"a":{"b":{"c":1},"d":2}}"#,
                r#"{"a":{"$reset":true,"b":{"e":1,"f":null}}}"#,
                r#"{"a":{"b":{"e":1}}}"#,
            ),
            ("{}", r#"{"a":{"$reset":true,"b":1}}"#, r#"{"a":{"b":1}}"#),
        ];
        for (target, patch, result) in table {
            assert_eq!(merged(target, patch), result, "{target} + {patch}");
        }
    }

    #[test]
    fn control_members_are_never_stored() {
        assert_eq!(
            merged(
                r#"{"a":{}}"#,
                r#"{"$delete":true,"$index":1,"a":{"$position":2,"b":1}}"#
            ),
            r#"{"a":{"b":1}}"#
        );
        assert_eq!(
            merged(
                "{}",
                r#"{"a":[{"$reset":true,"$index":0,"b":[{"$delete":true}],"c":null}]}"#
            ),
            r#"{"a":[{"b":[{}],"c":null}]}"#
        );
    }

    /// The definition in RFC 7396, section 2, step by step.
    fn merged_by_definition(target: Option<Value>, patch: &Value) -> Value {
        let Value::Object(members) = patch else {
            return patch.clone();
        };
        let mut object = match target {
            Some(Value::Object(object)) => object,
            _ => Object::new(),
        };
        for (key, value) in members.iter() {
            let held = object.remove(key);
            if !value.is_null() {
                object.insert(key, merged_by_definition(held, value));
            }
        }
        Value::Object(object)
    }

    fn has_null_member(value: &Value) -> bool {
        value.as_object().is_some_and(|object| {
            object
                .iter()
                .any(|(_, value)| value.is_null() || has_null_member(value))
        })
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        #[test]
        fn merging_follows_the_rfc(
            target in crate::json::tests::any_value(),
            patch in crate::json::tests::any_value(),
        ) {
            let expected = merged_by_definition(Some(target.clone()), &patch);
            let mut once = target;
            merge(&mut once, patch.clone());
            prop_assert_eq!(&once, &expected);
            let mut twice = once.clone();
            merge(&mut twice, patch.clone());
            prop_assert_eq!(&twice, &once, "applying a patch twice changes nothing more");
            let mut fresh = Value::Object(Object::new());
            merge(&mut fresh, patch);
            prop_assert!(!has_null_member(&fresh), "null is never stored as a member");
        }
    }
}
