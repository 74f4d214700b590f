//! The file names that the protocol can carry.

use std::fmt;

/// Width of the name in a transfer header. A longer name would be truncated there.
pub const NAME_FIELD_BYTES: usize = 64;
/// Padding of the fields in a transfer header. A name cannot end with it.
pub(super) const FILL: u8 = b':';
/// Separator of the fields of a message.
pub(super) const SEPARATOR: u8 = b',';

/// A file's base name that stays unchanged in a datagram, a request and a transfer header.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks and wraps a base name.
    ///
    /// # Errors
    /// [`NameError`], which states why the protocol cannot carry the name.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.is_empty() || bytes == b"." || bytes == b".." {
            return Err(NameError::NoFile);
        }
        if bytes.len() > NAME_FIELD_BYTES {
            let length_bytes = bytes.len();
            return Err(NameError::TooLong { length_bytes });
        }
        if bytes.contains(&SEPARATOR) {
            return Err(NameError::Comma);
        }
        if bytes.contains(&b'\n') || bytes.contains(&b'\r') {
            return Err(NameError::LineBreak);
        }
        if bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(NameError::Path);
        }
        let kept = trim(bytes);
        let loses_its_end = kept.is_empty() || kept.len() < trim_start(bytes).len();
        if bytes.ends_with(&[FILL]) || loses_its_end {
            return Err(NameError::LostEnd);
        }
        Ok(Self(bytes.into()))
    }

    /// Returns the last path component of a received field; the original programs ignore the
    /// others. Returns `None` if that component is not a valid name.
    pub fn from_field(field: &[u8]) -> Option<Self> {
        let end = field
            .iter()
            .rposition(|b| *b != b'/')
            .map_or(0, |at| at + 1);
        let last = field[..end].rsplit(|b| *b == b'/').next()?;
        Self::new(last).ok()
    }

    /// Returns the bytes; never empty, at most [`NAME_FIELD_BYTES`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

/// Returns a name for display in one line. UTF-8 without control characters is shown unchanged;
/// anything else is escaped.
pub fn printable(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => name.escape_ascii().to_string(),
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Why a name cannot be requested from, or sent to, a legacy peer. The error is permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, `.` or `..`.
    #[error("it names no file")]
    NoFile,
    /// Longer than [`NAME_FIELD_BYTES`].
    #[error("a name of {length_bytes} bytes is over the 64 that legacy peers can carry")]
    TooLong {
        /// Length of the name.
        length_bytes: usize,
    },
    /// A comma, which separates fields.
    #[error("legacy peers cannot carry a name with a comma")]
    Comma,
    /// A line break, which ends a message.
    #[error("legacy peers cannot carry a name with a line break")]
    LineBreak,
    /// A slash or a NUL.
    #[error("legacy peers know base names only")]
    Path,
    /// A colon or blank at the end, which would be lost.
    #[error("legacy peers would lose the colon or blank at the end of the name")]
    LostEnd,
}

/// Strips white space at both ends, as the original programs do with a message. If the bytes are
/// not UTF-8, only ASCII white space counts.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => bytes.trim_ascii(),
    }
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.trim_start().as_bytes(),
        Err(_) => bytes.trim_ascii_start(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_arrive_changed_is_refused_with_the_reason() {
        let long = [b'n'; 65];
        let cases: [(&[u8], NameError); 12] = [
            (b"", NameError::NoFile),
            (b"..", NameError::NoFile),
            (&long, NameError::TooLong { length_bytes: 65 }),
            (b"a,b", NameError::Comma),
            (b"a\nb", NameError::LineBreak),
            (b"a\rb", NameError::LineBreak),
            (b"a/b", NameError::Path),
            (b"a\0b", NameError::Path),
            (b"colon:", NameError::LostEnd),
            (b"blank ", NameError::LostEnd),
            (b" ", NameError::LostEnd),
            (b"\x0b", NameError::LostEnd),
        ];
        for (name, why) in cases {
            assert_eq!(Name::new(name), Err(why), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names_with_blanks_colons_64_bytes_or_invalid_utf_8_are_supported() {
        for name in [
            &b"a name with spaces"[..],
            b"a:b",
            b" lead",
            &[b'n'; 64],
            b"\xff\xfe",
        ] {
            assert_eq!(Name::new(name).unwrap().as_bytes(), name);
        }
    }

    #[test]
    fn only_the_last_component_of_a_requested_path_counts() {
        let name = |field: &[u8]| Name::from_field(field).map(|n| n.as_bytes().to_vec());
        assert_eq!(name(b"../../etc/passwd"), Some(b"passwd".to_vec()));
        assert_eq!(name(b"dir/b.txt///"), Some(b"b.txt".to_vec()));
        assert_eq!(name(b"/.."), None);
        assert_eq!(name(b"///"), None);
        assert_eq!(name(b""), None);
    }
}
