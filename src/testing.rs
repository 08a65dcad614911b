//! What tests, benchmarks and fuzz targets use of the server, item by item.
//!
//! Only with feature `testing`. The server itself exports nothing but [`crate::run`], so that the
//! compiler names code that nothing uses.

pub mod access {
    pub use crate::access::auth::{Access, Auth, Needs, TokenNeed};
    pub use crate::access::rights::{Action, Listable, Rights};
    pub use crate::access::token::Tokens;
}

pub mod agents {
    pub use crate::agents::protocol::{
        AgentEvent, AgentRequest, AgentSession, ERRORS_MAX, PENDING_MAX,
    };
    pub use crate::agents::registry::Registry;
}

pub mod api {
    pub use crate::api::dvr_presence::DVR_PRESENCE_CHECK;
    pub use crate::api::endpoint::OPERATIONS;
    pub use crate::api::router::{Found, Route, Router};

    pub mod config_external {
        pub use crate::api::config_external::{Etag, delta, render_whole};
    }
    pub mod entity {
        pub use crate::api::entity::{EntitySource, list_kind};
    }
    pub mod event {
        pub use crate::api::event::{Events, KIND};
    }
    pub mod stream {
        pub use crate::api::stream_doc::{Around, KIND, Streams, render};
    }
}

pub mod core {
    pub use crate::core::message::CoreMessage;
}

pub mod error {
    pub use crate::error::ApiError;
}

pub mod feed {
    pub use crate::feed::nodes::NodeTable;
    pub use crate::feed::{Subject, Waiters};
}

pub mod fleet {
    pub use crate::fleet::report::StreamerReport;
    pub use crate::fleet::stats::FleetStats;
}

pub mod http {
    pub use crate::http::input::{Input, NextRequest, Progress, next_request};
    pub use crate::http::refusal::Refusal;
    pub use crate::http::{Coding, Method, Ticket};

    pub mod head {
        pub use crate::http::head::{Head, fields, parse};
    }
}

pub mod import {
    pub use crate::import::channel::channels;
    pub use crate::import::playlist::parse;
}

pub mod json {
    pub use crate::json::{Object, Value, parse, readers, scan};
}

pub mod layouter {
    pub use crate::layouter::{
        Balance, DrainSpec, DvrSpec, Engine, EngineSettings, Event, LayoutChange, MoveBudgets,
        MoveReason, NodeSpec, NodeState, PlacementRole, Rows, Shed, ShedTarget, SlotKind,
        StoredLayout, StreamLayout, StreamSpec, Thresholds,
    };
}

pub mod openapi {
    pub use crate::openapi::{document, served};
}

pub mod query {
    pub use crate::query::cursor::{Cursor, CursorScope};
    pub use crate::query::params::{POLL_TIMEOUT, Parameter};
    pub use crate::query::{Execution, FieldPath, ListKind, Page, Query, SortKey, Source};
}

pub mod rt {
    pub use crate::rt::Inbox;
}

pub mod schema {
    pub use crate::schema::{cluster_stats, config, event, stream, streamer, without_filled};
}

pub mod state {
    pub use crate::state::{Loader, SHARDS, State};

    pub mod apply {
        pub use crate::state::apply::{Lost, Stamp, apply};
    }
    pub mod changes {
        pub use crate::state::changes::Done;
    }
    pub mod command {
        pub use crate::state::command::{
            Command, EntitySave, HandoverEnd, StreamPatch, layout_items, stream_items,
            streamer_items, streamer_patch,
        };
    }
    pub mod entity {
        pub use crate::state::entity::{KINDS, Key, Kind};
    }
    pub mod event {
        pub use crate::state::event::{EntityType, EventLimits, NewEvent};
    }
    pub mod name {
        pub use crate::state::name::{Hostname, StreamName, shard_of};
    }
    pub mod node {
        pub use crate::state::node::{Node, RenderSettings, holders, render, render_restream};
    }
    pub mod record {
        pub use crate::state::record::{
            ArchivedFacts, Entity, EntityRecord, EventChunkRecord, Facts, Layout, NodeMark,
            NodeMarkRecord, PauseRecord, Role, Stream, StreamRecord, Streamer, StreamerRecord,
        };
    }
}

pub mod writer {
    pub use crate::writer::tables::STREAMS;
    pub use crate::writer::{
        COMMANDS_WAITING_MAX, Envelope, Published, ReplyTo, StateMachine, Writer, load,
    };
}
