//! Canonical text: equal for two requests that have the same answer.

use xxhash_rust::xxh3::xxh3_64;

use super::Query;
use super::cursor::{Cursor, CursorScope};
use super::filter::{Condition, DigestSet, Filter, Operator, ValueSet};
use super::order::Position;
use super::pairs::encode_component;
use crate::json::Number;
use crate::json::scan::Projection;

impl Query {
    /// Text that is equal for two requests only if their answers are the same at every revision.
    /// Parked polls with equal texts share one answer.
    pub fn canonical(&self) -> String {
        let mut out = self.canonical_list();
        out.push_str("&limit=");
        out.push_str(itoa::Buffer::new().format(self.limit));
        if let Some(restriction) = &self.restriction {
            out.push_str("&visible=");
            encode_component(restriction.canonical(), &mut out);
        }
        if let Some(select) = &self.select {
            out.push_str("&select=");
            canonical_select(select, &mut out);
        }
        self.canonical_own(&mut out);
        if self.reversed {
            out.push_str("&reversed");
        }
        if let Some(revision) = self.revision {
            out.push_str("&revision=");
            out.push_str(itoa::Buffer::new().format(revision));
        }
        if let Some(position) = &self.position {
            out.push_str("&cursor=");
            out.push_str(&self.cursor_at(position.clone(), self.reversed));
        }
        out
    }

    /// The operation's own parameters, without those that do not change the answer.
    fn canonical_own(&self, out: &mut String) {
        let own = self.own.iter().filter(|(spec, _)| spec.changes_answer);
        let mut own: Vec<_> = own.map(|(spec, value)| (spec.name, value)).collect();
        own.sort_unstable();
        for (name, value) in own {
            out.push_str("&$");
            out.push_str(name);
            out.push('=');
            encode_component(value, out);
        }
    }

    /// Which documents, in which order.
    fn canonical_list(&self) -> String {
        let mut out = String::from(self.kind.collection);
        out.push('?');
        let mut filters: Vec<String> = self
            .filters
            .iter()
            .map(|filter| {
                let mut out = String::new();
                filter.canonical(&mut out);
                out
            })
            .collect();
        filters.sort_unstable();
        for filter in filters {
            out.push_str(&filter);
            out.push('&');
        }
        if let Some(search) = &self.search {
            out.push_str("q=");
            encode_component(&search.needle.lower, &mut out);
        }
        out.push_str("&sort=");
        for sort in &self.sort {
            out.push(if sort.descending { '-' } else { '+' });
            encode_component(sort.path.as_str(), &mut out);
        }
        out
    }

    /// The scope of this query's cursors. A restriction is not part of it: a cursor is parsed
    /// before the restriction is known, and holds only a position. A caller that may see less
    /// continues at the same position and sees what it may see.
    pub(super) fn cursor_scope(&self) -> CursorScope<'_> {
        CursorScope {
            sort: &self.sort,
            fingerprint: xxh3_64(self.canonical_list().as_bytes()),
            filtered: self.has_filters(),
        }
    }

    pub(super) fn cursor_at(&self, position: Position, reversed: bool) -> String {
        Cursor {
            position,
            reversed,
            revision: self.revision,
        }
        .encode(&self.cursor_scope())
    }
}

impl Filter {
    /// Equal for filters with the same condition.
    fn canonical(&self, out: &mut String) {
        encode_component(self.path.as_str(), out);
        match &self.condition {
            Condition::In(values) => {
                out.push_str("==");
                values.canonical(out);
            }
            Condition::NotIn(values) => {
                out.push_str("!=");
                values.canonical(out);
            }
            Condition::Compare(operator, comparand) => {
                out.push_str(match operator {
                    Operator::Greater => ">",
                    Operator::GreaterEqual => ">=",
                    Operator::Less => "<",
                    _ => "<=",
                });
                if let Some(text) = &comparand.text {
                    encode_component(text, out);
                }
                out.push('~');
                if let Some(number) = comparand.number {
                    write_number(number, out);
                }
                out.push('~');
                if let Some(boolean) = comparand.boolean {
                    out.push(if boolean { '1' } else { '0' });
                }
            }
            Condition::Contains(finder) => {
                out.push_str("*=");
                encode_component(&String::from_utf8_lossy(finder.needle()), out);
            }
            Condition::Digests(DigestSet { digests, includes }) => {
                out.push_str(if *includes { "=#" } else { "!#" });
                for digest in digests {
                    out.push_str(itoa::Buffer::new().format(*digest));
                    out.push(',');
                }
            }
            Condition::Absent => out.push('!'),
            Condition::Present => out.push('?'),
        }
    }
}

impl ValueSet {
    fn canonical(&self, out: &mut String) {
        for text in &self.texts {
            encode_component(text, out);
            out.push(',');
        }
        out.push('~');
        for number in &self.numbers {
            write_number(*number, out);
            out.push(',');
        }
        out.push('~');
        if self.has_false {
            out.push('0');
        }
        if self.has_true {
            out.push('1');
        }
    }
}

pub(super) fn write_number(number: Number, out: &mut String) {
    let mut text = Vec::new();
    number.write(&mut text);
    out.push_str(&String::from_utf8_lossy(&text));
}

fn canonical_select(select: &[Projection], out: &mut String) {
    for field in select {
        encode_component(&field.name, out);
        if !field.below.is_empty() {
            out.push('(');
            canonical_select(&field.below, out);
            out.push(')');
        }
        out.push(',');
    }
}
