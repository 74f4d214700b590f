//! File paths in the shared namespace, as nodes send them to each other.
//!
//! A [`SharedPath`] is relative, has no empty, `.` or `..` component, no NUL and no component over
//! 255 bytes. Joining it to a local folder therefore cannot leave that folder by its text.
//! (`openat2` in `share` ensures that no symlink leads out.) Names are bytes and need not be UTF-8.

use std::ffi::OsStr;
use std::fmt;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum length of one name in bytes (`NAME_MAX`, limits.h).
pub const NAME_MAX_BYTES: usize = 255;
/// Maximum length of a path in bytes, one below `PATH_MAX` (limits.h) for the NUL.
pub const PATH_MAX_BYTES: usize = 4095;
/// Hidden folder of the mount. No shared path begins with it.
pub const HIDDEN_ROOT: &[u8] = b".p2pfs";
/// Folder in an inbox for incomplete files. No share lists it, wherever it is.
pub const ARRIVING: &str = ".p2pfs-arriving";
/// Folder in a writable share for the files that programs removed or replaced. No share lists it,
/// wherever it is.
pub const KEPT: &str = ".p2pfs-kept";

/// A path within the shared namespace: components joined by `/`. The root is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SharedPath(Box<[u8]>);

impl SharedPath {
    /// Returns the root of the namespace.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks and wraps a path. The empty path is the root.
    ///
    /// # Errors
    /// The [`PathError`] of the violated rule.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.len() > PATH_MAX_BYTES {
            return Err(PathError::TooLong {
                length_bytes: bytes.len(),
            });
        }
        if !bytes.is_empty() {
            bytes.split(|b| *b == b'/').try_for_each(check_name)?;
            if bytes.split(|b| *b == b'/').next() == Some(HIDDEN_ROOT) {
                return Err(PathError::Hidden);
            }
        }
        Ok(Self(bytes))
    }

    /// Checks and wraps a local relative path.
    ///
    /// # Errors
    /// [`PathError`] if it cannot be shared.
    pub fn from_local(path: &Path) -> Result<Self, PathError> {
        Self::new(path.as_os_str().as_bytes())
    }

    /// Returns the path of `name` within this directory.
    ///
    /// # Errors
    /// [`PathError`] if `name` is not a valid name, or the path is too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        let length_bytes = self.0.len() + usize::from(!self.is_root()) + name.len();
        if length_bytes > PATH_MAX_BYTES {
            return Err(PathError::TooLong { length_bytes });
        }
        if self.is_root() && name == HIDDEN_ROOT {
            return Err(PathError::Hidden);
        }
        let mut bytes = Vec::with_capacity(length_bytes);
        if !self.is_root() {
            bytes.extend_from_slice(&self.0);
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Ok(Self(bytes.into()))
    }

    /// Returns the containing directory, or none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// Returns the last component; empty for the root.
    pub fn file_name(&self) -> &[u8] {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => &self.0[slash + 1..],
            None => &self.0,
        }
    }

    /// Iterates over the components from the top; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// Returns whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `self` is below `directory`. A path is not below itself.
    pub fn is_beneath(&self, directory: &Self) -> bool {
        if directory.is_root() {
            return !self.is_root();
        }
        self.0.len() > directory.0.len()
            && self.0.starts_with(&directory.0)
            && self.0[directory.0.len()] == b'/'
    }

    /// Returns the bytes, with `/` between components and not at the ends.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the relative local path; empty for the root.
    pub fn as_local(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

/// Checks that the bytes can be one name in a directory.
///
/// # Errors
/// The [`PathError`] of the violated rule.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::EmptyName),
        b"." | b".." => Err(PathError::DotName),
        _ if name.contains(&0) || name.contains(&b'/') => Err(PathError::BadByte),
        _ if name.len() > NAME_MAX_BYTES => Err(PathError::TooLong {
            length_bytes: name.len(),
        }),
        _ => Ok(()),
    }
}

impl fmt::Display for SharedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for SharedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for SharedPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SharedPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = bytes::Bytes::deserialize(deserializer)?;
        Self::new(&bytes[..]).map_err(serde::de::Error::custom)
    }
}

