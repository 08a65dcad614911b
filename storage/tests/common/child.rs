//! The process that the tests `kill` and `rot` start and lose.

#[path = "mod.rs"]
mod common;

use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "commit", path] => common::kill::commit_until_killed(Path::new(path)),
        [_, "flip", first] => common::rot::flip_from(first.parse().expect("a number")),
        _ => panic!("usage: weir-storage-child commit PATH | flip NUMBER"),
    }
}
