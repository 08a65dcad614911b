//! Filters: conditions on one field of a document.

use std::cmp::Ordering;

use memchr::memmem::Finder;

use super::FILTER_VALUES_MAX;
use super::model::{Document, Path, any_leaf};
use crate::error::{self, ApiError, ErrorCode};
use crate::json::scan::{self, Scalar};
use crate::json::{FieldType, Number};

#[derive(Debug)]
pub(super) struct Filter {
    pub path: Path,
    pub operator: Operator,
    /// As given by the request, after decoding.
    pub test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    Like,
    Is,
    IsNot,
}

#[derive(Debug)]
pub(super) enum Test {
    Among(Values),
    NotAmong(Values),
    Compare(Operator, Comparand),
    Contains(Box<Finder<'static>>),
    Absent,
    Present,
}

/// A set of values of several types; a text that may be a number is in it twice when the field takes both.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub texts: Vec<Box<str>>,
    pub numbers: Vec<Number>,
    pub yes: bool,
    pub no: bool,
}

#[derive(Debug, Default)]
pub(super) struct Comparand {
    pub text: Option<Box<str>>,
    pub number: Option<Number>,
    pub truth: Option<bool>,
}

impl Filter {
    pub fn matches<D: Document>(&self, document: &D) -> bool {
        let path = &self.path;
        match &self.test {
            Test::Among(values) => any_leaf(document, path, true, &mut |leaf| values.holds(&leaf)),
            Test::NotAmong(values) => {
                any_leaf(document, path, true, &mut |leaf| !values.holds(&leaf))
            }
            Test::Compare(operator, comparand) => any_leaf(document, path, true, &mut |leaf| {
                comparand
                    .order_of(&leaf)
                    .is_some_and(|order| match operator {
                        Operator::Greater => order == Ordering::Greater,
                        Operator::GreaterEqual => order != Ordering::Less,
                        Operator::Less => order == Ordering::Less,
                        _ => order != Ordering::Greater,
                    })
            }),
            Test::Contains(finder) => any_leaf(
                document,
                path,
                true,
                &mut |leaf| matches!(leaf, Scalar::Text(text) if finder.find(text.as_bytes()).is_some()),
            ),
            // An array is there even if it is empty, so these two look at the field itself.
            Test::Absent => any_leaf(document, path, false, &mut |leaf| {
                matches!(leaf, Scalar::Absent)
            }),
            Test::Present => any_leaf(document, path, false, &mut |leaf| {
                !matches!(leaf, Scalar::Absent)
            }),
        }
    }
}
impl Values {
    pub fn parse(
        name: &str,
        text: &str,
        list: bool,
        field_type: FieldType,
    ) -> Result<Values, ApiError> {
        let mut values = Values::default();
        let pieces = text.split(if list { ',' } else { '\0' });
        for (i, piece) in pieces.enumerate() {
            if i == FILTER_VALUES_MAX {
                return Err(error::TOO_MANY_ITEMS
                    .titled("The list has too many values")
                    .at_parameter(name)
                    .with("maximum", FILTER_VALUES_MAX));
            }
            let comparand = Comparand::parse(name, piece, field_type)?;
            values.texts.extend(comparand.text);
            values.numbers.extend(comparand.number);
            values.yes |= comparand.truth == Some(true);
            values.no |= comparand.truth == Some(false);
        }
        values.texts.sort_unstable();
        values.texts.dedup();
        values.numbers.sort_unstable();
        values.numbers.dedup();
        Ok(values)
    }

    #[inline]
    pub fn holds(&self, value: &Scalar<'_>) -> bool {
        match value {
            Scalar::Text(text) => match &self.texts[..] {
                [one] => **one == **text,
                many => many.binary_search_by(|one| (**one).cmp(text)).is_ok(),
            },
            Scalar::Number(number) => self.numbers.binary_search(number).is_ok(),
            Scalar::Bool(true) => self.yes,
            Scalar::Bool(false) => self.no,
            Scalar::Absent | Scalar::Array(_) | Scalar::Object(_) => false,
        }
    }
}
impl Comparand {
    pub fn parse(name: &str, text: &str, field_type: FieldType) -> Result<Comparand, ApiError> {
        let refuse = |code: ErrorCode, title| Err(code.titled(title).at_parameter(name));
        let mut result = Comparand::default();
        match field_type {
            FieldType::Integer => match scan::number(text) {
                Some(number @ (Number::Unsigned(_) | Number::Negative(_))) => {
                    result.number = Some(number);
                }
                _ => return refuse(error::NOT_INTEGER, "The field takes integers of 64 bits"),
            },
            FieldType::Number => match scan::number(text) {
                Some(number) => result.number = Some(number),
                None => return refuse(error::NOT_NUMBER, "The field takes numbers"),
            },
            FieldType::Boolean => match text {
                "true" => result.truth = Some(true),
                "false" => result.truth = Some(false),
                _ => return refuse(error::NOT_BOOLEAN, "The field takes true or false"),
            },
            FieldType::String => result.text = Some(text.into()),
            FieldType::Other => {
                result.number = scan::number(text);
                result.truth = match text {
                    "true" => Some(true),
                    "false" => Some(false),
                    _ => None,
                };
                result.text = Some(text.into());
            }
        }
        Ok(result)
    }

    /// How a value compares with this one, if they compare at all.
    #[inline]
    fn order_of(&self, value: &Scalar<'_>) -> Option<Ordering> {
        match value {
            Scalar::Number(number) => Some(number.cmp(self.number.as_ref()?)),
            Scalar::Text(text) => Some(text.as_bytes().cmp(self.text.as_ref()?.as_bytes())),
            Scalar::Bool(value) => Some(value.cmp(self.truth.as_ref()?)),
            Scalar::Absent | Scalar::Array(_) | Scalar::Object(_) => None,
        }
    }
}
