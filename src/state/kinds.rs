//! The kinds of entities, one row each: what differs between them, as data.
//!
//! A new kind is a variant, a row here, and what only this kind needs in [`super::entity::facts`].

use crate::error::{self, ApiError, ErrorCode};
use crate::schema::{self, Schema};

/// A kind of entities. The number is its row in [`ROWS`] and its index in arrays by kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    Agent = 0,
    ApiToken = 1,
    AuthBackend = 2,
    Balancer = 3,
    Episode = 4,
    Person = 5,
    /// The rest of a deleted agent, so that it is reset when it connects. Not served.
    DeletedAgent = 6,
    /// A time in which a streamer was not seen ([`super::report_gap`]). Not served.
    ReportGap = 7,
}

/// How keys are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyOrder {
    /// Byte by byte.
    Text,
    /// Whole numbers without leading zeros, by their value.
    Decimal,
}

/// The description of a kind.
pub struct KindRow {
    pub kind: Kind,
    /// Name of its table in the store; part of the format on disk.
    pub table: &'static str,
    /// The member that holds the items of a list. Empty: it is not served.
    pub collection: &'static str,
    /// The name under which the scopes of tokens name it.
    pub scope: &'static str,
    /// The field that holds the key.
    pub key: &'static str,
    pub order: KeyOrder,
    /// Whether the API shows the stamp of the last change.
    pub stamp: bool,
    pub schema: fn() -> &'static Schema,
    /// The error for a key that is not stored.
    pub not_found: ErrorCode,
}

use self::KeyOrder::{Decimal, Text};

#[rustfmt::skip]
const ROWS: [KindRow; 8] = [
    KindRow { kind: Kind::Agent, table: "agent", collection: "agents",
        scope: "agents", key: "id", order: Text, stamp: true, schema: schema::agent,
        not_found: error::AGENT_NOT_FOUND },
    KindRow { kind: Kind::ApiToken, table: "api_token", collection: "api_tokens",
        scope: "api_tokens", key: "name", order: Text, stamp: false, schema: schema::api_token,
        not_found: error::API_TOKEN_NOT_FOUND },
    KindRow { kind: Kind::AuthBackend, table: "auth_backend", collection: "auth_backends",
        scope: "auth_backends", key: "name", order: Text, stamp: false,
        schema: schema::auth_backend, not_found: error::AUTH_BACKEND_NOT_FOUND },
    KindRow { kind: Kind::Balancer, table: "balancer", collection: "balancers",
        scope: "load-balancers", key: "name", order: Text, stamp: false, schema: schema::balancer,
        not_found: error::BALANCER_NOT_FOUND },
    KindRow { kind: Kind::Episode, table: "episode", collection: "episodes",
        scope: "episodes", key: "episode_id", order: Decimal, stamp: true, schema: schema::episode,
        not_found: error::EPISODE_NOT_FOUND },
    KindRow { kind: Kind::Person, table: "person", collection: "persons",
        scope: "persons", key: "person_id", order: Decimal, stamp: true, schema: schema::person,
        not_found: error::PERSON_NOT_FOUND },
    KindRow { kind: Kind::DeletedAgent, table: "deleted_agent", collection: "",
        scope: "", key: "id", order: Text, stamp: false, schema: schema::agent,
        not_found: error::AGENT_NOT_FOUND },
    KindRow { kind: Kind::ReportGap, table: "report_gap", collection: "",
        scope: "", key: "hostname", order: Text, stamp: false, schema: schema::dvr,
        not_found: error::STREAMER_NOT_FOUND },
];

/// Every kind, in the order of the rows.
pub const KINDS: [Kind; ROWS.len()] = {
    let mut kinds = [Kind::Agent; ROWS.len()];
    let mut at = 0;
    while at < ROWS.len() {
        assert!(ROWS[at].kind as usize == at, "a kind's number is its row");
        kinds[at] = ROWS[at].kind;
        at += 1;
    }
    kinds
};

impl Kind {
    pub const fn row(self) -> &'static KindRow {
        &ROWS[self as usize]
    }

    pub fn schema(self) -> &'static Schema {
        (self.row().schema)()
    }

    /// The field that holds the key.
    pub const fn key_field(self) -> &'static str {
        self.row().key
    }

    pub fn has_number_keys(self) -> bool {
        self.row().order == Decimal
    }

    /// Whether the API has it.
    pub fn is_served(self) -> bool {
        !self.row().collection.is_empty()
    }

    /// Whether the API shows the stamp of the last change.
    pub fn shows_stamp(self) -> bool {
        self.row().stamp
    }

    /// The error for a key that is not stored.
    pub fn not_found(self) -> ApiError {
        self.row().not_found.error()
    }
}
