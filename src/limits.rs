//! Every hard limit of the edge, the reason for its value, and the relations between limits,
//! asserted at compile time.
//!
//! Limits that an operator or a test may change start from `Limits::DEFAULT`; the others are
//! constants.

/// Longest request head: request line and fields, with their line ends. Above: 431. The
/// largest known legitimate heads have cookies of single sign-on, 10-20 KiB.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Longest request target. Above: 414. A filter over several hundred names still fits.
pub const TARGET_BYTES_MAX: usize = 16 * 1024;

/// Most header fields of a request, and of trailers. Above: 431.
pub const FIELDS_MAX: usize = 100;

/// Longest `Host`: a DNS name has 253 bytes, a port 6.
pub const HOST_BYTES_MAX: usize = 320;

/// Significant hex digits of a chunk size: 64 bits.
pub const CHUNK_SIZE_DIGITS_MAX: u32 = 16;

/// Extension bytes of one chunk. Extensions are not used; they are skipped, not stored.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 256;

/// Extension bytes of one body, so that a body of tiny chunks cannot hide megabytes in them.
pub const CHUNK_EXTENSIONS_BYTES_MAX: u32 = 16 * 1024;

/// Decimal digits of a `Content-Length`: what 64 bits hold. More is 400, not a huge body.
pub const CONTENT_LENGTH_DIGITS_MAX: usize = 19;

/// Silence after which a connection is probed (TCP keepalive). Middleboxes forget connections after
/// minutes; a peer that lost its power is noticed before a second one takes its place.
pub const KEEPALIVE_IDLE_SECONDS: u64 = 60;

/// Time between two probes of a silent connection.
pub const KEEPALIVE_PAUSE_SECONDS: u64 = 10;

/// Probes in a row without an answer after which a connection is closed: 90 s after its last sign.
pub const KEEPALIVE_PROBES: u32 = 3;

/// Longest head of another server's reply.
pub const REPLY_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most header fields of such a reply.
pub const REPLY_FIELDS_MAX: usize = 64;

/// Interim replies (`100`, `103`) before the final one.
pub const REPLY_INTERIM_MAX: u32 = 4;

/// Addresses of a name that are connected to in turn.
pub const RESOLVED_ADDRESSES_MAX: usize = 8;

/// Names whose addresses are kept.
pub const RESOLVED_NAMES_MAX: usize = 64 * 1024;

/// Replies of queried streamers that are arriving at one core. A hostile streamer can use what one
/// reply may have; above, queries fail and are repeated later.
pub const QUERY_BUFFERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Longest reply of a streamer about itself: its stats have at most 256 KiB.
pub const QUERY_STATS_BYTES_MAX: usize = 512 * 1024;

/// Longest page of a streamer's list of streams: 50 of them with 10 KiB each. Reading the worst one
/// takes about 12 MiB for a moment.
pub const QUERY_PAGE_BYTES_MAX: usize = 512 * 1024;

/// Most pages of one list: a report may have 100,000 streams.
pub const QUERY_PAGES_MAX: usize = 2048;

/// Longest part of a configuration that is written to a streamer.
pub const PROVISIONED_BYTES_MAX: usize = 512 * 1024;

/// Longest configuration that a streamer shows.
pub const SHOWN_CONFIG_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Longest page of the recordings of one stream: about 25,000 of them.
pub const RECORDINGS_BYTES_MAX: usize = 1024 * 1024;

/// All pages of one list: as much as a report that a streamer sends.
pub const QUERY_LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Streams of one streamer that are not configured and are kept. Above: they are counted only.
pub const UNCONFIGURED_PER_STREAMER_MAX: usize = 10_000;

/// Streams of all streamers that are not configured and are kept, with at most
/// `UNCONFIGURED_TEXT_BYTES_MAX` each, about 150 MiB.
pub const UNCONFIGURED_STREAMS_MAX: usize = 100_000;

/// Longest stats of a stream that is not configured. Of longer ones only the numbers are kept.
pub const UNCONFIGURED_TEXT_BYTES_MAX: usize = 1024;

/// Longest cursor of a streamer's list.
pub const QUERY_CURSOR_BYTES_MAX: usize = 4 * 1024;

/// Queries of one core that run at the same time. Half of them may be of streamers that did not
/// answer the last time, so that silent ones do not delay the others.
pub const QUERIES_RUNNING_MAX: usize = 1024;

