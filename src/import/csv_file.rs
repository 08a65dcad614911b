//! Reads a CSV file: one stream per row, and problems with their line numbers.
//!
//! The first row names the columns, in any order: `url` (required; several columns are several
//! inputs), `name`, `title`, `position`, `comment`, `template`, `disabled`, `static`, `user_agent`,
//! `header.NAME` and `label.KEY`. Columns are separated by commas, or by semicolons if the first
//! row has more of those. A name is taken as it is; without one it is made as in a playlist. An
//! empty cell changes nothing. The result has the form of a playlist, so the rules for addresses
//! and options are the same.

use std::collections::HashMap;

use csv::{ByteRecord, ReaderBuilder, Trim};
use serde_json::Value;

use super::player_options::plain;
use super::playlist::{
    BYTE_ORDER_MARK, ENTRIES_MAX, GivenMembers, Playlist, PlaylistEntry, PlaylistInput, Problem,
    foreign_kind, not_a_list,
};
use crate::schema;

/// Most columns of a file.
const COLUMNS_MAX: usize = 1_000;

/// Columns of one meaning, as they are named.
const COLUMNS: [(&str, CsvColumn); 9] = [
    ("name", CsvColumn::Name),
    ("title", CsvColumn::Title),
    ("url", CsvColumn::Url),
    ("position", CsvColumn::Position),
    ("user_agent", CsvColumn::UserAgent),
    ("comment", CsvColumn::Text("comment")),
    ("template", CsvColumn::Text("template")),
    ("disabled", CsvColumn::Switch("disabled")),
    ("static", CsvColumn::Switch("static")),
];

/// What the cells of a column are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CsvColumn {
    Name,
    Title,
    Url,
    Position,
    UserAgent,
    Header(String),
    Label(String),
    /// A member of the stream that is text.
    Text(&'static str),
    /// A member of the stream that is `true` or `false`.
    Switch(&'static str),
}

/// Reads a file. `Err`: the file as a whole is not a table of streams.
pub fn parse(bytes: &[u8]) -> Result<Playlist, Problem> {
    if let Some(kind) = foreign_kind(bytes) {
        return Err(not_a_list(1, kind));
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .delimiter(delimiter(bytes))
        .from_reader(bytes);
    let mut lines = LineCounter::new(bytes);
    let mut row = ByteRecord::new();
    let mut table: Option<CsvTable> = None;
    loop {
        match reader.read_byte_record(&mut row) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(not_a_list(1, error.to_string())),
        }
        let byte = row.position().map_or(0, csv::Position::byte);
        let line = lines.line_of(byte as usize);
        match &mut table {
            None => table = Some(CsvTable::new(line, &row)?),
            Some(table) => table.row(line, &row)?,
        }
    }
    let table = table.ok_or_else(|| not_a_list(1, "the file is empty"))?;
    Ok(table.list)
}

/// Counts lines up to rows. The position of a row may be that of line ends before it.
struct LineCounter<'b> {
    bytes: &'b [u8],
    /// The end of a line: CR if the file has no LF.
    end: u8,
    counted: usize,
    line: usize,
}

impl<'b> LineCounter<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        let has_lf = memchr::memchr(b'\n', bytes).is_some();
        Self {
            bytes,
            end: if has_lf { b'\n' } else { b'\r' },
            counted: 0,
            line: 1,
        }
    }

    /// The line of the row at or after this byte. Rows come in the order of the file.
    fn line_of(&mut self, byte: usize) -> usize {
        let rest = self.bytes.get(byte..).unwrap_or_default();
        let ends = rest.iter().take_while(|byte| b"\r\n".contains(byte));
        let start = (byte + ends.count()).clamp(self.counted, self.bytes.len());
        let passed = &self.bytes[self.counted..start];
        self.line += memchr::memchr_iter(self.end, passed).count();
        self.counted = start;
        self.line
    }
}

/// The separator of the first line.
fn delimiter(bytes: &[u8]) -> u8 {
    let first = bytes.split(|byte| *byte == b'\n').next();
    let first = first.unwrap_or_default();
    let count = |of: u8| memchr::memchr_iter(of, first).count();
    if count(b';') > count(b',') {
        b';'
    } else {
        b','
    }
}

