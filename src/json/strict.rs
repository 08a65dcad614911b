//! The strict reader of JSON: untrusted bytes in, a value or one exact error out.
//!
//! Refuses what RFC 8259 refuses, and, of what it leaves open, everything that could not be stored
//! and returned unchanged: duplicate keys, lone surrogates, U+0000, a byte order mark, integers
//! beyond 64 bits, doubles that overflow or underflow, nesting deeper than `DEPTH_MAX`. One pass,
//! time linear in the length, recursion bounded by the depth. An error has a byte offset, a JSON
//! pointer and a sentence.

use super::key::{self, Names};
use super::{Key, Number, Object, Value, push_pointer};

/// Maximum nesting of arrays and objects. The deepest path of the schema has 9 levels; this bounds
/// every recursion over a document.
pub const DEPTH_MAX: usize = 64;

/// Maximum length of a number. The longest exact double needs 767 digits; more only costs time.
pub(super) const NUMBER_CHARS_MAX: usize = 1024;

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// `invalid_json`, `invalid_utf8`, `byte_order_mark`, `json_too_deep`, `duplicate_key`,
    /// `lone_surrogate`, `nul_character`, `number_out_of_range`.
    pub code: &'static str,
    /// Byte of the body at which reading stopped.
    pub offset: usize,
    /// JSON pointer of the value being read.
    pub pointer: String,
    /// One sentence in plain English, with the offset.
    pub title: String,
}

/// Reads one JSON text that fills the whole body.
pub(super) fn read(body: &[u8]) -> Result<Value, ParseError> {
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(Fault::at(
            "byte_order_mark",
            0,
            "JSON must not begin with a byte order mark",
        )
        .finish());
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        Fault::at(
            "invalid_utf8",
            error.valid_up_to(),
            "The body is not valid UTF-8",
        )
        .finish()
    })?;
    let mut reader = Reader {
        text,
        bytes: body,
        at: 0,
        depth: 0,
        names: key::names(),
        members: Vec::new(),
        items: Vec::new(),
    };
    reader.document().map_err(Fault::finish)
}

/// An error on its way out of the recursion; each level adds its step of the pointer. Boxed to keep
/// results small.
struct Fault(Box<FaultDetails>);

struct FaultDetails {
    code: &'static str,
    offset: usize,
    what: String,
    /// Innermost first.
    steps: Vec<String>,
}

impl Fault {
    #[cold]
    fn at(code: &'static str, offset: usize, what: impl Into<String>) -> Self {
        Self(Box::new(FaultDetails {
            code,
            offset,
            what: what.into(),
            steps: Vec::new(),
        }))
    }

    #[cold]
    fn inside(mut self, step: String) -> Self {
        self.0.steps.push(step);
        self
    }

    fn finish(self) -> ParseError {
        let FaultDetails {
            code,
            offset,
            what,
            steps,
        } = *self.0;
        let mut pointer = String::new();
        for step in steps.iter().rev() {
            push_pointer(&mut pointer, step);
        }
        ParseError {
            code,
            offset,
            pointer,
            title: format!("{what} (byte {offset})."),
        }
    }
}

