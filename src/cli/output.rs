//! Standard output: names that are safe on a terminal, amounts for people, and JSON for scripts.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use textwrap::core::display_width;

use super::error::CliError;
use super::text::{colour_wanted, escape};

/// Maximum columns of text for people: the default width of a terminal.
pub(super) const LINE_COLUMNS: usize = 80;

/// Blanks between two columns of a table.
pub(super) const COLUMN_GAP: usize = 2;
/// Minimum width to which a cell of a table is shortened.
const SHORTENED_COLUMNS_MIN: usize = 6;

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
        let indent = " ".repeat(display_width(lead));
        let long_words = if self.terminal {
            LongWords::Continued
        } else {
            LongWords::Whole
        };
        for (number, line) in broken(text, &indent, long_words).iter().enumerate() {
            match number {
                0 => self.line(&format!("{lead}{}", line.trim_start()))?,
                _ => self.line(line)?,
            }
        }
        Ok(())
    }

    /// Writes labelled texts, each after its label in a column of this width. Leaves out fields
    /// without a text.
    pub(super) fn fields<'a>(
        &mut self,
        indent: usize,
        label_columns: usize,
        fields: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Result<(), CliError> {
        let mut fields = fields.into_iter().filter(|(_, text)| !text.is_empty());
        fields.try_for_each(|(label, text)| {
            let lead = format!("{:indent$}{label:<label_columns$}", "");
            self.paragraph(&lead, &text)
        })
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
        let lines = table_lines(heading, right, rows);
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// Writes rows under a heading, in lines of at most [`LINE_COLUMNS`].
    pub(super) fn fitted_table(
        &mut self,
        table: &FittedTable<'_>,
        rows: Vec<Vec<String>>,
    ) -> Result<(), CliError> {
        let mut rows = table.fit(rows);
        let cells = rows.iter_mut().map(|row| std::mem::take(&mut row.cells));
        let mut lines = table_lines(table.heading, table.right, cells.collect()).into_iter();
        lines.next().map_or(Ok(()), |heading| self.line(&heading))?;
        for (row, line) in rows.iter().zip(lines) {
            let indented = |depth: usize| " ".repeat(depth * COLUMN_GAP);
            for (depth, name) in row.above.iter().enumerate() {
                self.paragraph(&indented(depth), name)?;
            }
            if !line.is_empty() {
                self.line(&line)?;
            }
            for name in &row.below {
                self.paragraph(&indented(1), name)?;
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.writer.flush().map_err(CliError::Output)
    }
}

/// Formats rows under a heading, one line each. The columns in `right` are right-aligned.
fn table_lines(heading: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> Vec<String> {
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
    let lines = table.lines().map(|line| {
        let line = line.trim_end();
        line.strip_prefix(' ').unwrap_or_default().to_owned()
    });
    lines.collect()
}

/// The treatment of a word that is longer than a line. The word may be a path that the user copies
/// into a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LongWords {
    /// The word stays whole on a longer line, for files and pipes.
    Whole,
    /// The word is continued on further lines, each behind a backslash, for terminals. A shell
    /// joins these lines again.
    Continued,
}

/// Breaks a sentence into lines, only at blanks, except for words that are longer than a line.
pub(super) fn broken(text: &str, indent: &str, long_words: LongWords) -> Vec<String> {
    let options = textwrap::Options::new(LINE_COLUMNS)
        .initial_indent(indent)
        .subsequent_indent(indent)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    let lines = textwrap::wrap(text, options).into_iter();
    match long_words {
        LongWords::Whole => lines.map(Cow::into_owned).collect(),
        LongWords::Continued => lines.flat_map(|line| continued(&line)).collect(),
    }
}

/// Splits a line into lines of at most [`LINE_COLUMNS`] columns. Each except the last ends with a
/// backslash, and none is indented, so that a shell joins them to the same line. A line that is a
/// path is split behind a slash, if one is near.
fn continued(line: &str) -> Vec<String> {
    let (mut lines, mut rest) = (Vec::new(), line);
    while display_width(rest) > LINE_COLUMNS {
        let end = end_of_columns(rest, LINE_COLUMNS - 1);
        let near = end_of_columns(rest, LINE_COLUMNS / 2);
        let slash = rest[near..end].rfind('/').map(|at| near + at + 1);
        let (part, behind) = rest.split_at(slash.unwrap_or(end));
        lines.push(format!("{part}\\"));
        rest = behind;
    }
    lines.push(rest.to_owned());
    lines
}

/// Returns the end of the longest start of a text that fits into these columns.
fn end_of_columns(text: &str, columns: usize) -> usize {
    let mut used = 0;
    let mut letters = text.char_indices();
    let beyond = letters.find(|(_, letter)| {
        used += display_width(letter.encode_utf8(&mut [0; 4]));
        used > columns
    });
    beyond.map_or(text.len(), |(at, _)| at)
}

/// A table whose lines are to fit into [`LINE_COLUMNS`].
pub(super) struct FittedTable<'a> {
    pub heading: &'a [&'a str],
    /// Indices of the right-aligned columns.
    pub right: &'a [usize],
    /// Indices of the columns with names and addresses that the user may need for the next command.
    /// One that does not fit stands whole on a line of its own: above its row if it is in the first
    /// half of the columns, otherwise below it.
    pub names: &'a [usize],
    /// Indices of the columns whose cells are shortened in the middle if nothing else helps.
    pub shortened: &'a [usize],
}

/// A row of a fitted table, with the names that stand on lines of their own.
struct FittedRow {
    above: Vec<String>,
    cells: Vec<String>,
    below: Vec<String>,
}

