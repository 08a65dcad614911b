//! Any sequence of operations on a state: the indexes agree with the records, each change moves
//! exactly the nodes whose configuration it changes, and the state built from the records equals
//! the one that was absorbed.
#![no_main]

#[path = "../../tests/sim/op.rs"]
mod op;
#[path = "../../tests/sim/random.rs"]
mod random;
#[path = "../../tests/sim/view.rs"]
mod view;

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use weir::testing::state::apply::{Lost, Stamp, apply};
use weir::testing::state::entity::KINDS;
use weir::testing::state::name::Hostname;
use weir::testing::state::node::RenderSettings;
use weir::testing::state::record::NodeMark;
use weir::testing::state::{Loader, SHARDS, State};

/// The marks of nodes that the store would hold.
type Marks = BTreeMap<Hostname, NodeMark>;

fn reloaded(state: &State, marks: &Marks) -> State {
    let mut loader = Loader::new(
        state.store_id(),
        state.revision(),
        state.stamp_ms(),
        RenderSettings::default(),
    );
    for shard in 0..SHARDS {
        loader.shard(shard, state.shard(shard).clone());
    }
    for streamer in state.streamers().values() {
        loader.streamer(streamer.clone());
    }
    for kind in KINDS {
        for entity in state.entities(kind).by_key().values() {
            loader.entity(kind, entity.clone());
        }
    }
    loader.finish(
        marks
            .iter()
            .map(|(host, mark)| (host.clone(), *mark))
            .collect(),
    )
}

/// Whether repeating the operation is an error or a change: a deleted entity cannot be deleted
/// again, and an open episode goes on each time its client sends a stamp.
fn differs_when_repeated(op: &op::Op) -> bool {
    match op {
        op::Op::DeleteStream(_) | op::Op::DeleteStreamer(_) | op::Op::DeleteEpisode(_) => true,
        op::Op::SaveEpisode(_, patch) => patch.get("updated_at").is_some(),
        _ => false,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut random = random::Random::Bytes(data);
    let mut state = State::new(1, RenderSettings::default());
    let mut marks = Marks::new();
    let mut stamp = Stamp {
        revision: 0,
        ms: 1_700_000_000_000,
    };
    while !random.is_empty() {
        let op = op::Op::random(&mut random);
        let Ok(command) = op.command() else {
            continue;
        };
        // Sometimes in the same batch as the one before.
        if random.below(3) > 0 || stamp.revision == 0 {
            stamp.revision += 1;
            stamp.ms += 1 + random.below(3);
        }
        let before = view::all_sent(&state);
        let Ok(changes) = apply(&state, command.clone(), stamp) else {
            continue;
        };
        if changes.is_empty() {
            continue;
        }
        state.absorb(&changes);
        for node in changes
            .nodes
            .iter()
            .filter(|node| node.lost != Lost::Nothing)
        {
            marks.insert(
                node.hostname.clone(),
                NodeMark {
                    generation: stamp.revision,
                    updated_at: stamp.ms,
                },
            );
        }
        let differs = view::moved(&before, &view::all_sent(&state));
        let mut moves: Vec<String> = changes
            .nodes
            .iter()
            .filter(|node| node.visible)
            .map(|node| node.hostname.to_string())
            .collect();
        moves.sort();
        moves.dedup();
        assert_eq!(moves, differs.into_iter().collect::<Vec<_>>(), "{op:?}");
        view::check_indexes(&state);
        view::check_reloaded(&state, &reloaded(&state, &marks));
        assert!(
            apply(
                &state,
                command,
                Stamp {
                    revision: stamp.revision + 1,
                    ms: stamp.ms + 1
                }
            )
            .is_ok_and(|again| again.is_empty())
                || differs_when_repeated(&op),
            "{op:?} changes the state again when repeated"
        );
    }
});
