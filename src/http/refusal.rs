//! Refusals: why a request is malformed or not supported, and the error the client gets.
//!
//! Every refusal ends the connection, because the start of the next request is unknown.

use crate::error::{self, ApiError};

/// Why a request is refused before its meaning is considered. All but the last are faults of the
/// client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    RequestLine,
    Version,
    MethodUnknown,
    MethodRefused,
    Target,
    TargetLong,
    HeadLong,
    FieldsMany,
    Field,
    LineEnd,
    Host,
    ContentLength,
    TransferEncoding,
    TransferCoding,
    LengthAndChunked,
    AuthorizationTwice,
    Expectation,
    ContentCoding,
    ChunkSize,
    ChunkExtension,
    ChunkEnd,
    Trailer,
    BodyLong,
    BuffersFull,
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::RequestLine => error::BAD_REQUEST_LINE,
            Refusal::Version => error::HTTP_VERSION,
            Refusal::MethodUnknown => error::METHOD_UNKNOWN,
            Refusal::MethodRefused => error::METHOD_NOT_ALLOWED,
            Refusal::Target => error::BAD_TARGET,
            Refusal::TargetLong => error::TARGET_TOO_LONG,
            Refusal::HeadLong => error::HEAD_TOO_LARGE,
            Refusal::FieldsMany => error::TOO_MANY_FIELDS,
            Refusal::Field => error::BAD_FIELD,
            Refusal::LineEnd => error::BAD_LINE_END,
            Refusal::Host => error::BAD_HOST,
            Refusal::ContentLength => error::BAD_CONTENT_LENGTH,
            Refusal::TransferEncoding => error::BAD_TRANSFER_ENCODING,
            Refusal::TransferCoding => error::TRANSFER_CODING_UNKNOWN,
            Refusal::LengthAndChunked => error::AMBIGUOUS_LENGTH,
            Refusal::AuthorizationTwice => error::BAD_AUTHORIZATION,
            Refusal::Expectation => error::EXPECTATION_UNKNOWN,
            Refusal::ContentCoding => error::CONTENT_CODING_UNKNOWN,
            Refusal::ChunkSize => error::BAD_CHUNK_SIZE,
            Refusal::ChunkExtension => error::BAD_CHUNK_EXTENSION,
            Refusal::ChunkEnd => error::BAD_CHUNK_END,
            Refusal::Trailer => error::BAD_TRAILER,
            Refusal::BodyLong => error::BODY_TOO_LARGE,
            Refusal::BuffersFull => error::BUFFERS_FULL,
        };
        code.error()
    }
}