/// The column of this name.
fn column(name: &str) -> Result<CsvColumn, String> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, column)) = COLUMNS.iter().find(|(known, _)| *known == lower) {
        return Ok(column.clone());
    }
    match name.split_once('.') {
        Some((kind, key)) if !key.is_empty() && kind.eq_ignore_ascii_case("label") => {
            Ok(CsvColumn::Label(key.to_owned()))
        }
        Some((kind, key)) if !key.is_empty() && kind.eq_ignore_ascii_case("header") => {
            Ok(CsvColumn::Header(key.to_owned()))
        }
        _ => {
            let known = COLUMNS.map(|(known, _)| known);
            let nearest = schema::nearest(&lower, known.into_iter());
            let hint = nearest.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            let all = known.join(", ");
            Err(format!(
                "{name:?} is no column{hint} (columns: {all}, label.KEY, header.NAME)"
            ))
        }
    }
}

/// The rows that were read, by the columns of the first.
struct CsvTable {
    columns: Vec<CsvColumn>,
    list: Playlist,
    /// The line of each name that was given.
    names: HashMap<String, usize>,
}

impl CsvTable {
    fn new(line: usize, row: &ByteRecord) -> Result<Self, Problem> {
        if row.len() > COLUMNS_MAX {
            let reason = format!("more than {COLUMNS_MAX} columns");
            return Err(not_a_list(line, reason));
        }
        let mut columns = Vec::with_capacity(row.len());
        for name in row {
            let name = str::from_utf8(name).map_err(|_| not_a_list(line, "is not UTF-8"))?;
            let column = column(name).map_err(|reason| not_a_list(line, reason))?;
            if column != CsvColumn::Url && columns.contains(&column) {
                let reason = format!("the column {name:?} is there twice");
                return Err(not_a_list(line, reason));
            }
            columns.push(column);
        }
        if !columns.contains(&CsvColumn::Url) {
            let reason = "no column `url`: the first row names the columns";
            return Err(not_a_list(line, reason));
        }
        Ok(Self {
            columns,
            list: Playlist::default(),
            names: HashMap::new(),
        })
    }

    /// Adds a row, or why it is skipped.
    fn row(&mut self, line: usize, row: &ByteRecord) -> Result<(), Problem> {
        if row.iter().all(<[u8]>::is_empty) {
            return Ok(());
        }
        if self.list.entries.len() + self.list.problems.len() >= ENTRIES_MAX {
            let reason = format!("more than {ENTRIES_MAX} rows; divide the file");
            return Err(not_a_list(line, reason));
        }
        let entry = self.entry(line, row);
        let entry = entry.and_then(|entry| self.named(entry));
        match entry {
            Ok(entry) => self.list.entries.push(entry),
            Err((code, reason)) => self.list.problems.push(Problem { line, code, reason }),
        }
        Ok(())
    }

    fn entry(&mut self, line: usize, row: &ByteRecord) -> Result<PlaylistEntry, SkippedRow> {
        if row.len() != self.columns.len() {
            let (has, columns) = (row.len(), self.columns.len());
            let reason = format!("has {has} cells, and the first row {columns}");
            return Err(("wrong_columns", reason));
        }
        let mut entry = PlaylistEntry {
            line,
            ..PlaylistEntry::default()
        };
        let mut own = Vec::new();
        for (column, cell) in self.columns.iter().zip(row) {
            let text = str::from_utf8(cell).map_err(|_| ("not_utf8", "is not UTF-8".to_owned()))?;
            if text.is_empty() {
                continue;
            }
            match column {
                CsvColumn::Url => {
                    let mut input = PlaylistInput {
                        line,
                        ..PlaylistInput::default()
                    };
                    let (url, ignored) = input.options.read_pipe(text);
                    input.url = url.to_owned();
                    self.list.player_options += ignored;
                    entry.inputs.push(input);
                }
                CsvColumn::UserAgent => own.push(("user-agent", text)),
                CsvColumn::Header(name) => own.push((name, text)),
                CsvColumn::Title => entry.title = plain(text),
                column => set(&mut entry.given, column, text)?,
            }
        }
        if entry.inputs.is_empty() {
            return Err(("no_url", "has no URL".to_owned()));
        }
        for input in &mut entry.inputs {
            for (name, value) in &own {
                if !input.options.set(name, value) {
                    let reason = format!("{name:?} is not the name of a header");
                    return Err(("invalid_value", reason));
                }
            }
        }
        Ok(entry)
    }

    /// Refuses a name that an earlier row has.
    fn named(&mut self, entry: PlaylistEntry) -> Result<PlaylistEntry, SkippedRow> {
        if let Some(name) = &entry.given.name
            && let Some(other) = self.names.insert(name.clone(), entry.line)
        {
            self.names.insert(name.clone(), other);
            let reason = format!("the name {name:?} is that of line {other}");
            return Err(("duplicate_name", reason));
        }
        Ok(entry)
    }
}

