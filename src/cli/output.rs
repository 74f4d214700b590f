//! What goes to standard output: names that cannot play tricks on a terminal, amounts as people
//! read them, JSON as scripts do.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::error::CliError;
use super::text::{colour_wanted, escape};

/// The columns that text for people keeps within: those of a terminal that nobody made wider.
pub(super) const LINE_COLUMNS: usize = 80;

/// The blanks between two columns of a table.
pub(super) const COLUMN_GAP: usize = 2;
/// What is left of a name in a table at least.
const NAME_COLUMNS_MIN: usize = 12;

/// Standard output that nobody need read to its end: what is written after a reader went is
/// nobody's, and no reason to leave undone what the command is for.
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

/// How a list of names is written where no table is asked for.
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
    /// Whether the names alone are asked for, as they are.
    pub(super) fn are_bytes(self) -> bool {
        self.null || self.raw
    }
}

/// Standard output, and what is known of it.
pub(super) struct Output {
    writer: Box<dyn Write>,
    terminal: bool,
    colour: bool,
}

/// A colour that a word may have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    Red,
    Green,
    Yellow,
    Blue,
}

impl Output {
    /// Of a command that is there to be read: where its reader goes, so may the command.
    pub(super) fn standard() -> Self {
        Self::of(|stdout| Box::new(BufWriter::new(stdout)))
    }

    /// Of a command that has something to do, or to find out, whoever reads of it.
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

    /// Whether a person reads it.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes text and ends the line.
    pub(super) fn line(&mut self, text: &str) -> Result<(), CliError> {
        Ok(writeln!(self.writer, "{text}")?)
    }

    /// Writes a sentence of any length behind a word: lines of [`LINE_COLUMNS`] at most, broken
    /// between words, the later ones as far in as the first.
    pub(super) fn paragraph(&mut self, lead: &str, text: &str) -> Result<(), CliError> {
        // a colour takes no columns
        let indent = " ".repeat(textwrap::core::display_width(lead));
        for (number, line) in broken(text, &indent).iter().enumerate() {
            match number {
                0 => self.line(&format!("{lead}{}", line.trim_start()))?,
                _ => self.line(line)?,
            }
        }
        Ok(())
    }

    /// Writes a name of a list: escaped on a line, or its bytes where those are asked for. A pipe
    /// gets escaped names too: it may end on a terminal, and a newline in a name would make two.
    pub(super) fn name(&mut self, name: &[u8], options: NameOptions) -> Result<(), CliError> {
        if !options.are_bytes() {
            return self.line(&escape(name));
        }
        self.writer.write_all(name)?;
        let end = if options.null { b"\0" } else { b"\n" };
        Ok(self.writer.write_all(end)?)
    }

    /// Writes bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        Ok(self.writer.write_all(bytes)?)
    }

    /// Writes a value as JSON, over several lines.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer_pretty(&mut self.writer, value).map_err(io::Error::from)?;
        Ok(writeln!(self.writer)?)
    }

    /// Writes a value as JSON, or what there is to say of it as a line.
    pub(super) fn told(
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

    /// Writes a value as one line of JSON, and lets it out at once.
    pub(super) fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer(&mut self.writer, value).map_err(io::Error::from)?;
        writeln!(self.writer)?;
        Ok(self.writer.flush()?)
    }

    /// A word in a colour, where colours are wanted.
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

    /// Writes rows under a heading; the columns named are aligned to the right.
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

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A sentence in lines, broken at its blanks alone: a path may be longer than a line, and is copied
/// from here into a command.
fn broken<'a>(text: &'a str, indent: &'a str) -> Vec<Cow<'a, str>> {
    let options = textwrap::Options::new(LINE_COLUMNS)
        .initial_indent(indent)
        .subsequent_indent(indent)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options)
}

/// Shortens the first column where the table would be wider than a line, as far as a name is still
/// one.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_sentence_is_never_broken() {
        let path = format!("/srv/{}a-b.txt", "photos-of-the-year/".repeat(6));
        assert!(path.len() > LINE_COLUMNS);
        let text = format!("1 left out: may not be read; let others: chmod o+r {path} and again");
        let lines = broken(&text, "         ");
        let whole: Vec<_> = lines.iter().filter(|it| it.trim() == path).collect();
        assert_eq!(whole.len(), 1, "{lines:#?}");
        // and the rest is, where a line is full
        assert_eq!(lines.len(), 3, "{lines:#?}");
    }
}
