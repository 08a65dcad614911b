//! `build.rs`: when it installs packages and when it runs again, with scripts for npm and Node.js.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::run;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const WEB: &str = "src/ui/web";
/// Installs like the real one, which removes what was there first; fails if there is a file `fail`.
const NPM: &str = "#!/bin/sh
test \"$1\" = ci || exit 0
echo ci >>\"$STATE/calls\"
rm -rf node_modules
test -e \"$STATE/fail\" && exit 1
mkdir node_modules
";
/// Builds like the real one, which needs the packages.
const NODE: &str = "#!/bin/sh
test \"$1\" = --version && { echo v20.0.0; exit; }
test -d node_modules || { echo no packages; exit 1; }
mkdir -p \"$2\"
for name in index.html app.js app.css icon.svg; do echo x >\"$2/$name\"; done
printf 0123456789abcdef >\"$2/hash\"
";

/// The compiled `build.rs` with sources of its own.
struct Build {
    directory: tempfile::TempDir,
}

impl Build {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc
            .args(["--edition=2024", "--cap-lints=allow", "-o"])
            .arg(at("build"))
            .arg(Path::new(ROOT).join("build.rs"));
        run(&mut rustc).unwrap_or_else(|error| panic!("{error}"));
        for folder in [
            "bin",
            "out",
            "root/src/ui/web/src",
            "root/src/ui/web/styles",
        ] {
            fs::create_dir_all(at(folder)).expect("a folder can be made");
        }
        let web = Path::new(ROOT).join(WEB);
        for entry in fs::read_dir(&web).expect("the sources are there") {
            let from = entry.expect("an entry").path();
            let name = from.file_name().expect("a name");
            if from.is_file() {
                fs::copy(&from, at("root").join(WEB).join(name)).expect("it can be copied");
            }
        }
        for (name, script) in [("npm", NPM), ("node", NODE)] {
            let path = at("bin").join(name);
            fs::write(&path, script).expect("a script can be written");
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, executable).expect("it can be made executable");
        }
        Self { directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn web(&self, name: &str) -> PathBuf {
        self.at("root").join(WEB).join(name)
    }

    /// What it prints for Cargo.
    fn run(&self) -> String {
        let mut build = Command::new(self.at("build"));
        build
            .env_remove("WEIR_UI")
            .env("OUT_DIR", self.at("out"))
            .env("CARGO_MANIFEST_DIR", self.at("root"))
            .env("STATE", self.directory.path())
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.at("bin").display()),
            );
        run(&mut build).unwrap_or_else(|error| panic!("{error}"))
    }

    /// How often packages were installed, or that was tried.
    fn installations(&self) -> usize {
        let calls = fs::read_to_string(self.at("calls")).unwrap_or_default();
        calls.lines().count()
    }

    /// Whether the last run embedded the files that the scripts built.
    fn has_interface(&self) -> bool {
        let written = fs::read_to_string(self.at("out/ui.rs")).expect("it is written");
        written.contains("HASH: &str = \"0123456789abcdef\"")
    }
}

#[test]
fn packages_are_installed_again_after_a_failed_installation() {
    let build = Build::new();
    let printed = build.run();
    assert!(build.has_interface(), "{printed}");
    build.run();
    assert_eq!(build.installations(), 1, "the packages are kept");
    let lock = build.web("package-lock.json");
    let first = fs::read(&lock).expect("it can be read");
    fs::write(&lock, "of another branch").expect("it can be written");
    fs::write(build.at("fail"), "").expect("it can be written");
    let printed = build.run();
    assert!(
        printed.contains("the web interface is left out"),
        "{printed}"
    );
    assert!(!build.has_interface());
    // The packages of the first run are gone, although its lock file is back.
    fs::write(&lock, first).expect("it can be written");
    fs::remove_file(build.at("fail")).expect("it can be removed");
    let printed = build.run();
    assert_eq!(build.installations(), 3, "{printed}");
    assert!(build.has_interface(), "{printed}");
}

/// The warnings, and what Cargo watches.
fn warnings_and_watched(printed: &str) -> (Vec<&str>, Vec<&str>) {
    let with = |prefix| {
        printed
            .lines()
            .filter_map(move |it| it.strip_prefix(prefix))
    };
    let watched = with("cargo::rerun-if-changed=").collect();
    (with("cargo::warning=").collect(), watched)
}

#[test]
fn built_directory_is_watched_and_reported() {
    let build = Build::new();
    let printed = build.run();
    let (warnings, watched) = warnings_and_watched(&printed);
    assert_eq!(warnings, Vec::<&str>::new());
    // Cargo runs a script each time that watches what does not exist, so the folder around it is
    // watched: with all sources, and with `dist` once that is added.
    assert_eq!(watched, ["build.rs", WEB]);
    fs::create_dir(build.web("dist")).expect("a folder can be made");
    for name in ["index.html", "app.js", "app.css", "icon.svg", "hash"] {
        let content = if name == "hash" {
            "0123456789abcdef"
        } else {
            "built"
        };
        fs::write(build.web("dist").join(name), content).expect("it can be written");
    }
    let printed = build.run();
    let (warnings, watched) = warnings_and_watched(&printed);
    assert_eq!(watched, ["build.rs", WEB]);
    let [warning] = *warnings else {
        panic!("one warning: {printed}");
    };
    assert!(warning.contains("src/ui/web/dist"), "{warning}");
    let written = fs::read_to_string(build.at("out/ui.rs")).expect("it is written");
    assert!(written.contains("web/dist/app.js"), "{written}");
    fs::remove_dir_all(build.web("dist")).expect("it can be removed");
    let printed = build.run();
    assert_eq!(warnings_and_watched(&printed).0, Vec::<&str>::new());
    assert!(build.has_interface());
}
