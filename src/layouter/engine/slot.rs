//! Slots: one part of a stream each, in a table of plain numbers; the slots of a stream form a
//! ring.

use std::hint::black_box;

use super::Engine;
use super::class::NONE;
use super::cow::{CowMap, CowVec, mix};
use super::event::SlotKind;
use super::tree::Need;
use crate::state::name::StreamName;

/// Unit of disk space, so that a node's disk fits 32 bits.
pub const DISK_UNIT_BYTES: u64 = 256 << 20;

/// Slots that are fetched together: about as many reads as a processor keeps in flight.
pub const FETCHED_TOGETHER: usize = 16;

/// Upper bound of one slot's claims, so that the sum over a unit cannot overflow.
pub const CLAIM_MAX: u32 = 1 << 28;

/// One placement need of a stream. The slots of a stream, its ingest included, form a ring through
/// `sibling`.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub node: u32,
    pub class: u32,
    /// Neighbours in its list; `next` of a free slot is the next free one.
    pub prev: u32,
    pub next: u32,
    pub sibling: u32,
    pub kbps: u32,
    pub disk: u32,
    pub channels: u16,
    /// Score of its node.
    pub score: u16,
    pub flags: u16,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            node: NONE,
            class: NONE,
            prev: NONE,
            next: NONE,
            sibling: NONE,
            kbps: 0,
            disk: 0,
            channels: 0,
            score: 0,
            flags: 0,
        }
    }
}

/// Rarely used data of a slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotRow {
    /// Revision of the stream's row, in two halves for alignment; valid at the ingest slot.
    revision: [u32; 2],
    pub demand: u32,
}

impl SlotRow {
    pub fn revision(&self) -> u64 {
        u64::from(self.revision[1]) << 32 | u64::from(self.revision[0])
    }

    pub fn set_revision(&mut self, revision: u64) {
        self.revision = [revision as u32, (revision >> 32) as u32];
    }
}

impl Default for SlotRow {
    fn default() -> Self {
        Self {
            revision: [0, 0],
            demand: NONE,
        }
    }
}

const _: () = assert!(
    size_of::<Slot>() + size_of::<SlotRow>() <= 48,
    "a million streams must fit into 64 MB"
);

pub const KIND: u16 = 3;
pub const LIVE: u16 = 1 << 2;
pub const WAITING: u16 = 1 << 3;
/// In the batch that is placed at the end of the event.
pub const PENDING: u16 = 1 << 4;
/// Ingest of a stream in a unit; its `node` mirrors the unit's.
pub const MEMBER: u16 = 1 << 5;
/// The slot that stands for all ingests of a unit.
pub const UNIT: u16 = 1 << 6;
/// Its stream is off: disabled or held.
pub const DISABLED: u16 = 1 << 7;
/// In the log of this event.
pub const RECORDED: u16 = 1 << 8;
/// Moved, and not confirmed by its node yet.
pub const IN_FLIGHT: u16 = 1 << 9;
/// Has an origin to return to.
pub const RETURNS: u16 = 1 << 10;
/// Its origin at the beginning of this event is recorded, and no change of its stream was emitted
/// since.
pub const ORIGIN_RECORDED: u16 = 1 << 11;
/// Its bitrate was measured; set at the ingest.
pub const MEASURED: u16 = 1 << 12;
/// Its stream is held; set at the ingest, besides `DISABLED`.
pub const QUARANTINED: u16 = 1 << 13;
/// Optional moves leave it where it is; set at the ingest.
pub const PINNED: u16 = 1 << 14;

impl Slot {
    #[inline]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub fn kind(&self) -> SlotKind {
        match self.flags & KIND {
            0 => SlotKind::Ingest,
            1 => SlotKind::Inference,
            _ => SlotKind::DvrBackup,
        }
    }

    #[inline]
    pub fn need(&self) -> Need {
        Need {
            channels: u32::from(self.channels),
            kbps: self.kbps,
            disk: self.disk,
        }
    }
}

/// All slots and their streams.
#[derive(Clone)]
pub(super) struct SlotTable {
    pub slots: CowVec<Slot>,
    pub rows: CowVec<SlotRow>,
    pub names: CowVec<Option<StreamName>>,
    /// Ingest slot of each stream.
    pub by_name: CowMap<StreamName, u32, 1024>,
    /// Streams that are known, disabled ones included.
    pub streams: u32,
    /// First of the free slots.
    pub free: u32,
    /// Free from the end of this event on.
    pub freed: Vec<u32>,
}

impl SlotTable {
    pub fn new() -> Self {
        Self {
            slots: CowVec::new(),
            rows: CowVec::new(),
            names: CowVec::new(),
            by_name: CowMap::new(),
            streams: 0,
            free: NONE,
            freed: Vec::new(),
        }
    }
}

impl Engine {
    #[inline]
    pub(super) fn slot(&self, slot: u32) -> &Slot {
        self.table.slots.get(slot)
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        self.table.slots.get_mut(slot)
    }