type Read<T> = Result<T, Fault>;

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    names: &'static Names,
    /// Members and items of all open objects and arrays. When one closes, its own are split off in
    /// one exact allocation.
    members: Vec<(Key, Value)>,
    items: Vec<Value>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Read<Value> {
        self.skip_space();
        if self.at == self.bytes.len() {
            return Err(Fault::at("invalid_json", self.at, "The body is empty"));
        }
        let value = self.value()?;
        self.skip_space();
        if self.at < self.bytes.len() {
            return Err(Fault::at(
                "invalid_json",
                self.at,
                "Unexpected data after the JSON value",
            ));
        }
        Ok(value)
    }

    /// The next byte is the first of the value: space has been skipped.
    fn value(&mut self) -> Read<Value> {
        match self.peek() {
            Some(b'"') => Ok(Value::String(self.string()?.into_box())),
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn enter(&mut self) -> Read<()> {
        if self.depth == DEPTH_MAX {
            return Err(Fault::at(
                "json_too_deep",
                self.at,
                format!("Arrays and objects may be nested at most {DEPTH_MAX} levels deep"),
            ));
        }
        self.depth += 1;
        Ok(())
    }

    fn array(&mut self) -> Read<Value> {
        self.enter()?;
        let first = self.items.len();
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.depth -= 1;
            return Ok(Value::Array(Vec::new()));
        }
        loop {
            // Counted before the value is read: one that fails leaves its own items on the stack.
            let index = self.items.len() - first;
            match self.value() {
                Ok(item) => self.items.push(item),
                Err(fault) => return Err(fault.inside(index.to_string())),
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("',' or ']'")),
            }
            self.skip_space();
        }
        self.at += 1;
        self.depth -= 1;
        Ok(Value::Array(self.items.split_off(first)))
    }

    fn object(&mut self) -> Read<Value> {
        self.enter()?;
        let first = self.members.len();
        let start = self.at;
        let mut ascending = true;
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.depth -= 1;
            return Ok(Value::Object(Object::new()));
        }
        loop {
            let key = self.key()?;
            ascending = ascending && (self.members.len() == first || self.last_key() < &key);
            match self.value() {
                Ok(value) => self.members.push((key, value)),
                Err(fault) => return Err(fault.inside(key.to_string())),
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected("',' or '}'")),
            }
            self.skip_space();
        }
        self.at += 1;
        if !ascending {
            let members = &mut self.members[first..];
            members.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                let key = pair[0].0.clone();
                let offset = self.second(start, &key)?;
                return Err(Fault::at(
                    "duplicate_key",
                    offset,
                    "Duplicate key: an object must not have a key twice",
                )
                .inside(key.to_string()));
            }
        }
        self.depth -= 1;
        Ok(Value::Object(Object::from_sorted(
            self.members.split_off(first),
        )))
    }

    fn last_key(&self) -> &Key {
        &self.members[self.members.len() - 1].0
    }

    /// Reads a key, its colon and the space around them; stops at the value.
    #[inline]
    fn key(&mut self) -> Read<Key> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key in double quotes"));
        }
        let key = self.string()?.into_key(self.names);
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("':'").inside(key.to_string()));
        }
        self.at += 1;
        self.skip_space();
        Ok(key)
    }

    /// Offset at which a key is given the second time in the well-formed object that begins at
    /// `start`. Only for the error, so the object is read again.
    fn second(&mut self, start: usize, wanted: &str) -> Read<usize> {
        self.at = start;
        let mut seen = false;
        loop {
            self.at += 1;
            self.skip_space();
            let offset = self.at;
            if *self.key()? == *wanted {
                if seen {
                    return Ok(offset);
                }
                seen = true;
            }
            self.value()?;
            self.skip_space();
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Read<Value> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Read<Number> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let digits = self.at;
        // Wrapping is harmless: the value is used only when there were at most 19 digits.
        let mut integer = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            integer = integer
                .wrapping_mul(10)
                .wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        let count = self.at - digits;
        if count == 0 {
            return Err(self.unexpected("a digit"));
        }
        if count > 1 && self.bytes[digits] == b'0' {
            return Err(Fault::at(
                "invalid_json",
                digits,
                "A number must not begin with a zero",
            ));
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return self.float(start);
        }
        let too_large = || {
            Fault::at(
                "number_out_of_range",
                start,
                "An integer must fit in 64 bits",
            )
        };
        if count > 19 {
            // A 64-bit integer has at most 20 digits.
            let text = &self.text[digits..self.at];
            integer = if count == 20 {
                text.parse().map_err(|_| too_large())?
            } else {
                return Err(too_large());
            };
        }
        match (negative, integer) {
            (false, integer) => Ok(Number::Unsigned(integer)),
            // Minus zero is the integer zero; as a double it keeps its sign.
            (true, 0) => Ok(Number::Unsigned(0)),
            (true, integer) => 0_i64
                .checked_sub_unsigned(integer)
                .map(Number::Negative)
                .ok_or_else(too_large),
        }
    }

    /// The next byte is the decimal point or the exponent.
    fn float(&mut self, start: usize) -> Read<Number> {
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if text.len() > NUMBER_CHARS_MAX {
            return Err(Fault::at(
                "number_out_of_range",
                start,
                format!("A number may have at most {NUMBER_CHARS_MAX} characters"),
            ));
        }
        let value: f64 = text
            .parse()
            .map_err(|_| Fault::at("invalid_json", start, "Invalid number"))?;
        let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
        if value.is_infinite()
            || (value == 0.0 && mantissa.contains(|digit| matches!(digit, '1'..='9')))
        {
            return Err(Fault::at(
                "number_out_of_range",
                start,
                "A number must fit in a 64-bit float",
            ));
        }
        match exact_form(text) {
            FloatText::Integer(integer) if value.abs() >= Number::EXACT_MAX => Ok(integer),
            // Its fraction was rounded away.
            FloatText::Fraction if value.fract() == 0.0 => Err(Fault::at(
                "number_out_of_range",
                start,
                "A number with a fraction must not become an integer as a 64-bit float",
            )),
            _ => Ok(Number::Float(value)),
        }
    }

    fn digits(&mut self) -> Read<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            Err(self.unexpected("a digit"))
        } else {
            Ok(())
        }
    }

    /// The next byte is the opening quote; stops behind the closing one.
    #[inline]
    fn string(&mut self) -> Read<ParsedString<'a>> {
        let start = self.at + 1;
        let end = special_from(self.bytes, start).ok_or_else(|| self.unfinished())?;
        if self.bytes[end] == b'"' {
            self.at = end + 1;
            return Ok(ParsedString::Plain(&self.text[start..end]));
        }
        self.escaped(start, end).map(ParsedString::Escaped)
    }

    #[cold]
    fn escaped(&mut self, start: usize, first: usize) -> Read<String> {
        let mut out = String::from(&self.text[start..first]);
        self.at = first;
        loop {
            match self.bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(out);
                }
                b'\\' => out.push(self.escape()?),
                _ => {
                    return Err(Fault::at(
                        "invalid_json",
                        self.at,
                        "A control character in a string must be escaped",
                    ));
                }
            }
            let next = special_from(self.bytes, self.at).ok_or_else(|| self.unfinished())?;
            out.push_str(&self.text[self.at..next]);
            self.at = next;
        }
    }

    /// The next byte is the backslash; stops behind the escape.
    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        let letter = *self.bytes.get(start + 1).ok_or_else(|| self.unfinished())?;
        self.at += 2;
        Ok(match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let lone = || {
                    Fault::at(
                        "lone_surrogate",
                        start,
                        "Lone surrogate: a surrogate escape must be part of a pair",
                    )
                };
                let code = match self.hex()? {
                    high @ 0xd800..=0xdbff => {
                        if !self.bytes[self.at..].starts_with(b"\\u") {
                            return Err(lone());
                        }
                        self.at += 2;
                        match self.hex()? {
                            low @ 0xdc00..=0xdfff => {
                                0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                            }
                            _ => return Err(lone()),
                        }
                    }
                    code => code,
                };
                if code == 0 {
                    return Err(Fault::at(
                        "nul_character",
                        start,
                        "The character U+0000 is not allowed",
                    ));
                }
                char::from_u32(code).ok_or_else(lone)?
            }
            _ => return Err(Fault::at("invalid_json", start, "Invalid escape sequence")),
        })
    }

    fn hex(&mut self) -> Read<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.unexpected("four hexadecimal digits"))?;
            self.at += 1;
        }
        Ok(code)
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        // Most tokens have no space between them.
        if self.peek().is_some_and(|byte| byte > b' ') {
            return;
        }
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    #[cold]
    fn unexpected(&self, expected: &str) -> Fault {
        let what = match self
            .text
            .get(self.at..)
            .and_then(|rest| rest.chars().next())
        {
            Some(found) => format!("Expected {expected}, found {found:?}"),
            None => format!("Expected {expected}, found the end of the body"),
        };
        Fault::at("invalid_json", self.at, what)
    }

    #[cold]
    fn unfinished(&self) -> Fault {
        Fault::at("invalid_json", self.bytes.len(), "Unterminated string")
    }
}