impl FittedTable<'_> {
    /// Returns the columns of each column, and of the whole table.
    fn widths(&self, rows: &[FittedRow]) -> (Vec<usize>, usize) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.cells.get(column));
            let widest = cells.map(|cell| display_width(cell)).max();
            widest.unwrap_or(0).max(display_width(self.heading[column]))
        };
        let widths: Vec<usize> = (0..self.heading.len()).map(width).collect();
        let gaps = COLUMN_GAP * self.heading.len().saturating_sub(1);
        let whole = widths.iter().sum::<usize>() + gaps;
        (widths, whole)
    }

    fn fit(&self, rows: Vec<Vec<String>>) -> Vec<FittedRow> {
        let mut rows: Vec<_> = rows
            .into_iter()
            .map(|cells| FittedRow {
                above: vec![],
                cells,
                below: vec![],
            })
            .collect();
        for &column in self.names {
            let (widths, whole) = self.widths(&rows);
            let others = whole - widths[column];
            let room = LINE_COLUMNS.saturating_sub(others);
            let room = room.max(display_width(self.heading[column]));
            for row in &mut rows {
                if display_width(&row.cells[column]) > room {
                    let name = std::mem::take(&mut row.cells[column]);
                    if column < self.heading.len() / 2 {
                        row.above.push(name);
                    } else {
                        row.below.push(name);
                    }
                }
            }
        }
        self.shorten(&mut rows);
        rows
    }

    /// Shortens the cells of the widest of the columns that may be shortened, until the table fits
    /// or all of them have [`SHORTENED_COLUMNS_MIN`].
    fn shorten(&self, rows: &mut [FittedRow]) {
        let (mut widths, mut whole) = self.widths(rows);
        while whole > LINE_COLUMNS {
            let widest = self.shortened.iter().max_by_key(|it| widths[**it]);
            let Some(&widest) = widest.filter(|it| widths[**it] > SHORTENED_COLUMNS_MIN) else {
                break;
            };
            widths[widest] -= 1;
            whole -= 1;
        }
        for &column in self.shortened {
            for row in rows.iter_mut() {
                row.cells[column] = shortened(&row.cells[column], widths[column]);
            }
        }
    }
}

/// Shortens a text to these columns by leaving out its middle.
pub(super) fn shortened(text: &str, columns: usize) -> String {
    if display_width(text) <= columns {
        return text.to_owned();
    }
    let kept = columns.saturating_sub(1);
    let begin = end_of_columns(text, kept - kept / 2);
    let letters: Vec<char> = text[begin..].chars().collect();
    let end = &letters[letters.len().saturating_sub(kept / 2)..];
    let end: String = end.iter().collect();
    format!("{}…{end}", &text[..begin])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(table: &FittedTable<'_>, rows: &[&[&str]]) -> Vec<(Vec<String>, Vec<String>)> {
        let owned = |row: &&[&str]| row.iter().map(|it| (*it).to_owned()).collect();
        let rows = table.fit(rows.iter().map(owned).collect());
        let (_, whole) = table.widths(&rows);
        assert!(whole <= LINE_COLUMNS, "{whole}");
        let beside = |row: FittedRow| (row.above.into_iter().chain(row.below).collect(), row.cells);
        rows.into_iter().map(beside).collect()
    }

    #[test]
    fn a_name_that_does_not_fit_stands_whole_beside_its_row() {
        let (long, path) = ("n".repeat(63), format!("{}/film.mkv", "folder".repeat(20)));
        let table = FittedTable {
            heading: &["NAME", "RATE", "FROM", "READS"],
            right: &[1],
            names: &[0, 3],
            shortened: &[2],
        };
        let rows = [
            &[&*long, "1.0 MiB/s", &*long, &*path][..],
            &["nas", "1.0 MiB/s", "desk", "x"],
        ];
        let rows = fitted(&table, &rows);
        assert_eq!(rows[0].0, [long, path]);
        assert!(rows[0].1[2].starts_with("nnn") && rows[0].1[2].contains('…'));
        assert_eq!(
            rows[1],
            (
                vec![],
                ["nas", "1.0 MiB/s", "desk", "x"].map(String::from).to_vec()
            )
        );
    }

    #[test]
    fn a_shortened_text_keeps_both_ends() {
        assert_eq!(shortened("attic", 5), "attic");
        assert_eq!(shortened("the-attic", 6), "the…ic");
        assert_eq!(shortened("", 0), "");
    }

    #[test]
    fn an_error_is_broken_between_words() {
        let error = format!("p2pfs: {}", "that is not a token; ".repeat(8));
        for line in broken(&error, "", LongWords::Whole) {
            assert!(line.len() <= LINE_COLUMNS, "{line}");
        }
    }

    #[test]
    fn a_path_longer_than_a_line_is_continued_for_a_shell_or_stays_whole() {
        let path = format!("/srv/{}a-b.txt", "photos-of-the-year/".repeat(6));
        assert!(path.len() > LINE_COLUMNS);
        let text = format!("1 left out: may not be read; let others: chmod o+r {path} and again");
        let lines = broken(&text, "         ", LongWords::Whole);
        let whole: Vec<_> = lines.iter().filter(|it| it.trim() == path).collect();
        assert_eq!(whole.len(), 1, "{lines:#?}");
        // The rest is broken where a line is full.
        assert_eq!(lines.len(), 3, "{lines:#?}");
        let lines = broken(&text, "         ", LongWords::Continued);
        assert!(
            lines.iter().all(|it| it.len() <= LINE_COLUMNS),
            "{lines:#?}"
        );
        assert!(lines.iter().any(|it| it.ends_with("/\\")), "{lines:#?}");
        let joined = lines.join("\n").replace("\\\n", "");
        assert!(joined.contains(&path), "{joined}");
    }
}
