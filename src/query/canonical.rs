//! Canonical text: equal for two requests that ask the same.

use xxhash_rust::xxh3::xxh3_64;

use super::Query;
use super::cursor::{Cursor, Question};
use super::filter::{Filter, Operator, Test, Values};
use super::order::Position;
use super::pairs::encode_component;
use crate::json::Number;
use crate::json::scan::Projection;

impl Query {
    /// Text that is equal for two requests that ask the same question, parameters of the operation apart.
    pub fn canonical(&self) -> String {
        let mut out = self.canonical_question();
        out.push_str("&limit=");
        out.push_str(itoa::Buffer::new().format(self.limit));
        if let Some(only) = &self.only {
            out.push_str("&only=");
            encode_component(&only.tag, &mut out);
        }
        if let Some(select) = &self.select {
            out.push_str("&select=");
            canonical_select(select, &mut out);
        }
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

    /// Which documents, in which order.
    pub(super) fn canonical_question(&self) -> String {
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
        if let Some(needle) = &self.needle {
            out.push_str("q=");
            encode_component(&needle.lower, &mut out);
        }
        out.push_str("&sort=");
        for sort in &self.sort {
            out.push(if sort.descending { '-' } else { '+' });
            encode_component(sort.path.as_str(), &mut out);
        }
        out
    }

    pub(super) fn question(&self) -> Question<'_> {
        Question {
            sort: &self.sort,
            fingerprint: xxh3_64(self.canonical_question().as_bytes()),
            // Not of what the reader may see: a cursor is read before that is known, and names a place and nothing more.
            selective: self.has_filters(),
        }
    }

    pub(super) fn cursor_at(&self, position: Position, reversed: bool) -> String {
        Cursor {
            position,
            reversed,
            revision: self.revision,
        }
        .encode(&self.question())
    }
}
impl Filter {
    /// Equal for filters that ask the same.
    fn canonical(&self, out: &mut String) {
        encode_component(self.path.as_str(), out);
        match &self.test {
            Test::Among(values) => {
                out.push_str("==");
                values.canonical(out);
            }
            Test::NotAmong(values) => {
                out.push_str("!=");
                values.canonical(out);
            }
            Test::Compare(operator, comparand) => {
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
                if let Some(truth) = comparand.truth {
                    out.push(if truth { '1' } else { '0' });
                }
            }
            Test::Contains(finder) => {
                out.push_str("*=");
                encode_component(&String::from_utf8_lossy(finder.needle()), out);
            }
            Test::Absent => out.push('!'),
            Test::Present => out.push('?'),
        }
    }
}

impl Values {
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
        out.push_str(match (self.no, self.yes) {
            (false, false) => "",
            (true, false) => "0",
            (false, true) => "1",
            (true, true) => "01",
        });
    }
}

pub(super) fn write_number(number: Number, out: &mut String) {
    let mut text = Vec::new();
    number.write(&mut text);
    out.push_str(&String::from_utf8_lossy(&text));
}

fn canonical_select(select: &[Projection], out: &mut String) {
    for want in select {
        encode_component(&want.name, out);
        if !want.below.is_empty() {
            out.push('(');
            canonical_select(&want.below, out);
            out.push(')');
        }
        out.push(',');
    }
}
