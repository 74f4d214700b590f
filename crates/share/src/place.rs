//! The place of a share: the path in the listing below which its files appear.
//!
//! Inside this crate every name is relative to the folder of its share. Only [`SharePlace`]
//! translates: [`SharePlace::listed`] puts the place in front of a name and so makes it a path in
//! the listing; [`SharePlace::local`] takes the place off a path in the listing. The directories of
//! the place have no entries, so they are listed as long as anything is listed below them.
//!
//! A symbolic link has the same target under every place, because the target leads from the link to
//! a name of the same share, and the place is in front of both.

use std::fmt;

use super::left_out::LeftOutWhy;
use p2pfs_proto::wire::native::record::PATH_MAX_DEPTH;
use p2pfs_types::path::{ARRIVING, PathError, SharedPath};

/// Maximum length of a place in bytes. It leaves three quarters of the longest path to the names in
/// the share.
pub const PLACE_MAX_BYTES: usize = 1024;
/// Maximum components of a place, out of the 256 of the deepest path.
pub const PLACE_MAX_DEPTH: usize = 32;

/// The path in the listing below which the files of a share appear. The default is the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharePlace(SharedPath);

/// The rule that the text of a place violates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It begins with a slash.
    #[error(
        "{place:?} begins with a slash, and a place is below the top of the listing; write {relative:?}"
    )]
    Absolute {
        /// Text of the place.
        place: String,
        /// Text without the slashes at its beginning.
        relative: String,
    },
    /// A component is `.` or `..`.
    #[error("{place:?} has the component '.' or '..'; write the path from the top of the listing")]
    DotName {
        /// Text of the place.
        place: String,
    },
    /// Two slashes in a row, or one at the end.
    #[error("{place:?} has an empty component; write one slash between names, and none at the end")]
    EmptyName {
        /// Text of the place.
        place: String,
    },
    /// A component is a name that p2pfs itself uses.
    #[error("{place:?} has the component {name:?}, which p2pfs itself uses; choose another name")]
    Reserved {
        /// Text of the place.
        place: String,
        /// The reserved component.
        name: String,
    },
    /// It has a NUL.
    #[error("{place:?} has a NUL; leave it out")]
    Nul {
        /// Text of the place.
        place: String,
    },
    /// A name or the whole is too long, or it has too many components.
    #[error(
        "the place has {length_bytes} bytes in {depth} components, and at most {PLACE_MAX_BYTES} \
         bytes in {PLACE_MAX_DEPTH} components of 255 bytes are possible; choose shorter names"
    )]
    TooLong {
        /// Its length in bytes.
        length_bytes: usize,
        /// Number of its components.
        depth: usize,
    },
}

impl SharePlace {
    /// Checks the text of a place. The empty text is the root.
    ///
    /// # Errors
    /// The [`PlaceError`] of the violated rule.
    pub fn new(text: &str) -> Result<Self, PlaceError> {
        let place = || text.to_owned();
        if text.starts_with('/') {
            let relative = text.trim_start_matches('/').to_owned();
            return Err(PlaceError::Absolute {
                place: place(),
                relative,
            });
        }
        let depth = text.split('/').count();
        let too_long = PlaceError::TooLong {
            length_bytes: text.len(),
            depth,
        };
        if text.len() > PLACE_MAX_BYTES || depth > PLACE_MAX_DEPTH {
            return Err(too_long);
        }
        let reserved = |name: &str| PlaceError::Reserved {
            place: place(),
            name: name.to_owned(),
        };
        if text.split('/').any(|name| name == ARRIVING) {
            return Err(reserved(ARRIVING));
        }
        let path = SharedPath::new(text.as_bytes()).map_err(|error| match error {
            PathError::EmptyName => PlaceError::EmptyName { place: place() },
            PathError::DotName => PlaceError::DotName { place: place() },
            PathError::BadByte => PlaceError::Nul { place: place() },
            PathError::Hidden => reserved(".p2pfs"),
            PathError::TooLong { .. } => too_long.clone(),
        })?;
        Ok(Self(path))
    }

    /// Returns whether the files appear at the top of the listing.
    pub fn is_root(&self) -> bool {
        self.0.is_root()
    }

    /// Returns the path in the listing.
    pub fn path(&self) -> &SharedPath {
        &self.0
    }

