//! Body framing: where the body of a request ends, and the body without its framing.
//!
//! Pure functions of bytes. Promises: the result does not depend on how the bytes were cut into
//! reads; a chunked body is decoded while it arrives, so its sizes, extensions and trailers are
//! never kept; a body longer than admitted is refused before its bytes are copied; every loop is
//! bounded by `limits`. `input` runs this for connections, unit tests and fuzz targets alike.

use std::borrow::Cow;

use super::head::{Framing, Head, is_text, is_token};
use super::refusal::Refusal;
use crate::limits::{
    CHUNK_EXTENSION_BYTES_MAX, CHUNK_EXTENSIONS_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, FIELDS_MAX,
    HEAD_BYTES_MAX,
};

/// From this size on the buffer of a body is reserved whole. It would take milliseconds to copy it
/// to larger ones, and memory that was never written to is not used up.
const RESERVED_BYTES_MIN: usize = 1024 * 1024;

/// Bytes of memory that a buffer uses.
pub(super) fn written_bytes(buffer: &Vec<u8>) -> usize {
    if buffer.capacity() > RESERVED_BYTES_MIN {
        buffer.len().max(RESERVED_BYTES_MIN)
    } else {
        buffer.capacity()
    }
}

/// The body of a request whose head is complete.
#[derive(Debug)]
pub(super) enum Framed<'a> {
    /// `len`: bytes of head and body as sent.
    Complete { body: Cow<'a, [u8]>, len: usize },
    /// `keep`: bytes of the request that are needed again when the rest has arrived.
    Partial { body: PartialBody, keep: usize },
}

/// A body of which a part is missing.
#[derive(Debug)]
pub enum PartialBody {
    /// Head and body have this many bytes together.
    Length {
        total: usize,
    },
    Chunked(Box<ChunkedBody>),
}

#[derive(Debug)]
pub struct ChunkedBody {
    decoder: Chunked,
    decoded: Vec<u8>,
}

/// Starts the body of a request. `request` begins with `head`.
pub(super) fn begin<'a>(
    head: &Head<'_>,
    request: &'a [u8],
    body_bytes_max: u64,
) -> Result<Framed<'a>, Refusal> {
    let after = &request[head.len..];
    match head.framing {
        Framing::None => Ok(Framed::Complete {
            body: Cow::Borrowed(&[]),
            len: head.len,
        }),
        Framing::Length(length) if length > body_bytes_max => Err(Refusal::BodyLong),
        Framing::Length(length) => {
            let total = head.len + length as usize;
            Ok(match request.get(head.len..total) {
                Some(body) => Framed::Complete {
                    body: Cow::Borrowed(body),
                    len: total,
                },
                None => Framed::Partial {
                    body: PartialBody::Length { total },
                    keep: request.len(),
                },
            })
        }
        Framing::Chunked => {
            let mut decoder = Chunked::new(body_bytes_max);
            let mut decoded = Vec::new();
            let fed = decoder.feed(after, &mut decoded)?;
            Ok(if fed.complete {
                Framed::Complete {
                    body: Cow::Owned(decoded),
                    len: head.len + fed.used,
                }
            } else {
                Framed::Partial {
                    body: PartialBody::Chunked(Box::new(ChunkedBody { decoder, decoded })),
                    keep: head.len,
                }
            })
        }
    }
}

/// Bytes of the body as sent, if all of them have arrived and can be skipped without decoding.
pub(super) fn skippable(framing: Framing, after_head: &[u8]) -> Option<usize> {
    match framing {
        Framing::None => Some(0),
        Framing::Length(length) if length <= after_head.len() as u64 => Some(length as usize),
        Framing::Length(_) | Framing::Chunked => None,
    }
}

impl PartialBody {
    /// Takes bytes that arrived later; what must be kept of them goes to the end of `kept`.
    /// Returns true if the body is complete.
    pub(super) fn add(&mut self, fresh: &[u8], kept: &mut Vec<u8>) -> Result<bool, Refusal> {
        match self {
            PartialBody::Length { total } => {
                if kept.len() + fresh.len() > kept.capacity() {
                    // Doubled as usual, but never above what is needed.
                    let wanted = if kept.capacity() < RESERVED_BYTES_MIN {
                        (2 * kept.capacity()).min(*total)
                    } else {
                        *total
                    };
                    kept.reserve_exact(wanted.saturating_sub(kept.len()).max(fresh.len()));
                }
                kept.extend_from_slice(fresh);
                Ok(kept.len() >= *total)
            }
            PartialBody::Chunked(body) => {
                let decoded = &mut body.decoded;
                let room = decoded.capacity() - decoded.len();
                if room < fresh.len() && decoded.capacity() >= RESERVED_BYTES_MIN {
                    let max = usize::try_from(body.decoder.body_bytes_max).unwrap_or(usize::MAX);
                    decoded.reserve_exact(max.saturating_sub(decoded.len()).max(fresh.len()));
                }
                let fed = body.decoder.feed(fresh, decoded)?;
                kept.extend_from_slice(&fresh[fed.used..]);
                Ok(fed.complete)
            }
        }
    }

