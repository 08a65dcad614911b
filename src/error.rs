//! Why a request is refused: one constant per error code, for code and document.
//!
//! An [`ApiError`] is one status with one or more items; `http` renders it. Codes are stable, for
//! programs; titles are sentences for people. The table has every form of title that a code may
//! have: the API document lists them, and builds with debug assertions refuse others. A form may
//! have places, such as `{value}`. Titles about a value name it. The cause of a server error goes
//! to the log, never to the client.

use std::borrow::Cow;
use std::fmt;

/// One documented error: its status, its stable code, and the forms of its title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    pub status: u16,
    pub code: &'static str,
    /// The usual form.
    pub title: &'static str,
    /// Other forms.
    pub other_titles: &'static [&'static str],
    /// Which operations it may be the answer of.
    pub reach: ErrorReach,
    /// Seconds for `Retry-After`; 0: the field is not sent.
    pub retry_after_seconds: u32,
}

/// The operations that may answer with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorReach {
    /// Any request, also before its operation is known.
    Any,
    /// All but those that only read.
    Write,
    /// All with a parameter or a body.
    Input,
    /// Those that document it.
    Named,
}

macro_rules! error_codes {
    ($($reach:ident { $(
        $name:ident = $status:literal $code:literal $title:literal $(| $other:literal)*
            $($retry:literal)?;
    )* })*) => {
        $($(pub const $name: ErrorCode = ErrorCode {
            status: $status,
            code: $code,
            title: $title,
            other_titles: &[$($other),*],
            reach: ErrorReach::$reach,
            retry_after_seconds: 0 $(+ $retry)?,
        };)*)*
        /// All errors, in the order of the table.
        pub const ALL: &[ErrorCode] = &[$($($name),*),*];
    };
}

