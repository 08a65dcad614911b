//! How property tests run, and where the seeds of their failures are kept: beside the tests, in
//! `tests/proptest-regressions`, under the path of the source file.

use proptest::test_runner::{Config, FileFailurePersistence};

const KEPT_IN: &str = "tests/proptest-regressions";

/// The usual number of cases, which `PROPTEST_CASES` changes.
pub(crate) fn config() -> Config {
    Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::SourceParallel(KEPT_IN))),
        ..Config::default()
    }
}

pub(crate) fn config_with_cases(cases: u32) -> Config {
    Config { cases, ..config() }
}

#[test]
fn kept_seeds_belong_to_a_source_file_and_are_replayed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![root.join(KEPT_IN)];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("it is kept with the source") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.strip_prefix(root.join(KEPT_IN)).expect("it is below");
            let source = root.join("src").join(name).with_extension("rs");
            assert!(
                source.is_file(),
                "no {} for {}",
                source.display(),
                path.display()
            );
            let kept = config().failure_persistence.expect("it is set above");
            let source: &'static str = source.to_string_lossy().into_owned().leak();
            let seeds = kept.load_persisted_failures2(Some(source));
            assert!(!seeds.is_empty(), "no seeds in {}", path.display());
            files += 1;
        }
    }
    assert!(files > 0, "no seeds in {KEPT_IN}");
}
