//! File names that programs look up in every folder. A lookup does not ask legacy peers for them.

use crate::wire::discovery::Name;

/// Names that desktops, shells, version control and media players look up; compared
/// case-insensitively.
const PROBES: [&str; 36] = [
    "autorun.inf",
    "autorun.sh",
    "autorun",
    "autoopen",
    "autoopen.sh",
    "desktop.ini",
    "thumbs.db",
    "ehthumbs.db",
    "folder.htt",
    "system volume information",
    "$recycle.bin",
    "recycler",
    "lost+found",
    "bdmv",
    "video_ts",
    "video_ts.ifo",
    "audio_ts",
    "mpegav",
    "svcd",
    "vcd",
    "dcim",
    "casper",
    "head",
    "objects",
    "refs",
    "config",
    "commondir",
    "cvs",
    "rcs",
    "sccs",
    "_darcs",
    "_fossil_",
    "_svn",
    "cachedir.tag",
    "backup.gpg",
    "akonadi",
];

/// Returns whether a lookup never asks legacy peers for this name: it begins with a dot, or
/// programs look it up everywhere. (`p2pfs get` asks for any name.)
pub fn is_probe(name: &Name) -> bool {
    let bytes = name.as_bytes();
    let is_listed = |probe: &&str| probe.as_bytes().eq_ignore_ascii_case(bytes);
    bytes.starts_with(b".") || PROBES.iter().any(is_listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_and_desktop_lookups_are_probes_and_files_are_not() {
        let probe = |text: &str| is_probe(&Name::new(text.as_bytes()).unwrap());
        for name in [".git", ".Trash-1000", "Desktop.ini", "AUTORUN.INF", "HEAD"] {
            assert!(probe(name), "{name}");
        }
        for name in ["resume.pdf", "b.txt", "header", "HEAD.txt"] {
            assert!(!probe(name), "{name}");
        }
    }
}
