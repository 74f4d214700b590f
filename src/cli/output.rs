//! What goes to standard output: names that cannot play tricks on a terminal, amounts as people
//! read them, JSON as scripts do.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::error::CliError;

/// The columns that text for people keeps within: those of a terminal that nobody made wider.
const LINE_COLUMNS: usize = 80;

/// The blanks between two columns of a table.
const COLUMN_GAP: usize = 2;
/// What is left of a name in a table at least.
const NAME_COLUMNS_MIN: usize = 12;

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
    pub(super) fn standard() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self {
            terminal,
            colour: terminal && colour_wanted(),
            writer: Box::new(BufWriter::new(stdout)),
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
        let width = textwrap::core::display_width(lead);
        let indent = " ".repeat(width);
        let options = textwrap::Options::new(LINE_COLUMNS)
            .initial_indent(&indent)
            .subsequent_indent(&indent)
            .break_words(false)
            .word_splitter(textwrap::WordSplitter::NoHyphenation);
        for (number, line) in textwrap::wrap(text, options).iter().enumerate() {
            match number {
                0 => self.line(&format!("{lead}{}", line.trim_start()))?,
                _ => self.line(line)?,
            }
        }
        Ok(())
    }

    /// Writes a name and ends the line: the bytes themselves into a pipe, escaped on a terminal.
    pub(super) fn name(&mut self, name: &[u8]) -> Result<(), CliError> {
        match self.terminal {
            true => writeln!(self.writer, "{}", escape(name))?,
            false => {
                self.writer.write_all(name)?;
                self.writer.write_all(b"\n")?;
            }
        }
        Ok(())
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
        match self.colour {
            true => Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m")),
            false => Cow::Borrowed(text),
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

/// Whether the user wants colours at all (<https://no-color.org>).
pub(super) fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A name as printable text: what is not UTF-8, would move the cursor or turn the direction of
/// writing round comes as an escape, and a backslash doubled, so that the text says the bytes.
pub(super) fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                _ if is_trick(letter) => text.extend(letter.escape_default()),
                _ => text.push(letter),
            }
        }
        for byte in chunk.invalid() {
            // writing to a string cannot fail
            let _infallible = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Text from elsewhere as printable text; as [`escape`], but that a backslash stays one.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            let escaped = is_trick(letter).then(|| letter.escape_default());
            let plain = escaped.is_none().then_some(letter);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Controls, and the invisible marks that turn text round or hide in it (Unicode TR 36).
fn is_trick(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Bytes as people read them: `1.5 GiB`.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if amount < 1023.95 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    format!("{amount:.1} {unit}")
}

/// The time as clocks around here show it.
pub(super) fn local_time(time: Timestamp) -> String {
    let zoned = time.to_zoned(TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How much of a whole, in per cent; of nothing, all.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "100%".to_owned(),
        // never 100% before it is all
        _ => format!("{}%", u128::from(part.min(whole)) * 100 / u128::from(whole)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_play_tricks_on_a_terminal() {
        assert_eq!(escape("plain name ü.txt".as_bytes()), "plain name ü.txt");
        assert_eq!(escape(b"a\x1b[2Jb\nc\td"), "a\\u{1b}[2Jb\\nc\\td");
        assert_eq!(escape(b"caf\xe9"), "caf\\xe9");
        assert_eq!(escape("a\u{202e}txt.exe".as_bytes()), "a\\u{202e}txt.exe");
        assert_eq!(escape("\u{9b}31m".as_bytes()), "\\u{9b}31m");
        assert_eq!(escape(b"back\\slash"), "back\\\\slash");
        assert_eq!(printable("C:\\x\x07"), "C:\\x\\u{7}");
    }

    #[test]
    fn amounts_are_written_as_people_read_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn nothing_is_whole_before_it_is() {
        assert_eq!(percent(999, 1000), "99%");
        assert_eq!(percent(1000, 1000), "100%");
        assert_eq!(percent(0, 0), "100%");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99%");
    }
}