/// Why a row is skipped: a word for programs, and the reason.
type SkippedRow = (&'static str, String);

/// Sets a member that the file gives as it is.
fn set(given: &mut GivenMembers, column: &CsvColumn, text: &str) -> Result<(), SkippedRow> {
    let wrong = |what: &str, allowed: &str| {
        let reason = format!("{what} {text:?} must be {allowed}");
        ("invalid_value", reason)
    };
    match column {
        CsvColumn::Name => given.name = Some(text.to_owned()),
        CsvColumn::Label(key) => {
            given.labels.insert(key.clone(), text.to_owned());
        }
        CsvColumn::Position => {
            let number: i64 = text
                .parse()
                .map_err(|_| wrong("position", "a whole number"))?;
            given
                .members
                .insert("position".to_owned(), Value::from(number));
        }
        CsvColumn::Switch(member) => {
            let value = match text.to_ascii_lowercase().as_str() {
                "true" => true,
                "false" => false,
                _ => return Err(wrong(member, "true or false")),
            };
            let member = (*member).to_owned();
            given.members.insert(member, Value::Bool(value));
        }
        CsvColumn::Text(member) => {
            let member = (*member).to_owned();
            given.members.insert(member, Value::from(text));
        }
        CsvColumn::Title | CsvColumn::Url | CsvColumn::UserAgent | CsvColumn::Header(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<(usize, &'static str)> {
        let read = parse(text.as_bytes()).expect("a table");
        let problems = read.problems.iter();
        problems
            .map(|problem| (problem.line, problem.code))
            .collect()
    }

    #[test]
    fn columns_stand_in_any_order_and_quotes_hold_newlines() {
        let text = "\u{feff}Title;URL;label.zone;url;header.X-Key;disabled\r\n\
                    \"A; b\";udp://239.0.0.1:1;north;udp://239.0.0.2:1;k;TRUE\r\n\r\n;;;;;\r\n";
        let read = parse(text.as_bytes()).expect("a table");
        assert_eq!(read.problems, []);
        let [entry] = &read.entries[..] else {
            panic!("one row: {read:?}");
        };
        assert_eq!((entry.line, entry.title.as_str()), (2, "A; b"));
        assert_eq!(entry.given.labels["zone"], "north");
        assert_eq!(entry.given.members["disabled"], Value::Bool(true));
        let urls = entry.inputs.iter().map(|input| input.url.as_str());
        let urls: Vec<&str> = urls.collect();
        assert_eq!(urls, ["udp://239.0.0.1:1", "udp://239.0.0.2:1"]);
        assert_eq!(entry.inputs[1].options.headers["X-Key"], "k");
        let read = parse(b"name,url,comment\na,udp://h:1,\"one\ntwo\"\nb,udp://h:1,\n");
        let read = read.expect("a table");
        assert_eq!(
            read.entries[0].given.members["comment"],
            Value::from("one\ntwo")
        );
        assert_eq!(read.entries[1].line, 4, "lines of the file, not rows");
        let read = parse(b"name,url\ra,udp://h:1\r\rb,udp://h:1\r").expect("a table");
        let lines: Vec<usize> = read.entries.iter().map(|entry| entry.line).collect();
        assert_eq!(lines, [2, 4]);
    }

    #[test]
    fn bad_rows_are_skipped_by_their_reason() {
        let text = "name,url,position,static\n\
                    a,udp://h:1,x,\n\
                    b,,1,\n\
                    c,udp://h:1,1,maybe\n\
                    d,udp://h:1,1\n\
                    e,udp://h:1,1,true\n\
                    e,udp://h:1,1,true\n";
        let expected = [
            (2, "invalid_value"),
            (3, "no_url"),
            (4, "invalid_value"),
            (5, "wrong_columns"),
            (7, "duplicate_name"),
        ];
        assert_eq!(codes(text), expected);
        let bytes = b"name,url\n\xff,udp://h:1\n";
        let read = parse(bytes).expect("a table");
        assert_eq!(read.problems[0].code, "not_utf8");
    }

    #[test]
    fn a_file_that_is_no_table_says_why() {
        for (text, reason) in [
            ("", "the file is empty"),
            ("name,title\n", "no column `url`"),
            ("nam,url\n", "did you mean name?"),
            ("url,name,name\n", "\"name\" is there twice"),
            ("#EXTM3U\n", "\"#EXTM3U\" is no column"),
            ("<html>\n", "HTML page"),
            ("label.,url\n", "\"label.\" is no column"),
        ] {
            let problem = parse(text.as_bytes()).expect_err(text);
            assert!(problem.reason.contains(reason), "{text}: {problem:?}");
        }
    }
}
