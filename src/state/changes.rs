//! What a command changes: records to store, indexes to move, events to log.

use super::entity::{Key, Kind};
use super::event::NewEvent;
use super::name::{Hostname, StreamName};
use super::record::{EntityRecord, PauseRecord, Role, StreamRecord, StreamerRecord};

/// When a command is applied: the sequence number of its batch and the batch's stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub revision: u64,
    /// UTC ms, above every stamp of earlier batches.
    pub ms: u64,
}

/// Records to store and indexes to move.
#[derive(Debug, Clone)]
pub struct Changes {
    pub revision: u64,
    pub stamp_ms: u64,
    pub streams: Vec<StreamChange>,
    pub streamers: Vec<StreamerChange>,
    pub nodes: Vec<NodeChange>,
    pub entities: Vec<EntityChange>,
    pub pause: Option<PauseChange>,
    /// Events for the log beside that of the request; the batch numbers them.
    pub events: Vec<NewEvent>,
    pub done: Done,
}

#[derive(Debug, Clone)]
pub struct EntityChange {
    pub kind: Kind,
    pub key: Key,
    pub old: Option<EntityRecord>,
    pub new: Option<EntityRecord>,
}

#[derive(Debug, Clone)]
pub struct StreamChange {
    pub name: StreamName,
    pub old: Option<StreamRecord>,
    pub new: Option<StreamRecord>,
}

#[derive(Debug, Clone)]
pub struct StreamerChange {
    pub hostname: Hostname,
    pub new: Option<StreamerRecord>,
}

/// The begin of a pause of the layouter, or its end (`None`).
#[derive(Debug, Clone)]
pub struct PauseChange {
    pub new: Option<PauseRecord>,
}

/// How one node's view moves.
#[derive(Debug, Clone)]
pub struct NodeChange {
    pub hostname: Hostname,
    /// A stream's new role here, or that it is no longer laid out here.
    pub holds: Option<(StreamName, Option<Role>)>,
    /// The node's configuration changes.
    pub visible: bool,
    pub lost: Lost,
}

impl NodeChange {
    /// The configuration changed in a way a delta cannot express: the node must reload the list.
    pub(super) fn full_resync(hostname: Hostname) -> Self {
        Self {
            hostname,
            holds: None,
            visible: true,
            lost: Lost::Deltas,
        }
    }
}

/// Removal from a node's configuration that the record of no stream shows. Anything but `Nothing`
/// is stored as a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    Nothing,
    Stream(StreamName),
    Deltas,
}

impl Changes {
    pub(super) fn none(stamp: Stamp) -> Self {
        Self {
            revision: stamp.revision,
            stamp_ms: stamp.ms,
            streams: Vec::new(),
            streamers: Vec::new(),
            nodes: Vec::new(),
            entities: Vec::new(),
            pause: None,
            events: Vec::new(),
            done: Done::Nothing,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
            && self.streamers.is_empty()
            && self.nodes.is_empty()
            && self.entities.is_empty()
            && self.pause.is_none()
    }
}

/// The result of a command.
#[derive(Debug, Clone)]
pub enum Done {
    Stream(StreamRecord),
    Streamer(StreamerRecord),
    Entity(Kind, EntityRecord),
    /// The pause of the layouter from now on.
    Pause(Option<PauseRecord>),
    /// A plan was carried out, except for these rows.
    Placed {
        refused: Vec<usize>,
    },
    /// Selected streams were changed, except for these items.
    Selected {
        /// Streams that are different now.
        changed: usize,
        skipped: Vec<usize>,
    },
    /// No body: a deletion or a batch.
    Nothing,
}

impl Done {
    /// The status of the response.
    pub fn status(&self) -> u16 {
        match self {
            Self::Stream(_)
            | Self::Streamer(_)
            | Self::Entity(..)
            | Self::Pause(_)
            | Self::Selected { .. } => 200,
            Self::Placed { .. } | Self::Nothing => 204,
        }
    }
}
