//! `weir export`, `weir diff` and `weir apply`: configuration in files.
//!
//! A JSON line is an object by its kind, `{"stream": {"name": "sports/hd1", ...}}`, or with its
//! kind, `{"kind": "stream", "name": "sports/hd1", ...}`; in TOML the name is the key,
//! `[stream."sports/hd1"]`. A file has whole objects: a field that it leaves out
//! is removed. Objects that no file has stay, unless `--prune` deletes them. Secrets are masked in
//! an export; a mask that is applied keeps the stored secret.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use super::change::{ObjectChange, delete_all, save_all};
use super::connection::Connection;
use super::difference::{holds, lines, patch_between};
use super::kinds::{self, KINDS, ObjectKind};
use super::output::{Printer, is_terminal};
use super::selection::{Filters, has_label, pair};
use super::words::{counted, number, printable};
use crate::exit::{Exit, Failure, cannot};
use crate::schema::MASK;

/// Most bytes of one file.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Most streams whose moves are previewed.
const PREVIEWED_MAX: usize = 10_000;

#[derive(Debug, Args)]
pub struct ExportFlags {
    /// Kinds [default: streamers, auth-backends, balancers, agents, streams].
    #[arg(value_parser = kinds::parse)]
    kinds: Vec<&'static ObjectKind>,
    #[command(flatten)]
    filters: Filters,
}

/// Which files, and which objects of the server they stand for.
#[derive(Debug, Args)]
pub struct FileFlags {
    /// A file (.jsonl or .toml), a directory with such files, or `-` for JSON lines on stdin.
    #[arg(short, long = "file", required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Only objects of the server with this label are missing in the files; several must all be
    /// there.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    scope: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct DiffFlags {
    #[command(flatten)]
    files: FileFlags,
}

#[derive(Debug, Args)]
pub struct ApplyFlags {
    #[command(flatten)]
    files: FileFlags,
    /// Delete objects of the kinds in the files, and of the scope, that no file has.
    #[arg(long)]
    prune: bool,
    /// Most objects that --prune deletes; more are refused before anything is changed.
    #[arg(long, value_name = "N", default_value_t = 10)]
    max_deletes: usize,
    /// Print what would change; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Refuse fields that the server does not know. It always does, with or without this flag.
    #[arg(long)]
    strict: bool,
}

/// `weir export`.
pub fn export(server: &Connection, flags: &ExportFlags) -> Result<Exit, Failure> {
    let all = KINDS.iter().filter(|kind| kind.is_configuration);
    let kinds: Vec<&ObjectKind> = if flags.kinds.is_empty() {
        all.collect()
    } else {
        flags.kinds.clone()
    };
    let mut printer = Printer::new();
    // The lines themselves show the progress on a terminal.
    let is_quiet = server.output.quiet || is_terminal();
    let mut has_secrets = false;
    for kind in kinds {
        let query = [selected(kind), flags.filters.query()];
        let query: Vec<String> = query.into_iter().filter(|it| !it.is_empty()).collect();
        server.all_pages(kind, &query.join("&"), is_quiet, |rows| {
            for row in rows {
                let given = kind.given(row)?;
                has_secrets |= holds(&given, MASK);
                let line = Map::from_iter([(kind.name.to_owned(), given)]);
                printer.line(&Value::Object(line).to_string())?;
            }
            Ok(!printer.is_closed())
        })?;
    }
    printer.flush()?;
    if has_secrets {
        server.note("secrets are masked; a mask that is applied keeps the stored secret");
    }
    Ok(Exit::Done)
}

/// What is read of the objects of a kind: as they were given, if the API has that.
fn selected(kind: &ObjectKind) -> String {
    if kind.name == "stream" {
        "select=name,labels,config_on_disk".to_owned()
    } else {
        String::new()
    }
}

/// An object of a file.
struct FileObject {
    object: Value,
    /// File and line, or file and key.
    origin: String,
}

