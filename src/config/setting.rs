//! A row of the table: a setting, the rule for its values, and the macro that makes both the row
//! and the field of the typed struct.

use std::fmt;
use std::time::Duration;

use super::scalar::{self, RawValue, bytes_text, parse_bytes};
use crate::duration;
use crate::json::Value;
use crate::schema::MASK;

/// One setting of the struct `S`. Its variable and its flag follow from its key.
pub struct Setting<S: 'static> {
    /// The key of the TOML file.
    pub key: &'static str,
    /// Other spellings of the key in files and, behind `CENTRAL_`, in the environment.
    pub aliases: &'static [&'static str],
    pub form: SettingForm,
    pub written: Written,
    pub effect: Effect,
    /// The member of the document of `/config`, if it has one.
    pub member: Option<ConfigMember<S>>,
    /// Heading in `--help` and in the shipped file.
    pub heading: &'static str,
    /// One paragraph for `--help` and the shipped file.
    pub(super) doc: &'static str,
    /// Parses a value into its field; false when the value is not allowed.
    pub(super) set: fn(&mut S, &RawValue) -> bool,
    /// Copies the field from the first to the second.
    pub(super) copy: fn(&S, &mut S),
}

/// The value that the shipped file shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The value unless another is given.
    Default(&'static str),
    /// Without a value the setting is not set.
    Example(&'static str),
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// When it is saved.
    AtOnce,
    /// At the next start.
    AtStart,
}

/// A setting as the document of `/config` has it.
pub struct ConfigMember<S: 'static> {
    pub pointer: &'static str,
    pub shape: MemberShape,
    /// The effective value, with its secrets masked or not. `None`: not set.
    pub shown: fn(&S, bool) -> Option<Value>,
}

/// How the document of `/config` writes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberShape {
    Text,
    /// `"true"` or `"false"`.
    Word,
    Flag,
    Count,
    /// A number of milliseconds.
    Ms,
    /// An object of `login` and `password`.
    Login,
}

/// The values that a setting takes, as `--help` and error messages state them.
#[derive(Debug, Clone, Copy)]
pub enum SettingForm {
    Text {
        allowed: &'static str,
        is_secret: bool,
    },
    List {
        allowed: &'static str,
    },
    Number {
        min: u64,
        max: u64,
    },
    Bytes {
        min: u64,
        max: u64,
    },
    Time {
        min: Duration,
        max: Duration,
    },
    Switch,
    Word {
        words: &'static [&'static str],
    },
}

impl fmt::Display for SettingForm {
    /// To follow "must be".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { allowed, .. } | Self::List { allowed } => f.write_str(allowed),
            Self::Number { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Bytes { min, max } => {
                let (min, max) = (bytes_text(*min), bytes_text(*max));
                write!(
                    f,
                    "a size such as 64MiB, 1GiB or a number of bytes, from {min} to {max}"
                )
            }
            Self::Time { min, max } => {
                let (min, max) = (duration::text(*min), duration::text(*max));
                write!(f, "{}, from {min} to {max}", duration::ALLOWED)
            }
            Self::Switch => f.write_str("true or false"),
            Self::Word { words } => write!(f, "one of {}", words.join(", ")),
        }
    }
}

/// How values of type `T` are written, which are allowed, and how they are parsed.
pub(super) enum SettingRule<T: 'static> {
    /// Text with a rule of its own.
    Text {
        allowed: &'static str,
        is_secret: bool,
        parse: fn(&str) -> Option<T>,
    },
    /// Several texts: repeated flag, array in the file, commas in the environment.
    List {
        allowed: &'static str,
        parse: fn(&[String]) -> Option<T>,
    },
    Number {
        min: u64,
        max: u64,
        parse: fn(u64) -> Option<T>,
    },
    Bytes {
        min: u64,
        max: u64,
        parse: fn(u64) -> Option<T>,
    },
    Time {
        min: Duration,
        max: Duration,
        parse: fn(Duration) -> Option<T>,
    },
    Switch {
        parse: fn(bool) -> Option<T>,
    },
    /// One of several words, ignoring case.
    Word {
        words: &'static [&'static str],
        values: &'static [T],
    },
}

pub(super) const fn text<T>(allowed: &'static str, parse: fn(&str) -> Option<T>) -> SettingRule<T> {
    SettingRule::Text {
        allowed,
        is_secret: false,
        parse,
    }
}

pub(super) const fn secret<T>(
    allowed: &'static str,
    parse: fn(&str) -> Option<T>,
) -> SettingRule<T> {
    SettingRule::Text {
        allowed,
        is_secret: true,
        parse,
    }
}

pub(super) const fn list<T>(
    allowed: &'static str,
    parse: fn(&[String]) -> Option<T>,
) -> SettingRule<T> {
    SettingRule::List { allowed, parse }
}

pub(super) const fn number<T: TryFrom<u64>>(min: u64, max: u64) -> SettingRule<T> {
    SettingRule::Number {
        min,
        max,
        parse: |number| number.try_into().ok(),
    }
}

pub(super) const fn bytes(min: u64, max: u64) -> SettingRule<usize> {
    SettingRule::Bytes {
        min,
        max,
        parse: |bytes| usize::try_from(bytes).ok(),
    }
}

pub(super) const fn time(min: Duration, max: Duration) -> SettingRule<Duration> {
    SettingRule::Time {
        min,
        max,
        parse: Some,
    }
}

pub(super) const fn switch() -> SettingRule<bool> {
    SettingRule::Switch { parse: Some }
}