/// The rule of [`SharedPath`] that a name or path violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// An empty name: two slashes in a row, or one at an end of a path.
    #[error("a component of the path is empty")]
    EmptyName,
    /// `.` or `..`.
    #[error("a component of the path is '.' or '..'")]
    DotName,
    /// A NUL, or a slash within a name.
    #[error("a name holds a NUL or a slash")]
    BadByte,
    /// Longer than [`NAME_MAX_BYTES`] or [`PATH_MAX_BYTES`].
    #[error("a name or path of {length_bytes} bytes is too long (255 for a name, 4095 in all)")]
    TooLong {
        /// Length in bytes.
        length_bytes: usize,
    },
    /// The path begins with the mount's own hidden folder.
    #[error("the name .p2pfs is the mount's own")]
    Hidden,
}

/// Returns a name as printable text. Escapes bytes that are not UTF-8, the characters of
/// [`is_trick`], and blanks at either end, which would be invisible in a table. A backslash is
/// doubled, so that the text determines the bytes.
pub fn escape(name: &[u8]) -> String {
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
            // Writing to a string cannot fail.
            let _infallible = write!(text, "\\x{byte:02x}");
        }
    }
    let inner = text.trim();
    if inner.len() == text.len() {
        return text;
    }
    let (before, rest) = text.split_at(text.len() - text.trim_start().len());
    let after = &rest[inner.len()..];
    [&*escape_blanks(before), inner, &escape_blanks(after)].concat()
}

fn escape_blanks(blanks: &str) -> String {
    let escaped = blanks.chars().map(|blank| match blank {
        ' ' => "\\x20".to_owned(),
        blank => blank.escape_default().to_string(),
    });
    escaped.collect()
}

/// Returns whether a character controls a terminal, changes the direction of text or is invisible
/// (Unicode TR 36): a control character, or one of `INVISIBLE` or `LINES_AND_NOTES`.
pub fn is_trick(letter: char) -> bool {
    let is_in = |ranges: &[RangeInclusive<char>]| ranges.iter().any(|it| it.contains(&letter));
    letter.is_control() || letter > '\u{7f}' && (is_in(&INVISIBLE) || is_in(&LINES_AND_NOTES))
}

