//! Followers of commits: threads that watch the state and reports and issue commands.

pub mod old_states;
pub mod publications;
mod report_gaps;
