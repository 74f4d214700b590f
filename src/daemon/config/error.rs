//! The errors of a configuration, with their positions.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Why the configuration was refused. No setting was applied.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("{}: cannot be read: {source}{}", .path.display(), remedy(source))]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// An error in a file.
    #[error("{}:{line}:{column}: {key}{message}", .path.display(), key = prefix(.key))]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The key with its section; empty if the error is not at a key.
        key: String,
        /// The error, and the accepted values.
        message: String,
        /// Whether the error is in a value or a key, rather than in the syntax.
        is_toml: bool,
    },
    /// Further errors in a file that are not reported.
    #[error("{}: and {more} more", .path.display())]
    More {
        /// The file.
        path: PathBuf,
        /// Number of errors that are not reported.
        more: usize,
    },
    /// An error in a variable.
    #[error("{name} in the environment: {message}")]
    Variable {
        /// The variable.
        name: String,
        /// The error, and the accepted values.
        message: String,
    },
    /// A setting that is well formed, but out of its range or in conflict with another one.
    #[error("{key}: {message} ({origin})")]
    Impossible {
        /// The setting.
        key: String,
        /// The error and its remedy.
        message: String,
        /// Where it was set.
        origin: String,
    },
    /// A secret file that cannot be used.
    #[error("{message}")]
    Secret {
        /// The origin of the setting, the error and its remedy.
        message: String,
    },
    /// Several errors, each on its own line.
    #[error("{}", lines(.errors))]
    Several {
        /// At least two.
        errors: Vec<ConfigError>,
    },
}

fn lines(errors: &[ConfigError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Returns the remedy for a file that cannot be read; empty if the system's message is enough.
fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => "; name a file that is there",
        std::io::ErrorKind::PermissionDenied => "; let the user who starts p2pfs read it",
        std::io::ErrorKind::IsADirectory => "; name a file, not a folder",
        _ => "",
    }
}

fn prefix(key: &str) -> String {
    match key {
        "" => String::new(),
        key => format!("{key}: "),
    }
}

impl ConfigError {
    /// Combines the errors into one; returns `None` for an empty list.
    pub(super) fn all(mut errors: Vec<Self>) -> Option<Self> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(Self::Several { errors }),
        }
    }

    /// Returns the single errors.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Several { errors } => errors,
            one => std::slice::from_ref(one),
        }
    }

    /// Returns the line of the error; 0 if it has no line.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::File { line, .. } => *line,
            _ => 0,
        }
    }

    /// Returns whether the error says that this line is not TOML.
    pub(super) fn is_no_toml_at(&self, at: usize) -> bool {
        matches!(self, Self::File { line, is_toml: false, .. } if *line == at)
    }

    /// Converts an error of the parser, and adds the position and the key.
    pub(super) fn in_file(
        path: &Path,
        text: &str,
        parsed: &DeTable<'_>,
        error: &toml::de::Error,
    ) -> Self {
        let span = error.span().unwrap_or(0..0);
        let (line, column) = line_and_column(text, span.start);
        let key = key_at(parsed, &span).join(".");
        Self::File {
            path: path.to_path_buf(),
            line,
            column,
            key,
            message: in_words(&one_line(error.message())),
            is_toml: false,
        }
    }
}

/// Returns whether the parser rejected a number such as 022.
pub(super) fn is_leading_zero(message: &str) -> bool {
    message.contains("leading zero")
}

/// Replaces a parser message by one that says what to write instead.
fn in_words(message: &str) -> String {
    if is_leading_zero(message) {
        return "a number does not begin with 0 here: leave the 0 out, or put the value in quotes, \
                such as \"022\" for a mask"
            .to_owned();
    }
    if message.starts_with("invalid float") || message.starts_with("invalid integer") {
        return "not a number: put text in quotes, as in \"10.0.0.2:1378\"".to_owned();
    }
    if message.starts_with("invalid boolean") {
        return "not true, false or a number: put text in quotes".to_owned();
    }
    message.to_owned()
}

/// Joins the lines of a parser message.
pub(super) fn one_line(message: &str) -> String {
    message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(": ")
}

/// Returns the line and the column of a byte, both from 1.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// Returns the path of the key whose name or value contains the position.
fn key_at(table: &DeTable<'_>, place: &Range<usize>) -> Vec<String> {
    for (key, value) in table {
        if holds(&key.span(), place) {
            return vec![key.get_ref().to_string()];
        }
        let inner = keys_within(value, place);
        if !inner.is_empty() || holds(&value.span(), place) {
            return std::iter::once(key.get_ref().to_string())
                .chain(inner)
                .collect();
        }
    }
    Vec::new()
}

fn keys_within(value: &Spanned<DeValue<'_>>, place: &Range<usize>) -> Vec<String> {
    match value.get_ref() {
        DeValue::Table(table) => key_at(table, place),
        DeValue::Array(items) => {
            items
                .iter()
                .map(|item| keys_within(item, place))
                .find(|k| !k.is_empty())
        }
        .unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn holds(outer: &Range<usize>, place: &Range<usize>) -> bool {
    outer.start <= place.start && place.start < outer.end.max(outer.start + 1)
}
