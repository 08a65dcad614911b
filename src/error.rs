//! Why a request is refused: one constant per error code, for code and document.
//!
//! An [`ApiError`] is one status with one or more items; `http` renders it. Codes are stable, for
//! programs; titles are sentences for people and may be more specific than the constant's. The
//! cause of a server error goes to the log, never to the client.

use std::borrow::Cow;

/// One documented error: its status, its stable code, and the title it has by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    pub status: u16,
    pub code: &'static str,
    pub title: &'static str,
    /// Seconds for `Retry-After`; 0: the field is not sent.
    pub retry_after_seconds: u32,
}

macro_rules! error_codes {
    ($($name:ident = $status:literal $code:literal $title:literal $($retry:literal)?;)*) => {
        $(pub const $name: ErrorCode = ErrorCode {
            status: $status,
            code: $code,
            title: $title,
            retry_after_seconds: 0 $(+ $retry)?,
        };)*
        #[cfg(test)]
        const ALL: &[ErrorCode] = &[$($name),*];
    };
}

#[rustfmt::skip]
error_codes! {
    // The form of the request.
    BAD_REQUEST_LINE = 400 "bad_request_line"
        "The request line must be METHOD SP TARGET SP VERSION";
    HTTP_VERSION = 505 "http_version" "The server speaks HTTP/1.1 and HTTP/1.0";
    METHOD_UNKNOWN = 501 "method_unknown" "Unknown method";
    METHOD_NOT_ALLOWED = 405 "method_not_allowed" "This path does not serve this method";
    BAD_TARGET = 400 "bad_target" "The request target contains characters that are not allowed";
    TARGET_TOO_LONG = 414 "target_too_long" "The request target is too long";
    HEAD_TOO_LARGE = 431 "head_too_large" "The header fields are too large";
    TOO_MANY_FIELDS = 431 "too_many_fields" "There are too many header fields";
    BAD_FIELD = 400 "bad_field" "A header field is malformed";
    BAD_LINE_END = 400 "bad_line_end" "Lines must end with CR LF";
    BAD_HOST = 400 "bad_host" "There must be exactly one valid Host field";
    BAD_CONTENT_LENGTH = 400 "bad_content_length" "Content-Length must be one decimal number";
    BAD_TRANSFER_ENCODING = 400 "bad_transfer_encoding"
        "Transfer-Encoding must be `chunked` and nothing else";
    TRANSFER_CODING_UNKNOWN = 501 "transfer_coding_unknown"
        "The only transfer coding served is `chunked`";
    AMBIGUOUS_LENGTH = 400 "ambiguous_length"
        "Content-Length and Transfer-Encoding exclude each other";
    BAD_AUTHORIZATION = 400 "bad_authorization" "There must be at most one Authorization field";
    EXPECTATION_UNKNOWN = 417 "expectation_unknown" "The only expectation served is `100-continue`";
    CONTENT_CODING_UNKNOWN = 415 "content_coding_unknown"
        "Bodies must be sent without a content coding";
    BAD_CHUNK_SIZE = 400 "bad_chunk_size" "A chunk size is malformed";
    BAD_CHUNK_EXTENSION = 400 "bad_chunk_extension" "A chunk extension is malformed or too long";
    BAD_CHUNK_END = 400 "bad_chunk_end" "A chunk does not end after its size";
    BAD_TRAILER = 400 "bad_trailer" "A trailer field is malformed";
    BODY_TOO_LARGE = 413 "body_too_large" "The body is larger than this operation accepts";
    REQUEST_TIMEOUT = 408 "request_timeout" "The request did not arrive in time";
    TOO_MANY_CONNECTIONS = 503 "too_many_connections"
        "The server has no room for more connections" 1;
    BUFFERS_FULL = 503 "server_busy"
        "The server holds too much of unfinished requests and unsent answers" 1;
    ADDRESS_CONNECTIONS = 503 "too_many_connections_of_address"
        "This address has half of all connections, the most that one address may have" 1;
    // Authorization.
    TOO_MANY_FAILURES = 429 "too_many_failures"
        "Too many wrong credentials from this address; repeat the request later" 1;
    UNAUTHORIZED = 401 "unauthorized" "Invalid credentials";
    AGENT_CHALLENGE = 401 "agent_challenge"
        "The agent must prove that it knows its key: see X-Nonce and X-Salt";
    FORBIDDEN = 403 "forbidden" "The token lacks permission for this operation";
    WRONG_CLUSTER_KEY = 403 "wrong_cluster_key"
        "The cluster key does not match this streamer, or its signature has expired";
    AGENT_UNKNOWN = 403 "agent_unknown" "No agent with this id may connect";
    AUTHENTICATION_FAILED = 403 "authentication_failed"
        "The agent has not proved that it knows its key";
    SESSION_DENIED = 403 "session_denied" "This session may not play the stream";
    TOO_MANY_SESSIONS = 403 "too_many_sessions"
        "The user has reached the limit of sessions; newer sessions have replaced this one";
    SESSION_STREAM_NOT_FOUND = 403 "stream_not_found" "No stream has this name";
    SESSION_BACKEND_NOT_FOUND = 403 "auth_backend_not_found"
        "The authorization backend of this stream does not exist";
    // Parameters and bodies.
    MISSING_REQUIRED = 400 "missing_required" "Required";
    NOT_OBJECT = 400 "not_object" "Must be a JSON object";
    NOT_ARRAY = 400 "not_array" "Must be an array";
    NOT_STRING = 400 "not_string" "Must be a string";
    NOT_INTEGER = 400 "not_integer" "Must be an integer";
    NOT_BOOLEAN = 400 "not_boolean" "Must be true or false";
    NULL_IN_ARRAY_OF_NON_NULLABLE = 400 "null_in_array_of_non_nullable"
        "An element of this array must not be null";
    WRONG_FORMAT = 400 "wrong_format" "Wrong format";
    TOO_SHORT = 400 "too_short" "Too short";
    TOO_LONG = 400 "too_long" "Too long";
    TOO_MANY_ITEMS = 400 "too_many_items" "Too many items";
    TOO_DEEP = 400 "too_deep" "The path has too many parts";
    INPUT_OUT_OF_RANGE = 400 "input_out_of_range" "Out of range";
    OUT_OF_RANGE = 400 "out_of_range" "Out of range";
    UNKNOWN_ENUM_OPTION = 400 "unknown_enum_option" "Must be one of the documented values";
    NOMATCH_PATTERN = 400 "nomatch_pattern" "Must match the documented pattern";
    DUPLICATE_ITEM = 400 "duplicate_item" "Duplicate item";
    NOT_UNIQUE = 400 "not_unique" "Another entity has this value";
    KEY_MISMATCH = 400 "key_mismatch"
        "The key in the body differs from the path; keys cannot be changed";
    IMMUTABLE_FIELD = 400 "immutable_field" "The field is set at creation and cannot be changed";
    DUPLICATE_NODE = 400 "duplicate_node" "A node can have one slot of a stream only";
    NAMESPACE_MISMATCH = 400 "namespace_mismatch"
        "The stream and the node are in different namespaces";
    WRONG_NODE_ROLE = 400 "wrong_node_role" "The node has another role";
    NOT_COMBINABLE = 400 "not_combinable" "The parameters cannot be combined";
    BAD_CURSOR = 400 "bad_cursor" "The cursor is damaged or belongs to another query";
    SECRET_FIELD = 400 "secret_field" "Secrets can be neither filtered nor sorted by";
    STREAMER_CHECK_FAILED = 400 "streamer_check_failed"
        "The streamer did not return its configuration; nothing was changed";
    KEY_NEEDED_FOR_CHECK = 400 "key_needed_for_check"
        "The stored cluster key is not sent to a new address; the body must contain `cluster_key`";
    NOT_NUMBER = 400 "not_number" "Must be a number";
    INVALID_TYPE = 400 "invalid_type" "Must have the documented type";
    UNKNOWN_PARAMETER = 400 "unknown_parameter" "Unknown query parameter";
    UNKNOWN_FIELD = 400 "unknown_field" "Unknown field";
    UNKNOWN_MEMBER = 400 "unknown_member" "Unknown member";
    UNKNOWN_STREAM = 400 "stream_not_found" "No stream has this name";
    UNKNOWN_STREAMER = 400 "streamer_not_found" "No streamer has this hostname";
    UNKNOWN_AGENT = 400 "agent_not_found" "No agent has this id";
    BATCH_TOO_LONG = 413 "too_many_items" "Too many items";
    // Unknown paths, entities and revisions.
    NOT_FOUND = 404 "not_found" "No operation has this path";
    STREAM_NOT_FOUND = 404 "stream_not_found" "No stream has this name";
    STREAMER_NOT_FOUND = 404 "streamer_not_found" "No streamer has this hostname";
    EPISODE_NOT_FOUND = 404 "episode_not_found" "No episode has this id";
    EVENT_NOT_FOUND = 404 "event_not_found" "No event that is kept has this id";
    PERSON_NOT_FOUND = 404 "person_not_found" "No person has this id";
    AGENT_NOT_FOUND = 404 "agent_not_found" "No agent has this id";
    AUTH_BACKEND_NOT_FOUND = 404 "auth_backend_not_found" "No authorization backend has this name";
    API_TOKEN_NOT_FOUND = 404 "api_token_not_found" "No API token has this name";
    BALANCER_NOT_FOUND = 404 "balancer_not_found" "No load balancer has this name";
    REVISION_GONE = 410 "revision_gone"
        "The changes since this revision are no longer kept; request the whole list";
    WALK_EXPIRED = 410 "walk_expired"
        "The revision of this cursor is no longer kept; begin with the first page";
    // Conditions.
    PRECONDITION_FAILED = 412 "precondition_failed"
        "The stored version is not in `If-Match`: the entity was changed or does not exist";
    // The server and what it depends on.
    AGENT_OFFLINE = 409 "agent_offline" "The agent is not connected";
    ILLEGAL_LAYOUT = 409 "illegal_layout"
        "The labels forbid the node to have the stream; `force` places it there all the same";
    LAYOUTER_DISABLED = 409 "layouter_disabled" "The layouter is switched off";
    CONFIG_FILE_INVALID = 409 "config_file_invalid"
        "The configuration file is invalid; see the log. Nothing was changed";
    CONFIG_FILE_UNWRITABLE = 409 "config_file_unwritable"
        "The configuration file cannot be replaced; see the log. Nothing was changed";
    INTERNAL_ERROR = 500 "internal_error"
        "Internal error; search the server's log for the trace id";
    INCONSISTENT_STATE = 500 "inconsistent_state"
        "The configuration of this streamer is inconsistent and is withheld";
    EPISODES_UNKNOWN = 501 "episodes_unknown"
        "The list of episodes may be incomplete; keep all recordings";
    AGENT_CONNECTION_CLOSED = 502 "agent_connection_closed"
        "The connection to the agent ended before its reply; the command may or may not \
         have been executed";
    AGENT_REFUSED = 502 "agent_refused" "The agent refused the command";
    AGENT_TIMEOUT = 504 "agent_timeout"
        "The agent did not reply in time; the command may or may not have been executed";
    NO_STREAMER_AVAILABLE = 503 "no_streamer_available"
        "No streamer of this load balancer is eligible now" 5;
    NO_PUBLIC_ADDRESS = 503 "no_public_address"
        "The streamers of this load balancer have no address for players; set `public_payload_url`"
        5;
    AGENT_BUSY = 503 "agent_busy" "The agent cannot take another command now; repeat the request" 1;
    SHUTTING_DOWN = 503 "shutting_down" "The server is stopping; repeat the request" 1;
    LAYOUTER_BUSY = 503 "layouter_busy"
        "The layouter does not answer in time; repeat the request" 2;
    OVERLOADED = 503 "overloaded" "The server is overloaded; repeat the request" 2;
    TOO_EXPENSIVE = 503 "too_expensive"
        "The list takes too long; use fewer filters, or repeat the request later" 2;
    TIMED_OUT = 503 "timed_out"
        "The request timed out. A change may or may not have taken effect; repeat the \
         request" 2;
    NOT_READY = 503 "not_ready" "The store does not accept writes" 2;
    DISK_FULL = 503 "disk_full" "The disk is full: only deletions are accepted" 10;
    NO_RANDOMNESS = 503 "no_randomness"
        "No key can be generated: the system provides no randomness" 2;
    STORAGE_FAILED = 503 "storage_failed"
        "The store failed while this change was being written; it may or may not have \
         taken effect" 2;
    STORAGE_UNAVAILABLE = 503 "storage_unavailable"
        "The store does not accept writes; nothing was changed" 2;
    WRITER_BUSY = 503 "writer_busy"
        "Too many changes are waiting to be written; repeat the request" 1;
}

