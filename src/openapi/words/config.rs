//! The server's own settings.

use super::{OPENMETRICS, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, refuse, saved};
use crate::error;
use crate::openapi::model::{BodyDoc, Content, OperationDoc, ResponseDoc, Shape};

const CONFIG_EXAMPLE: &str = r#"{"api_key":"Zk3vN8qLw1","api_url":"http://weir.example.com:9019/central/api/v3","database":{"url":"file:///var/lib/weir"},"loglevel":"info","log_requests":"false","layouter_enabled":"true","layouter_sleeping_interval":30000,"episodes_buffer_delay":1000,"episodes_buffer_limit":250,"config_external_reconciliation_interval":5000,"server_id":"123e4567-e89b-12d3-a456-426655440000","stats":{"id":"61893b15-75b2-4fcb-b4cf-ae1dd0858ea2","server_version":"0.1.0","started_at":1727270000,"uptime":4724}}"#;

pub const CONFIG_GET: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Read the settings of the server",
    description: "The effective settings. The command line overrides the environment, which \
         overrides the file, which overrides the defaults; `sources` has the source of each. \
         `stats` describes the running program.",
    responses: &[
        ResponseDoc {
            status: 200,
            description: "The settings, or the numeric settings as metrics.",
            content: Content::JsonOr(
                Shape::One("central_config"),
                CONFIG_EXAMPLE,
                OPENMETRICS,
                "# TYPE server_started_at gauge\n\
                 server_started_at{version=\"0.1.0\",\
                 server_id=\"123e4567-e89b-12d3-a456-426655440000\"} 1727270000\n# EOF\n",
            ),
            headers: &[],
        },
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const CONFIG_SAVE: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Change the settings of the server",
    description: "Writes the settings to the configuration file (`weir.toml` in the data \
         directory by default) and applies them. Settings from the command line or the \
         environment keep their values; the response has the effective values and, in `sources`, \
         where they come from. A changed key or login is effective at once: parked polls are \
         answered, and every request needs the new one.",
    request: Some(BodyDoc {
        shape: Shape::One("central_config"),
        description: "The settings to change. `api_key` is required.",
        example: r#"{"api_key":"Zk3vN8qLw1","layouter_enabled":"true","layouter_sleeping_interval":30000}"#,
        partial: true,
    }),
    responses: &[
        saved("central_config", CONFIG_EXAMPLE),
        refuse(
            "The body is not JSON, or a setting is invalid. Nothing was changed.",
            error::UNKNOWN_ENUM_OPTION,
        ),
        UNAUTHORIZED,
        refuse(
            "The configuration file cannot be read or replaced, or is invalid elsewhere. \
                 Nothing was changed.",
            error::CONFIG_FILE_UNWRITABLE,
        ),
        TOO_LARGE,
        UNAVAILABLE,
    ],
    errors: &[error::CONFIG_FILE_INVALID],
    ..OPERATION
};
