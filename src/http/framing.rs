//! Framing of request bodies: where the body ends.

use super::head::{Framing, is_text, is_token};
use super::refusal::Refusal;
use crate::limits::{
    CHUNK_EXTENSION_BYTES_MAX, CHUNK_EXTENSIONS_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, FIELDS_MAX,
    HEAD_BYTES_MAX,
};

/// Decodes one chunked body, fed in pieces of any size.
#[derive(Debug)]
pub struct Chunked {
    state: ChunkState,
    /// Of the current chunk: its size while it is read, then what is left of it.
    left: u64,
    /// Significant digits of the current size.
    digits: u32,
    /// Of the current chunk, leading zeros of its size included.
    extension_bytes: u32,
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
    Extension,
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

/// What became of a piece of a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed {
    /// Bytes that belong to this body. All of them, unless it is complete.
    pub used: usize,
    pub complete: bool,
}

impl Chunked {
    pub fn new(body_bytes_max: u64) -> Self {
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

    /// Appends what `input` holds of the body to `body`. After `complete` it must not be fed again.
    pub fn feed(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<Fed, Refusal> {
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

    /// One byte that is not data. `true` with the last byte of the body.
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
                Extension
            }
            (Size | SizeSpace, b' ' | b'\t') => {
                self.extension_byte()?;
                SizeSpace
            }
            (Size | Extension, b'\r') => SizeLf,
            (Extension, byte) if is_text(byte) => {
                self.extension_byte()?;
                Extension
            }
            (Extension, _) => return Err(Refusal::ChunkExtension),
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
            (TrailerStart | TrailerName | TrailerValue | TrailerLf | EndLf, _) => {
                return Err(Refusal::Trailer);
            }
        };
        Ok(false)
    }

    fn digit(&mut self, byte: u8) -> Result<(), Refusal> {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        if self.digits == 0 && value == 0 {
            // A leading zero means nothing; that there are not endlessly many is checked like an extension.
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

/// The body after a head, of which `rest` has arrived. For callers that have all bytes at hand; `conn` does the same in steps.
pub enum Whole<'a> {
    Complete {
        body: std::borrow::Cow<'a, [u8]>,
        used: usize,
    },
    Partial,
}

pub fn body(framing: Framing, rest: &[u8], body_bytes_max: u64) -> Result<Whole<'_>, Refusal> {
    match framing {
        Framing::None => Ok(Whole::Complete {
            body: (&[][..]).into(),
            used: 0,
        }),
        Framing::Length(length) if length > body_bytes_max => Err(Refusal::BodyLong),
        Framing::Length(length) => Ok(match rest.get(..length as usize) {
            Some(body) => Whole::Complete {
                body: body.into(),
                used: body.len(),
            },
            None => Whole::Partial,
        }),
        Framing::Chunked => {
            let mut body = Vec::new();
            let fed = Chunked::new(body_bytes_max).feed(rest, &mut body)?;
            Ok(if fed.complete {
                Whole::Complete {
                    body: body.into(),
                    used: fed.used,
                }
            } else {
                Whole::Partial
            })
        }
    }
}
