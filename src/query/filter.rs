//! Filters: a condition on one field of a document.

use std::cmp::Ordering;

use memchr::memmem::Finder;

use super::FILTER_VALUES_MAX;
use super::model::{Document, FieldPath, any_leaf};
use crate::error::{self, ApiError, ErrorCode};
use crate::json::scan::{self, Scalar};
use crate::json::{self, FieldType, Number};

#[derive(Debug)]
pub(super) struct Filter {
    pub path: FieldPath,
    pub operator: Operator,
    pub condition: Condition,
}

/// The suffix of the parameter's name.
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

/// A filter's condition, with its values parsed by the type of the field.
#[derive(Debug)]
pub(super) enum Condition {
    In(ValueSet),
    NotIn(ValueSet),
    Compare(Operator, Comparand),
    Contains(Box<Finder<'static>>),
    Absent,
    Present,
    Digests(DigestSet),
}

/// Digests of values, sorted.
#[derive(Debug)]
pub(super) struct DigestSet {
    pub digests: Vec<u64>,
    /// Documents with one of them pass; otherwise those with none of them.
    pub includes: bool,
}

/// A set of values of several types. A text that may be a number is in it as both if the field
/// takes both.
#[derive(Debug, Default)]
pub(super) struct ValueSet {
    pub texts: Vec<Box<str>>,
    pub numbers: Vec<Number>,
    pub has_true: bool,
    pub has_false: bool,
}

/// A value to compare with, in every type that it has in the field.
#[derive(Debug, Default)]
pub(super) struct Comparand {
    pub text: Option<Box<str>>,
    pub number: Option<Number>,
    pub boolean: Option<bool>,
}

impl Filter {
    pub fn matches<D: Document>(&self, document: &D) -> bool {
        let path = &self.path;
        match &self.condition {
            Condition::In(values) => {
                any_leaf(document, path, true, &mut |leaf| values.contains(&leaf))
            }
            Condition::NotIn(values) => {
                any_leaf(document, path, true, &mut |leaf| !values.contains(&leaf))
            }
            Condition::Compare(operator, comparand) => {
                any_leaf(document, path, true, &mut |leaf| {
                    comparand
                        .order_of(&leaf)
                        .is_some_and(|order| match operator {
                            Operator::Greater => order == Ordering::Greater,
                            Operator::GreaterEqual => order != Ordering::Less,
                            Operator::Less => order == Ordering::Less,
                            _ => order != Ordering::Greater,
                        })
                })
            }
            Condition::Contains(finder) => any_leaf(document, path, true, &mut |leaf| match leaf {
                Scalar::Text(text) => finder.find(text.as_bytes()).is_some(),
                _ => false,
            }),
            // An array is present even if it is empty, so these two do not look into arrays.
            Condition::Absent => any_leaf(document, path, false, &mut |leaf| {
                matches!(leaf, Scalar::Absent)
            }),
            Condition::Present => any_leaf(document, path, false, &mut |leaf| {
                !matches!(leaf, Scalar::Absent)
            }),
            Condition::Digests(DigestSet { digests, includes }) => {
                document.has_digest(digests) == *includes
            }
        }
    }
}

impl DigestSet {
    pub fn new(values: &ValueSet, digest: Option<fn(&str) -> u64>, includes: bool) -> Self {
        let texts = values.texts.iter();
        let mut digests: Vec<u64> = texts.filter_map(|text| Some(digest?(text))).collect();
        digests.sort_unstable();
        digests.dedup();
        Self { digests, includes }
    }
}

impl ValueSet {
    /// The values of a list joined by commas. `name` is the parameter, for errors.
    pub fn parse(name: &str, text: &str, field_type: FieldType) -> Result<Self, ApiError> {
        let mut values = Self::default();
        for (i, piece) in text.split(',').enumerate() {
            if i == FILTER_VALUES_MAX {
                let allowed = format!("must have at most {FILTER_VALUES_MAX} values");
                return Err(error::TOO_MANY_ITEMS
                    .about_parameter(name, allowed)
                    .with("maximum", FILTER_VALUES_MAX));
            }
            let comparand = Comparand::parse(name, piece, field_type)?;
            values.texts.extend(comparand.text);
            values.numbers.extend(comparand.number);
            values.has_true |= comparand.boolean == Some(true);
            values.has_false |= comparand.boolean == Some(false);
        }
        values.texts.sort_unstable();
        values.texts.dedup();
        values.numbers.sort_unstable();
        values.numbers.dedup();
        Ok(values)
    }

