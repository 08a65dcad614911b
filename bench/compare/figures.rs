//! From samples to the one table: pairs, ratios, goals, verdicts, text and JSON.
//!
//! Pure computation. A ratio is always candidate / peer of one pair; a row is the median of its
//! pairs with the smallest and the largest beside it. Nothing here decides whether a run failed.

use std::fmt::Write;

use serde_json::{Value, json};

/// Which turn comes first in each pair, so that the whole reads A-B-B-A-A-B: drift of the machine
/// hits both alike.
pub fn candidate_first(pair: usize) -> bool {
    pair.is_multiple_of(2)
}

/// Runs `pairs` pairs in the order A-B-B-A; returns (candidate, peer) of each.
pub fn alternate<T, E>(
    pairs: usize,
    mut turn: impl FnMut(Side) -> Result<T, E>,
) -> Result<Vec<(T, T)>, E> {
    let mut done = Vec::with_capacity(pairs);
    for pair in 0..pairs {
        if candidate_first(pair) {
            let candidate = turn(Side::Candidate)?;
            done.push((candidate, turn(Side::Peer)?));
        } else {
            let peer = turn(Side::Peer)?;
            done.push((turn(Side::Candidate)?, peer));
        }
    }
    Ok(done)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Candidate,
    Peer,
}

/// Median, smallest and largest of a few values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub smallest: f64,
    pub largest: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        assert!(!sorted.is_empty(), "a spread needs at least one value");
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Spread {
            median,
            smallest: sorted[0],
            largest: sorted[sorted.len() - 1],
        }
    }
}

/// The goal of a figure. `AtLeast` means more is better.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64, f64),
    AtMost(f64, f64),
    /// Reported only.
    Open,
}

impl Goal {
    pub fn verdict(self, spread: Spread) -> &'static str {
        let (must, stretch, worst_meets) = match self {
            Goal::AtLeast(must, stretch) => (
                spread.median >= must,
                spread.median >= stretch,
                spread.smallest >= must,
            ),
            Goal::AtMost(must, stretch) => (
                spread.median <= must,
                spread.median <= stretch,
                spread.largest <= must,
            ),
            Goal::Open => return "-",
        };
        match (stretch, must, worst_meets) {
            (true, _, true) => "stretch",
            (true, _, false) => "stretch (median)",
            (false, true, true) => "must",
            (false, true, false) => "must (median)",
            (false, false, _) => "below",
        }
    }

    fn words(self) -> (String, String) {
        match self {
            Goal::AtLeast(must, stretch) => (format!(">={must}"), format!(">={stretch}")),
            Goal::AtMost(must, stretch) => (format!("<={must}"), format!("<={stretch}")),
            Goal::Open => ("-".into(), "-".into()),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub item: &'static str,
    pub what: String,
    pub against: String,
    pub unit: &'static str,
    pub goal: Goal,
    pub spread: Option<Spread>,
    /// The same comparison per second of wall clock, where it has a meaning.
    pub wall: Option<Spread>,
    /// The kernel's part of the candidate's busy time.
    pub kernel: Option<f64>,
    /// Absolute figures and conditions; or why there is no figure.
    pub notes: Vec<String>,
    pub failed: bool,
}

impl Row {
    pub fn new(
        item: &'static str,
        what: impl Into<String>,
        against: impl Into<String>,
        unit: &'static str,
        goal: Goal,
    ) -> Row {
        Row {
            item,
            what: what.into(),
            against: against.into(),
            unit,
            goal,
            spread: None,
            wall: None,
            kernel: None,
            notes: Vec::new(),
            failed: false,
        }
    }

    pub fn values(mut self, values: impl IntoIterator<Item = f64>) -> Row {
        self.spread = Some(Spread::of(values));
        self
    }

    pub fn wall(mut self, values: impl IntoIterator<Item = f64>) -> Row {
        self.wall = Some(Spread::of(values));
        self
    }

    pub fn kernel(mut self, shares: impl IntoIterator<Item = f64>) -> Row {
        self.kernel = Some(Spread::of(shares).median);
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Row {
        self.notes.push(note.into());
        self
    }

    pub fn failure(item: &'static str, reason: impl Into<String>) -> Row {
        let mut row = Row::new(item, "not measured", "", "", Goal::Open).note(reason);
        row.failed = true;
        row
    }

    fn verdict(&self) -> &'static str {
        match self.spread {
            Some(spread) => self.goal.verdict(spread),
            None => "no figure",
        }
    }
}

/// Three significant digits: more would claim a precision that a shared machine does not have.
pub fn figure(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else if magnitude >= 1.0 {
        format!("{value:.2}")
    } else if magnitude >= 0.01 {
        format!("{value:.3}")
    } else {
        format!("{value:.2e}")
    }
}

/// A rate in thousands when it is large: `201 k`.
pub fn rate(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.0} k", value / 1e3)
    } else {
        figure(value)
    }
}

fn spread_text(spread: Option<Spread>) -> [String; 3] {
    match spread {
        Some(spread) => [
            figure(spread.median),
            figure(spread.smallest),
            figure(spread.largest),
        ],
        None => ["-".into(), "-".into(), "-".into()],
    }
}