    /// Bytes of memory besides those that `add` keeps.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            PartialBody::Length { .. } => 0,
            PartialBody::Chunked(body) => written_bytes(&body.decoded),
        }
    }

    /// The body after `add` returned true, and the bytes that belong to the request in `kept`.
    pub(super) fn finish(self, head_len: usize, kept: &[u8]) -> (Cow<'_, [u8]>, usize) {
        match self {
            PartialBody::Length { total } => (Cow::Borrowed(&kept[head_len..total]), total),
            PartialBody::Chunked(body) => (Cow::Owned(body.decoded), head_len),
        }
    }
}

/// Decoder of one chunked body, fed with pieces of any size.
#[derive(Debug)]
pub(super) struct Chunked {
    state: ChunkState,
    /// Size of the current chunk while its digits are read, then the bytes missing of it.
    left: u64,
    /// Significant digits of the current size.
    digits: u32,
    /// Extension bytes of the current chunk, leading zeros of its size included.
    extension_bytes: u32,
    /// Extension bytes of all chunks.
    extensions_bytes: u32,
    body_bytes: u64,
    body_bytes_max: u64,
    trailer_bytes: u32,
    trailer_fields: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    /// Before the first digit.
    SizeStart,
    Size,
    /// White space after the size: only an extension may follow.
    SizeSpace,
    Extension(ExtensionState),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// Position in a chunk extension (RFC 9112 section 7.1.1). A receiver that read on inside a quoted
/// string where another ends the line would see other requests, so the grammar is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExtensionState {
    /// After the semicolon.
    Start,
    Name,
    /// White space after the name.
    NameEnd,
    /// After the equals sign.
    ValueStart,
    Value,
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    /// After the closing quote.
    QuotedEnd,
    /// White space after the value: only another extension may follow.
    ValueEnd,
}

impl ExtensionState {
    /// Takes one byte; `None` if the grammar does not allow it here.
    fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, b' ' | b'\t') => Self::Start,
            (Self::Start | Self::Name, byte) if is_token(byte) => Self::Name,
            (Self::Name | Self::NameEnd, b' ' | b'\t') => Self::NameEnd,
            (Self::Name | Self::NameEnd, b'=') | (Self::ValueStart, b' ' | b'\t') => {
                Self::ValueStart
            }
            (Self::ValueStart, b'"') => Self::Quoted,
            (Self::ValueStart | Self::Value, byte) if is_token(byte) => Self::Value,
            (Self::Quoted, b'"') => Self::QuotedEnd,
            (Self::Quoted, b'\\') => Self::Escaped,
            (Self::Quoted | Self::Escaped, byte) if is_text(byte) => Self::Quoted,
            (Self::Value | Self::QuotedEnd | Self::ValueEnd, b' ' | b'\t') => Self::ValueEnd,
            (Self::Name | Self::NameEnd | Self::Value | Self::QuotedEnd | Self::ValueEnd, b';') => {
                Self::Start
            }
            _ => return None,
        })
    }

    /// Whether the line may end here.
    fn is_complete(self) -> bool {
        matches!(self, Self::Name | Self::Value | Self::QuotedEnd)
    }
}

/// Result of feeding one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fed {
    /// Bytes that belong to this body: the whole piece, unless the body is complete.
    pub(super) used: usize,
    pub(super) complete: bool,
}

impl Chunked {
    pub(super) fn new(body_bytes_max: u64) -> Self {
        Self {
            state: ChunkState::SizeStart,
            left: 0,
            digits: 0,
            extension_bytes: 0,
            extensions_bytes: 0,
            body_bytes: 0,
            body_bytes_max,
            trailer_bytes: 0,
            trailer_fields: 0,
        }
    }

