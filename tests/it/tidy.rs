//! The form of the sources: width, length of functions, plain words, one type name per crate,
//! floors, and files that no module declares. `tidy_exceptions.rs` lists known exceptions by name;
//! the lists only shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Longest line, in characters.
const WIDTH: usize = 100;
/// Longest function, in lines, that is not a table or a match with one call per arm.
const FUNCTION_LINES: usize = 70;
/// Longest name of a test, in characters.
const TEST_NAME: usize = 60;
/// Longest file without its tests.
const FILE_LINES: usize = 1_200;

/// Most fields of a struct.
const FIELDS: usize = 15;

include!("tidy_exceptions.rs");

/// One source file of the server.
struct Source {
    /// Below `src`, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The module that the file is.
    fn module(&self) -> String {
        let path = self.path.trim_end_matches(".rs");
        path.trim_end_matches("/mod").replace('/', "::")
    }

    fn is_test(&self) -> bool {
        self.path.contains("tests")
    }

    /// The lines before the file's tests.
    fn lines(&self) -> impl Iterator<Item = &str> {
        let code = self.text.lines();
        code.take_while(|line| *line != "#[cfg(test)]")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Adds the sources in `folder`; their paths begin below `root`.
fn read(root: &Path, folder: &Path, into: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(root, &path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(root).expect("below the root");
            into.push(Source {
                path: below.to_str().expect("UTF-8").to_owned(),
                text: fs::read_to_string(&path).expect("a source"),
            });
        }
    }
}

fn sources() -> Vec<Source> {
    let mut all = Vec::new();
    let src = root().join("src");
    read(&src, &src, &mut all);
    all.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(all.len() > 100, "the sources are found");
    all
}

/// Fails if something was found that is not an exception, or an exception was not found.
fn judge(what: &str, found: &BTreeSet<String>, allowed: &[&str]) {
    let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
    let new: Vec<_> = found.difference(&allowed).collect();
    let fixed: Vec<_> = allowed.difference(found).collect();
    assert!(
        new.is_empty() && fixed.is_empty(),
        "{what}\nnew: {new:#?}\nfixed, remove them from the exceptions: {fixed:#?}"
    );
}

#[test]
fn lines_have_at_most_100_characters() {
    let wide = |source: &Source| {
        let mut lines = source.text.lines();
        lines.any(|line| {
            // Literals of JSON and of requests are not wrapped.
            let is_literal = line.trim_start().starts_with('"') || line.contains("r#");
            line.chars().count() > WIDTH && !is_literal
        })
    };
    let all = sources();
    let found = all.iter().filter(|source| wide(source));
    let found = found.map(|source| source.path.clone()).collect();
    judge("files with longer lines", &found, WIDE_FILES);
}

#[test]
fn files_are_short() {
    let long = |source: &&Source| !source.is_test() && source.lines().count() > FILE_LINES;
    let all = sources();
    let found = all.iter().filter(long).map(|source| source.path.clone());
    judge("files with more lines", &found.collect(), LONG_FILES);
}

/// The functions of a file that are longer than allowed. A function ends at the closing brace that
/// has its indentation.
fn long_functions(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut begun: Option<(usize, &str, usize)> = None;
    for (number, line) in source.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match begun {
            None => {
                let words = line
                    .trim_start()
                    .split(['(', '<'])
                    .next()
                    .unwrap_or_default();
                let mut words = words.split(' ');
                if words.any(|word| word == "fn")
                    && let Some(name) = words.next()
                    && !line.trim_start().starts_with("//")
                    && !line.ends_with(';')
                {
                    begun = Some((number, name, indent));
                }
            }
            Some((first, name, depth)) if indent == depth && line.trim_start() == "}" => {
                if number - first + 1 > FUNCTION_LINES {
                    found.push(format!("{} {name}", source.path));
                }
                begun = None;
            }
            Some((_, _, depth))
                if indent == depth && line.ends_with('}') && line.len() > depth + 1 =>
            {
                begun = None;
            }
            Some(_) => {}
        }
    }
    found
}

