//! What is not shared, why, and what its owner can do about it.

use std::path::PathBuf;

use super::exclude::ExcludedBy;

/// How many left-out names a status lists; the rest are only counted.
pub const LEFT_OUT_LIST_MAX: usize = 100;

/// The largest file that is shared: its proofs take a thousandth of it on the disk, as much as all
/// outboards may by default. A sparse file costs nothing to make, and could ask for any amount.
pub const FILE_MAX_BYTES: u64 = 1 << 40;

/// A name that is not shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The absolute path.
    pub path: PathBuf,
    /// Why it is left out.
    pub why: LeftOutWhy,
    /// What its owner can do, as one line; empty where nothing helps.
    pub remedy: String,
}

/// Why a name is not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum LeftOutWhy {
    /// A file without o+r, or a directory without o+r and o+x.
    #[error("others may not read it")]
    Private,
    /// This process may not read it, or reading failed.
    #[error("it cannot be read")]
    Unreadable,
    /// A fifo, socket or device; never opened.
    #[error("it is a fifo, a socket or a device")]
    Special,
    /// A symbolic link that leaves the share.
    #[error("the link leads out of the share")]
    LinkOut,
    /// A symbolic link with `..` after a name that is not a directory.
    #[error("the link goes up from a name that is not a directory")]
    LinkUp,
    /// A symbolic link that leads to itself, or a directory that contains itself.
    #[error("it leads back to itself")]
    Loop,
    /// A name of more than 255 bytes, as a disk may have that counts letters, or a path beyond
    /// [`p2pfs_types::path::PATH_MAX_BYTES`], from the share on.
    #[error("its name is longer than 255 bytes, or its path than 4095")]
    TooLong,
    /// A path beyond [`p2pfs_proto::wire::native::record::PATH_MAX_DEPTH`].
    #[error("it is below more than 255 directories")]
    TooDeep,
    /// [`p2pfs_types::path::HIDDEN_ROOT`], at the top of the share.
    #[error("it has the name of what the mount itself adds")]
    Hidden,
    /// A file beyond [`FILE_MAX_BYTES`].
    #[error("it is larger than 1 TiB")]
    TooLarge,
    /// A mount of p2pfs, or a directory of the node's own.
    #[error("it is a mount of p2pfs or this node's own state")]
    OwnMount,
    /// The name [`p2pfs_types::path::ARRIVING`], outside of an inbox.
    #[error("it has the name of what is still on its way into an inbox")]
    Arriving,
    /// A pattern of the share, or of all shares by default, keeps it back.
    #[error("a pattern excludes it")]
    Excluded,
}

impl LeftOut {
    /// What its owner is told of it.
    pub(super) fn warning(&self) -> String {
        let between = if self.remedy.is_empty() { "" } else { "; " };
        format!("left out: {}{between}{}", self.why, self.remedy)
    }
}

impl LeftOutWhy {
    /// What the owner of `path` can do.
    pub(super) fn remedy(self, path: &std::path::Path, directory: bool) -> String {
        match self {
            Self::Private => {
                let mode = if directory { "o+rx" } else { "o+r" };
                match pasteable(path) {
                    Some(quoted) => format!("chmod {mode} {quoted}, or include_private = true"),
                    None => format!("let others read it ({mode}), or include_private = true"),
                }
            }
            Self::Unreadable => "let the daemon's user read it".to_owned(),
            Self::LinkOut => "share what it points to, or let it point into its share".to_owned(),
            Self::LinkUp => "write its target without .. after a name".to_owned(),
            Self::TooLong => "give it, or what it lies in, shorter names".to_owned(),
            Self::TooDeep => "move it further up".to_owned(),
            Self::Hidden | Self::Arriving => "rename it".to_owned(),
            Self::TooLarge => "split it".to_owned(),
            // which pattern is known to the share
            Self::Special | Self::Loop | Self::OwnMount | Self::Excluded => String::new(),
        }
    }

    /// Whether its owner is told at once; the common, intended case is only listed.
    pub(super) const fn warns(self) -> bool {
        !matches!(self, Self::Private | Self::Excluded)
    }
}

/// By which pattern, and how the name is shared all the same.
pub(super) fn remedy_of_excluded(by: &ExcludedBy) -> String {
    let ExcludedBy { pattern, default } = by;
    match default {
        true => {
            // of these patterns, all of ASCII, Rust's text in quotes is TOML's
            let but = format!("!{pattern}");
            format!("{pattern}, by default; exclude = [{but:?}] shares it")
        }
        false => format!("{pattern}, of this share's exclude"),
    }
}

/// The path as a word of a shell that stands for it and nothing else, where it can be shown and
/// pasted: a name may be chosen by whoever wants its remedy to run something. A name with letters
/// that a terminal would not show as they are has no such word.
fn pasteable(path: &std::path::Path) -> Option<String> {
    let text = path.to_str()?;
    let is_plain = |letter: char| letter.is_ascii_graphic() || letter == ' ';
    let shown = text
        .chars()
        .all(|letter| is_plain(letter) || letter.is_alphanumeric());
    // a word that begins with a dash would be an option; an absolute path does not
    let quoted = shlex::try_quote(text).ok()?;
    (shown && text.starts_with('/')).then(|| quoted.into_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_remedy_pasted_into_a_shell_does_what_it_says_whatever_the_file_is_called() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "plain",
            "x';touch PWNED;'",
            "$(touch PWNED)",
            "`touch PWNED`",
            "a b\"c\\ & > PWNED",
            "!history *",
            "ü",
        ] {
            let file = dir.path().join(name);
            std::fs::write(&file, "").unwrap();
            let mut rights = std::fs::metadata(&file).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o600);
            std::fs::set_permissions(&file, rights).unwrap();
            let remedy = LeftOutWhy::Private.remedy(&file, false);
            let command = remedy.strip_suffix(", or include_private = true").unwrap();
            for shell in ["sh", "bash"] {
                let mut ran = Command::new(shell);
                ran.arg("-c").arg(command);
                let status = ran.current_dir(dir.path()).status().unwrap();
                assert!(status.success(), "{command}");
            }
            let mode = std::fs::metadata(&file).unwrap().permissions();
            assert_eq!(
                std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
                0o604
            );
            assert!(!dir.path().join("PWNED").exists(), "{command}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_shown_as_it_is_gets_no_command_to_paste() {
        for name in ["/s/a\nb", "/s/a\u{1b}[2J", "/s/a\u{202e}b"] {
            let remedy = LeftOutWhy::Private.remedy(Path::new(name), false);
            assert!(
                !remedy.contains("chmod") && !remedy.contains(name),
                "{remedy}"
            );
        }
    }
}
