//! The description of an operation in the document, as data.

use crate::error::ErrorCode;
use crate::query::params::{ParameterSpec, ValueKind};

/// One operation as the document shows it.
#[derive(Debug, Clone, Copy)]
pub struct OperationDoc {
    pub tag: &'static str,
    /// A short imperative without a full stop.
    pub summary: &'static str,
    pub description: &'static str,
    /// Parameters in the path and in headers. Those of the query are in the row of the operation.
    pub parameters: &'static [ParamDoc],
    pub request: Option<BodyDoc>,
    pub responses: &'static [ResponseDoc],
    /// Further errors that not every operation has; the responses above have one for each status.
    pub errors: &'static [ErrorCode],
    /// An addition to the reference API (`x-since: later`).
    pub extension: bool,
}

/// Which credentials open an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// None needed.
    Open,
    /// Those of an administrator.
    Administrator,
    /// Those of an administrator, or the node's own cluster key.
    Node,
    /// The agent's own proof.
    Agent,
}

/// A parameter in the path or in a header.
#[derive(Debug, Clone, Copy)]
pub struct ParamDoc {
    pub location: ParameterIn,
    pub spec: ParameterSpec,
}

/// Where a parameter is: `in` of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterIn {
    Path,
    Query,
    Header,
}

#[derive(Debug, Clone, Copy)]
pub struct BodyDoc {
    pub shape: Shape,
    pub description: &'static str,
    /// JSON text.
    pub example: &'static str,
    /// The body is merged into what is stored: absent fields stay, `null` removes, `$reset`
    /// replaces.
    pub partial: bool,
}

/// A body in terms of the named schemas.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    One(&'static str),
    /// Merge patches of one kind; each names its object in the member `key`.
    Batch {
        of: &'static str,
        key: &'static str,
    },
    AnyOf(&'static [&'static str]),
    /// This document.
    Openapi,
}

#[derive(Debug, Clone, Copy)]
pub struct ResponseDoc {
    pub status: u16,
    pub description: &'static str,
    pub content: Content,
    pub headers: &'static [HeaderDoc],
}

#[derive(Debug, Clone, Copy)]
pub enum Content {
    None,
    /// A body and an example of it as JSON text.
    Json(Shape, &'static str),
    /// The same as JSON, or as text of another media type if the request selects it; the last is
    /// an example of that text.
    JsonOr(Shape, &'static str, &'static str, &'static str),
    /// Text of a media type, and an example of it.
    Text(&'static str, &'static str),
    /// The error form with this error in it.
    Error(ErrorCode),
}

#[derive(Debug, Clone, Copy)]
pub struct HeaderDoc {
    pub name: &'static str,
    pub kind: ValueKind,
    pub description: &'static str,
}
