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

use tree::{NodeId, Tree};

static STREAM: LazyLock<Schema> = LazyLock::new(|| {
    Schema::compile(
        data::FILES,
        "central_stream_config",
        &["name", "updated_at"],
    )
});

// `cluster_key` and `role` are required of input; of an answer only the key of the collection is.
static STREAMER: LazyLock<Schema> =
    LazyLock::new(|| Schema::compile(data::FILES, "streamer_config", &["hostname"]));

/// The configuration of a stream.
pub fn stream() -> &'static Schema {
    &STREAM
}

/// The description of a streamer: a union by `role`.
pub fn streamer() -> &'static Schema {
    &STREAMER
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
    fn compile(files: &[(&str, &str)], root: &str, required: &[&str]) -> Self {
        let (tree, root) = tree::compile(files, root);
        let masks = mask::Masks::of(&tree, root);
        Self {
            tree,
            root,
            masks,
            required: required.iter().map(|name| Box::from(*name)).collect(),
        }
    }

    /// Members that every answer has, whatever `select` says.
    pub fn required(&self) -> &[Box<str>] {
        &self.required
    }
}

#[cfg(test)]
mod tests;