pub(super) const fn word<T, const N: usize>(
    words: &'static [&'static str; N],
    values: &'static [T; N],
) -> SettingRule<T> {
    SettingRule::Word { words, values }
}

impl<T: Clone> SettingRule<T> {
    pub(super) const fn form(&self) -> SettingForm {
        match *self {
            Self::Text {
                allowed, is_secret, ..
            } => SettingForm::Text { allowed, is_secret },
            Self::List { allowed, .. } => SettingForm::List { allowed },
            Self::Number { min, max, .. } => SettingForm::Number { min, max },
            Self::Bytes { min, max, .. } => SettingForm::Bytes { min, max },
            Self::Time { min, max, .. } => SettingForm::Time { min, max },
            Self::Switch { .. } => SettingForm::Switch,
            Self::Word { words, .. } => SettingForm::Word { words },
        }
    }

    /// `None` when the value is not allowed.
    pub(super) fn parse(&self, raw: &RawValue) -> Option<T> {
        if let Self::List { parse, .. } = self {
            return parse(&raw.split());
        }
        let text = raw.one()?;
        match self {
            Self::Text { parse, .. } => parse(text).filter(|_| !text.is_empty()),
            Self::List { .. } => None,
            Self::Number { min, max, parse } => parse(within(scalar::whole(text)?, *min, *max)?),
            Self::Bytes { min, max, parse } => parse(within(parse_bytes(text)?, *min, *max)?),
            Self::Time { min, max, parse } => parse(within(duration::parse(text)?, *min, *max)?),
            Self::Switch { parse } => parse(scalar::switch(text)?),
            Self::Word { words, values } => {
                let word = text.to_ascii_lowercase();
                let index = words.iter().position(|known| *known == word)?;
                values.get(index).cloned()
            }
        }
    }
}

fn within<T: PartialOrd>(value: T, min: T, max: T) -> Option<T> {
    (value >= min && value <= max).then_some(value)
}

/// Makes the table: for each part a struct with one field per row, and the table of all rows.
///
/// A row is `field("key" | "alias"): Type = rule, Default "text" | Example "text", effect` and, if
/// the document of `/config` has the setting, `, MemberShape "/pointer"`. Its doc comment is the
/// text of `--help`.
macro_rules! settings {
    (@member $part:ident $field:ident) => { None };
    (@member $part:ident $field:ident $shape:ident $pointer:literal) => {
        Some(setting::ConfigMember {
            pointer: $pointer,
            shape: MemberShape::$shape,
            shown: |settings, masked| settings.$part.$field.shown(masked),
        })
    };
    ($(
        $(#[doc = $part_doc:literal])*
        $part:ident: $struct:ident, $heading:literal {$(
            $(#[doc = $doc:literal])*
            $field:ident($key:literal $(| $alias:literal)*): $type:ty = $rule:expr,
                $written:ident $text:literal, $effect:ident $(, $shape:ident $pointer:literal)?;
        )*}
    )*) => {
        /// All settings, in the parts that the components take.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct Settings {
            $($(#[doc = $part_doc])* pub $part: $struct,)*
        }

        $(
            $(#[doc = $part_doc])*
            #[derive(Debug, Clone, PartialEq, Eq, Default)]
            pub struct $struct {
                $($(#[doc = $doc])* pub $field: $type,)*
            }
        )*

        /// Every setting of the server, in the order of the shipped file.
        pub static SETTINGS: &[Setting] = &[$($({
            const RULE: SettingRule<$type> = $rule;
            Setting {
                key: $key,
                aliases: &[$($alias),*],
                form: RULE.form(),
                written: Written::$written($text),
                effect: Effect::$effect,
                member: settings!(@member $part $field $($shape $pointer)?),
                heading: $heading,
                doc: concat!($($doc),*),
                set: |settings, raw| match RULE.parse(raw) {
                    Some(value) => {
                        settings.$part.$field = value;
                        true
                    }
                    None => false,
                },
                copy: |from, to| to.$part.$field = from.$part.$field.clone(),
            }
        },)*)*];
    };
}
pub(super) use settings;

impl<S> Setting<S> {
    /// The key and its other spellings.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.key).chain(self.aliases.iter().copied())
    }

    pub fn doc(&self) -> &'static str {
        self.doc.trim_start()
    }

    /// `CENTRAL_POLL_WAIT_MAX`.
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// Placeholder of a value in `--help`.
    pub fn placeholder(&self) -> &'static str {
        match self.form {
            SettingForm::Text { .. } if self.key.ends_with("dir") => "DIR",
            SettingForm::Text { .. } if self.key.ends_with("url") => "URL",
            SettingForm::List { .. } if self.key == "listen" => "ADDR:PORT",
            SettingForm::Text { .. } | SettingForm::List { .. } => "TEXT",
            SettingForm::Number { .. } => "N",
            SettingForm::Bytes { .. } => "BYTES",
            SettingForm::Time { .. } => "TIME",
            SettingForm::Switch => "BOOL",
            SettingForm::Word { .. } => "WORD",
        }
    }

    pub fn default(&self) -> Option<&'static str> {
        match self.written {
            Written::Default(text) => Some(text),
            Written::Example(_) => None,
        }
    }

    pub fn is_secret(&self) -> bool {
        matches!(
            self.form,
            SettingForm::Text {
                is_secret: true,
                ..
            }
        )
    }

    /// A value of this setting as messages and tables show it.
    pub(super) fn masked<'t>(&self, text: &'t str) -> &'t str {
        if self.is_secret() { MASK } else { text }
    }
}

/// The environment's name of a key.
pub(super) fn variable(key: &str) -> String {
    format!("CENTRAL_{}", key.to_ascii_uppercase())
}