    /// Returns the listed path of a name in the share. Returns `None` if it would be too long or
    /// too deep.
    pub fn listed(&self, local: &SharedPath) -> Option<SharedPath> {
        self.check(local).ok()?;
        if self.is_root() {
            return Some(local.clone());
        }
        if local.is_root() {
            return Some(self.0.clone());
        }
        let listed = [self.0.as_bytes(), local.as_bytes()].join(&b'/');
        SharedPath::new(listed).ok()
    }

    /// Returns the name in the share of a listed path. Returns `None` if the path is not at or
    /// below the place.
    pub fn local(&self, listed: &SharedPath) -> Option<SharedPath> {
        if self.is_root() {
            return Some(listed.clone());
        }
        if *listed == self.0 {
            return Some(SharedPath::root());
        }
        if !listed.is_beneath(&self.0) {
            return None;
        }
        SharedPath::new(&listed.as_bytes()[self.0.as_bytes().len() + 1..]).ok()
    }

    /// Checks that a name in the share can be listed below this place.
    pub(super) fn check(&self, local: &SharedPath) -> Result<(), LeftOutWhy> {
        let depth = self.0.components().count() + local.components().count();
        let length_bytes = self.0.as_bytes().len() + 1 + local.as_bytes().len();
        if depth > PATH_MAX_DEPTH {
            Err(LeftOutWhy::TooDeep)
        } else if !self.is_root() && length_bytes > p2pfs_types::path::PATH_MAX_BYTES {
            Err(LeftOutWhy::TooLong)
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for SharePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_place_is_put_in_front_of_a_name_and_taken_off_again() {
        let place = SharePlace::new("photos/2026").unwrap();
        let listed = place.listed(&path("a/b")).unwrap();
        assert_eq!(listed, path("photos/2026/a/b"));
        assert_eq!(place.local(&listed), Some(path("a/b")));
        assert_eq!(place.local(&path("photos/2026")), Some(SharedPath::root()));
        for beside in ["photos", "photos/2026b", "photos/20", "a/b"] {
            assert_eq!(place.local(&path(beside)), None, "{beside}");
        }
        let root = SharePlace::new("").unwrap();
        assert_eq!(root, SharePlace::default());
        assert_eq!(root.listed(&path("a")), Some(path("a")));
        assert_eq!(root.local(&path("a")), Some(path("a")));
    }

    #[test]
    fn invalid_places_are_refused_with_their_rule() {
        let long_name = "n".repeat(256);
        let long = ["n"; 513].join("/") + "n";
        let deep = ["n"; PLACE_MAX_DEPTH + 1].join("/");
        let refused = [
            ("/photos", "write \"photos\""),
            ("..", "'.' or '..'"),
            ("a/../b", "'.' or '..'"),
            (".", "'.' or '..'"),
            ("a//b", "empty component"),
            ("a/", "empty component"),
            (".p2pfs/x", "\".p2pfs\""),
            ("a/.p2pfs-arriving", "\".p2pfs-arriving\""),
            ("a\0b", "NUL"),
            (&long_name, "256 bytes"),
            (&long, "at most 1024 bytes"),
            (&deep, "33 components"),
        ];
        for (text, part) in refused {
            let error = SharePlace::new(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        assert!(SharePlace::new("a/.p2pfs").is_ok());
        assert!(SharePlace::new(&["n"; PLACE_MAX_DEPTH].join("/")).is_ok());
    }

    #[test]
    fn names_that_a_place_makes_too_long_or_too_deep_cannot_be_listed() {
        let place = SharePlace::new("place").unwrap();
        let deep = path(&["d"; PATH_MAX_DEPTH].join("/"));
        assert_eq!(place.check(&deep), Err(LeftOutWhy::TooDeep));
        assert_eq!(SharePlace::default().check(&deep), Ok(()));
        let long = path(&["n".repeat(255), "n".repeat(255)].join("/"));
        assert_eq!(place.check(&long), Ok(()));
        let names = vec!["n".repeat(255); 16];
        let long = path(&names.join("/"));
        assert_eq!(place.check(&long), Err(LeftOutWhy::TooLong));
        assert_eq!(place.listed(&long), None);
        assert_eq!(SharePlace::default().check(&long), Ok(()));
    }
}
