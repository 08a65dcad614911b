// Each is a thing to mend; a mended one must be taken off.

/// Code or sample texts that are wider for a reason: regular expressions and metric samples in one
/// piece, and JSON of the document that the formatter leaves alone.
const WIDE_FILES: &[&str] = &[
    "agents/protocol.rs",
    "api/session_auth.rs",
    "openapi/mod.rs",
    "openapi/words/cluster.rs",
    "openapi/words/config.rs",
    "outbound/pool.rs",
    "schema/data/facts.rs",
];
const LONG_FILES: &[&str] = &[];
/// Lists of metrics, which are tables in the form of code; a scan with three roads; a test's reader.
const LONG_FUNCTIONS: &[&str] = &[
    "api/server_metrics.rs write_edge",
    "api/server_metrics.rs write_store",
    "api/stream.rs scan",
    "schema/data/facts.rs facts_of",
];
/// Comments that still need other words.
const PRIVATE_WORDS: &[&str] = &[];
/// Names that are still used for two things.
const TYPE_NAMES: &[&str] = &[
    "Form",
    "Key",
    "Kind",
    "Parameter",
    "Place",
    "Progress",
    "Text",
];
const CROSSED_FLOORS: &[&str] = &[];
