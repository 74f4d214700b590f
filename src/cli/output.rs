//! Standard output: names that are safe on a terminal, amounts for people, and JSON for scripts.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::error::CliError;
use super::text::{colour_wanted, escape};

/// Maximum columns of text for people: the default width of a terminal.
pub(super) const LINE_COLUMNS: usize = 80;

/// Blanks between two columns of a table.
pub(super) const COLUMN_GAP: usize = 2;
/// Minimum width to which a name in a table is shortened.
const NAME_COLUMNS_MIN: usize = 12;

/// Standard output of a command that must complete its work. Once the reader has closed the pipe,
/// every write succeeds and its bytes are discarded.
struct Unread<W> {
    writer: W,
    is_unread: bool,
}

impl<W: Write> Unread<W> {
    fn new(writer: W) -> Self {
        Self {
            writer,
            is_unread: false,
        }
    }

    fn heard<T>(&mut self, outcome: io::Result<T>, unheard: T) -> io::Result<T> {
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_unread = true;
                Ok(unheard)
            }
            outcome => outcome,
        }
    }
}

impl<W: Write> Write for Unread<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_unread {
            return Ok(bytes.len());
        }
        let outcome = self.writer.write(bytes);
        self.heard(outcome, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_unread {
            return Ok(());
        }
        let outcome = self.writer.flush();
        self.heard(outcome, ())
    }
}

/// Format of a list of names outside of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args)]
pub(super) struct NameOptions {
    /// Print the names alone, as they are, each with a NUL byte behind it
    #[arg(short = '0', long, conflicts_with_all = ["json", "raw"])]
    null: bool,
    /// Print the names alone, as they are, each on a line: one with a newline takes several
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

impl NameOptions {
    /// Returns whether only the raw names are requested.
    pub(super) fn are_bytes(self) -> bool {
        self.null || self.raw
    }
}

/// Standard output and its properties.
pub(super) struct Output {
    writer: Box<dyn Write>,
    terminal: bool,
    colour: bool,
}

/// Colour of a word.
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    Red,
    Green,
    Yellow,
    Blue,
}

impl Output {
    /// Creates the output of a command that only reports and may end when its reader leaves.
    pub(super) fn standard() -> Self {
        Self::of(|stdout| Box::new(BufWriter::new(stdout)))
    }

    /// Creates the output of a command that must complete its work even if its reader leaves.
    pub(super) fn of_work() -> Self {
        Self::of(|stdout| Box::new(Unread::new(BufWriter::new(stdout))))
    }

    fn of(writer: impl FnOnce(io::Stdout) -> Box<dyn Write>) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self {
            terminal,
            colour: terminal && colour_wanted(),
            writer: writer(stdout),
        }
    }

    /// Returns whether standard output is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes text and ends the line.
    pub(super) fn line(&mut self, text: &str) -> Result<(), CliError> {
        writeln!(self.writer, "{text}").map_err(CliError::Output)
    }

    /// Writes text of any length after a lead. Lines are broken between words at [`LINE_COLUMNS`],
    /// and further lines are indented to the width of the lead.
    pub(super) fn paragraph(&mut self, lead: &str, text: &str) -> Result<(), CliError> {
        // `display_width` does not count the escape sequences of a colour.
        let indent = " ".repeat(textwrap::core::display_width(lead));
        for (number, line) in broken(text, &indent).iter().enumerate() {
            match number {
                0 => self.line(&format!("{lead}{}", line.trim_start()))?,
                _ => self.line(line)?,
            }
        }
        Ok(())
    }

    /// Writes a name of a list: escaped on a line, or as raw bytes if requested. Names in a pipe
    /// are escaped too: the pipe may end on a terminal, and a newline in a name would make two
    /// names.
    pub(super) fn name(&mut self, name: &[u8], options: NameOptions) -> Result<(), CliError> {
        if !options.are_bytes() {
            return self.line(&escape(name));
        }
        self.writer.write_all(name).map_err(CliError::Output)?;
        let end = if options.null { b"\0" } else { b"\n" };
        self.writer.write_all(end).map_err(CliError::Output)
    }

    /// Writes raw bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.writer.write_all(bytes).map_err(CliError::Output)
    }

    /// Writes a value as JSON, over several lines.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer_pretty(&mut self.writer, value)
            .map_err(|error| CliError::Output(error.into()))?;
        writeln!(self.writer).map_err(CliError::Output)
    }

    /// Writes a value as JSON, or its description as a line.
    pub(super) fn print_value_or_line(
        &mut self,
        json: bool,
        value: &impl Serialize,
        text: &str,
    ) -> Result<(), CliError> {
        if json {
            self.json(value)
        } else {
            self.line(text)
        }
    }

    /// Writes a value as one line of JSON and flushes it.
    pub(super) fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer(&mut self.writer, value)
            .map_err(|error| CliError::Output(error.into()))?;
        writeln!(self.writer).map_err(CliError::Output)?;
        self.flush()
    }

    /// Returns a word in a colour, if colours are enabled.
    pub(super) fn paint<'a>(&self, text: &'a str, colour: Colour) -> Cow<'a, str> {
        let code = match colour {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Blue => 34,
        };
        if self.colour {
            Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Writes rows under a heading. The columns in `right` are right-aligned.
    pub(super) fn table(
        &mut self,
        heading: &[&str],
        right: &[usize],
        rows: Vec<Vec<String>>,
    ) -> Result<(), CliError> {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(heading.iter().copied());
        table.add_rows(rows);
        for column in right {
            if let Some(column) = table.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            self.line(line.trim_end().strip_prefix(' ').unwrap_or_default())?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.writer.flush().map_err(CliError::Output)
    }
}

/// Breaks a sentence into lines, only at blanks. A word that is longer than a line stays whole,
/// because it may be a path that the user copies into a command.
pub(super) fn broken<'a>(text: &'a str, indent: &'a str) -> Vec<Cow<'a, str>> {
    let options = textwrap::Options::new(LINE_COLUMNS)
        .initial_indent(indent)
        .subsequent_indent(indent)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options)
}

