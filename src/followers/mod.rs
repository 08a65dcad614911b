//! Followers of commits: threads that watch the state and turn what they see into commands.

pub mod publications;