/// Replies of this size or more are read on another thread: parsing one takes a core about a
/// millisecond.
pub const QUERY_OFFLOADED_BYTES_MIN: usize = 64 * 1024;

/// Fewest threads that scan large collections, of which there are as many as processors. With two,
/// scans take turns by time on one processor, too.
pub const SCAN_THREADS_MIN: usize = 2;
/// Most of them: each holds the best positions of every scan that it works for.
pub const SCAN_THREADS_MAX: usize = 16;

/// Scans that these threads work for in turns. A core makes further ones itself, in slices.
pub const SCANS_IN_LINE_MAX: usize = 64;

/// One read of a socket, into a buffer that the whole core shares.
pub const READ_BYTES: usize = 64 * 1024;

/// Responses in one write. Until the socket has taken them, no further request of the connection is
/// parsed.
pub const ANSWERS_PER_WRITE_MAX: u32 = 16;

/// A body of this size or more is sent from its own buffer; a smaller one is copied behind its
/// head, which is cheaper than a second buffer in the write.
pub const BODY_COPY_BYTES_MAX: usize = 16 * 1024;

/// Bytes of responses copied together before they are written. With the response that reaches this
/// a connection holds at most 256 KiB unsent, plus one large body in its own buffer.
pub const UNSENT_BYTES_MAX: usize = 256 * 1024 - 2 * BODY_COPY_BYTES_MAX;

/// Longest line of an upgraded connection, without its end. Equal to the limit of a request head,
/// which is buffered for as long.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of lines queued for an upgraded connection. Above: the connection is closed.
pub const LINES_UNSENT_BYTES_MAX: usize = 256 * 1024;

/// Bytes buffered for a client that sends further requests while one is pending. When full, its
/// socket is not read, so TCP slows it down.
pub const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// Bytes buffered for such a client when the core has no memory for arriving requests.
pub const AHEAD_BYTES_MIN: usize = 4 * 1024;

/// Longest body of a request that needs no credentials: a body there is of no use.
pub const PUBLIC_BODY_BYTES_MAX: u64 = 4 * 1024;

/// Bytes read and discarded after a response that ends a connection, so that a reset does not
/// overtake the response.
pub const LINGER_BYTES_MAX: usize = 64 * 1024;

/// Sends before the sockets are polled again when many connections are answered or closed at once.
pub const SENDS_PER_YIELD: usize = 256;

/// Reads of one connection before other connections run, if its socket is always ready (epoll only:
/// a ring waits for the kernel each time).
pub const TURNS_PER_POLL: usize = 16;

/// Longest time that saves of episodes may wait to be committed together.
pub const EPISODES_DELAY_MS_MAX: u32 = 10_000;

/// Most saves of episodes that may wait; bounds their memory, together with the largest body.
pub const EPISODES_LIMIT_MAX: usize = 10_000;

/// Longest time from a connection that is reserved for probes to the first byte of its request.
pub const PROBE_FIRST_BYTE_MS_MAX: u32 = 1_000;

/// Sessions of browsers, about 200 bytes each. Above: the oldest one ends.
pub const BROWSER_SESSIONS_MAX: usize = 10_000;

/// Streams in one commit of a bulk change: as many as a batch has.
pub const BULK_BATCH_STREAMS_MAX: usize = 10_000;

/// Longest body of a bulk change. Its patch is merged into every stream of a batch, so a batch adds
/// at most 80 MiB.
pub const BULK_BODY_BYTES_MAX: u64 = 8 * 1024;

/// Bulk changes that are applied at a time. Each holds 16 bytes for every stream that it selects,
/// and the records of those that others change meanwhile.
pub const BULK_RUNNING_MAX: u32 = 4;

/// Attempts to change a stream of a bulk change that others change each time in between.
pub const BULK_ROUNDS_MAX: usize = 10;

/// Streams that the dry run of a bulk change names.
pub const BULK_SAMPLE_MAX: usize = 10;

/// Streamers whose numbers are kept by half minute, 2,400 bytes each. Above: by minute, half of
/// that.
pub const HISTORIES_BY_HALF_MINUTE_MAX: usize = 5_000;

