//! Bit rot: one flipped bit anywhere in the file is an error or harmless, never other data, before
//! and after more commits.
//!
//! `WEIR_FLIPS=100000` flips that many, `WEIR_SEED=n` chooses others.
//!
//! On some damage the engine ends the process, so the flips are made in a child,
//! `weir-storage-child`.

mod common;

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use common::rot::{OUTCOMES, Plan, plan};

const SIGABRT: i32 = 6;

#[test]
fn a_flipped_bit_never_becomes_other_data() {
    let Plan { images, bits, .. } = plan();
    let mut tally = [[0; OUTCOMES.len()]; 3];
    let mut next = 0;
    while next < bits.len() {
        let output = Command::new(env!("CARGO_BIN_EXE_weir-storage-child"))
            .args(["flip", &next.to_string()])
            .output()
            .expect("runs");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            if let ["flip", index, at, outcome] = parts[..] {
                assert_eq!(index, next.to_string());
                let outcome = OUTCOMES
                    .iter()
                    .position(|known| *known == outcome)
                    .expect("known");
                tally[at.parse::<usize>().expect("a number")][outcome] += 1;
                next += 1;
            }
        }
        if !output.status.success() {
            let (at, bit) = bits[next];
            let ended = output.status.signal() == Some(SIGABRT);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(
                ended,
                "image {at}, byte {}, bit {}: {stderr}",
                bit / 8,
                bit % 8
            );
            tally[at][OUTCOMES.len() - 1] += 1;
            next += 1;
        }
    }
    for ((name, (image, _)), tally) in ["closed", "stopped", "stopped, checked"]
        .iter()
        .zip(&images)
        .zip(tally)
    {
        println!("{name}: {} bytes: {OUTCOMES:?} {tally:?}", image.len());
        let [refused_open, refused_load, .., harmless, _, ended] = tally;
        assert!(
            refused_open + refused_load > 50 && harmless > 100 && ended < 5,
            "{name}: {tally:?}"
        );
    }
}
