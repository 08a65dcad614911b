//! Finding and taking out the polls that a commit concerns, among many parked ones; sending is not
//! part of it.
//!
//! `cargo run --release -p weir-bench --bin wake -- [PARKED]`

use weir::testing::feed::{Subject, Waiters};
use weir::testing::state::name::Hostname;
use weir_bench::{measure_each, size, world};

type Parked = Waiters<usize, u64, u64>;

fn main() {
    if std::env::args().len() > 1 {
        run(size(10_000));
        return;
    }
    for parked in [10_000, 19_000] {
        run(parked);
    }
}

fn run(parked: usize) {
    println!("{parked} parked");
    let hosts: Vec<Hostname> = (0..parked)
        .map(|number| Hostname::trusted(&world::host(number)))
        .collect();
    let park = || {
        let mut waiters = Parked::default();
        for (number, host) in hosts.iter().enumerate() {
            waiters.park_node(number, host.clone(), number as u64);
        }
        waiters
    };
    for concerned in [1, 100, parked] {
        let concerned = &hosts[..concerned.min(parked)];
        let name = format!("a commit that concerns {} nodes", concerned.len());
        measure_each(&name, 1, park, |mut waiters| {
            for host in concerned {
                for waiter in waiters.polls_of_node(host) {
                    assert!(waiters.node_poll(waiter).is_some());
                    waiters.remove(waiter);
                }
            }
            waiters
        });
    }
    let touched: [Box<str>; 1] = [world::name(1).into()];
    for (kind, named) in [("about any stream", false), ("about one stream", true)] {
        let ask = || {
            let mut waiters = Parked::default();
            for number in 0..parked {
                let key = format!("updated_at_gt={number}");
                let names: &[Box<str>] = if named { &touched } else { &[] };
                waiters.park_query(number, &key, Subject::Streams, names, || number as u64);
            }
            waiters
        };
        measure_each(
            &format!("{parked} questions {kind}, all answered"),
            1,
            ask,
            |mut waiters| {
                for id in waiters.queries_about(Subject::Streams, &touched) {
                    assert!(waiters.query(id).is_some());
                    waiters.take_query(id);
                }
                assert!(waiters.is_empty());
                waiters
            },
        );
    }
    let host = &hosts[0];
    measure_each("park and forget", 1, park, |mut waiters| {
        for number in parked..parked + 1000 {
            waiters.park_node(number, host.clone(), 0);
        }
        for number in parked..parked + 1000 {
            waiters.remove(number);
        }
        waiters
    });
    println!("{:<44} (of 1,000)", "");
}
