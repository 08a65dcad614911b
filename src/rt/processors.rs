//! Processors: which thread runs where.
//!
//! With the layouter enabled and at least three processors, the layouter has the last one for
//! itself: a large change computes for hundreds of milliseconds, and no request should wait behind
//! it. Each io thread is pinned to one of the others, and all other threads stay off the
//! layouter's. With fewer processors, or without the layouter, the scheduler decides.

/// Fewest processors with which threads are pinned.
const PROCESSORS_MIN: usize = 3;

/// Where the threads of this process run. `None` is any processor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ThreadPlan {
    /// The processor of each io thread; its length is their number.
    pub io: Vec<Option<usize>>,
    pub layouter: Option<usize>,
    /// Processors of all other threads; empty: any.
    pub others: Vec<usize>,
}

/// Plans the threads. `allowed` are the processors this process may use, `wanted` is the configured
/// number of io threads, `layouter` whether it is enabled, `pin` whether pinning is allowed.
pub fn plan_threads(
    allowed: &[usize],
    layouter: bool,
    wanted: Option<usize>,
    pin: bool,
) -> ThreadPlan {
    match allowed.split_last() {
        Some((last, others)) if pin && layouter && allowed.len() >= PROCESSORS_MIN => {
            let count = wanted.unwrap_or(others.len()).max(1);
            ThreadPlan {
                io: others
                    .iter()
                    .cycle()
                    .take(count)
                    .copied()
                    .map(Some)
                    .collect(),
                layouter: Some(*last),
                others: others.to_vec(),
            }
        }
        _ => ThreadPlan {
            io: vec![None; wanted.unwrap_or(allowed.len()).max(1)],
            layouter: None,
            others: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(plan: &ThreadPlan) -> Vec<usize> {
        plan.io.iter().flatten().copied().collect()
    }

    #[test]
    fn layouter_has_the_last_of_three_or_more_processors() {
        let plan = plan_threads(&[0, 1, 2], true, None, true);
        assert_eq!((io(&plan), plan.layouter), (vec![0, 1], Some(2)));
        assert_eq!(plan.others, [0, 1]);
        let plan = plan_threads(&[0, 1, 2, 3], true, None, true);
        assert_eq!((io(&plan), plan.layouter), (vec![0, 1, 2], Some(3)));
        let all: Vec<usize> = (0..64).collect();
        let plan = plan_threads(&all, true, None, true);
        assert_eq!((plan.io.len(), plan.layouter), (63, Some(63)));
        assert_eq!(io(&plan), all[..63]);
    }

    #[test]
    fn one_or_two_processors_pin_no_thread() {
        for (allowed, count) in [(&[][..], 1), (&[0][..], 1), (&[0, 1][..], 2)] {
            let plan = plan_threads(allowed, true, None, true);
            let expected = ThreadPlan {
                io: vec![None; count],
                layouter: None,
                others: Vec::new(),
            };
            assert_eq!(plan, expected, "{allowed:?}");
        }
    }

    #[test]
    fn gaps_in_the_processor_set_are_kept() {
        let plan = plan_threads(&[1, 4, 9, 17], true, None, true);
        assert_eq!((io(&plan), plan.layouter), (vec![1, 4, 9], Some(17)));
    }

    #[test]
    fn without_layouter_or_pinning_io_threads_use_all_processors() {
        for (layouter, pin) in [(false, true), (true, false), (false, false)] {
            let plan = plan_threads(&[0, 1, 2, 3], layouter, None, pin);
            assert_eq!((plan.io, plan.layouter), (vec![None; 4], None));
        }
    }

    #[test]
    fn configured_io_threads_share_processors_if_there_are_more() {
        let plan = plan_threads(&[0, 1, 2], true, Some(5), true);
        assert_eq!((io(&plan), plan.layouter), (vec![0, 1, 0, 1, 0], Some(2)));
        let plan = plan_threads(&[0, 1, 2, 3], true, Some(1), true);
        assert_eq!((io(&plan), plan.layouter), (vec![0], Some(3)));
        let plan = plan_threads(&[0, 1], true, Some(8), true);
        assert_eq!(plan.io, [None; 8]);
    }
}