impl ErrorCode {
    /// The error with the constant's own title.
    pub fn error(self) -> ApiError {
        self.titled(self.title)
    }

    /// The error with a more specific title than the constant's.
    pub fn titled(self, title: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError {
            status: self.status,
            items: vec![ErrorItem {
                code: self.code,
                title: title.into(),
                pointer: None,
                parameter: None,
                meta: Vec::new(),
            }],
            retry_after_seconds: (self.retry_after_seconds > 0).then_some(self.retry_after_seconds),
        }
    }
}

/// Why a request was refused. Cheap to build, rendered once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub status: u16,
    /// Never empty. The status belongs to all of them.
    pub items: Vec<ErrorItem>,
    /// Seconds for `Retry-After`, on 429 and 503.
    pub retry_after_seconds: Option<u32>,
}

/// One fact about what was wrong and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorItem {
    /// Stable, for programs.
    pub code: &'static str,
    /// One sentence, for people. Never contains a secret or an internal name.
    pub title: Cow<'static, str>,
    /// JSON pointer into the body.
    pub pointer: Option<String>,
    /// Name of the query parameter or path segment.
    pub parameter: Option<String>,
    pub meta: Vec<(&'static str, String)>,
}

impl ApiError {
    /// A failure of ours; `id` finds its cause in the log.
    pub fn internal(id: &str) -> Self {
        INTERNAL_ERROR.error().with("id", id)
    }