/// Shortens the cells of the first column so that the table fits into a line, but to no less than
/// [`NAME_COLUMNS_MIN`].
pub(super) fn fit_first(heading: &[&str], rows: &mut [Vec<String>]) {
    let width = |text: &str| textwrap::core::display_width(text);
    let columns = 0..heading.len();
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| width(cell));
        widths.max().unwrap_or(0).max(width(heading[column]))
    };
    let others: usize = columns
        .skip(1)
        .map(|column| widest(column) + COLUMN_GAP)
        .sum();
    let room = LINE_COLUMNS.saturating_sub(others).max(NAME_COLUMNS_MIN);
    for cell in rows.iter_mut().filter_map(|row| row.first_mut()) {
        if width(cell) > room {
            let kept = cell.chars().take(room - 1);
            *cell = kept.chain(['…']).collect();
        }
    }
}

/// Shortens the cells of the last column so that the table fits into a line, but to no less than
/// [`NAME_COLUMNS_MIN`]. The end of each cell remains, because a path ends with the name of the
/// file.
pub(super) fn fit_last(heading: &[&str], rows: &mut [Vec<String>]) {
    let width = |text: &str| textwrap::core::display_width(text);
    let last = heading.len().saturating_sub(1);
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| width(cell));
        widths.max().unwrap_or(0).max(width(heading[column]))
    };
    let others: usize = (0..last).map(|column| widest(column) + COLUMN_GAP).sum();
    let room = LINE_COLUMNS.saturating_sub(others).max(NAME_COLUMNS_MIN);
    for cell in rows.iter_mut().filter_map(|row| row.get_mut(last)) {
        if width(cell) > room {
            let letters: Vec<char> = cell.chars().collect();
            let begin = letters.len().saturating_sub(room - 1);
            *cell = ['…'].iter().chain(&letters[begin..]).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_fitted_to_a_line_by_the_beginning_of_its_paths() {
        let long = format!("{}/film.mkv", "folder".repeat(20));
        let mut rows = vec![
            vec!["7".to_owned(), long],
            vec!["8".to_owned(), "x".to_owned()],
        ];
        fit_last(&["PID", "READS"], &mut rows);
        assert_eq!(textwrap::core::display_width(&rows[0][1]), LINE_COLUMNS - 5);
        assert!(rows[0][1].starts_with('…') && rows[0][1].ends_with("/film.mkv"));
        assert_eq!(rows[1][1], "x");
    }

    #[test]
    fn an_error_is_broken_between_words() {
        let error = format!("p2pfs: {}", "that is not a token; ".repeat(8));
        for line in broken(&error, "") {
            assert!(line.len() <= LINE_COLUMNS, "{line}");
        }
    }

    #[test]
    fn a_path_in_a_sentence_is_never_wrapped() {
        let path = format!("/srv/{}a-b.txt", "photos-of-the-year/".repeat(6));
        assert!(path.len() > LINE_COLUMNS);
        let text = format!("1 left out: may not be read; let others: chmod o+r {path} and again");
        let lines = broken(&text, "         ");
        let whole: Vec<_> = lines.iter().filter(|it| it.trim() == path).collect();
        assert_eq!(whole.len(), 1, "{lines:#?}");
        // The rest is broken where a line is full.
        assert_eq!(lines.len(), 3, "{lines:#?}");
    }
}
