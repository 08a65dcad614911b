//! What the API carries, as data: JSON Schema files compiled at start into a compact tree that every body, filter and answer goes through.
//!
//! Promises: one description serves validation, read-only rules, defaults, secrets and filter types; all checks are linear in the document and
//! bounded in depth; nothing here knows a resource by name except the roots below. Leaves to others: merging (`json::patch`), the
//! rules that need the rest of the cluster (names that are taken, nodes that exist), the OpenAPI document (`api::openapi`).
//!
//! The way of a body: `parse` -> `prune` (what a client may not set is dropped) -> `unmask` (secrets it never saw are put back) -> `merge`
//! -> `prune` again (members of another variant, left over by the merge, are dropped) -> `check` -> stored. The way out: `effective` -> `mask`.
//!
//! * `tree` compiles the files; `pattern` and `format` are the two kinds of text rules.
//! * `prune`, `check`, `defaults`, `mask`, `field`: one question each, asked of the tree.

mod check;
pub mod data;
mod defaults;
mod field;
mod format;
mod mask;
mod pattern;
mod prune;
mod tree;

pub use check::{VIOLATIONS_MAX, Violation};
pub use defaults::{Effective, without_filled};
pub use field::FieldType;
pub use mask::MASK;

use std::sync::LazyLock;

use crate::json::Value;
use tree::{NodeId, Tree};

/// The files, read once for all roots.
static FILES: LazyLock<tree::Schemas> = LazyLock::new(|| tree::read(data::FILES));

/// A root: `name()` compiles the schema at its first use. The list names the members that every answer has.
macro_rules! roots {
    ($($(#[$about:meta])* $name:ident: $schema:literal, $required:expr;)*) => {$(
        $(#[$about])*
        pub fn $name() -> &'static Schema {
            static ROOT: LazyLock<Schema> = LazyLock::new(|| Schema::compile(&FILES, $schema, &$required));
            &ROOT
        }
    )*};
}

roots! {
    /// The configuration of a stream.
    stream: "central_stream_config", ["name", "updated_at"];
    /// The description of a streamer: a union by `role`. `cluster_key` and `role` are required of input; of an answer only the key of the
    /// collection is.
    streamer: "streamer_config", ["hostname"];
    /// What a streamer says of itself.
    streamer_stats: "peer_stats", [];
    /// A storage of a streamer.
    streamer_dvr: "dvr_config", ["name"];
    /// What a streamer says of a stream.
    stream_stats: "stream_stats", [];
    /// Where a stream runs, as a client asks for it.
    stream_layout: "central_stream_layout", [];
    /// An agent and where its video goes.
    agent: "central_agent_config", ["id"];
    /// A batch of streamers for agents.
    agent_layouts: "central_agent_layout_list", [];
    /// A key of a program.
    api_token: "api_token", ["key", "name"];
    /// Rules for viewers.
    auth_backend: "auth_backend_config", ["name"];
    /// A group of streamers that share viewers.
    balancer: "balancer_config", ["name"];
    /// An episode: a union by `episode_type`, `generic` when it is absent, custom when it is unknown.
    episode: "episode", ["episode_id", "media", "opened_at", "updated_at"];
    /// A span of recordings that a streamer has to keep.
    external_episode: "external_episode", ["opened_at", "updated_at"];
    /// A human who is recognised.
    person: "vision_person", ["originator", "person_id", "updated_at"];
    /// A storage for recordings.
    dvr: "central_dvr_config", ["name"];
    /// The server's own settings.
    config: "central_config", ["api_key", "database"];
    /// Something that happened: a union by `event`.
    event: "central_event", ["event", "event_id"];
    /// How the cluster fares.
    cluster_stats: "cluster_health_stats", [];
    /// A changed layout in a preview.
    layout_change: "central_stream_layout_list_item", ["name"];
    /// A changed load in a preview.
    load_change: "central_streamer_layout_prediction_item", ["hostname", "role"];
    /// Events that have not happened.
    cluster_preview_request: "cluster_preview_request", [];
}

/// One kind of document.
pub struct Schema {
    tree: Tree,
    root: NodeId,
    masks: mask::Masks,
    required: Box<[Box<str>]>,
}

impl Schema {
    /// Compiles `root` and what it reaches. The files are part of the program: a mistake in them is our bug and stops it at the first use.
    fn compile(schemas: &tree::Schemas, root: &str, required: &[&str]) -> Self {
        let (tree, root) = tree::compile(schemas, root);
        let masks = mask::Masks::of(&tree, root);
        Self {
            tree,
            root,
            masks,
            required: required.iter().map(|name| Box::from(*name)).collect(),
        }
    }

    /// Writes down which variant a document is whose discriminating member is absent, where that has a meaning (an episode without a type is a
    /// generic one). To be done with a merged document, before it is pruned: a patch need not repeat what is stored.
    pub fn name_variant(&self, merged: &mut Value) {
        let Some(tree::Union::Named {
            member,
            absent: Some((name, _)),
            ..
        }) = self.tree[self.root].union.as_deref()
        else {
            return;
        };
        if let Value::Object(object) = merged
            && object.member(member).is_none_or(Value::is_null)
        {
            object.insert(&**member, Value::from(&**name));
        }
    }

    /// Members that every answer has, whatever `select` says.
    pub fn required(&self) -> &[Box<str>] {
        &self.required
    }
}

#[cfg(test)]
mod tests;
