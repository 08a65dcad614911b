//! The documents of the API: JSON Schema files compiled at start into a compact tree for bodies,
//! filters and responses.
//!
//! One description serves validation, read-only rules, defaults, secrets and filter types. All
//! checks are linear in the document and bounded in depth. No resource is named here except by the
//! roots below. Merging is in `json::patch`, the OpenAPI document in `openapi`, and rules that need
//! the cluster (taken names, existing nodes) in `state`.
//!
//! A body goes through `parse`, `prune` (members that a client may not set are dropped), `unmask`
//! (secrets are restored), `merge`, `prune` again (members of another variant that are left after
//! the merge are dropped) and `check`, and is then stored. A response goes through `effective` and
//! `mask`.
//!
//! * `tree` compiles the files; `pattern` and `format` are the rules for text.
//! * `prune`, `check`, `defaults`, `mask`, `unknown` and `field` each use the tree for one purpose;
//!   `valid` does the work of several for documents that need no change.

mod check;
pub mod data;
mod defaults;
mod field;
mod format;
mod mask;
mod pattern;
mod prune;
mod tree;
mod unknown;
mod valid;

pub use check::{Violation, WHOLE};
pub use defaults::without_filled;
pub use field::SchemaField;
pub use mask::{MASK, mask_urls};
pub use unknown::nearest;
pub use valid::ValidWriter;

use std::sync::LazyLock;

use crate::json::Value;
use tree::{NodeId, Tree};

/// The schema files, read once for all roots.
static FILES: LazyLock<tree::Schemas> = LazyLock::new(|| tree::read(data::FILES));

/// A root: `name()` compiles the schema at its first use. The list has the members that every
/// response includes.
macro_rules! roots {
    ($($(#[$about:meta])* $name:ident: $schema:literal, $required:expr;)*) => {$(
        $(#[$about])*
        pub fn $name() -> &'static Schema {
            static ROOT: LazyLock<Schema> =
                LazyLock::new(|| Schema::compile(&FILES, $schema, &$required));
            &ROOT
        }
    )*};
}

roots! {
    /// The configuration of a stream.
    stream: "central_stream_config", ["name", "updated_at"];
    /// The configuration of a streamer: a union by `role`. Input requires `cluster_key` and `role`;
    /// a response always has only the key of the collection.
    streamer: "streamer_config", ["hostname"];
    /// The report of a streamer about itself.
    streamer_stats: "peer_stats", [];
    /// A storage of a streamer.
    streamer_dvr: "dvr_config", ["name"];
    /// The report of a streamer about a stream.
    stream_stats: "stream_stats", [];
    /// The placement of a stream as requested by a client.
    stream_layout: "central_stream_layout", [];
    /// Placements of streams, and of agents.
    stream_layouts: "central_stream_layout_list", [];
    agent_layouts: "central_agent_layout_list", [];
    /// An agent and the streamers it sends video to.
    agent: "central_agent_config", ["id"];
    /// An API token.
    api_token: "api_token", ["key", "name"];
    /// Access rules for viewers.
    auth_backend: "auth_backend_config", ["name"];
    /// A group of streamers that share viewers.
    balancer: "balancer_config", ["name"];
    /// An episode: a union by `episode_type`, `generic` when it is absent, custom when it is
    /// unknown.
    episode: "episode", ["episode_id", "media", "opened_at", "updated_at"];
    /// A person that is recognized in videos.
    person: "vision_person", ["originator", "person_id", "updated_at"];
    /// A storage for recordings.
    dvr: "central_dvr_config", ["name"];
    /// The server's own settings.
    config: "central_config", ["api_key", "database"];
    /// An event: a union by `event`.
    event: "central_event", ["event", "event_id"];
    /// Health of the cluster.
    #[cfg(any(test, feature = "testing"))]
    cluster_stats: "cluster_health_stats", [];
    /// A changed layout in a preview.
    layout_change: "central_stream_layout_list_item", ["name"];
    /// A changed load in a preview.
    load_change: "central_streamer_layout_prediction_item", ["hostname", "role"];
    /// The wanted maintenance of a streamer.
    streamer_maintenance: "streamer_maintenance", [];
    /// The wanted pause of the layouter.
    layouter_change: "layouter_change", [];
    /// An assumed viewer of a test of an auth backend.
    auth_test: "auth_test", ["ip"];
    /// A change of all streams that match filters.
    streams_by_filter: "streams_by_filter", [];
    /// Assumed events of a layout preview.
    cluster_preview_request: "cluster_preview_request", [];
}

/// The root that describes the bodies of this name. Reports of streamers have none: what is unknown
/// in them is dropped and named in the answer.
pub fn of_body(name: &str) -> Option<&'static Schema> {
    Some(match name {
        "central_stream_config" => stream(),
        "central_stream_layout_list" => stream_layouts(),
        "streamer_config" => streamer(),
        "central_agent_config" => agent(),
        "central_agent_layout_list" => agent_layouts(),
        "api_token" => api_token(),
        "auth_backend_config" => auth_backend(),
        "balancer_config" => balancer(),
        "episode" => episode(),
        "vision_person" => person(),
        "central_config" => config(),
        "cluster_preview_request" => cluster_preview_request(),
        "streamer_maintenance" => streamer_maintenance(),
        "layouter_change" => layouter_change(),
        "auth_test" => auth_test(),
        "streams_by_filter" => streams_by_filter(),
        _ => return None,
    })
}

/// A compiled schema of one kind of document.
pub struct Schema {
    tree: Tree,
    root: NodeId,
    masks: mask::Masks,
    required: Box<[Box<str>]>,
}

impl Schema {
    /// Compiles `root` and the schemas it refers to. The files are part of the program: an error in
    /// them panics at the first use.
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

    /// Sets an absent discriminating member to its default variant, if there is one (an episode
    /// without a type is generic). Called on a merged document before it is pruned: a patch need
    /// not repeat the stored member.
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

    /// Members that every response includes, even if `select` omits them.
    pub fn required(&self) -> &[Box<str>] {
        &self.required
    }
}

#[cfg(test)]
mod tests;