/// Streamers in one answer with numbers of the past. With 60 numbers each it has at most 165 KB.
pub const HISTORIES_PAGE_MAX: u64 = 250;

/// Pause of `accept` when descriptors are exhausted.
pub const ACCEPT_PAUSE_MS: u64 = 10;

/// Bodies below this are not worth compressing.
pub const COMPRESS_BYTES_MIN: usize = 1024;
/// JSON up to this size gets large integers as strings at once, in some tenths of a millisecond;
/// another thread makes a longer one.
pub const STRING_IDS_AT_ONCE_BYTES: usize = 128 * 1024;

/// Bodies above this are compressed by another thread: at about 200 MB/s a core is busy for
/// a millisecond with one.
pub const COMPRESS_BYTES_MAX: usize = 256 * 1024;

/// The limits that tests shorten and an operator may set. Times are milliseconds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections of one core. Above: 503 and closed.
    pub connections_max: usize,
    /// From the connection to the first byte of its first request.
    pub first_byte_ms: u32,
    /// From the first byte of a request to the end of its head, all reads together. Then 408.
    pub head_ms: u32,
    /// In each window of this length, enough bytes of a body must arrive.
    pub body_window_ms: u32,
    /// The lowest rate of a body, on average over a window. Below: 408.
    pub body_bytes_per_second_min: u32,
    /// Memory of one core for requests that are arriving (half of it) and for unsent answers,
    /// bytes.
    pub buffers_bytes_max: usize,
    /// An open connection without a request.
    pub idle_ms: u32,
    /// At the end of the process: from the first response that announces the end of its connection
    /// to the end of those that are idle.
    pub drain_delay_ms: u32,
    /// Unsent responses, since the socket last took bytes.
    pub send_ms: u32,
    /// Longest wait for the outcome of a pending request.
    pub wait_ms_max: u32,
    /// Reading and discarding after the last response.
    pub linger_ms: u32,
    /// How often deadlines are checked. Each may be late by this much.
    pub tick_ms: u32,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        // Below the usual descriptor limit of 20,000 with a reserve for files and outgoing
        // connections.
        connections_max: 19_900,
        first_byte_ms: 10_000,
        head_ms: 10_000,
        body_window_ms: 5_000,
        body_bytes_per_second_min: 512,
        buffers_bytes_max: 256 * 1024 * 1024,
        // Longer than the 60 s of common load balancers, which then close first.
        idle_ms: 75_000,
        drain_delay_ms: 1_000,
        send_ms: 30_000,
        wait_ms_max: 60_000,
        linger_ms: 1_000,
        tick_ms: 100,
    };
}

impl Limits {
    /// Whole seconds for which an open connection without a request is kept.
    pub fn idle_seconds(&self) -> u32 {
        self.idle_ms / 1000
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const _: () = assert!(
    TARGET_BYTES_MAX < HEAD_BYTES_MAX,
    "the target is part of the head"
);
const _: () = assert!(
    FIELDS_MAX < 255,
    "a field's index fits a byte and 255 means absent"
);
const _: () = assert!(
    AHEAD_BYTES_MAX >= HEAD_BYTES_MAX,
    "a whole head must fit before reading ahead stops"
);
const _: () = assert!(
    LINES_UNSENT_BYTES_MAX > UNSENT_BYTES_MAX,
    "the responses to one read of lines can be queued"
);
const _: () = assert!(CONTENT_LENGTH_DIGITS_MAX == 19, "10^19 - 1 fits 64 bits");
const _: () = assert!(
    CHUNK_SIZE_DIGITS_MAX == 16,
    "sixteen hex digits are 64 bits"
);
const _: () = assert!(
    BODY_COPY_BYTES_MAX <= UNSENT_BYTES_MAX,
    "one small response always fits"
);
const _: () = assert!(
    COMPRESS_BYTES_MIN < COMPRESS_BYTES_MAX,
    "some bodies are compressed"
);
const _: () = assert!(
    Limits::DEFAULT.idle_ms >= Limits::DEFAULT.head_ms
        && Limits::DEFAULT.linger_ms < Limits::DEFAULT.send_ms,
    "a slow head is found before an idle connection, and lingering is short"
);
const _: () = assert!(
    Limits::DEFAULT.tick_ms <= Limits::DEFAULT.linger_ms / 2,
    "the shortest limit spans several ticks"
);
