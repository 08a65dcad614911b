//! Agents, their placement and the commands they take.

use super::{
    BAD_BODY, BAD_QUERY, DELETED, LIST, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, empty,
    json, path, query, refuse, saved,
};
use crate::error;
use crate::openapi::model::{
    BodyDoc, Content, HeaderDoc, Kind, OperationDoc, ParamDoc, Place, ResponseDoc, Shape,
};

const ID: ParamDoc = path("id", "Identifier of the agent.", r#""1234567""#);

const NO_AGENT: ResponseDoc = refuse("No agent has this identifier.", error::AGENT_NOT_FOUND);
const OFFLINE: ResponseDoc = refuse(
    "The agent is not connected now, so it cannot be told anything.",
    error::AGENT_OFFLINE,
);
const NO_REPLY: ResponseDoc = refuse(
    "The agent is connected but did not reply in time.",
    error::AGENT_TIMEOUT,
);

const REFUSED: ResponseDoc = refuse(
    "The agent refused, or its connection ended before it replied.",
    error::AGENT_CONNECTION_CLOSED,
);

/// A field that an agent connects with.
const fn field(name: &'static str, required: bool, description: &'static str) -> ParamDoc {
    ParamDoc {
        place: Place::Header,
        required,
        example: None,
        ..path(name, description, "")
    }
}

/// A field that an agent is answered with.
const fn told(name: &'static str, description: &'static str) -> HeaderDoc {
    HeaderDoc {
        name,
        kind: Kind::Text,
        description,
    }
}

const STREAMPOINT: HeaderDoc = told(
    "X-Streampoint-Url",
    "Where the agent sends its video; absent while it has no streamer, or one that takes no \
         agents.",
);

const AGENT_EXAMPLE: &str = r#"{"id":"1234567","key":"uG5tQx0nD2bW","layout":{"ingest":"streamer1.example.com","originator":"layouter","created_at":1727274724000},"stats":{"agent_type":"single","version":"v21.02-8-g535c85d","peer_ip":"198.51.100.7","endpoint_connection":{"alive":true,"opened_at":1727274700000}}}"#;

pub const AGENTS_LIST: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "List agents",
    description: "A page of the agents that are configured and have connected at least once, \
         sorted by identifier downwards unless asked otherwise. \
                      Keys are masked. `stream_is=null` finds agents that no stream uses.",
    parameters: &[
        query(
            "q",
            Kind::Text,
            "Text to look for, in upper or lower case, in identifier, addresses, hardware \
                 address and version.",
            r#""198.51.100.""#,
        ),
        query(
            "stream",
            Kind::Text,
            "Only agents that the stream of this name uses.",
            r#""harbour/cam1""#,
        ),
    ],
    shared: LIST,
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
    description: "Places agents that no stream uses yet, all of them or none. Agents that have \
         streams are passed over: the placement of their \
                      streams decides.",
    request: Some(BodyDoc {
        shape: Shape::One("central_agent_layout_list"),
        description: "The streamers. Every agent must exist. At most 10,000.",
        example: r#"{"layouts":[{"id":"1234567","ingest":"streamer1.example.com"}]}"#,
        partial: false,
    }),
    responses: &[
        empty(204, "All entries are set and on disk."),
        refuse(
            "At least one entry is invalid, for example names an agent that does not exist. \
                 Nothing was changed.",
            error::UNKNOWN_AGENT,
        ),
        UNAUTHORIZED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const AGENT_GET: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Read one agent",
    description: "The agent, its streamer and what is known of its connections. An administrator \
         sees its key here in the clear.",
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
         identifier is new. The agent can connect from then on.",
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
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const AGENT_DELETE: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Delete an agent and its streams",
    description: "Removes the agent for good and with it every stream that uses it, together. \
         When the device connects again it is told to forget \
                      what it knows.",
    parameters: &[ID],
    responses: &[DELETED, UNAUTHORIZED, NO_AGENT, UNAVAILABLE],
    ..OPERATION
};

pub const AGENT_REBOOT: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Restart the device of an agent",
    description: "Tells the agent to restart the device it runs on. It connects again \
         afterwards. There is no body.",
    parameters: &[ID],
    responses: &[
        empty(204, "The agent has confirmed it."),
        UNAUTHORIZED,
        NO_AGENT,
        OFFLINE,
        REFUSED,
        UNAVAILABLE,
        NO_REPLY,
    ],
    ..OPERATION
};

pub const AGENT_RESET: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Make an agent forget its settings",
    description: "Tells the agent to return to the settings it was delivered with. It has to be \
         activated anew. There is no body.",
    parameters: &[ID],
    responses: &[
        empty(204, "The agent has confirmed it."),
        UNAUTHORIZED,
        NO_AGENT,
        OFFLINE,
        REFUSED,
        UNAVAILABLE,
        NO_REPLY,
    ],
    ..OPERATION
};

pub const AGENT_DISCONNECT: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Close the connection of an agent",
    description: "Closes the control connection. The agent opens a new one by itself. There is \
         no body.",
    parameters: &[ID],
    responses: &[
        empty(204, "The connection is closed."),
        UNAUTHORIZED,
        NO_AGENT,
        OFFLINE,
        UNAVAILABLE,
        NO_REPLY,
    ],
    ..OPERATION
};

pub const AGENT_LOGS_GET: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Fetch the logs of an agent",
    description: "Asks the connected agent for facts about its device and for its logs, which \
         are encrypted for the maker of the device.",
    parameters: &[ID],
    responses: &[
        json(
            200,
            "What the agent answered.",
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
    ..OPERATION
};

pub const ENDPOINT_CONNECT: OperationDoc = OperationDoc {
    tag: "agent",
    summary: "Connect as an agent",
    description: "The handshake of agents, also served without a prefix. The first request gets \
         a challenge (401), the second proves that the agent knows \
                      its key: `Authorization: Peeklio H(nonce:H(salt:key))`, where H is the \
                      SHA-512 of a text in lower-case hexadecimal digits. \
                      `X-Agentauth` of the challenge is the server's own proof: \
                      `H(H(salt:key):nonce)`, or `H(H(salt:key):nonce:own)` if the first request \
                      brought an `X-Nonce` of the agent's own. A nonce is good once and for a \
                      minute. With `Connection: Upgrade` and \
                      `Upgrade: weir-agent/1` the connection becomes the control connection of \
                      the agent, over which lines of JSON go; without them \
                      the agent is told where to send its video and no more.",
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
                "The proof holds; from here on the connection carries lines.",
            )
        },
        ResponseDoc {
            status: 200,
            description: "The proof holds. There was no upgrade to a known protocol, or the \
                 agent was deleted.",
            content: Content::Text("text/plain; charset=utf-8", "authorized"),
            headers: &[
                STREAMPOINT,
                told(
                    "X-Force-Reset",
                    "`true`: the agent was deleted, it forgets its key and this server.",
                ),
            ],
        },
        ResponseDoc {
            headers: &[
                told("X-Nonce", "To be proved with, once and within a minute."),
                told("X-Salt", "Goes with the nonce."),
                told(
                    "X-Agentauth",
                    "Proves that the server knows the key of the agent.",
                ),
            ],
            ..refuse(
                "A proof is missing, or its nonce is no longer good.",
                error::AGENT_CHALLENGE,
            )
        },
        refuse(
            "The identifier is missing or unknown, the agent has no key, or the proof is wrong.",
            error::AUTHENTICATION_FAILED,
        ),
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};