    /// A place in a body that a reader with codes of its own refuses: JSON syntax, schemas.
    pub fn bad_body(
        pointer: impl Into<String>,
        code: &'static str,
        title: impl Into<Cow<'static, str>>,
    ) -> Self {
        let code = ErrorCode {
            code,
            ..WRONG_FORMAT
        };
        code.titled(title).at_pointer(pointer)
    }

    #[must_use]
    pub fn at_parameter(mut self, name: impl Into<String>) -> Self {
        self.items[0].parameter = Some(name.into());
        self
    }

    /// Names the item of a batch that the error is about.
    #[must_use]
    pub fn of_item(mut self, name: &str) -> Self {
        for item in &mut self.items {
            item.meta.push(("name", name.to_owned()));
        }
        self
    }

    #[must_use]
    pub fn at_pointer(mut self, pointer: impl Into<String>) -> Self {
        self.items[0].pointer = Some(pointer.into());
        self
    }

    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // numbers and texts alike
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.items[0].meta.push((key, value.to_string()));
        self
    }

    /// Seconds after which the client may repeat the request.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }
}

/// Most bad items of a batch that one answer names.
const BAD_ITEMS_MAX: usize = 20;

/// The errors of the first bad items of a batch, in order. The answer has the status of the first
/// one; items that would have another are left out.
#[derive(Debug, Default)]
pub struct BatchErrors {
    error: Option<ApiError>,
    bad_items: usize,
}

impl BatchErrors {
    /// The result of an item, if it is good.
    pub fn keep<T>(&mut self, result: Result<T, ApiError>) -> Option<T> {
        let error = match result {
            Ok(good) => return Some(good),
            Err(error) => error,
        };
        match &mut self.error {
            None => self.error = Some(error),
            Some(first) if first.status == error.status => first.items.extend(error.items),
            Some(_) => return None,
        }
        self.bad_items += 1;
        None
    }

    /// Further items need not be looked at.
    pub fn is_full(&self) -> bool {
        self.bad_items >= BAD_ITEMS_MAX
    }

    pub fn finish(self) -> Result<(), ApiError> {
        self.error.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_titles_are_sentences() {
        let mut seen: Vec<(&str, u16)> = Vec::new();
        for error in ALL {
            let known = (error.code, error.status);
            assert!(!seen.contains(&known), "{known:?}");
            seen.push(known);
            let first = error.title.chars().next();
            assert!(first.is_some_and(char::is_uppercase), "{}", error.title);
            assert!(!error.title.ends_with('.'), "{}", error.title);
            assert!((400..600).contains(&error.status), "{known:?}");
            assert!(error.retry_after_seconds == 0 || matches!(error.status, 429 | 503));
        }
    }
}
