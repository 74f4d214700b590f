//! Names that a share excludes: patterns in the format of git's ignore files, after default
//! patterns for files that are rarely meant to be shared.
//!
//! This module owns the patterns. `walk` applies them to names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder, Glob};

use p2pfs_types::path::SharedPath;

/// Maximum patterns of one share, without the defaults.
pub const EXCLUDE_MAX_PATTERNS: usize = 1000;
/// Maximum length of a pattern.
pub const PATTERN_MAX_BYTES: usize = 4096;

/// Patterns that every share excludes by default: files with secrets, and leftovers of editors.
pub const EXCLUDED_BY_DEFAULT: &[&str] = &[
    ".ssh/",
    ".gnupg/",
    ".aws/",
    ".kube/",
    ".password-store/",
    ".netrc",
    ".pgpass",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".htpasswd",
    ".env",
    ".env.*",
    "!.env.example",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "*.key",
    "*.pem",
    "*.p12",
    "*.pfx",
    "*.kdbx",
    "*~",
    ".*.sw[a-p]",
    ".#*",
    "\\#*#",
    ".~lock.*#",
    "~$*",
    ".goutputstream-*",
];

/// The patterns of one share.
#[derive(Debug)]
pub(super) struct Exclude {
    patterns: Gitignore,
    own: Vec<String>,
    defaults: bool,
}

/// A pattern that excludes a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExcludedBy {
    pub(super) pattern: String,
    /// Whether it is one of [`EXCLUDED_BY_DEFAULT`].
    pub(super) default: bool,
}

/// Checks a list of patterns.
///
/// # Errors
/// The invalid pattern and the reason, or that there are too many.
pub fn check_patterns(patterns: &[String]) -> Result<(), String> {
    build(patterns, false).map(drop)
}

impl Exclude {
    /// Compiles the patterns of a share.
    ///
    /// # Errors
    /// As [`check_patterns`].
    pub(super) fn new(own: &[String], defaults: bool) -> Result<Self, String> {
        Ok(Self {
            patterns: build(own, defaults)?,
            own: own.to_vec(),
            defaults,
        })
    }

    pub(super) fn patterns(&self) -> &[String] {
        &self.own
    }

    /// Returns whether a path of the share is excluded. Paths beneath an excluded directory are
    /// never checked, because it is not walked.
    pub(super) fn keeps_back(&self, path: &SharedPath, directory: bool) -> bool {
        self.matched(path, directory).is_ignore()
    }

    /// Returns the match of a path. If no pattern matches, and the name has a number as an inbox
    /// adds it to a name that is taken, returns the match of the name without this number.
    fn matched(&self, path: &SharedPath, directory: bool) -> Match<&Glob> {
        let by_name = self.patterns.matched(path.as_local(), directory);
        match unnumbered(path.as_bytes()) {
            Some(sent) if by_name.is_none() => {
                let sent = Path::new(OsStr::from_bytes(&sent));
                self.patterns.matched(sent, directory)
            }
            _ => by_name,
        }
    }

    /// Returns the last pattern that matches a path, if it excludes the path.
    pub(super) fn pattern_of(&self, path: &SharedPath, directory: bool) -> Option<ExcludedBy> {
        let Match::Ignore(glob) = self.matched(path, directory) else {
            return None;
        };
        let pattern = glob.original().to_owned();
        Some(ExcludedBy {
            default: self.defaults && !self.own.contains(&pattern),
            pattern,
        })
    }
}

/// Returns the path without the number that an inbox adds to a name that is taken, such as `-(1)`.
/// The number is before the last extension, or at the end of a name without an extension. Returns
/// `None` if there is no such number.
fn unnumbered(path: &[u8]) -> Option<Vec<u8>> {
    let name = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let dot = path
        .iter()
        .rposition(|b| *b == b'.')
        .filter(|at| *at >= name);
    let end = dot.unwrap_or(path.len());
    let digits = path[name..end].strip_suffix(b")")?;
    let start = digits.iter().rposition(|b| !b.is_ascii_digit())?;
    let is_number = start + 1 < digits.len() && digits[..=start].ends_with(b"-(");
    is_number.then(|| [&path[..name + start - 1], &path[end..]].concat())
}

fn build(own: &[String], defaults: bool) -> Result<Gitignore, String> {
    if own.len() > EXCLUDE_MAX_PATTERNS {
        let count = own.len();
        return Err(format!(
            "{count} patterns are more than the {EXCLUDE_MAX_PATTERNS} that a share can have"
        ));
    }
    let mut builder = GitignoreBuilder::new("");
    let default = EXCLUDED_BY_DEFAULT.iter().filter(|_| defaults);
    for pattern in default.copied().chain(own.iter().map(String::as_str)) {
        check_pattern(pattern)?;
        let added = builder.add_line(None, pattern);
        added.map_err(|error| format!("{pattern:?} is not a pattern: {error}"))?;
    }
    builder.build().map_err(|error| error.to_string())
}