/// The one table, aligned, notes below the rows they belong to.
pub fn table(rows: &[Row]) -> String {
    let header = [
        "#", "what", "against", "unit", "must", "stretch", "median", "smallest", "largest", "wall",
        "kernel", "verdict",
    ];
    let mut cells: Vec<Vec<String>> = vec![header.iter().map(ToString::to_string).collect()];
    for row in rows {
        let (must, stretch) = row.goal.words();
        let [median, smallest, largest] = spread_text(row.spread);
        let wall = row
            .wall
            .map_or_else(|| "-".into(), |spread| figure(spread.median));
        cells.push(vec![
            row.item.into(),
            row.what.clone(),
            row.against.clone(),
            row.unit.into(),
            must,
            stretch,
            median,
            smallest,
            largest,
            wall,
            row.kernel
                .map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0)),
            row.verdict().into(),
        ]);
    }
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            cells
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for (index, line) in cells.iter().enumerate() {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let numeric = (4..=10).contains(&column);
            let pad = " ".repeat(widths[column] - cell.chars().count());
            if numeric {
                text.push_str(&pad);
            }
            text.push_str(cell);
            if !numeric {
                text.push_str(&pad);
            }
            text.push_str("  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
        if index == 0 {
            out.push_str(&"-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
            out.push('\n');
        } else {
            for note in &rows[index - 1].notes {
                writeln!(out, "{:width$}  . {note}", "", width = widths[0])
                    .expect("a String grows");
            }
        }
    }
    out
}

fn spread_json(spread: Option<Spread>) -> Value {
    spread.map_or(
        Value::Null,
        |s| json!({"median": s.median, "smallest": s.smallest, "largest": s.largest}),
    )
}

pub fn document(rows: &[Row], machine: &str, settings: &Value) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let (direction, must, stretch) = match row.goal {
                Goal::AtLeast(must, stretch) => ("at_least", json!(must), json!(stretch)),
                Goal::AtMost(must, stretch) => ("at_most", json!(must), json!(stretch)),
                Goal::Open => ("none", Value::Null, Value::Null),
            };
            json!({
                "item": row.item, "what": row.what, "against": row.against, "unit": row.unit,
                "goal": {"direction": direction, "must": must, "stretch": stretch},
                "ratio": spread_json(row.spread), "wall": spread_json(row.wall),
                "kernel": row.kernel,
                "verdict": row.verdict(), "notes": row.notes, "failed": row.failed,
            })
        })
        .collect();
    json!({"machine": machine, "settings": settings, "rows": rows})
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // the same computation gives the same bits
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_both_middles() {
        assert_eq!(
            Spread::of([3.0, 1.0, 2.0]),
            Spread {
                median: 2.0,
                smallest: 1.0,
                largest: 3.0
            }
        );
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(
            Spread::of([7.0]),
            Spread {
                median: 7.0,
                smallest: 7.0,
                largest: 7.0
            }
        );
    }

    #[test]
    fn pairs_alternate_a_b_b_a() {
        let mut order = Vec::new();
        let pairs = alternate::<_, ()>(4, |side| {
            order.push(side);
            Ok((side, order.len()))
        })
        .expect("turns cannot fail here");
        use Side::{Candidate as A, Peer as B};
        assert_eq!(order, [A, B, B, A, A, B, B, A]);
        assert!(
            pairs
                .iter()
                .all(|(candidate, peer)| candidate.0 == A && peer.0 == B)
        );
        assert_eq!(pairs[1], ((A, 4), (B, 3)));
    }

    #[test]
    fn a_failing_turn_ends_the_series() {
        let mut turns = 0;
        let outcome = alternate(5, |_| {
            turns += 1;
            if turns == 3 { Err("refused") } else { Ok(()) }
        });
        assert_eq!(
            (outcome.expect_err("the third turn fails"), turns),
            ("refused", 3)
        );
    }

    #[test]
    fn verdict_separates_the_median_from_the_worst_pair() {
        let spread = |smallest, median, largest| Spread {
            median,
            smallest,
            largest,
        };
        let goal = Goal::AtLeast(1.1, 1.35);
        assert_eq!(goal.verdict(spread(1.2, 1.4, 1.5)), "stretch");
        assert_eq!(goal.verdict(spread(1.0, 1.4, 1.5)), "stretch (median)");
        assert_eq!(goal.verdict(spread(1.1, 1.2, 1.5)), "must");
        assert_eq!(goal.verdict(spread(1.0, 1.2, 1.5)), "must (median)");
        assert_eq!(goal.verdict(spread(1.0, 1.09, 1.5)), "below");
        let goal = Goal::AtMost(0.7, 0.5);
        assert_eq!(goal.verdict(spread(0.3, 0.4, 0.5)), "stretch");
        assert_eq!(goal.verdict(spread(0.3, 0.6, 0.8)), "must (median)");
        assert_eq!(goal.verdict(spread(0.3, 0.71, 0.8)), "below");
    }

    #[test]
    fn table_is_aligned_and_notes_follow_their_row() {
        let rows = [
            Row::new("P1", "GET", "nginx", "x", Goal::AtLeast(1.1, 1.35))
                .values([1.2, 1.3, 1.25])
                .kernel([0.9, 0.625, 0.5])
                .note("first"),
            Row::failure("P2", "no server"),
        ];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        let column = lines[0].find("verdict").expect("a verdict column");
        assert_eq!(&lines[2][column..], "must");
        assert_eq!(&lines[4][column..], "no figure");
        assert!(lines[2].contains("62 %"), "{text}");
        assert!(lines[3].trim() == ". first" && lines[5].trim() == ". no server");
    }

    #[test]
    fn document_carries_every_row_with_its_goal() {
        let rows = [Row::new("P3", "p99", "nginx", "x", Goal::AtMost(0.7, 0.5)).values([0.6])];
        let document = document(&rows, "machine", &json!({"pairs": 5}));
        assert_eq!(document["rows"][0]["goal"]["direction"], "at_most");
        assert_eq!(document["rows"][0]["ratio"]["median"], 0.6);
        assert_eq!(document["rows"][0]["verdict"], "must");
    }
}