/// Objects by kind, in the order of [`KINDS`], and by name.
type FileObjects = BTreeMap<usize, BTreeMap<String, FileObject>>;

fn read(paths: &[PathBuf]) -> Result<FileObjects, Failure> {
    let mut objects = FileObjects::new();
    for path in paths {
        if path.is_dir() {
            let entries = fs::read_dir(path).map_err(cannot(format!("read {}", path.display())))?;
            let mut files: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| is_toml(path) || path.extension().is_some_and(|it| it == "jsonl"))
                .collect();
            files.sort();
            for file in files {
                read_file(&file, &mut objects)?;
            }
        } else {
            read_file(path, &mut objects)?;
        }
    }
    Ok(objects)
}

fn is_toml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "toml")
}

fn read_file(path: &Path, objects: &mut FileObjects) -> Result<(), Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(cannot(format!("read {}", path.display())))?;
    if text.len() as u64 >= FILE_BYTES_MAX {
        let what = format!("{} has more than {FILE_BYTES_MAX} bytes", path.display());
        return Err(Failure::new(Exit::Usage, what));
    }
    if is_toml(path) {
        return read_toml(path, &text, objects);
    }
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let origin = format!("{}:{}", path.display(), at + 1);
        let parsed: Map<String, Value> = serde_json::from_str(line)
            .map_err(|error| Failure::new(Exit::Usage, format!("{origin}: {error}")))?;
        let (kind, object) = line_object(parsed, &origin)?;
        add(&kind, None, object, origin, objects)?;
    }
    Ok(())
}

/// The kind and the object of a JSON line, which may have either form.
fn line_object(mut members: Map<String, Value>, origin: &str) -> Result<(String, Value), Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, format!("{origin}: {what}"));
    let Some(kind) = members.get("kind").and_then(Value::as_str) else {
        let mut members = members.into_iter();
        return match (members.next(), members.next()) {
            (Some(member), None) => Ok(member),
            _ => Err(usage(
                "\"kind\" is expected, or one member, for instance \"stream\"".to_owned(),
            )),
        };
    };
    let kind = kind.to_owned();
    let row = kinds::parse(&kind).map_err(|what| usage(format!("{kind:?} {what}")))?;
    if row.has_field("kind") {
        // Whether it has none, or the other one, is not known, and a field that is left out is
        // removed.
        let what = format!(
            "a {0} has a field \"kind\" of its own: write {{\"{0}\": {{...}}}}",
            row.name
        );
        return Err(usage(what));
    }
    members.remove("kind");
    Ok((kind, Value::Object(members)))
}

fn read_toml(path: &Path, text: &str, objects: &mut FileObjects) -> Result<(), Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, what);
    let parsed: Map<String, Value> = toml::from_str(text)
        .map_err(|error| usage(format!("{}: {}", path.display(), error.message())))?;
    for (kind, named) in parsed {
        let Value::Object(named) = named else {
            let what = format!("{}: [{kind}.NAME] is expected", path.display());
            return Err(usage(what));
        };
        for (name, object) in named {
            let origin = format!("{} [{kind}.\"{name}\"]", path.display());
            add(&kind, Some(name), object, origin, objects)?;
        }
    }
    Ok(())
}

fn add(
    kind: &str,
    name: Option<String>,
    mut object: Value,
    origin: String,
    objects: &mut FileObjects,
) -> Result<(), Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, format!("{origin}: {what}"));
    let row = kinds::parse(kind).map_err(|what| usage(format!("{kind:?} {what}")))?;
    let order = KINDS.iter().position(|known| known.name == row.name);
    let order = order.unwrap_or_default();
    if !object.is_object() {
        return Err(usage("an object is expected".to_owned()));
    }
    if let Some(name) = name {
        object[row.key] = Value::String(name);
    }
    // Identifiers of some kinds are numbers.
    let name = match &object[row.key] {
        Value::String(name) if !name.is_empty() => name.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(usage(format!("`{}` is missing", row.key))),
    };
    let of_kind = objects.entry(order).or_default();
    if let Some(known) = of_kind.get(&name) {
        let what = format!("{} {name:?} is in {} too", row.name, known.origin);
        return Err(usage(what));
    }
    of_kind.insert(name, FileObject { object, origin });
    Ok(())
}