    pub(super) fn set_flag(&mut self, slot: u32, flag: u16, on: bool) {
        let slot = self.table.slots.get_mut(slot);
        if on {
            slot.flags |= flag;
        } else {
            slot.flags &= !flag;
        }
    }

    /// Creates a live slot in a ring of its own, neither placed nor waiting.
    pub(super) fn new_slot(&mut self, kind: SlotKind, demand: u32, need: Need) -> u32 {
        let id = if self.table.free == NONE {
            self.table.slots.push(Slot::default());
            self.table.rows.push(SlotRow::default());
            self.table.names.push(None);
            self.table.slots.len() as u32 - 1
        } else {
            let id = self.table.free;
            self.table.free = self.slot(id).next;
            id
        };
        *self.slot_mut(id) = Slot {
            sibling: id,
            flags: kind as u16 | LIVE,
            ..Slot::default()
        };
        *self.table.rows.get_mut(id) = SlotRow {
            demand,
            ..SlotRow::default()
        };
        let class = self.classes.class_of_demand(demand);
        self.slot_mut(id).class = class;
        self.set_need(id, need);
        id
    }

    pub(super) fn set_need(&mut self, s: u32, need: Need) {
        let slot = self.slot_mut(s);
        slot.channels = need.channels.min(u32::from(u16::MAX)) as u16;
        slot.kbps = need.kbps;
        slot.disk = need.disk;
    }

    /// Changes the demand of a slot that is in no list.
    pub(super) fn set_demand(&mut self, s: u32, demand: u32) {
        let old = std::mem::replace(&mut self.table.rows.get_mut(s).demand, demand);
        self.classes.drop_demand(old);
        self.slot_mut(s).class = self.classes.class_of_demand(demand);
    }

    /// Deletes a slot that is in no list. Its number can be reused after the end of the event.
    pub(super) fn free_slot(&mut self, s: u32) {
        let demand = self.table.rows.get(s).demand;
        self.classes.drop_demand(demand);
        self.table.rows.get_mut(s).demand = NONE;
        self.clear_origin(s);
        self.clear_in_flight(s);
        self.set_flag(s, LIVE | PENDING, false);
        self.table.freed.push(s);
    }

    /// Puts `s` into the ring of `after`.
    pub(super) fn join_ring(&mut self, s: u32, after: u32) {
        let next = std::mem::replace(&mut self.slot_mut(after).sibling, s);
        self.slot_mut(s).sibling = next;
    }

    /// Takes `s` out of its ring; its `sibling` still leads to the ingest.
    pub(super) fn leave_ring(&mut self, s: u32, ingest: u32) {
        let mut before = ingest;
        while self.slot(before).sibling != s {
            before = self.slot(before).sibling;
        }
        let next = self.slot(s).sibling;
        self.slot_mut(before).sibling = next;
        self.slot_mut(s).sibling = ingest;
    }

    /// The ingest slot of a slot's stream; a unit is its own ingest.
    pub(super) fn ingest_of(&self, s: u32) -> u32 {
        let mut s = s;
        while self.slot(s).kind() != SlotKind::Ingest {
            s = self.slot(s).sibling;
        }
        s
    }

    /// The slots of a stream, its ingest first.
    pub(super) fn ring(&self, ingest: u32) -> Vec<u32> {
        let mut ring = vec![ingest];
        let mut s = self.slot(ingest).sibling;
        while s != ingest {
            ring.push(s);
            s = self.slot(s).sibling;
        }
        ring
    }

    /// Reads a field of each of these slots, so that the processor fetches them in parallel: they
    /// lie far apart in memory.
    pub(super) fn fetch(&self, slots: impl Iterator<Item = u32>) {
        black_box(slots.fold(0, |sum, s| sum ^ self.slot(s).node));
    }

    /// Like `fetch`, for the names of their streams.
    pub(super) fn fetch_names(&self, slots: impl Iterator<Item = u32>) {
        black_box(slots.fold(0, |sum, s| {
            let name = self.table.names.get(self.ingest_of(s)).as_ref();
            sum ^ name.map_or(0, |name| name.as_bytes().first().copied().unwrap_or(0))
        }));
    }

    /// A sort key that depends only on the stream's name and the slot's position in its ring.
    pub(super) fn order_of(&self, s: u32) -> u64 {
        let ingest = if self.slot(s).has(UNIT) {
            self.units
                .by_slot
                .get(&s)
                .and_then(|unit| unit.members.first())
                .map_or(s, |member| member.ingest)
        } else {
            self.ingest_of(s)
        };
        let mut nth = 0u64;
        let mut at = ingest;
        while at != s && !self.slot(s).has(UNIT) {
            at = self.slot(at).sibling;
            nth += 1;
        }
        let name = self.table.names.get(ingest).as_ref();
        let hash = name.map_or(0, |name| xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
        mix(hash ^ nth)
    }
}