/// Characters with the property `Default_Ignorable_Code_Point`, which a terminal need not show at
/// all (DerivedCoreProperties.txt of Unicode 17.0.0). All characters with `Bidi_Control`, which
/// change the direction of text, are among them.
const INVISIBLE: [RangeInclusive<char>; 17] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fff8}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Characters that end a line or a paragraph, and those that hide a note in a text (Unicode
/// standard, sections 23.2 and 23.8).
const LINES_AND_NOTES: [RangeInclusive<char>; 2] =
    ['\u{2028}'..='\u{2029}', '\u{fff9}'..='\u{fffb}'];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_cannot_control_a_terminal() {
        assert_eq!(escape("plain name ü.txt".as_bytes()), "plain name ü.txt");
        assert_eq!(escape(b"a\x1b[2Jb\nc\td"), "a\\u{1b}[2Jb\\nc\\td");
        assert_eq!(escape(b"caf\xe9"), "caf\\xe9");
        assert_eq!(escape("a\u{202e}txt.exe".as_bytes()), "a\\u{202e}txt.exe");
        assert_eq!(escape("\u{9b}31m".as_bytes()), "\\u{9b}31m");
        assert_eq!(escape(b"back\\slash"), "back\\\\slash");
    }

    #[test]
    fn a_blank_at_an_end_of_a_name_is_visible() {
        for (name, shown) in [
            ("a b", "a b"),
            ("end ", "end\\x20"),
            ("  two\u{a0}", "\\x20\\x20two\\u{a0}"),
            (" ", "\\x20"),
            ("\u{3000}x", "\\u{3000}x"),
            ("dir / x", "dir / x"),
        ] {
            assert_eq!(escape(name.as_bytes()), shown);
        }
    }

    #[test]
    fn every_invisible_or_directional_mark_of_unicode_is_escaped() {
        let marks = [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{17b4}',
            '\u{180b}',
            '\u{180e}',
            '\u{180f}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{3164}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff0}',
            '\u{fffb}',
            '\u{1bca0}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e007f}',
            '\u{e0100}',
            '\u{e01ef}',
            '\u{e0fff}',
        ];
        for mark in marks {
            let name = format!("a{mark}b");
            let shown = format!("a{}b", mark.escape_default());
            assert_eq!(escape(name.as_bytes()), shown);
        }
        for plain in [
            "ü",
            "한글",
            "日本",
            "con\u{301}",
            "שלום",
            "😀",
            "\u{2800}",
            "\u{fffd}",
        ] {
            assert_eq!(escape(plain.as_bytes()), plain);
        }
    }

    fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_path_that_could_leave_its_folder_is_refused() {
        for (bad, why) in [
            (&b"/etc/passwd"[..], PathError::EmptyName),
            (b"a//b", PathError::EmptyName),
            (b"a/", PathError::EmptyName),
            (b"..", PathError::DotName),
            (b"a/../b", PathError::DotName),
            (b"./a", PathError::DotName),
            (b"a\0b", PathError::BadByte),
            (b".p2pfs/peers", PathError::Hidden),
            (b".p2pfs", PathError::Hidden),
        ] {
            assert_eq!(SharedPath::new(bad), Err(why), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_name_of_255_bytes_is_accepted_and_one_of_256_refused() {
        assert!(SharedPath::new(vec![b'n'; 255]).is_ok());
        assert!(SharedPath::new(vec![b'n'; 256]).is_err());
        assert!(SharedPath::new([b"d/".repeat(2047), b"e".to_vec()].concat()).is_ok());
        assert!(SharedPath::new([b"d/".repeat(2048), b"e".to_vec()].concat()).is_err());
    }

    #[test]
    fn the_hidden_name_is_reserved_only_at_the_root() {
        assert!(SharedPath::new(&b"a/.p2pfs"[..]).is_ok());
        assert!(SharedPath::new(&b".p2pfs2"[..]).is_ok());
    }

    #[test]
    fn parent_and_name_split_a_path_and_join_restores_it() {
        let deep = path("a/b/c.txt");
        assert_eq!(deep.file_name(), b"c.txt");
        assert_eq!(deep.parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(SharedPath::root()));
        assert_eq!(SharedPath::root().parent(), None);
        assert_eq!(path("a/b").join(b"c.txt"), Ok(deep.clone()));
        assert_eq!(SharedPath::root().join(b"a"), Ok(path("a")));
        assert_eq!(path("a").join(b"b/c"), Err(PathError::BadByte));
        assert_eq!(deep.components().count(), 3);
        assert_eq!(SharedPath::root().components().count(), 0);
    }

    #[test]
    fn beneath_means_below_and_not_beside() {
        assert!(path("a/b").is_beneath(&path("a")));
        assert!(!path("ab").is_beneath(&path("a")));
        assert!(!path("a").is_beneath(&path("a")));
        assert!(path("a").is_beneath(&SharedPath::root()));
    }

    proptest! {
        #[test]
        fn join_accepts_and_refuses_the_same_paths_as_parsing(
            directory in "[a/.]{0,6}|(\\.p2pfs)?|a{250}(/a{250}){14,15}",
            name in "[a/.\0]{0,6}|\\.p2pfs|a{90}|a{254,257}",
        ) {
            let Ok(parent) = SharedPath::new(directory.clone().into_bytes()) else {
                return Ok(());
            };
            let joined = if parent.is_root() { name.clone() } else { format!("{directory}/{name}") };
            let name = name.as_bytes();
            let whole = check_name(name).and_then(|()| SharedPath::new(joined.into_bytes()));
            prop_assert_eq!(parent.join(name), whole);
        }

        #[test]
        fn every_accepted_path_round_trips(
            bytes in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            if let Ok(path) = SharedPath::new(bytes) {
                let frame = postcard::to_stdvec(&path).unwrap();
                prop_assert_eq!(postcard::from_bytes::<SharedPath>(&frame).unwrap(), path);
            }
        }

        #[test]
        fn no_input_decodes_to_a_path_with_a_dot_name(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'.'), Just(b'/'), Just(b'a')], 0..12)
        ) {
            let frame = postcard::to_stdvec(&bytes::Bytes::from(bytes)).unwrap();
            if let Ok(path) = postcard::from_bytes::<SharedPath>(&frame) {
                prop_assert!(path.components().all(|name| check_name(name).is_ok()));
            }
        }
    }
}
