//! Stories: what happens to simulated streamers, and when.
//!
//! A line has a time from the beginning of the story, a verb and a target; `#` begins a comment:
//!
//! ```text
//! 10s lose region=r3          # connections close, nothing answers
//! 40s return region=r3
//! 60s hang 10%                # connections stay open, nothing answers
//! 80s trickle s00007.lt.example   # answers queries with a byte a second
//! 85s flood 2%                # answers queries with 100 MB
//! 88s lie 5%                  # answers queries with wrong values, and streams of nobody
//! 90s restart all             # every process starts again, at once
//! ```
//!
//! A target is `all`, a share of the streamers (`10%`), a label (`region=r3`) or a hostname. `return`
//! ends what an earlier line began.

use crate::cli::duration;
use crate::schedule::Nanos;

const STEPS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Lose,
    Hang,
    Trickle,
    Flood,
    Lie,
    Restart,
    Return,
}

impl Verb {
    const ALL: [(&'static str, Self); 7] = [
        ("lose", Self::Lose),
        ("hang", Self::Hang),
        ("trickle", Self::Trickle),
        ("flood", Self::Flood),
        ("lie", Self::Lie),
        ("restart", Self::Restart),
        ("return", Self::Return),
    ];

    /// The streamers have no streams from then on.
    pub fn loses(self) -> bool {
        matches!(self, Self::Lose | Self::Hang)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum StoryTarget {
    All,
    /// From 0 to 1.
    Share(f64),
    /// The value of the label `region`.
    Region(String),
    Host(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoryStep {
    /// From the beginning of the story.
    pub at: Nanos,
    pub verb: Verb,
    pub target: StoryTarget,
    /// As it is written.
    pub text: String,
}

/// Reads a story. Its times must not decrease.
pub fn parse(text: &str) -> Result<Vec<StoryStep>, String> {
    let mut steps: Vec<StoryStep> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let step = parse_step(&words).map_err(|what| format!("line {}: {what}", i + 1))?;
        if steps.last().is_some_and(|last| last.at > step.at) {
            return Err(format!("line {}: it is before the line above it", i + 1));
        }
        steps.push(step);
        if steps.len() > STEPS_MAX {
            return Err(format!("more than {STEPS_MAX} lines"));
        }
    }
    if steps.is_empty() {
        return Err("it has no line".to_owned());
    }
    Ok(steps)
}

fn parse_step(words: &[&str]) -> Result<StoryStep, String> {
    let [at, verb, target] = words else {
        return Err("it must be TIME VERB TARGET".to_owned());
    };
    let known = Verb::ALL.iter().find(|(name, _)| name == verb);
    let names = || Verb::ALL.map(|(name, _)| name).join(", ");
    let (_, verb) = known.ok_or_else(|| format!("{verb:?} must be one of {}", names()))?;
    Ok(StoryStep {
        at: duration(at)?,
        verb: *verb,
        target: parse_target(target)?,
        text: words.join(" "),
    })
}

fn parse_target(text: &str) -> Result<StoryTarget, String> {
    if text == "all" {
        return Ok(StoryTarget::All);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok();
        let percent: Option<f64> = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
        let percent = percent.ok_or("a share must be above 0% and at most 100%")?;
        return Ok(StoryTarget::Share(percent / 100.0));
    }
    match text.split_once('=') {
        Some(("region", value)) => Ok(StoryTarget::Region(value.to_owned())),
        Some(_) => Err("the only label of simulated streamers is `region`".to_owned()),
        None => Ok(StoryTarget::Host(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::SECOND;

    #[test]
    fn story_is_read_line_by_line() {
        let story = parse("# a\n\n1s lose region=r3 # b\n2s return all\n2s hang 10%\n3s flood h\n");
        let steps = story.unwrap();
        let targets: Vec<_> = steps.iter().map(|step| step.target.clone()).collect();
        let expected = [
            StoryTarget::Region("r3".into()),
            StoryTarget::All,
            StoryTarget::Share(0.1),
            StoryTarget::Host("h".into()),
        ];
        assert_eq!(targets, expected);
        assert_eq!(steps[0].at, SECOND);
        assert_eq!(steps[0].text, "1s lose region=r3");
        assert_eq!((steps[2].verb, steps[3].verb), (Verb::Hang, Verb::Flood));
    }

    #[test]
    fn faulty_story_names_its_line() {
        for (text, expected) in [
            ("", "no line"),
            ("\n1s lose", "line 2: it must be"),
            ("1s burn all", "line 1: \"burn\" must be one of"),
            ("x lose all", "line 1: a duration"),
            ("2s lose all\n1s return all", "line 2: it is before"),
            ("1s lose 0%", "line 1: a share"),
            ("1s lose NaN%", "line 1: a share"),
            ("1s lose zone=a", "line 1: the only label"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