#[test]
fn functions_have_at_most_70_lines() {
    let all = sources();
    let code = all.iter().filter(|source| !source.is_test());
    let found = code.flat_map(long_functions).collect();
    judge("longer functions", &found, LONG_FUNCTIONS);
}

/// The structs of a file with more fields than allowed. A struct ends at the closing brace that has
/// its indentation.
fn large_structs(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut begun: Option<(&str, usize, usize)> = None;
    for line in source.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        match &mut begun {
            None => {
                let mut words = text.split([' ', '<']);
                let is_struct = text.ends_with('{') && !text.starts_with("//");
                if is_struct && words.by_ref().take(3).any(|word| word == "struct") {
                    begun = Some((words.next().unwrap_or_default(), indent, 0));
                }
            }
            Some((name, depth, fields)) if indent == *depth && text == "}" => {
                if *fields > FIELDS {
                    found.push(format!("{} {name}", source.path));
                }
                begun = None;
            }
            Some((_, depth, fields)) => {
                let is_text = text.starts_with("//") || text.starts_with('#');
                let is_field = indent == *depth + 4 && text.contains(": ") && !is_text;
                *fields += usize::from(is_field);
            }
        }
    }
    found
}

#[test]
fn structs_have_at_most_15_fields() {
    let all = sources();
    let code = all.iter().filter(|source| !source.is_test());
    let found = code.flat_map(large_structs).collect();
    judge("structs with more fields", &found, LARGE_STRUCTS);
}

/// The tests of a file whose names are longer than allowed.
fn long_test_names(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.text.lines().map(str::trim_start) {
        let name = line
            .strip_prefix("fn ")
            .and_then(|rest| rest.split('(').next());
        match name {
            Some(name) if is_test && name.chars().count() > TEST_NAME => {
                found.push(format!("{} {name}", source.path));
            }
            _ => {}
        }
        is_test = line == "#[test]" || (is_test && name.is_none() && !line.is_empty());
    }
    found
}

#[test]
fn test_names_have_at_most_60_characters() {
    let mut all = Vec::new();
    for folder in ["src", "storage", "tests", "loadtest", "bench"] {
        read(root(), &root().join(folder), &mut all);
    }
    let found: BTreeSet<_> = all.iter().flat_map(long_test_names).collect();
    judge("longer names of tests", &found, &[]);
}

/// Words that other words of the field replace: send, log, report, receive, request; the client,
/// all cores; again, equivalent to.
#[rustfmt::skip]
const BANNED_WORDS: &[&str] = &[
    "tell", "tells", "told", "say", "says", "said", "hear", "hears", "heard", "heed", "ask", "asks",
    "asked", "asking", "learns", "fares", "whom", "whoever", "somebody", "nobody", "everybody",
    "anybody", "anew", "farewell", "as good as", "be it", "what there is", "what is over",
    "for good", "at present",
];

/// The comment of a line, and its literals if they are sentences or it is about an error or a log
/// line; the whole line of a file of descriptions.
fn prose(path: &str, line: &str) -> String {
    if path.starts_with("openapi/words/") {
        let words = line.replace(|letter: char| !letter.is_alphanumeric(), " ");
        return format!(" {} ", words.to_lowercase());
    }
    let comment = line.split_once("//").map_or("", |(_, comment)| comment);
    let markers = ["titled(", "title", "expect(", "error!(", "warn!(", "info!("];
    let is_message = path == "error.rs" || markers.iter().any(|marker| line.contains(marker));
    let literals = line.split('"').skip(1).step_by(2);
    let is_sentence = |literal: &str| literal.matches(' ').count() >= 3;
    let literals = literals.filter(|literal| is_message || is_sentence(literal));
    let literals: Vec<&str> = literals.collect();
    let text = format!(" {comment} {} ", literals.join(" ")).to_lowercase();
    text.replace(|letter: char| !letter.is_alphanumeric(), " ")
}