    pub fn has_only_texts(&self) -> bool {
        self.numbers.is_empty() && !self.has_true && !self.has_false
    }

    pub fn is_only_false(&self) -> bool {
        let has_others = self.has_true || !self.texts.is_empty() || !self.numbers.is_empty();
        self.has_false && !has_others
    }

    #[inline]
    fn contains(&self, value: &Scalar<'_>) -> bool {
        match value {
            Scalar::Text(text) => match &self.texts[..] {
                [one] => **one == **text,
                many => many.binary_search_by(|one| (**one).cmp(text)).is_ok(),
            },
            Scalar::Number(number) => self.numbers.binary_search(number).is_ok(),
            Scalar::Bool(true) => self.has_true,
            Scalar::Bool(false) => self.has_false,
            Scalar::Absent | Scalar::Array | Scalar::Object => false,
        }
    }
}

impl Comparand {
    pub fn parse(name: &str, text: &str, field_type: FieldType) -> Result<Self, ApiError> {
        let refuse = |code: ErrorCode, allowed: &str| {
            Err(code.about_parameter(name, format!("takes {allowed}")))
        };
        let mut result = Self::default();
        match field_type {
            FieldType::Integer => match scan::number(text) {
                Some(number) if number.fits_signed() => result.number = Some(number),
                _ => return refuse(error::NOT_INTEGER, "integers of 64 bits"),
            },
            FieldType::Moment => match scan::number(text) {
                Some(number @ Number::Unsigned(moment)) if is_moment(moment) => {
                    result.number = Some(number);
                }
                Some(number) if number.fits_signed() => {
                    return Err(error::INPUT_OUT_OF_RANGE
                        .about_parameter(name, format!("takes {MOMENTS}"))
                        .with("minimum", MOMENT_MS_MIN)
                        .with("maximum", MOMENT_MS_MAX));
                }
                _ => return refuse(error::NOT_INTEGER, "integers of 64 bits"),
            },
            FieldType::Number => match exact_number(text) {
                Some(number) => result.number = Some(number),
                None => return refuse(error::NOT_NUMBER, "numbers"),
            },
            FieldType::Boolean => match boolean(text) {
                None => return refuse(error::NOT_BOOLEAN, "true or false"),
                boolean => result.boolean = boolean,
            },
            FieldType::String => result.text = Some(text.into()),
            FieldType::Other => {
                result.number = exact_number(text);
                result.boolean = boolean(text);
                result.text = Some(text.into());
            }
        }
        Ok(result)
    }

    /// How a value compares with this one; `None` for a value of another type.
    #[inline]
    fn order_of(&self, value: &Scalar<'_>) -> Option<Ordering> {
        match value {
            Scalar::Number(number) => Some(number.cmp(self.number.as_ref()?)),
            Scalar::Text(text) => Some(text.as_bytes().cmp(self.text.as_ref()?.as_bytes())),
            Scalar::Bool(value) => Some(value.cmp(self.boolean.as_ref()?)),
            Scalar::Absent | Scalar::Array | Scalar::Object => None,
        }
    }
}

/// Bounds that exclude moments in seconds and in microseconds.
pub const MOMENT_MS_MIN: u64 = 1_000_000_000_000;
pub const MOMENT_MS_MAX: u64 = 10_000_000_000_000;
/// What [`is_moment`] accepts, for errors.
pub const MOMENTS: &str = "milliseconds since 1970: 0, or 1000000000000 to 10000000000000";

/// Whether a number is a moment in a query. 0 means the beginning.
pub fn is_moment(number: u64) -> bool {
    number == 0 || (MOMENT_MS_MIN..=MOMENT_MS_MAX).contains(&number)
}

/// A number, unless digits of it would be lost so that it became an integer.
fn exact_number(text: &str) -> Option<Number> {
    match scan::number(text)? {
        Number::Float(_) => match json::parse(text.as_bytes()) {
            Ok(json::Value::Number(number)) => Some(number),
            _ => None,
        },
        integer => Some(integer),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