/// Rejects a pattern that is too long, and lines that git would ignore or read as several patterns.
fn check_pattern(pattern: &str) -> Result<(), String> {
    let why = match pattern {
        text if text.trim().is_empty() => "it is empty",
        text if text.starts_with('#') => "it is a comment; write \\# for a name with a #",
        text if text.contains(['\n', '\0']) => "it is more than one line",
        text if text.len() > PATTERN_MAX_BYTES => "it is too long",
        _ => return Ok(()),
    };
    Err(format!("{pattern:?} is not a pattern: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclude(patterns: &[&str], defaults: bool) -> Exclude {
        let own: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        Exclude::new(&own, defaults).unwrap()
    }

    fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn second_copies_in_an_inbox_are_excluded_like_the_first() {
        let by_default = exclude(&[], true);
        for name in [
            "-(1).env",
            "d/-(12).netrc",
            "id_rsa-(1)",
            "d/x-(2).key",
            ".env-(1).local",
        ] {
            assert!(by_default.keeps_back(&path(name), false), "{name}");
        }
        assert!(by_default.keeps_back(&path("-(1).ssh"), true));
        for name in [
            "id_rsa-()",
            "id_rsa(1)",
            "note-(1).txt",
            ".env-(1).example",
            "-(1)",
            "(1).env",
        ] {
            assert!(!by_default.keeps_back(&path(name), false), "{name}");
        }
    }

    #[test]
    fn secrets_and_editor_leftovers_are_excluded_by_default_and_lookalikes_are_not() {
        let by_default = exclude(&[], true);
        for name in [
            ".netrc",
            "d/.env",
            ".env.local",
            "keys/id_ed25519",
            "tls/server.key",
            "notes.txt~",
            ".notes.swp",
            "d/.#notes",
            "#notes#",
            "~$report.docx",
        ] {
            assert!(by_default.keeps_back(&path(name), false), "{name}");
        }
        assert!(by_default.keeps_back(&path("home/.ssh"), true));
        assert!(by_default.keeps_back(&path(".gnupg"), true));
        for name in [
            ".env.example",
            "id_rsa.pub",
            "environment",
            "a~b",
            "keyboard",
            ".profile",
            "a.sw",
            ".git",
        ] {
            assert!(!by_default.keeps_back(&path(name), false), "{name}");
        }
        assert!(!exclude(&[], false).keeps_back(&path(".netrc"), false));
    }

    #[test]
    fn patterns_have_their_gitignore_meaning() {
        let own = exclude(&["*.o", "/build/", "doc/**/*.tmp", "!keep.o"], false);
        let kept_back = |name: &str, directory| own.keeps_back(&path(name), directory);
        assert!(kept_back("a.o", false) && kept_back("d/a.o", false));
        assert!(!kept_back("keep.o", false) && !kept_back("d/keep.o", false));
        assert!(kept_back("build", true) && !kept_back("build", false));
        assert!(!kept_back("d/build", true), "it is at the top alone");
        assert!(kept_back("doc/a/b/x.tmp", false) && !kept_back("x.tmp", false));
    }

    #[test]
    fn the_last_matching_pattern_decides_and_is_named() {
        let own = exclude(&["!.env", "*.log"], true);
        assert!(!own.keeps_back(&path(".env"), false));
        let by = |name: &str| own.pattern_of(&path(name), false);
        let pattern = "*.log".to_owned();
        let default = false;
        assert_eq!(by("d/x.log"), Some(ExcludedBy { pattern, default }));
        let pattern = "*.key".to_owned();
        let default = true;
        assert_eq!(by("x.key"), Some(ExcludedBy { pattern, default }));
        assert_eq!(by("x"), None);
    }

    #[test]
    fn a_line_that_is_not_a_pattern_is_refused() {
        for bad in [
            "",
            "  ",
            "# words",
            "[z-a]",
            "a\nb",
            &"x".repeat(PATTERN_MAX_BYTES + 1),
        ] {
            assert!(check_patterns(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        let longest = "x".repeat(PATTERN_MAX_BYTES);
        assert_eq!(check_patterns(&vec![longest; 2]), Ok(()));
        let many = vec!["x".to_owned(); EXCLUDE_MAX_PATTERNS];
        assert_eq!(check_patterns(&many), Ok(()));
        assert!(check_patterns(&[many, vec!["y".to_owned()]].concat()).is_err());
    }

    #[test]
    fn non_text_names_are_matched_by_their_bytes() {
        let own = exclude(&["*.tmp"], false);
        let name = SharedPath::new(&b"caf\xe9.tmp"[..]).unwrap();
        assert!(own.keeps_back(&name, false));
    }
}
