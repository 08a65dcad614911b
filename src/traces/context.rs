//! The identity of a trace, as callers send it and as it is sent on: `traceparent` of W3C Trace
//! Context, and the older `X-Trace-Id`.

use std::fmt;

/// A request within a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: u128,
    /// Of the span that sends the request.
    pub span_id: u64,
    /// Whether spans of this trace are recorded.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Parses the value of `traceparent`. `None`: it is to be ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_matches([' ', '\t']).split('-');
        let mut part = |digits: usize| {
            parts
                .next()
                .filter(|part| part.len() == digits && is_lower_hex(part))
        };
        let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // A later version may append parts, version 00 has none.
        if version == "ff" || version == "00" && parts.next().is_some() {
            return None;
        }
        let trace_id = u128::from_str_radix(trace_id, 16).ok()?;
        let span_id = u64::from_str_radix(span_id, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & 1 == 1,
        })
    }
}

/// The value of `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(
            f,
            "00-{:032x}-{:016x}-{flags:02x}",
            self.trace_id, self.span_id
        )
    }
}

/// The trace id in a value of `X-Trace-Id`, if that is a UUID or its 32 hexadecimal digits. Other
/// texts name a request in the event log only.
pub fn trace_id_of(text: &str) -> Option<u128> {
    let id = uuid::Uuid::try_parse(text).ok()?.as_u128();
    (id != 0).then_some(id)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_is_read_and_written() {
        let context = TraceContext::parse(GOOD).expect("the example of the standard");
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled);
        assert_eq!(context.to_string(), GOOD);
        let flags = |flags: &str| TraceContext::parse(&GOOD.replace("-01", flags));
        assert!(!flags("-00").expect("not sampled").is_sampled);
        assert!(flags("-ff").expect("other flags").is_sampled);
        let later = GOOD.replacen("00", "cc", 1) + "-what-the-future-will-be-like";
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn other_values_are_ignored() {
        for text in [
            "",
            "00",
            "garbage",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-+0f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn trace_ids_are_uuids_or_their_digits() {
        let id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        assert_eq!(trace_id_of("4bf92f3577b34da6a3ce929d0e0e4736"), Some(id));
        assert_eq!(
            trace_id_of("4bf92f35-77b3-4da6-a3ce-929d0e0e4736"),
            Some(id)
        );
        assert_eq!(trace_id_of("00000000-0000-0000-0000-000000000000"), None);
        assert_eq!(trace_id_of("ticket 4711"), None);
    }
}