/// The differences of one kind.
struct KindDifferences {
    kind: &'static ObjectKind,
    created: Vec<ObjectChange>,
    changed: Vec<ObjectChange>,
    /// Objects of the scope that no file has.
    missing: Vec<String>,
    equal: usize,
    lines: Vec<String>,
}

/// Compares the files with the server, which is read page by page.
fn compare(server: &Connection, flags: &FileFlags) -> Result<Vec<KindDifferences>, Failure> {
    let mut all = Vec::new();
    for (order, mut wanted) in read(&flags.files)? {
        let kind = &KINDS[order];
        let mut differences = KindDifferences {
            kind,
            created: Vec::new(),
            changed: Vec::new(),
            missing: Vec::new(),
            equal: 0,
            lines: Vec::new(),
        };
        server.all_pages(kind, &selected(kind), server.output.quiet, |rows| {
            for row in rows {
                let name = match &row[kind.key] {
                    Value::String(name) => name.clone(),
                    other => other.to_string(),
                };
                match wanted.remove(&name) {
                    Some(object) => differences.compare(server, name, row, &object)?,
                    None if flags.scope.iter().all(|label| has_label(row, label)) => {
                        differences.missing.push(name);
                    }
                    None => {}
                }
            }
            Ok(true)
        })?;
        for (name, wanted) in wanted {
            differences.create(name, wanted)?;
        }
        all.push(differences);
    }
    Ok(all)
}

impl KindDifferences {
    /// Compares an object of the server, of which lists mask the secrets.
    fn compare(
        &mut self,
        server: &Connection,
        name: String,
        row: &Value,
        wanted: &FileObject,
    ) -> Result<(), Failure> {
        let kind = self.kind;
        let wanted = &wanted.object;
        // Lists of some kinds have the defaults, and a file may leave them out or not.
        let effective = kind.effective(wanted)?;
        let mut given = kind.effective(&kind.given(row)?)?;
        let mut patch = patch_between(&given, &effective);
        if patch.is_some() && holds(&given, MASK) && !holds(wanted, MASK) {
            let object = server.object(kind, &name)?.body;
            given = kind.effective(&kind.given(&object)?)?;
            patch = patch_between(&given, &effective);
        }
        let Some(patch) = patch else {
            self.equal += 1;
            return Ok(());
        };
        let shown = lines(&kind.masked(&given), &kind.masked(&effective));
        self.lines
            .push(format!("~ {} {}", kind.name, printable(&name)));
        if shown.is_empty() {
            self.lines.push("    a secret".to_owned());
        }
        self.lines
            .extend(shown.iter().map(|line| format!("    {line}")));
        self.changed.push(ObjectChange {
            name,
            patch,
            must_exist: true,
        });
        Ok(())
    }

    fn create(&mut self, name: String, wanted: FileObject) -> Result<(), Failure> {
        if holds(&wanted.object, MASK) {
            let what = format!(
                "{}: {} {name:?} does not exist, and a secret of it is masked",
                wanted.origin, self.kind.name
            );
            return Err(Failure::new(Exit::Usage, what));
        }
        self.lines
            .push(format!("+ {} {}", self.kind.name, printable(&name)));
        self.created.push(ObjectChange {
            name,
            patch: wanted.object,
            must_exist: false,
        });
        Ok(())
    }
}

