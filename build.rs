//! Embeds the web interface: builds `src/ui/web` with Node.js and writes `ui.rs`, which includes
//! the built files.
//!
//! The sources are copied below `OUT_DIR` first, so that the checkout stays as it is. A built
//! `src/ui/web/dist` is taken without Node.js, with a warning, because it hides changes of the
//! sources. Without either, or with `WEIR_UI=off`, the server is built without the interface, and
//! `ui.rs` has the reason. It runs again when anything in `src/ui/web` changes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, io};

const WEB: &str = "src/ui/web";
const FOLDERS: &[&str] = &["src", "styles"];
const SOURCES: &[&str] = &[
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "build.mjs",
    "index.html",
    "icon.svg",
];
const NODE_MAJOR_MIN: u32 = 20;
/// The files of the interface and their media types; beside them, scripts with texts of languages.
const FILES: &[(&str, &str)] = &[
    ("index.html", "text/html; charset=utf-8"),
    ("app.js", SCRIPT),
    ("app.css", "text/css; charset=utf-8"),
    ("icon.svg", "image/svg+xml"),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

fn main() {
    println!("cargo::rerun-if-env-changed=WEIR_UI");
    println!("cargo::rerun-if-changed=build.rs");
    // The whole folder: a `dist` that is missing now cannot be watched by its name, because Cargo
    // runs a script each time whose files are missing.
    println!("cargo::rerun-if-changed={WEB}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets it"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets it"));
    let web = root.join(WEB);
    let text = match built(&web, &out).and_then(|built| embedded(&built)) {
        Ok(text) => text,
        Err(reason) => {
            println!("cargo::warning=the web interface is left out: {reason}");
            missing(&reason)
        }
    };
    fs::write(out.join("ui.rs"), text).expect("OUT_DIR can be written");
}

/// The directory with the built interface.
fn built(web: &Path, out: &Path) -> Result<PathBuf, String> {
    if env::var_os("WEIR_UI").is_some_and(|value| value == "off") {
        return Err("WEIR_UI was off when it was built".to_owned());
    }
    let dist = web.join("dist");
    if dist.join("hash").exists() {
        println!(
            "cargo::warning=the web interface is taken from {WEB}/dist as it is: changes of its \
             sources have no effect until {WEB}/dist is removed or built again"
        );
        return Ok(dist);
    }
    check_node()?;
    let copy = out.join("web");
    let copied = copy_sources(web, &copy);
    let is_installed = copied.map_err(|error| format!("its sources cannot be copied: {error}"))?;
    if !is_installed {
        // npm removes the packages first. A failed installation leaves none that the file is about.
        let unfinished = remove_if_there(&copy.join(INSTALLED));
        unfinished.map_err(|error| format!("OUT_DIR cannot be written: {error}"))?;
        // Without scripts of packages: the one for this processor has the program itself.
        let arguments = "ci --omit=dev --ignore-scripts --no-audit --no-fund --prefer-offline \
                         --fetch-retries=2 --fetch-retry-mintimeout=1000 \
                         --fetch-retry-maxtimeout=5000";
        run(Command::new("npm").args(arguments.split(' ')), &copy)?;
        let lock = fs::copy(copy.join("package-lock.json"), copy.join(INSTALLED));
        lock.map_err(|error| format!("OUT_DIR cannot be written: {error}"))?;
    }
    let built = out.join("ui");
    run(Command::new("node").arg("build.mjs").arg(&built), &copy)?;
    Ok(built)
}

fn check_node() -> Result<(), String> {
    let needed = format!("Node.js {NODE_MAJOR_MIN} or newer and npm were not found");
    let version = Command::new("node").arg("--version").output();
    let version = version.map_err(|_| needed.clone())?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let major = version.trim_start_matches('v').split('.').next();
    let major = major.and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_MAJOR_MIN) {
        return Err(needed);
    }
    let npm = Command::new("npm").arg("--version").output();
    npm.map(drop).map_err(|_| needed)
}

/// The lock file by which `node_modules` was installed.
const INSTALLED: &str = "installed-lock.json";

/// Copies the sources. Returns whether the packages that they need are there from before.
fn copy_sources(web: &Path, copy: &Path) -> io::Result<bool> {
    for folder in FOLDERS {
        let to = copy.join(folder);
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        copy_folder(&web.join(folder), &to)?;
    }
    for name in SOURCES {
        fs::copy(web.join(name), copy.join(name))?;
    }
    let lock = fs::read(copy.join("package-lock.json"))?;
    Ok(fs::read(copy.join(INSTALLED)).is_ok_and(|installed| installed == lock))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, target)?;
        }
    }
    Ok(())
}

fn run(command: &mut Command, directory: &Path) -> Result<(), String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.current_dir(directory).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let lines = printed.lines().filter(|line| !line.trim().is_empty());
    let first = lines.take(3).collect::<Vec<_>>().join("; ");
    Err(format!("{shown} failed ({}): {first}", output.status))
}

/// The names of the built scripts with texts, one per language that is not part of the program.
fn languages(built: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(built)?.map(|entry| entry.map(|it| it.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let mut names: Vec<_> = names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .filter(|name| {
            name.starts_with("lang-") && Path::new(name).extension() == Some("js".as_ref())
        })
        .collect();
    names.sort();
    Ok(names)
}

/// The declarations that include the files of a directory.
fn embedded(built: &Path) -> Result<String, String> {
    let hash = fs::read_to_string(built.join("hash")).map_err(|error| error.to_string())?;
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hash {
        return Err(format!("{} has no hash of 16 hex digits", built.display()));
    }
    let mut text = format!("pub const HASH: &str = {hash:?};\npub const MISSING: &str = \"\";\n");
    text.push_str("pub static FILES: &[EmbeddedFile] = &[\n");
    let languages = languages(built).map_err(|error| error.to_string())?;
    let languages = languages.iter().map(|name| (name.as_str(), SCRIPT));
    for (name, media_type) in FILES.iter().copied().chain(languages) {
        let included = |suffix: &str| {
            let path = built.join(format!("{name}{suffix}"));
            let path = path.to_str().filter(|_| path.exists())?;
            Some(format!("include_bytes!({path:?})"))
        };
        let coded = |suffix: &str| {
            included(suffix).map_or_else(|| "None".to_owned(), |path| format!("Some({path})"))
        };
        let missing = || format!("{} has no {name}", built.display());
        let plain = included("").ok_or_else(missing)?;
        let (gzip, brotli) = (coded(".gz"), coded(".br"));
        let written = writeln!(
            text,
            "EmbeddedFile {{ name: {name:?}, media_type: {media_type:?}, \
             plain: {plain}, gzip: {gzip}, brotli: {brotli} }},"
        );
        written.expect("a string takes everything");
    }
    text.push_str("];\n");
    Ok(text)
}

fn missing(reason: &str) -> String {
    format!(
        "pub const HASH: &str = \"\";\npub const MISSING: &str = {reason:?};\n\
         pub static FILES: &[EmbeddedFile] = &[];\n"
    )
}