/// A string of the body, borrowed unless it has escapes.
enum ParsedString<'a> {
    Plain(&'a str),
    Escaped(String),
}

impl ParsedString<'_> {
    fn into_key(self, names: &Names) -> Key {
        match self {
            ParsedString::Plain(text) => Key::with(names, text),
            ParsedString::Escaped(text) => Key::with(names, &text),
        }
    }

    fn into_box(self) -> Box<str> {
        match self {
            ParsedString::Plain(text) => text.into(),
            ParsedString::Escaped(text) => text.into(),
        }
    }
}

/// Position of the first quote, backslash or control character at or after `from`. Reads eight
/// bytes at a time.
#[inline]
pub(crate) fn special_from(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The lowest set bit is exact; a borrow can only set wrong bits above a right one.
    const fn zero_bytes(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word & HIGHS
    }
    const fn special_bytes(word: u64) -> u64 {
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        zero_bytes(word ^ (ONES * 0x22)) | zero_bytes(word ^ (ONES * 0x5c)) | control
    }
    let mut at = from;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes"));
        let hits = special_bytes(word);
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    // Two words that overlap cover four to seven bytes; most texts have none in them.
    if let (Some(first), Some(last)) = (rest.first_chunk(), rest.last_chunk()) {
        let halves = [u32::from_le_bytes(*first), u32::from_le_bytes(*last)].map(u64::from);
        if special_bytes(halves[0] | halves[1] << 32) == 0 {
            return None;
        }
    }
    rest.iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
        .map(|found| at + found)
}

/// What a number with a point or an exponent is exactly.
enum FloatText {
    Fraction,
    Integer(Number),
    /// An integer that does not fit in 64 bits.
    LargeInteger,
}

fn exact_form(text: &str) -> FloatText {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let zeros = (all.len() - digits.len()) as i64 - fraction.len() as i64;
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return FloatText::Integer(Number::Unsigned(0));
    }
    let scale = match exponent.parse::<i64>() {
        Ok(exponent) => exponent.saturating_add(zeros),
        // More digits than a number can use: far too large or far too small.
        Err(_) if exponent.starts_with('-') => return FloatText::Fraction,
        Err(_) => return FloatText::LargeInteger,
    };
    if scale < 0 {
        return FloatText::Fraction;
    }
    let integer = u32::try_from(scale)
        .ok()
        .and_then(|scale| 10_u64.checked_pow(scale))
        .and_then(|scale| digits.parse::<u64>().ok()?.checked_mul(scale));
    let integer = integer.and_then(|integer| {
        if negative {
            0_i64.checked_sub_unsigned(integer).map(Number::Negative)
        } else {
            Some(Number::Unsigned(integer))
        }
    });
    integer.map_or(FloatText::LargeInteger, FloatText::Integer)
}
