//! Agents, their layouts and commands to them.

use super::{
    BAD_BODY, BAD_QUERY, DELETED, NOT_PERMITTED, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE,
    empty, json, path, refuse, saved,
};
use crate::error::{self, ErrorCode};
use crate::openapi::model::{
    BodyDoc, Content, HeaderDoc, OperationDoc, ParamDoc, ParameterIn, ResponseDoc, Shape,
};
use crate::query::params::{ParameterSpec, ValueKind};

const ID: ParamDoc = path("id", "Identifier of the agent.", r#""1234567""#);

const NO_AGENT: ResponseDoc = refuse("No agent has this identifier.", error::AGENT_NOT_FOUND);
const OFFLINE: ResponseDoc = refuse("The agent is not connected.", error::AGENT_OFFLINE);
const NO_REPLY: ResponseDoc = refuse(
    "The agent is connected but did not reply in time.",
    error::AGENT_TIMEOUT,
);

const REFUSED: ResponseDoc = refuse(
    "The agent refused, or its connection ended before it replied.",
    error::AGENT_CONNECTION_CLOSED,
);

/// A header field of the handshake.
const fn field(name: &'static str, required: bool, description: &'static str) -> ParamDoc {
    ParamDoc {
        location: ParameterIn::Header,
        spec: ParameterSpec {
            required,
            ..ParameterSpec::new(name, ValueKind::Text, description)
        },
    }
}

/// A header field of the response to a handshake.
const fn header(name: &'static str, description: &'static str) -> HeaderDoc {
    HeaderDoc {
        name,
        kind: ValueKind::Text,
        description,
    }
}

const STREAMPOINT: HeaderDoc = header(
    "X-Streampoint-Url",
    "URL to which the agent sends its video; absent while it has no streamer that accepts agents.",
);

const AGENT_EXAMPLE: &str = r#"{"id":"1234567","key":"uG5tQx0nD2bW","layout":{"ingest":"streamer1.example.com","originator":"layouter","created_at":1727274724000},"stats":{"agent_type":"single","version":"v21.02-8-g535c85d","peer_ip":"198.51.100.7","endpoint_connection":{"alive":true,"opened_at":1727274700000}}}"#;

pub const AGENTS_LIST: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "List agents",
    description: "A page of the agents that are configured and have connected at least once, by \
         default sorted by identifier in descending order. Keys are masked. `stream_is=null` \
         finds agents that no stream uses.",
    responses: &[
        json(
            200,
            "The page.",
            Shape::One("central_agents_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"agents":[{"id":"1234567","key":"***","stats":null}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const BATCH_UPDATE_AGENTS_LAYOUTS: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Set the streamers of several agents",
    description: "Places agents that no stream uses yet, all of them or none. Agents with \
         streams are skipped: they follow the layout of their streams. A token needs `write` on \
         every agent.",
    request: Some(BodyDoc {
        shape: Shape::One("central_agent_layout_list"),
        description: "The streamers. Every agent must exist. At most 10,000.",
        example: r#"{"layouts":[{"id":"1234567","ingest":"streamer1.example.com"}]}"#,
        partial: false,
    }),
    responses: &[
        empty(204, "All entries are set and on disk."),
        refuse(
            "At least one entry is invalid, for example because its agent does not exist. \
                 Nothing was changed.",
            error::UNKNOWN_AGENT,
        ),
        UNAUTHORIZED,
        NOT_PERMITTED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const AGENT_GET: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Read one agent",
    description: "The agent, its streamer and the state of its connections. The key is not \
         masked for administrators.",
    parameters: &[ID],
    responses: &[
        json(
            200,
            "The agent.",
            Shape::One("central_agent_config"),
            AGENT_EXAMPLE,
        ),
        UNAUTHORIZED,
        NO_AGENT,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const AGENT_SAVE: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Register or change an agent",
    description: "Merges the body into the stored agent, or registers the agent if the \
         identifier is new. The agent can connect from then on. To set `key` a token needs \
         `execute` on the agent besides `write`, because the key opens its control connection.",
    parameters: &[ID],
    request: Some(BodyDoc {
        shape: Shape::One("central_agent_config"),
        description: "The fields to change.",
        example: r#"{"key":"uG5tQx0nD2bW"}"#,
        partial: true,
    }),
    responses: &[
        saved("central_agent_config", AGENT_EXAMPLE),
        BAD_BODY,
        UNAUTHORIZED,
        NOT_PERMITTED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const AGENT_DELETE: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Delete an agent and its streams",
    description: "Deletes the agent and every stream that uses it, in one transaction. When the \
         device connects again, it is reset. A token needs `write` on the agent and on each of \
         these streams.",
    parameters: &[ID],
    responses: &[DELETED, UNAUTHORIZED, NOT_PERMITTED, NO_AGENT, UNAVAILABLE],
    ..OPERATION
};

/// Responses of commands that the agent confirms.
const COMMANDED: &[ResponseDoc] = &[
    empty(204, "The agent has confirmed it."),
    UNAUTHORIZED,
    NO_AGENT,
    OFFLINE,
    REFUSED,
    UNAVAILABLE,
    NO_REPLY,
];

const COMMAND_ERRORS: &[ErrorCode] = &[
    error::AGENT_BUSY,
    error::AGENT_REFUSED,
    error::AGENT_CONNECTION_CLOSED,
];

pub const AGENT_REBOOT: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Restart the device of an agent",
    description: "Sends the agent a command to restart its device. It connects again afterwards. \
         There is no body.",
    parameters: &[ID],
    responses: COMMANDED,
    errors: COMMAND_ERRORS,
    ..OPERATION
};

pub const AGENT_RESET: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Reset an agent to factory settings",
    description: "Sends the agent a command to return to its factory settings. It must then be \
         activated again. There is no body.",
    parameters: &[ID],
    responses: COMMANDED,
    errors: COMMAND_ERRORS,
    ..OPERATION
};

pub const AGENT_DISCONNECT: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Close the connection of an agent",
    description: "Closes the control connection. The agent reconnects. There is no body.",
    parameters: &[ID],
    responses: &[
        empty(204, "The connection is closed."),
        UNAUTHORIZED,
        NO_AGENT,
        OFFLINE,
        UNAVAILABLE,
        NO_REPLY,
    ],
    errors: COMMAND_ERRORS,
    ..OPERATION
};

pub const AGENT_LOGS_GET: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Fetch the logs of an agent",
    description: "Requests from the connected agent the properties of its device and its logs, \
         which are encrypted for the manufacturer of the device.",
    parameters: &[ID],
    responses: &[
        json(
            200,
            "The reply of the agent.",
            Shape::One("watcher_agent_logs"),
            r#"{"agent_id":"1234567","status":"ok","version":"v21.02-8-g535c85d","serial":"a3dccd69f53deb79723a2a7a5f2037e1","main_url":"http://activation.example.com","cid":null,"mid":"3059","meminfo":null,"buffer_limit":65536,"buffer_size":1310,"a":"VDEVSg==","b":"eGdseQ=="}"#,
        ),
        UNAUTHORIZED,
        NO_AGENT,
        OFFLINE,
        REFUSED,
        UNAVAILABLE,
        NO_REPLY,
    ],
    errors: COMMAND_ERRORS,
    ..OPERATION
};

pub const ENDPOINT_CONNECT: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Connect as an agent",
    description: "The handshake of agents, also served without a prefix. The response to the \
         first request is a challenge (401). The second request proves that the agent has its \
         key: `Authorization: Peeklio H(nonce:H(salt:key))`, where H is the SHA-512 of a text in \
         lower-case hexadecimal digits. `X-Agentauth` of the challenge is the proof of the \
         server: `H(H(salt:key):nonce)`, or `H(H(salt:key):nonce:own)` if the first request had \
         an `X-Nonce` of the agent. A nonce is valid once, for one minute. With `Connection: \
         Upgrade` and `Upgrade: weir-agent/1` the connection becomes the control connection of \
         the agent, which carries lines of JSON; without them the response has the URL for the \
         video only.",
    parameters: &[
        field("X-Peeklio-Id", true, "Identifier of the agent."),
        field(
            "X-Nonce",
            false,
            "The nonce of the challenge, or one of the agent's own in its first request.",
        ),
    ],
    responses: &[
        ResponseDoc {
            headers: &[STREAMPOINT],
            ..empty(
                101,
                "The proof is valid; the connection now carries lines of JSON.",
            )
        },
        ResponseDoc {
            status: 200,
            description: "The proof is valid. The request has no upgrade to a known protocol, or \
                 the agent was deleted.",
            content: Content::Text("text/plain; charset=utf-8", "authorized"),
            headers: &[
                STREAMPOINT,
                header(
                    "X-Force-Reset",
                    "`true`: the agent was deleted and must forget its key and this server.",
                ),
            ],
        },
        ResponseDoc {
            headers: &[
                header(
                    "X-Nonce",
                    "Nonce of the proof, valid once and for one minute.",
                ),
                header("X-Salt", "Salt of the proof."),
                header(
                    "X-Agentauth",
                    "Proof that the server has the key of the agent.",
                ),
            ],
            ..refuse(
                "The proof is missing, or its nonce is used or expired.",
                error::AGENT_CHALLENGE,
            )
        },
        refuse(
            "The identifier is missing or unknown, the agent has no key, or the proof is wrong.",
            error::AUTHENTICATION_FAILED,
        ),
        UNAVAILABLE,
    ],
    errors: &[error::AGENT_UNKNOWN],
    extension: true,
    ..OPERATION
};
