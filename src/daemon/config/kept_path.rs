//! A path of `keep.paths`.

use std::fmt;
use std::str::FromStr;

use super::units::written_as_text;
use p2pfs_types::path::SharedPath;

/// The end of a path that stands for all that is below it. A path without it means the same.
const ALL_BELOW: &str = "**";

/// A path of the folder, with all that is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPath(pub SharedPath);

impl FromStr for KeptPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let above = text.strip_suffix(ALL_BELOW);
        let above = above.filter(|it| it.is_empty() || it.ends_with('/'));
        let path = above.unwrap_or(text).trim_matches('/');
        if text.is_empty() || path.contains(['*', '?', '[']) {
            return Err(format!(
                "{text:?} is not a path to keep: write a path such as docs or docs/**, or ** for \
                 all; other patterns are not known"
            ));
        }
        let shared = SharedPath::new(path.as_bytes());
        shared
            .map(Self)
            .map_err(|why| format!("{text:?} is not a path to keep: {why}"))
    }
}

impl fmt::Display for KeptPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(self.0.as_bytes());
        if path.is_empty() {
            f.write_str(ALL_BELOW)
        } else {
            write!(f, "{path}/{ALL_BELOW}")
        }
    }
}

written_as_text!(KeptPath);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_to_keep_is_read_with_and_without_its_pattern() {
        for (text, path, shown) in [
            ("docs", "docs", "docs/**"),
            ("docs/", "docs", "docs/**"),
            ("/docs/a b/**", "docs/a b", "docs/a b/**"),
            ("**", "", "**"),
            ("/", "", "**"),
            ("/**", "", "**"),
        ] {
            let read: KeptPath = text.parse().unwrap();
            assert_eq!(read.0.as_bytes(), path.as_bytes(), "{text}");
            assert_eq!(read.to_string(), shown);
        }
        for text in [
            "",
            "*.jpg",
            "docs/*",
            "docs**",
            "a/**/b",
            "../x",
            ".p2pfs/peers",
        ] {
            assert!(text.parse::<KeptPath>().is_err(), "{text}");
        }
    }
}
