//! The server's own settings.

use super::{FORMAT, OPENMETRICS, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, refuse, saved};
use crate::error;
use crate::openapi::model::{BodyDoc, Content, OperationDoc, ResponseDoc, Shape};

const CONFIG_EXAMPLE: &str = r#"{"api_key":"Zk3vN8qLw1","api_url":"http://weir.example.com:9019/central/api/v3","database":{"url":"file:///var/lib/weir"},"loglevel":"info","log_requests":"false","layouter_enabled":"true","layouter_sleeping_interval":30000,"episodes_buffer_delay":1000,"episodes_buffer_limit":250,"config_external_reconciliation_interval":5000,"server_id":"123e4567-e89b-12d3-a456-426655440000","stats":{"id":"61893b15-75b2-4fcb-b4cf-ae1dd0858ea2","server_version":"0.1.0","started_at":1727270000,"uptime":4724}}"#;

pub const CONFIG_GET: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Read the settings of the server",
    description: "The settings in force, wherever they come from: the command line wins over the \
         environment, that over the file, that over the \
                      defaults; `sources` says where each comes from. Facts about the running \
                      program are in `stats`.",
    parameters: &[FORMAT],
    responses: &[
        ResponseDoc {
            status: 200,
            description: "The settings, or as metrics what is a number in them.",
            content: Content::JsonOr(
                Shape::One("central_config"),
                CONFIG_EXAMPLE,
                OPENMETRICS,
                "# TYPE server_started_at \
                     gauge\nserver_started_at{version=\"0.1.0\",server_id=\"123e4567-e89b-12d3-a456-426655440000\"} 1727270000\n# EOF\n",
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
    description: "Writes the settings into the configuration file, which is `weir.toml` in the \
         data directory unless another was named, and puts them into force. \
                      What is set on the command line or by the environment stays as it is; the \
                      answer says what is in force and, in `sources`, why. \
                      A changed key or login counts at once: waiting polls are answered, and \
                      every request needs the new one.",
    request: Some(BodyDoc {
        shape: Shape::One("central_config"),
        description: "The settings to change. `api_key` has to be given.",
        example: r#"{"api_key":"Zk3vN8qLw1","layouter_enabled":"true","layouter_sleeping_interval":30000}"#,
        partial: true,
    }),
    responses: &[
        saved("central_config", CONFIG_EXAMPLE),
        refuse(
            "The body is not JSON, or a setting in it has a value that cannot be used. Nothing \
                 was changed.",
            error::UNKNOWN_ENUM_OPTION,
        ),
        UNAUTHORIZED,
        refuse(
            "The configuration file cannot be read or replaced, or has a mistake elsewhere. \
                 Nothing was changed.",
            error::CONFIG_FILE_UNWRITABLE,
        ),
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};
