//! One operation of the API as data.

use super::router::Route;
use crate::access::auth::{Access, TokenNeed};
use crate::openapi::model::{OperationDoc, Security};
use crate::query::params::Parameter;

/// Largest body of an ordinary request, bytes.
pub const BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Largest body that carries a batch, bytes.
pub const BATCH_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One operation of the API: its row in `endpoint::OPERATIONS`, without the handler.
pub struct Operation {
    pub route: Route,
    /// The `operationId` of the reference.
    pub id: &'static str,
    /// The permission that a caller needs.
    pub permission: RequiredPermission,
    pub body_bytes_max: u64,
    /// The query parameters of its own. A handler reads no others.
    pub parameters: &'static [&'static dyn Parameter],
    /// The query parameters that the query engine reads for every list.
    pub list_parameters: &'static [&'static dyn Parameter],
    /// The conditions that a request may have.
    pub conditions: Conditions,
    /// Its description in the OpenAPI document.
    pub doc: &'static OperationDoc,
}

/// Where the conditions of a request are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Nowhere; the fields are ignored.
    None,
    /// In `If-Match` and `If-None-Match`: they are about the entity in the path.
    Entity,
    /// In the member `if_match` of the items of the body.
    Items,
}

/// The permission that an operation requires. Administrators may call all operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequiredPermission {
    pub access: Access,
    /// The permission that an API token needs.
    pub token: TokenNeed,
    /// The credentials in the OpenAPI document.
    pub security: Security,
}

impl Operation {
    /// All query parameters, in the order of the document.
    pub fn query_parameters(&self) -> impl Iterator<Item = &'static dyn Parameter> {
        let all = self.parameters.iter().chain(self.list_parameters);
        all.copied()
    }
}
