//! Forms of output: tables for people, JSON for programs.

use std::io::{self, BufWriter, IsTerminal as _, Write};

use clap::{Args, ValueEnum};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::kinds::Column;
use super::words;
use crate::exit::{Failure, cannot};

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// Columns for people.
    Table,
    /// More columns.
    Wide,
    /// One array, or one object.
    Json,
    /// One object per line.
    Jsonl,
    /// One name per line.
    Name,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = OutputForm::Table, value_name = "FORM")]
    pub output: OutputForm,
    /// No line of headers above a table.
    #[arg(long)]
    pub no_headers: bool,
    /// Fields of the API that are printed, for instance name,title,layout.ingest.
    #[arg(long, value_delimiter = ',', value_name = "FIELD")]
    pub columns: Vec<String>,
    /// Print nothing but the answer and errors.
    #[arg(short, long)]
    pub quiet: bool,
}

impl OutputFlags {
    pub fn is_json(&self) -> bool {
        matches!(self.output, OutputForm::Json | OutputForm::Jsonl)
    }
}

/// Output on stdout. A reader that closed its end (`| head`) ends the output, and is no error.
pub struct Printer {
    out: BufWriter<io::Stdout>,
    is_closed: bool,
}

impl Printer {
    pub fn new() -> Self {
        Self {
            out: BufWriter::new(io::stdout()),
            is_closed: false,
        }
    }

    /// Whether no reader is left.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.written(|out| writeln!(out, "{line}"))
    }

    /// Text without an end of the line.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.written(|out| write!(out, "{text}"))
    }

    pub fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&format!("{value:#}"))
    }

    /// Writes what was printed so far.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.written(Write::flush)
    }

    fn written(
        &mut self,
        write: impl FnOnce(&mut BufWriter<io::Stdout>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.is_closed {
            return Ok(());
        }
        match write(&mut self.out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            written => written.map_err(cannot("write to stdout")),
        }
    }
}

/// Prints a list page by page, so that its size does not matter.
pub struct ListPrinter<'f> {
    flags: &'f OutputFlags,
    columns: Vec<Column>,
    key: &'f str,
    widths: Vec<usize>,
    count: usize,
    pub printer: Printer,
}

impl<'f> ListPrinter<'f> {
    pub fn new(flags: &'f OutputFlags, columns: Vec<Column>, key: &'f str) -> Self {
        Self {
            flags,
            widths: vec![0; columns.len()],
            columns,
            key,
            count: 0,
            printer: Printer::new(),
        }
    }

    /// Prints a page. The widths of columns grow with the pages, and never shrink.
    pub fn page(&mut self, rows: &[Value]) -> Result<(), Failure> {
        match self.flags.output {
            OutputForm::Table | OutputForm::Wide => self.table(rows)?,
            OutputForm::Name => {
                for row in rows {
                    let name = words::cell(words::at(row, self.key));
                    self.printer.line(&name)?;
                }
            }
            OutputForm::Jsonl => {
                for row in rows {
                    self.printer.line(&row.to_string())?;
                }
            }
            OutputForm::Json => {
                for (at, row) in rows.iter().enumerate() {
                    let comma = if self.count + at == 0 { "[\n" } else { ",\n" };
                    self.printer.text(&format!("{comma}{row}"))?;
                }
            }
        }
        self.count += rows.len();
        Ok(())
    }

    fn table(&mut self, rows: &[Value]) -> Result<(), Failure> {
        let cells = |row: &Value| -> Vec<String> {
            self.columns.iter().map(|column| column.cell(row)).collect()
        };
        let mut lines: Vec<Vec<String>> = rows.iter().map(cells).collect();
        if self.count == 0 && !self.flags.no_headers && !rows.is_empty() {
            let headers = self.columns.iter().map(|column| column.header.clone());
            lines.insert(0, headers.collect());
        }
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.width());
            }
        }
        for line in &lines {
            let text = aligned(line, &self.widths, |at| self.columns[at].is_number);
            self.printer.line(&text)?;
        }
        Ok(())
    }

    pub fn end(mut self) -> Result<usize, Failure> {
        if self.flags.output == OutputForm::Json {
            self.printer
                .line(if self.count == 0 { "[]" } else { "\n]" })?;
        }
        self.printer.flush()?;
        Ok(self.count)
    }
}

/// The cells of a line below those of the others.
fn aligned(cells: &[String], widths: &[usize], is_number: impl Fn(usize) -> bool) -> String {
    let mut line = String::new();
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            line.push_str("  ");
        }
        let padding = " ".repeat(widths[at].saturating_sub(cell.width()));
        if is_number(at) {
            line.push_str(&padding);
        }
        line.push_str(cell);
        if !is_number(at) {
            line.push_str(&padding);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// Pairs of a name and a text, as lines.
pub fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = lines
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| format!("{name:width$}  {text}\n"));
    lines.collect()
}

/// Whether a person sees the output.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
