//! A store on a simulated disk that loses power, and the model of what it must have then.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use super::Random;
use weir_storage::sim::{Barriers, Fault, SimDisk};
use weir_storage::{Batch, LogKind, Op, Opened, Options, Storage as _, Store, StoreError, Table};

const TABLES: [Table; 3] = [Table("stream"), Table("streamer"), Table("agent")];
const LIVES: u64 = 6;

type Model = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub cuts: u64,
    pub cuts_while_opening: u64,
    pub commits: u64,
    pub unknown_kept: u64,
    pub errors_survived: u64,
}

impl Tally {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cuts: self.cuts + other.cuts,
            cuts_while_opening: self.cuts_while_opening + other.cuts_while_opening,
            commits: self.commits + other.commits,
            unknown_kept: self.unknown_kept + other.unknown_kept,
            errors_survived: self.errors_survived + other.errors_survived,
        }
    }
}

/// What must be found: the state after the last batch that was acknowledged, or after the one whose
/// outcome is unknown.
struct Expected {
    store_id: Option<u64>,
    lsn: u64,
    model: Model,
    unknown: Option<(u64, Model)>,
}

fn stamp(lsn: u64) -> u64 {
    if lsn == 0 {
        0
    } else {
        1_700_000_000_000 + lsn * 3
    }
}

fn random_batch(random: &mut Random, lsn: u64, model: &mut Model) -> Batch {
    let count = match random.below(12) {
        0 => 60,
        1 => 0,
        _ => 1 + random.below(6),
    };
    let mut ops = Vec::new();
    for _ in 0..count {
        let at = random.below(TABLES.len() as u64) as usize;
        let n = random.below(60);
        let mut key = vec![(n % 3) as u8];
        key.extend_from_slice(format!("object-{n}").as_bytes());
        if random.below(4) == 0 {
            model.remove(&(at, key.clone()));
            ops.push(Op::Delete {
                table: TABLES[at],
                key: key.into(),
            });
        } else {
            let length = if random.below(15) == 0 {
                3_000 + random.below(9_000)
            } else {
                random.below(600)
            };
            let value = vec![random.below(256) as u8; length as usize];
            model.insert((at, key.clone()), value.clone());
            ops.push(Op::Put {
                table: TABLES[at],
                key: key.into(),
                value: value.into(),
            });
        }
    }
    Batch {
        lsn,
        stamp_ms: stamp(lsn),
        ops,
        ..Batch::default()
    }
}

impl Expected {
    /// Compares what was found and believes it from here on: what `open` reports must be durable
    /// itself.
    fn meet(&mut self, store: &Store, opened: Opened, tally: &mut Tally) -> Result<(), String> {
        if self.store_id.is_some_and(|id| id != opened.store_id) {
            return Err("another store id".into());
        }
        self.store_id = Some(opened.store_id);
        if let Some((lsn, model)) = self.unknown.take()
            && lsn == opened.lsn
        {
            (self.lsn, self.model) = (lsn, model);
            tally.unknown_kept += 1;
        }
        if self.lsn != opened.lsn || stamp(self.lsn) != opened.stamp_ms {
            return Err(format!(
                "found lsn {} stamp {}, acknowledged {}",
                opened.lsn, opened.stamp_ms, self.lsn
            ));
        }
        let mut found = Model::new();
        for (at, table) in TABLES.iter().enumerate() {
            store
                .load(*table, None, &mut |key, value| {
                    found.insert((at, key.to_vec()), value.to_vec());
                })
                .map_err(|error| format!("load: {error}"))?;
        }
        if found == self.model {
            Ok(())
        } else {
            Err(format!("other records than those of lsn {}", self.lsn))
        }
    }
}