#[rustfmt::skip]
error_codes! {
  Any {
    // The form of the request.
    BAD_REQUEST_LINE = 400 "bad_request_line"
        "The request line must be METHOD SP TARGET SP VERSION";
    HTTP_VERSION = 505 "http_version" "The server speaks HTTP/1.1 and HTTP/1.0"
        | "A body of unknown length is sent to clients of HTTP/1.1 only";
    METHOD_UNKNOWN = 501 "method_unknown" "Unknown method";
    METHOD_NOT_ALLOWED = 405 "method_not_allowed" "This path does not serve this method";
    BAD_TARGET = 400 "bad_target" "The request target contains characters that are not allowed";
    TARGET_TOO_LONG = 414 "target_too_long" "The request target is too long";
    HEAD_TOO_LARGE = 431 "head_too_large" "The header fields are too large";
    TOO_MANY_FIELDS = 431 "too_many_fields" "There are too many header fields";
    BAD_FIELD = 400 "bad_field" "A header field is malformed"
        | "`{field}` must be `*` or a list of entity tags in double quotes";
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
    NOT_FOUND = 404 "not_found" "No operation has this path"
        | "The path must be /lb/BALANCER/STREAM/SUFFIX";
    UNKNOWN_PARAMETER = 400 "unknown_parameter" "Unknown query parameter `{name}`"
        | "Unknown query parameter `{name}`; did you mean `{nearest}`?"
        | "Parameter `{name}` must be `{field}` or `{field}_ne`"
        | "Parameter `{name}` does not apply: all streams that match are taken";
    // Authorization.
    TOO_MANY_FAILURES = 429 "too_many_failures"
        "Too many wrong credentials from this address; repeat the request later" 1;
    UNAUTHORIZED = 401 "unauthorized" "Invalid credentials" | "Header `Authorization` is required"
        | "The credentials are no longer valid";
    FORBIDDEN = 403 "forbidden" "The token lacks permission for this operation"
        | "A cluster key is valid only for the configuration of its streamer"
        | "The request comes from a page of another site";
    // The server.
    INTERNAL_ERROR = 500 "internal_error"
        "Internal error; search the server's log for the trace id";
    SHUTTING_DOWN = 503 "shutting_down" "The server is stopping; repeat the request"
        | "The server is stopping; connect again" 1;
    OVERLOADED = 503 "overloaded" "The server is overloaded; repeat the request"
        | "The server has no resources for another thread; nothing was changed"
        | "Too many outbound calls are pending; nothing was changed" 2;
    SAFE_MODE = 503 "safe_mode"
        "Safe mode after failed starts: changes are refused; the server's log has the cause"
        | "Safe mode after failed starts: the store cannot be read; the server's log has the cause"
        30;
    TIMED_OUT = 503 "timed_out"
        "The request timed out. A change may or may not have taken effect; repeat the \
         request" 2;
  }
  Write {
    NO_RANDOMNESS = 503 "no_randomness"
        "No key can be generated: the system provides no randomness" 2;
    STORAGE_FAILED = 503 "storage_failed"
        "The store failed while this change was being written; it may or may not have \
         taken effect. Repeat the request" 2;
    STORAGE_UNAVAILABLE = 503 "storage_unavailable"
        "The store does not accept writes; nothing was changed"
        | "The disk is full; nothing was changed. Delete something, or free space on the disk" 2;
    WRITER_BUSY = 503 "writer_busy"
        "Too many changes are waiting to be written; repeat the request" 1;
  }
  Input {
    // The syntax of bodies.
    INVALID_JSON = 400 "invalid_json" "The body is empty (byte {offset})."
        | "Unexpected data after the JSON value (byte {offset})."
        | "Expected {expected}, found {found} (byte {offset})."
        | "A number must not begin with a zero (byte {offset})." | "Invalid number (byte {offset})."
        | "A control character in a string must be escaped (byte {offset})."
        | "Invalid escape sequence (byte {offset})." | "Unterminated string (byte {offset}).";
    INVALID_UTF8 = 400 "invalid_utf8" "The body is not valid UTF-8 (byte {offset}).";
    BYTE_ORDER_MARK = 400 "byte_order_mark"
        "JSON must not begin with a byte order mark (byte {offset}).";
    JSON_TOO_DEEP = 400 "json_too_deep"
        "Arrays and objects may be nested at most {most} levels deep (byte {offset}).";
    DUPLICATE_KEY = 400 "duplicate_key"
        "Duplicate key: an object must not have a key twice (byte {offset}).";
    LONE_SURROGATE = 400 "lone_surrogate"
        "Lone surrogate: a surrogate escape must be part of a pair (byte {offset}).";
    NUL_CHARACTER = 400 "nul_character" "The character U+0000 is not allowed (byte {offset}).";
    NUMBER_OUT_OF_RANGE = 400 "number_out_of_range"
        "An integer must fit in 64 bits (byte {offset})."
        | "A number may have at most {most} characters (byte {offset})."
        | "A number must fit in a 64-bit float (byte {offset})."
        | "A number with a fraction must not become an integer as a 64-bit float (byte {offset}).";
    // Parameters and the values of bodies. The subject names the value.
    MISSING_REQUIRED = 400 "missing_required" "{subject} is required"
        | "{subject} is required: {allowed}" | "{subject} needs `login` and `password`";
    NOT_OBJECT = 400 "not_object" "{subject} must be an object";
    NOT_ARRAY = 400 "not_array" "{subject} must be an array"
        | "{subject} must be an array of objects";
    NOT_STRING = 400 "not_string" "{subject} must be a string"
        | "{subject} must be a string, as in the field `If-Match`";
    NOT_INTEGER = 400 "not_integer" "{subject} must be an integer"
        | "{subject} must be an integer of at least 0"
        | "{subject} must be an integer of milliseconds, at least 0"
        | "{subject} must be a whole number" | "{subject} must be a whole number of seconds"
        | "{subject} takes integers of 64 bits";
    NOT_NUMBER = 400 "not_number" "{subject} must be a number" | "{subject} takes numbers";
    NOT_BOOLEAN = 400 "not_boolean" "{subject} must be true or false"
        | "{subject} takes true or false";
    NOT_NULL = 400 "not_null" "{subject} must be null";
    NOT_CONST = 400 "not_const" "{subject} must be {allowed}";
    INVALID_TYPE = 400 "invalid_type" "{subject} must have one of these types: {allowed}"
        | "{subject} has another type than the setting";
    NULL_IN_ARRAY_OF_NON_NULLABLE = 400 "null_in_array_of_non_nullable"
        "{subject} must not be null";
    WRONG_FORMAT = 400 "wrong_format" "{subject} must be {allowed}"
        | "{subject} must have {allowed}" | "{subject} must consist of {allowed}"
        | "{subject} must not {forbidden}"
        | "{subject} is reserved: it names an operation" | "{subject} is not percent-encoded UTF-8"
        | "{subject} has an address that is never called"
        | "{subject} has the mask `***`, which does not match a stored secret; send the secret \
           itself";
    TOO_SHORT = 400 "too_short" "{subject} must have {allowed}" | "{subject} must not be empty";
    TOO_LONG = 400 "too_long" "{subject} must have {allowed}";
    TOO_FEW_ITEMS = 400 "too_few_items" "{subject} must have {allowed}";
    TOO_MANY_ITEMS = 400 "too_many_items" "{subject} must have {allowed}"
        | "{subject} is one too many: a query must have at most {most} filters";
    TOO_DEEP = 400 "too_deep" "{subject} must have paths of at most {most} parts";
    INPUT_OUT_OF_RANGE = 400 "input_out_of_range" "{subject} must be {allowed}"
        | "{subject} takes {allowed}" | "{subject} must not be before `opened_at`";
    OUT_OF_RANGE = 400 "out_of_range" "{subject} must be {allowed}"
        | "{subject} must not have a space or a colon in `login`";
    UNKNOWN_ENUM_OPTION = 400 "unknown_enum_option" "{subject} must be one of: {allowed}";
    NOMATCH_PATTERN = 400 "nomatch_pattern" "{subject} must match the pattern {pattern}";
    DISCRIMINATOR_MISSING = 400 "discriminator_missing"
        "{subject} is required: it selects the variant of the object, one of: {allowed}";
    DISCRIMINATOR_UNMAPPED = 400 "discriminator_unmapped"
        "{subject} must select a known variant, one of: {allowed}";
    UNMATCHED_ANY = 400 "unmatched_any"
        "{subject} must match one of the {count} documented variants";
    EXTRA_KEYS = 400 "extra_keys" "{subject} is unknown";
    DUPLICATE_ITEM = 400 "duplicate_item" "{subject} occurs twice in the batch"
        | "{subject} occurs twice; separate names by commas"
        | "{subject} occurs twice in the report";
    NOT_UNIQUE = 400 "not_unique" "{subject} must differ from those of all other tokens";
    KEY_MISMATCH = 400 "key_mismatch"
        "{subject} in the body differs from the path; keys cannot be changed"
        | "{subject} cannot be the same for many streams";
    IMMUTABLE_FIELD = 400 "immutable_field" "{subject} is set at creation and cannot be changed"
        | "{subject} cannot be changed: an episode is closed once";
    DUPLICATE_NODE = 400 "duplicate_node"
        "{subject} names a node twice; a node can have one slot of a stream only";
    NAMESPACE_MISMATCH = 400 "namespace_mismatch"
        "{subject} must name a node in the namespace of the stream";
    WRONG_NODE_ROLE = 400 "wrong_node_role" "{subject} must name a node of the right role";
    UNKNOWN_STREAM = 400 "stream_not_found" "{subject} must be the name of a stream";
    UNKNOWN_STREAMER = 400 "streamer_not_found" "{subject} must be the hostname of a streamer";
    UNKNOWN_AGENT = 400 "agent_not_found" "{subject} must have ids of agents that exist";
    NOT_ONE_CHANGE = 400 "not_one_change"
        "The body must have exactly one of the members `patch`, `delete` and `move`";
    NOT_COMBINABLE = 400 "not_combinable"
        "`poll_timeout` and `changes_since` apply to the whole list; remove select, sort, limit, \
         cursor, q and filters";
    BAD_CURSOR = 400 "bad_cursor" "The cursor is damaged or belongs to another query";
    SECRET_FIELD = 400 "secret_field"
        "{subject} concerns a secret; secrets can be neither filtered nor sorted by";
    UNKNOWN_FIELD = 400 "unknown_field" "Unknown field `{name}` in `{parameter}`"
        | "Unknown field `{name}` in `{parameter}`; did you mean `{nearest}`?";
    UNKNOWN_MEMBER = 400 "unknown_member" "Unknown member `{name}`"
        | "Unknown member `{name}`; did you mean `{nearest}`?";
    BATCH_TOO_LONG = 413 "too_many_items" "{subject} must have {allowed}";
    TOO_EXPENSIVE = 503 "too_expensive"
        "The list takes too long; use fewer filters, or repeat the request later" 2;
    WALK_EXPIRED = 410 "walk_expired"
        "The revision of this cursor is no longer kept; begin with the first page"
        | "The preview of this cursor is no longer kept; begin with the first page";
  }
  Named {
    AGENT_CHALLENGE = 401 "agent_challenge"
        "The agent must prove that it knows its key: see X-Nonce and X-Salt";
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
    STREAMER_CHECK_FAILED = 400 "streamer_check_failed"
        "`checks_enable`: the streamer did not return its configuration; nothing was changed";
    KEY_NEEDED_FOR_CHECK = 400 "key_needed_for_check"
        "The stored cluster key is not sent to a new address; the body must contain `cluster_key`";
    // Unknown entities and revisions.
    STREAM_NOT_FOUND = 404 "stream_not_found" "No stream has this name"
        | "No stream of this streamer uses the port in this mode";
    STREAMER_NOT_FOUND = 404 "streamer_not_found" "No streamer has this hostname";
    EPISODE_NOT_FOUND = 404 "episode_not_found" "No episode has this id";
    EVENT_NOT_FOUND = 404 "event_not_found" "No event that is kept has this id";
    PERSON_NOT_FOUND = 404 "person_not_found" "No person has this id";
    AGENT_NOT_FOUND = 404 "agent_not_found" "No agent has this id";
    AUTH_BACKEND_NOT_FOUND = 404 "auth_backend_not_found" "No authorization backend has this name";
    API_TOKEN_NOT_FOUND = 404 "api_token_not_found" "No API token has this name";
    BALANCER_NOT_FOUND = 404 "balancer_not_found" "No load balancer has this name";
    REVISION_GONE = 410 "revision_gone"
        "The changes since the revision `changes_since` are no longer kept; request the whole list";
    // Conditions.
    PRECONDITION_FAILED = 412 "precondition_failed"
        "The stored version is not in `If-Match`: the entity was changed or does not exist"
        | "The stored version is in `If-None-Match`, or that is `*` and the entity exists"
        | "The stored version is not in `if_match`: the entity was changed or does not exist. \
           Nothing was changed";
    // What the server depends on.
    AGENT_OFFLINE = 409 "agent_offline" "The agent is not connected";
    ILLEGAL_LAYOUT = 409 "illegal_layout"
        "{subject} must name a node that may have the stream by the labels; `force` places it \
         there all the same";
    SELECTION_CHANGED = 409 "selection_changed"
        "Other streams match than those that `expect` describes; nothing was changed";
    TOO_MANY_BULK_CHANGES = 503 "too_many_bulk_changes"
        "As many bulk changes as may run at a time are running; repeat the request later" 5;
    LAYOUTER_DISABLED = 409 "layouter_disabled" "The layouter is switched off";
    LAYOUTER_BUSY = 503 "layouter_busy" "The layouter does not answer in time; repeat the request"
        | "Too many queries about layouts are waiting; repeat the request" 2;
    CONFIG_FILE_INVALID = 409 "config_file_invalid"
        "The configuration file is invalid; see the log. Nothing was changed";
    CONFIG_FILE_UNWRITABLE = 409 "config_file_unwritable"
        "The configuration file cannot be replaced; see the log. Nothing was changed";
    INCONSISTENT_STATE = 500 "inconsistent_state"
        "The configuration of this streamer is inconsistent and is withheld";
    EPISODES_UNKNOWN = 501 "episodes_unknown"
        "The list of episodes may be incomplete; keep all recordings"
        | "The store fails, so the list of episodes may be incomplete; keep all recordings"
        | "The store was restored from a backup and may lack episodes; keep all recordings"
        | "More than 250000 episodes match; request fewer streams, or pages with `limit`"
        | "The streams may have recordings whose episodes are not made yet; keep all recordings"
        | "Streams named `null` or `undefined` cannot be queried; keep all recordings";
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
    TOO_MANY_BACKUPS = 503 "too_many_backups"
        "As many backups as may be sent at a time are being sent; repeat the request later" 10;
    DISK_FULL = 503 "disk_full" "The disk is full: only deletions are accepted" 10;
    NOT_READY = 503 "not_ready" "The store does not accept writes" | "The server is stopping"
        | "The store does not accept writes: it could not be opened {count} times in a row" 2;
  }
}