#[test]
fn words_are_those_of_the_field() {
    let all = sources();
    let banned = |source: &&Source| {
        source.text.lines().any(|line| {
            let prose = prose(&source.path, line);
            let mut words = BANNED_WORDS.iter();
            words.any(|word| prose.contains(&format!(" {word} ")))
        })
    };
    let found = all.iter().filter(banned).map(|source| source.path.clone());
    judge(
        "files with banned words",
        &found.collect(),
        FILES_WITH_BANNED_WORDS,
    );
}

#[test]
fn a_type_name_means_one_type() {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for line in source.lines() {
            let mut words = line.split([' ', '<', '(', '{', ';', ':']);
            let declares = |word: &&str| matches!(*word, "struct" | "enum" | "trait");
            if line.starts_with(' ') || !words.by_ref().take(3).any(|word| declares(&word)) {
                continue;
            }
            if let Some(name) = words.next() {
                names
                    .entry(name.to_owned())
                    .or_default()
                    .insert(source.path.clone());
            }
        }
    }
    names.retain(|_, files| files.len() > 1);
    judge(
        "type names with several meanings",
        &names.into_keys().collect(),
        TYPE_NAMES,
    );
}

/// The floors as `lib.rs` lists them: a module path and the number of its line.
fn floors(lib: &str) -> Vec<(String, usize)> {
    let begin = lib.find("//! ```floors").expect("the floors are listed");
    let lines = lib[begin..].lines().skip(1);
    let lines = lines.map(|line| line.trim_start_matches("//!").trim());
    let lines = lines.take_while(|line| *line != "```").enumerate();
    lines
        .flat_map(|(floor, line)| line.split(' ').map(move |path| (path.to_owned(), floor)))
        .collect()
}

/// The line of the list that a module is on: that of the longest listed path above it.
fn floor_of(floors: &[(String, usize)], module: &str) -> Option<usize> {
    let above = |path: &str| module == path || module.starts_with(&format!("{path}::"));
    let listed = floors.iter().filter(|(path, _)| above(path));
    listed
        .max_by_key(|(path, _)| path.len())
        .map(|(_, floor)| *floor)
}

/// A path that a file imports.
struct Import {
    /// From the root of the crate.
    path: String,
    /// The file only hands the name on.
    is_public: bool,
}

/// What a file imports from other files of the crate.
fn imports(source: &Source) -> Vec<Import> {
    let mut found = Vec::new();
    let mut statement = String::new();
    for line in source.lines() {
        let line = line.trim();
        if statement.is_empty() {
            let words = line.trim_start_matches("pub").trim_start_matches("(crate)");
            let words = words.trim_start_matches("(super)").trim_start();
            let inner = ["use crate::", "use super::", "use self::"];
            if !inner.iter().any(|prefix| words.starts_with(prefix)) {
                continue;
            }
        }
        statement.push_str(line);
        if !line.ends_with(';') {
            statement.push(' ');
            continue;
        }
        let (visibility, tree) = statement.split_once("use ").expect("it begins with use");
        let is_public = !visibility.is_empty();
        let mut paths = Vec::new();
        leaves("", tree.trim_end_matches(';'), &mut paths);
        for path in paths {
            let path = absolute(source, &path);
            found.push(Import { path, is_public });
        }
        statement.clear();
    }
    found
}

/// The paths of a `use` tree.
fn leaves(head: &str, tree: &str, into: &mut Vec<String>) {
    let Some((before, inside)) = tree.split_once('{') else {
        let leaf = tree.split(" as ").next().unwrap_or_default().trim();
        into.push(match leaf {
            "self" => head.trim_end_matches("::").to_owned(),
            _ => format!("{head}{leaf}"),
        });
        return;
    };
    let inside = inside.trim_end().strip_suffix('}').expect("it is closed");
    let (mut depth, mut begin) = (0, 0);
    let end = (inside.len(), ',');
    for (at, letter) in inside.char_indices().chain([end]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let member = inside[begin..at].trim();
                begin = (at + 1).min(inside.len());
                if !member.is_empty() {
                    leaves(&format!("{head}{before}"), member, into);
                }
            }
            _ => {}
        }
    }
}