impl KindDifferences {
    /// What the saves would move, as the layouter previews it; nothing while it is off.
    fn moves(&self, server: &Connection, all: &[Self]) -> Result<Vec<String>, Failure> {
        let saved = self.created.len() + self.changed.len();
        if saved == 0 || !["stream", "streamer"].contains(&self.kind.name) {
            return Ok(Vec::new());
        }
        if saved > PREVIEWED_MAX {
            let what = format!(
                "moves are not counted: more than {} differ",
                counted(PREVIEWED_MAX as u64, self.kind.name)
            );
            return Ok(vec![what]);
        }
        let patches = self.created.iter().chain(&self.changed).map(|change| {
            let mut patch = change.patch.clone();
            patch[self.kind.key] = Value::from(change.name.as_str());
            patch
        });
        let body = Value::Array(patches.collect());
        let path = format!("{}/preview_layout_change?limit=1", self.kind.path);
        let Some(preview) = server.preview(&path, &body)? else {
            return Ok(Vec::new());
        };
        let mut lines = Vec::new();
        let because = match self.kind.name {
            "streamer" => " because of streamers",
            _ => "",
        };
        let moves = number(&preview, "moves_caused");
        if moves > 0 {
            lines.push(format!("{} would move{because}", counted(moves, "stream")));
        }
        let more = number(&preview, "unplaced").saturating_sub(number(&preview, "unplaced_before"));
        // Streams of the files may fit on streamers of the files.
        let has_streamers = all
            .iter()
            .any(|it| it.kind.name == "streamer" && !it.created.is_empty());
        if more > 0 && !(has_streamers && self.kind.name == "stream") {
            let streams = counted(more, "stream");
            lines.push(format!("{streams} would have no place{because}"));
        }
        Ok(lines)
    }
}

/// Prints the differences, their counts, and what would move.
fn print(server: &Connection, all: &[KindDifferences], deletes: bool) -> Result<usize, Failure> {
    let mut printer = Printer::new();
    for of_kind in all {
        for line in &of_kind.lines {
            printer.line(line)?;
        }
        if deletes {
            for name in &of_kind.missing {
                let name = printable(name);
                printer.line(&format!("- {} {name}", of_kind.kind.name))?;
            }
        }
    }
    printer.flush()?;
    let total = |of: fn(&KindDifferences) -> usize| all.iter().map(of).sum::<usize>();
    let (created, changed) = (total(|it| it.created.len()), total(|it| it.changed.len()));
    let (missing, equal) = (total(|it| it.missing.len()), total(|it| it.equal));
    let kept = if deletes {
        format!("{missing} to delete")
    } else {
        format!("{missing} only on the server (kept; apply --prune would delete them)")
    };
    server.note(&format!(
        "{created} to create, {changed} to change, {equal} equal, {kept}"
    ));
    for of_kind in all {
        for line in of_kind.moves(server, all)? {
            server.note(&line);
        }
    }
    Ok(created + changed + if deletes { missing } else { 0 })
}

/// `weir diff`.
pub fn diff(server: &Connection, flags: &DiffFlags) -> Result<Exit, Failure> {
    let all = compare(server, &flags.files)?;
    let differences = print(server, &all, false)?;
    Ok(if differences > 0 {
        Exit::Different
    } else {
        Exit::Done
    })
}

/// `weir apply`.
pub fn apply(server: &Connection, flags: &ApplyFlags) -> Result<Exit, Failure> {
    let all = compare(server, &flags.files)?;
    let missing: usize = all.iter().map(|it| it.missing.len()).sum();
    print(server, &all, flags.prune)?;
    if flags.prune && missing > flags.max_deletes {
        let what = format!(
            "{missing} objects would be deleted, and --max-deletes is {}; nothing was changed",
            flags.max_deletes
        );
        return Err(Failure::new(Exit::Usage, what));
    }
    if flags.dry_run {
        return Ok(Exit::Done);
    }
    for of_kind in &all {
        save_all(server, of_kind.kind, &of_kind.created)?;
        save_all(server, of_kind.kind, &of_kind.changed)?;
    }
    if flags.prune {
        // Streams before the streamers that run them.
        for of_kind in all.iter().rev().filter(|it| !it.missing.is_empty()) {
            delete_all(server, of_kind.kind, &of_kind.missing)?;
        }
    }
    Ok(Exit::Done)
}