impl ErrorCode {
    /// The error with the usual title, which must be without places.
    pub fn error(self) -> ApiError {
        debug_assert!(!self.title.contains('{'), "{}", self.title);
        self.titled(self.title)
    }

    /// The error with another form of title.
    pub fn titled(self, title: impl Into<Cow<'static, str>>) -> ApiError {
        let title = title.into();
        debug_assert!(
            self.has_title(&title),
            "no form of `{}`: {title}",
            self.code
        );
        ApiError {
            status: self.status,
            items: vec![ErrorItem {
                code: self.code,
                title,
                pointer: None,
                parameter: None,
                meta: Vec::new(),
            }],
            retry_after_seconds: (self.retry_after_seconds > 0).then_some(self.retry_after_seconds),
        }
    }
}

impl ErrorReach {
    /// As the document has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Write => "changes",
            Self::Input => "input",
            Self::Named => "listed",
        }
    }
}

impl ErrorCode {
    /// All forms of its title.
    pub fn titles(self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.title).chain(self.other_titles.iter().copied())
    }

    fn has_title(self, title: &str) -> bool {
        self.titles().any(|form| has_form(title, form))
    }

    /// The error about a value in the body, with the usual title.
    pub fn at(self, pointer: impl Into<String>) -> ApiError {
        let pointer = pointer.into();
        let title = self.title.replace("{subject}", &subject(&pointer));
        self.titled(title).at_pointer(pointer)
    }

    /// The error about a value in the body: `predicate` is `must be a string`, for example.
    pub fn about(self, pointer: impl Into<String>, predicate: impl fmt::Display) -> ApiError {
        let pointer = pointer.into();
        let title = format!("{} {predicate}", subject(&pointer));
        self.titled(title).at_pointer(pointer)
    }

    /// The error about a query parameter or a part of the path.
    pub fn about_parameter(self, name: &str, predicate: impl fmt::Display) -> ApiError {
        let title = format!("Parameter `{}` {predicate}", printable(name));
        self.titled(title).at_parameter(name)
    }
}