/// A path of a `use` statement from the root of the crate.
fn absolute(source: &Source, path: &str) -> String {
    if let Some(path) = path.strip_prefix("crate::") {
        return path.to_owned();
    }
    let module = source.module();
    let mut at: Vec<&str> = module.split("::").collect();
    let mut rest = path.strip_prefix("self::").unwrap_or(path);
    while let Some(above) = rest.strip_prefix("super::") {
        at.pop();
        rest = above;
    }
    at.push(rest);
    at.join("::")
}

/// The file in which an imported name is declared, behind all files that only hand it on.
fn declared_in<'s>(all: &'s BTreeMap<String, &Source>, path: &str) -> Option<&'s str> {
    let mut module = path;
    let (module, _) = loop {
        if let Some(found) = all.get_key_value(module) {
            break found;
        }
        module = module.rsplit_once("::")?.0;
    };
    let name = path[module.len()..].trim_start_matches("::");
    let name = name.split("::").next().unwrap_or_default();
    let handed_on = imports(all[module]).into_iter().find(|import| {
        import.is_public && !name.is_empty() && import.path.ends_with(&format!("::{name}"))
    });
    match handed_on {
        Some(import) if import.path != path => declared_in(all, &import.path),
        _ => Some(module),
    }
}

#[test]
fn files_import_each_other_in_no_circle() {
    let sources = sources();
    let code = sources.iter().filter(|source| !source.is_test());
    let all: BTreeMap<String, &Source> = code.map(|source| (source.module(), source)).collect();
    let mut arrows: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (module, source) in &all {
        for import in imports(source).iter().filter(|import| !import.is_public) {
            let Some(to) = declared_in(&all, &import.path) else {
                continue;
            };
            // A module and the files of its folder are one: names of the one are in reach of the
            // others.
            let is_above = |above: &str, below: &str| below.starts_with(&format!("{above}::"));
            if to != module && !is_above(to, module) && !is_above(module, to) {
                arrows.insert((module, to));
            }
        }
    }
    assert!(
        arrows.len() > 500,
        "the imports are found: {}",
        arrows.len()
    );
    // Files that import nothing, or that no file imports, are in no circle.
    loop {
        let before = arrows.len();
        let from: BTreeSet<&str> = arrows.iter().map(|(from, _)| *from).collect();
        arrows.retain(|(_, to)| from.contains(to));
        let to: BTreeSet<&str> = arrows.iter().map(|(_, to)| *to).collect();
        arrows.retain(|(from, _)| to.contains(from));
        if arrows.len() == before {
            break;
        }
    }
    assert!(
        arrows.is_empty(),
        "these imports close a circle: {arrows:#?}"
    );
}

#[test]
fn modules_import_only_from_floors_above() {
    let all = sources();
    let lib = all
        .iter()
        .find(|source| source.path == "lib.rs")
        .expect("lib.rs");
    let floors = floors(&lib.text);
    let mut crossed = BTreeSet::new();
    for source in &all {
        let module = source.module();
        if source.is_test() || matches!(&*module, "lib" | "main") {
            continue;
        }
        let own = floor_of(&floors, &module);
        let own = own.unwrap_or_else(|| panic!("{module} is on no floor"));
        for Import { path, .. } in imports(source) {
            if floor_of(&floors, &path).is_some_and(|floor| floor > own) {
                let to = path.split("::").take(2).collect::<Vec<_>>().join("::");
                crossed.insert(format!("{module} -> {to}"));
            }
        }
    }
    judge("imports from a floor below", &crossed, CROSSED_FLOORS);
}

#[test]
fn every_file_is_declared() {
    let all = sources();
    let texts: String = all.iter().map(|source| source.text.as_str()).collect();
    for source in &all {
        let module = source.module();
        let name = module.rsplit("::").next().expect("a name");
        let is_root = matches!(&*source.path, "lib.rs" | "main.rs");
        assert!(
            is_root
                || texts.contains(&format!("mod {name};"))
                || texts.contains(&format!("{name}.rs\"")),
            "{} is declared nowhere",
            source.path
        );
    }
}