    /// Appends the body bytes of `input` to `body`. Not to be called again after `complete`.
    pub(super) fn feed(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<Fed, Refusal> {
        let mut at = 0;
        while at < input.len() {
            if self.state == ChunkState::Data {
                let take = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(input.len() - at);
                body.extend_from_slice(&input[at..at + take]);
                at += take;
                self.left -= take as u64;
                if self.left == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            let complete = self.step(input[at])?;
            at += 1;
            if complete {
                return Ok(Fed {
                    used: at,
                    complete: true,
                });
            }
        }
        Ok(Fed {
            used: at,
            complete: false,
        })
    }

    /// Takes one byte that is not data. Returns true for the last byte of the body.
    fn step(&mut self, byte: u8) -> Result<bool, Refusal> {
        use ChunkState::{
            Data, DataCr, DataLf, EndLf, Extension, Size, SizeLf, SizeSpace, SizeStart, TrailerLf,
            TrailerName, TrailerStart, TrailerValue,
        };
        self.state = match (self.state, byte) {
            (SizeStart | Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digit(byte)?;
                Size
            }
            (Size | SizeSpace, b';') => {
                self.extension_byte()?;
                Extension(ExtensionState::Start)
            }
            (Size | SizeSpace, b' ' | b'\t') => {
                self.extension_byte()?;
                SizeSpace
            }
            (Size, b'\r') => SizeLf,
            (Extension(at), b'\r') if at.is_complete() => SizeLf,
            (Extension(at), byte) => {
                self.extension_byte()?;
                Extension(at.step(byte).ok_or(Refusal::ChunkExtension)?)
            }
            (SizeLf, b'\n') => self.size_known()?,
            (SizeStart | Size | SizeSpace | SizeLf, _) => return Err(Refusal::ChunkSize),
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => {
                self.left = 0;
                self.digits = 0;
                self.extension_bytes = 0;
                SizeStart
            }
            (DataCr | DataLf | Data, _) => return Err(Refusal::ChunkEnd),
            (TrailerStart | TrailerName | TrailerValue | TrailerLf | EndLf, byte) => {
                return self.trailer_step(byte);
            }
        };
        Ok(false)
    }

    /// Takes one byte of the trailers. Returns true for the last byte of the body.
    fn trailer_step(&mut self, byte: u8) -> Result<bool, Refusal> {
        use ChunkState::{EndLf, TrailerLf, TrailerName, TrailerStart, TrailerValue};
        self.state = match (self.state, byte) {
            (TrailerStart, b'\r') => EndLf,
            (EndLf, b'\n') => return Ok(true),
            (TrailerStart, byte) if is_token(byte) => {
                self.trailer_fields += 1;
                if self.trailer_fields > FIELDS_MAX as u32 {
                    return Err(Refusal::FieldsMany);
                }
                self.trailer_byte()?;
                TrailerName
            }
            (TrailerName, byte) if is_token(byte) => {
                self.trailer_byte()?;
                TrailerName
            }
            (TrailerName, b':') => {
                self.trailer_byte()?;
                TrailerValue
            }
            (TrailerValue, b'\r') => TrailerLf,
            (TrailerValue, byte) if is_text(byte) => {
                self.trailer_byte()?;
                TrailerValue
            }
            (TrailerLf, b'\n') => TrailerStart,
            _ => return Err(Refusal::Trailer),
        };
        Ok(false)
    }

    fn digit(&mut self, byte: u8) -> Result<(), Refusal> {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        if self.digits == 0 && value == 0 {
            // Leading zeros have no meaning; they are bounded like an extension.
            return self.extension_byte();
        }
        self.digits += 1;
        if self.digits > CHUNK_SIZE_DIGITS_MAX {
            return Err(Refusal::ChunkSize);
        }
        self.left = self.left << 4 | u64::from(value);
        Ok(())
    }

    fn size_known(&mut self) -> Result<ChunkState, Refusal> {
        if self.left == 0 {
            return Ok(ChunkState::TrailerStart);
        }
        self.body_bytes = self
            .body_bytes
            .checked_add(self.left)
            .filter(|bytes| *bytes <= self.body_bytes_max)
            .ok_or(Refusal::BodyLong)?;
        Ok(ChunkState::Data)
    }

    fn extension_byte(&mut self) -> Result<(), Refusal> {
        self.extension_bytes += 1;
        self.extensions_bytes += 1;
        if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX
            || self.extensions_bytes > CHUNK_EXTENSIONS_BYTES_MAX
        {
            return Err(Refusal::ChunkExtension);
        }
        Ok(())
    }

    fn trailer_byte(&mut self) -> Result<(), Refusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > HEAD_BYTES_MAX as u32 {
            return Err(Refusal::HeadLong);
        }
        Ok(())
    }
}