/// Longest name that a title repeats, in characters.
const PRINTED_NAME_CHARS_MAX: usize = 64;

/// A name without control characters, cut to a bounded length; `?` if nothing is left.
pub fn printable(name: &str) -> String {
    let printable = name.chars().filter(|letter| !letter.is_control());
    let printable: String = printable.take(PRINTED_NAME_CHARS_MAX).collect();
    if printable.is_empty() {
        "?".to_owned()
    } else {
        printable
    }
}

/// The subject of a sentence about the value that a JSON pointer leads to.
pub fn subject(pointer: &str) -> String {
    let mut parts = pointer.rsplit('/');
    let is_index = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let name = |part: &str| printable(&part.replace("~1", "/").replace("~0", "~"));
    match (parts.next(), parts.next()) {
        (Some(""), None) | (None, _) => "The body".to_owned(),
        (Some(index), Some("")) if is_index(index) => format!("Item {index}"),
        (Some(index), Some(list)) if is_index(index) => format!("Item {index} of `{}`", name(list)),
        (Some(last), _) => format!("`{}`", name(last)),
    }
}

/// Whether a title is a form with something in all places.
fn has_form(title: &str, form: &str) -> bool {
    let mut parts = form.split(['{', '}']).step_by(2);
    let Some(mut rest) = parts.next().and_then(|first| title.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let Some(filled) = rest.chars().next().map(char::len_utf8) else {
            return false;
        };
        let at = match parts.peek() {
            Some(_) => rest[filled..].find(part),
            None => (rest[filled..].ends_with(part)).then(|| rest[filled..].len() - part.len()),
        };
        let Some(at) = at else { return false };
        rest = &rest[filled + at + part.len()..];
    }
    rest.is_empty()
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
        let known = ALL
            .iter()
            .find(|known| (known.code, known.status) == (code, WRONG_FORMAT.status));
        debug_assert!(known.is_some(), "`{code}` is not in the table");
        let unknown = ErrorCode {
            code,
            ..WRONG_FORMAT
        };
        known.unwrap_or(&unknown).titled(title).at_pointer(pointer)
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
            let begins = |first| char::is_uppercase(first) || matches!(first, '{' | '`');
            assert!(first.is_some_and(begins), "{}", error.title);
            for title in error.titles() {
                let is_sentence = first.is_some() && !title.ends_with('.') || title.ends_with(").");
                assert!(is_sentence, "{title}");
                let fixed = title.split(['{', '}']).step_by(2);
                assert!(fixed.map(str::len).sum::<usize>() > 5, "{title}");
                assert!(error.has_title(title), "{title}");
            }
            assert!((400..600).contains(&error.status), "{known:?}");
            assert!(error.retry_after_seconds == 0 || matches!(error.status, 429 | 503));
        }
    }

    #[test]
    fn titles_are_compared_with_forms() {
        for (title, form, fits) in [
            ("A b c", "A b c", true),
            ("A b", "A b c", false),
            ("`x` is required", "{subject} is required", true),
            (" is required", "{subject} is required", false),
            ("`x` is required: y", "{subject} is required", false),
            (
                "`x` is required: y",
                "{subject} is required: {allowed}",
                true,
            ),
            (
                "`x` is required: ",
                "{subject} is required: {allowed}",
                false,
            ),
            ("is is required is required", "{subject} is required", true),
            ("Byte 7.", "Byte {offset}.", true),
            ("Byte 7!", "Byte {offset}.", false),
        ] {
            assert_eq!(has_form(title, form), fits, "{title} {form}");
        }
    }

    #[test]
    fn subject_is_the_value_that_a_pointer_leads_to() {
        for (pointer, expected) in [
            ("", "The body"),
            ("/7", "Item 7"),
            ("/layouts/7", "Item 7 of `layouts`"),
            ("/layouts/7/na~1me~0", "`na/me~`"),
            ("/title", "`title`"),
        ] {
            assert_eq!(subject(pointer), expected, "{pointer}");
        }
        assert_eq!(
            subject(&format!("/{}", "é\n".repeat(1000))).chars().count(),
            66
        );
    }
}