/// One disk with several lives. Fails if something acknowledged is lost, or a batch is half there.
pub fn run(seed: u64, barriers: Barriers, tally: &mut Tally) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut disk = SimDisk::new();
    let mut expected = Expected {
        store_id: None,
        lsn: 0,
        model: Model::new(),
        unknown: None,
    };
    for life in 0..LIVES {
        let last = life + 1 == LIVES;
        disk.set_barriers(barriers);
        let soon = random.below(4) == 0;
        let at = 1 + random.below(if soon { 14 } else { 220 });
        let mut broken = false;
        if !last {
            if random.below(3) == 0 {
                let kind = if random.below(2) == 0 {
                    ErrorKind::StorageFull
                } else {
                    ErrorKind::Other
                };
                let fault = match random.below(2) {
                    0 => Fault::Once(kind),
                    _ => Fault::Short(kind),
                };
                disk.set_fault(at, fault);
                broken = true;
            } else {
                disk.set_fault(at, Fault::Cut);
            }
        }
        let options = Options {
            cache_bytes: 1 << 20,
            // Both ways of recovery: through the recorded allocator state, and by verifying and
            // rebuilding.
            check_bytes_max: if last || random.below(3) == 0 {
                u64::MAX
            } else {
                0
            },
            reserve_bytes: if random.below(4) == 0 { 4096 } else { 0 },
            // A store may change its kind of log at every start.
            log: if random.below(3) == 0 {
                LogKind::Redb
            } else {
                LogKind::Append
            },
            // So small that segments are used again, and that some entries exceed one.
            log_segment_bytes: 4096 * (2 + random.below(7)),
            pass_records: 1 + random.below(30) as usize,
            applies_itself: false,
        };
        let mut opening = Store::open_on(Arc::new(disk.clone()), &options);
        if broken
            && matches!(
                &opening,
                Err(StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Failed { .. })
            )
        {
            tally.errors_survived += 1;
            disk.set_fault(1 + random.below(100), Fault::Cut);
            broken = false;
            opening = Store::open_on(Arc::new(disk.clone()), &options);
        }
        match opening {
            Err(_) if disk.is_dead() => tally.cuts_while_opening += 1,
            Err(error) => return Err(format!("life {life}: does not open: {error}")),
            Ok((mut store, opened)) => {
                let outcome = expected.meet(&store, opened, tally);
                if !disk.is_dead() {
                    outcome.map_err(|what| format!("life {life}: {what}"))?;
                    for _ in 0..40 {
                        let gap = match options.log {
                            LogKind::Redb => random.below(3),
                            LogKind::Append => 0,
                        };
                        let lsn = expected.lsn + 1 + gap;
                        let mut model = expected.model.clone();
                        let batch = random_batch(&mut random, lsn, &mut model);
                        // A full log takes a batch after a pass; some passes come earlier.
                        let committed = if random.below(6) == 0 {
                            store.apply_log().and_then(|()| store.commit(&batch))
                        } else {
                            match store.commit(&batch) {
                                Err(StoreError::Full { .. }) if !store.is_failed() => {
                                    store.apply_log().and_then(|()| store.commit(&batch))
                                }
                                other => other,
                            }
                        };
                        match committed {
                            Ok(()) => {
                                (expected.lsn, expected.model) = (lsn, model);
                                tally.commits += 1;
                            }
                            Err(_) if disk.is_dead() => {
                                expected.unknown = Some((lsn, model));
                                break;
                            }
                            Err(error) if broken => {
                                tally.errors_survived += 1;
                                broken = false;
                                if store.is_failed() {
                                    expected.unknown = Some((lsn, model));
                                }
                                disk.set_fault(1 + random.below(200), Fault::Cut);
                                match store.reopen() {
                                    Ok(opened) => match expected.meet(&store, opened, tally) {
                                        Err(_) if disk.is_dead() => break,
                                        met => met.map_err(|what| {
                                            format!("life {life} after {error}: {what}")
                                        })?,
                                    },
                                    Err(_) if disk.is_dead() => break,
                                    Err(again) => {
                                        return Err(format!("life {life}: {error}, then {again}"));
                                    }
                                }
                            }
                            Err(error) => {
                                return Err(format!("life {life}: for no reason: {error}"));
                            }
                        }
                    }
                    // Sometimes the power stays until the store is closed.
                    if random.below(3) == 0 {
                        drop(store);
                    } else {
                        disk.kill();
                        drop(store);
                    }
                }
            }
        }
        tally.cuts += 1;
        disk = disk.power_cut(random.below(u64::MAX >> 12));
    }
    Ok(())
}
