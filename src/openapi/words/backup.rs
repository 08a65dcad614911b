//! Backups of the running server.

use super::{OPERATION, RETRY_AFTER, UNAUTHORIZED};
use crate::error;
use crate::openapi::model::{Content, OperationDoc, ResponseDoc};

pub const BACKUP_GET: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Download a backup",
    description: "The whole store at one revision, while the server runs: everything that was \
         saved before the request, and nothing that is saved later. `weir restore` makes a data \
         directory from it, `weir check` verifies it, `weir backup` downloads, verifies and stores \
         it. For administrators only: it has the secrets of all entities.\n\n\
         The file ends with a checksum over all of it. It is sent at most at the setting \
         `backup_rate`; a client that needs longer than `backup_time` is disconnected, and so is \
         every client when the server stops. A body without its end is no backup. The \
         configuration file, the API key and the journal of settings are not in it.",
    responses: &[
        ResponseDoc {
            status: 200,
            description: "The backup.",
            content: Content::Text("application/octet-stream", "weir.backup\n..."),
            headers: &[],
        },
        UNAUTHORIZED,
        ResponseDoc {
            status: 503,
            description: "As many backups as may be sent at a time are being sent.",
            content: Content::Error(error::TOO_MANY_BACKUPS),
            headers: &[RETRY_AFTER],
        },
    ],
    extension: true,
    ..OPERATION
};
