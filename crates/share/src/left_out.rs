//! Names that are not shared, the reasons, and the remedies for their owner.

use std::path::PathBuf;

use super::exclude::ExcludedBy;
use super::offered::OfferedShare;

/// Maximum left-out names listed in a status. The rest are only counted.
pub const LEFT_OUT_LIST_MAX: usize = 100;

/// Maximum patterns of a share that a remedy repeats. With more, the command in the remedy would be
/// too long to read.
const PATTERNS_IN_REMEDY_MAX: usize = 8;
/// Size of the largest file that is shared. Its outboard takes a thousandth of the file's size on
/// the disk: 1 GiB, a quarter of the default budget of all outboards. Without this limit, a sparse
/// file, which costs nothing to create, could demand any amount.
pub const FILE_MAX_BYTES: u64 = 1 << 40;

/// A name that is not shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Absolute path.
    pub path: PathBuf,
    /// Reason.
    pub why: LeftOutWhy,
    /// Remedy for the owner as one line; empty if there is none.
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
    /// A fifo, socket or device.
    #[error("it is a fifo, a socket or a device")]
    Special,
    /// A symbolic link that leaves the share.
    #[error("the link leads out of the share")]
    LinkOut,
    /// A symbolic link with `..` after a name that is not a directory.
    #[error("the link goes up from a name that is not a directory")]
    LinkUp,
    /// A symbolic link that leads through too many links, for example to itself, or a directory
    /// that contains itself.
    #[error("it leads back to itself")]
    Loop,
    /// A name of more than 255 bytes, possible on a filesystem that counts letters, or a path in
    /// the share or in the listing that exceeds [`p2pfs_types::path::PATH_MAX_BYTES`].
    #[error("its name is longer than 255 bytes, or its path than 4095")]
    TooLong,
    /// A path in the listing deeper than [`p2pfs_proto::wire::native::record::PATH_MAX_DEPTH`].
    #[error("it is below more than 255 directories")]
    TooDeep,
    /// [`p2pfs_types::path::HIDDEN_ROOT`], at the top of the share.
    #[error("it has the name of what the mount itself adds")]
    Hidden,
    /// A file larger than [`FILE_MAX_BYTES`].
    #[error("it is larger than 1 TiB")]
    TooLarge,
    /// A mount of p2pfs, or a directory with the node's own state.
    #[error("it is a mount of p2pfs or this node's own state")]
    OwnMount,
    /// The name [`p2pfs_types::path::ARRIVING`], outside of an inbox.
    #[error("its name is reserved for files that are arriving in an inbox")]
    Arriving,
    /// A pattern of the share, or a default pattern of all shares, excludes it.
    #[error("a pattern excludes it")]
    Excluded,
}

impl LeftOut {
    /// Returns the warning for the owner.
    pub(super) fn warning(&self) -> String {
        let between = if self.remedy.is_empty() { "" } else { "; " };
        format!("left out: {}{between}{}", self.why, self.remedy)
    }
}

impl LeftOutWhy {
    /// Returns the remedy for the owner of `path`, which is in the share.
    pub(super) fn remedy(
        self,
        path: &std::path::Path,
        directory: bool,
        share: &OfferedShare,
    ) -> String {
        match self {
            Self::Private => {
                let mode = if directory { "o+rx" } else { "o+r" };
                let include = remedy_of_private(&share.dir, share.spec.is_by_command);
                match pasteable(path) {
                    Some(quoted) => format!("chmod {mode} {quoted}, or {include}"),
                    None => format!("let others read it ({mode}), or {include}"),
                }
            }
            Self::Unreadable => "let the daemon's user read it".to_owned(),
            Self::LinkOut => "share what it points to, or let it point into its share".to_owned(),
            Self::LinkUp => "write its target without .. after a name".to_owned(),
            Self::TooLong => "give it, or what it lies in, shorter names".to_owned(),
            Self::TooDeep => "move it further up".to_owned(),
            Self::Hidden | Self::Arriving => "rename it".to_owned(),
            Self::TooLarge => "split it".to_owned(),
            // the remedy of `Excluded` needs the pattern: see `remedy_of_excluded`
            Self::Special | Self::Loop | Self::OwnMount | Self::Excluded => String::new(),
        }
    }

    /// Returns whether the owner is warned at once. Private and excluded names are common and
    /// intended, so the status only lists them.
    pub(super) const fn warns(self) -> bool {
        !matches!(self, Self::Private | Self::Excluded)
    }
}

/// Returns the warning for a share below a directory that the daemon's user may not pass.
pub(super) fn warning_of_closed(above: &std::path::Path) -> String {
    let shown = above.display().to_string();
    let shown = shown.escape_debug();
    format!(
        "{shown} does not let the daemon's user pass, so nothing in the share is listed; {}",
        remedy_of_closed(above)
    )
}

/// Names a directory that the daemon's user may not pass, and the remedy.
pub(super) fn closed_directory(above: &std::path::Path) -> String {
    let shown = above.display().to_string();
    let shown = shown.escape_debug();
    let remedy = remedy_of_closed(above);
    format!("{shown} does not let the daemon's user pass; {remedy}")
}

fn remedy_of_closed(above: &std::path::Path) -> String {
    let user = user_name(rustix::process::geteuid().as_raw());
    match pasteable(above) {
        Some(quoted) => format!("chmod o+x {quoted}, or setfacl -m u:{user}:x {quoted}"),
        None => format!("let the daemon's user ({user}) pass it (o+x)"),
    }
}

/// Returns the name of a user. Returns its number if it has no name, or one that a shell changes.
fn user_name(uid: u32) -> String {
    let user = uzers::get_user_by_uid(uid);
    let name = user.and_then(|it| it.name().to_str().map(str::to_owned));
    let name = name.filter(|it| shlex::try_quote(it).is_ok_and(|quoted| quoted == *it));
    name.unwrap_or_else(|| uid.to_string())
}

/// Returns how to share the private files of a share: by the command or the setting.
pub(super) fn remedy_of_private(dir: &std::path::Path, is_by_command: bool) -> String {
    if is_by_command {
        format!("{} --include-private", command_again(dir))
    } else {
        "include_private = true".to_owned()
    }
}

/// Returns the command that changes the settings of a share.
fn command_again(dir: &std::path::Path) -> String {
    let dir = pasteable(dir);
    format!("p2pfs share add {}", dir.as_deref().unwrap_or("DIR"))
}

/// Returns the command options that give a share its own patterns and the pattern `more`, because
/// the patterns of a command replace those of the share. If the share has more than
/// [`PATTERNS_IN_REMEDY_MAX`] patterns, or one cannot be quoted, returns the option that drops the
/// default patterns.
fn options_of_patterns(share: &OfferedShare, more: &str) -> String {
    let patterns = share.exclude.patterns().iter().map(String::as_str);
    let option = |pattern: &str| {
        let quoted = shlex::try_quote(pattern).ok()?;
        Some(format!(" --exclude {quoted}"))
    };
    let options: Option<String> = patterns.chain([more]).map(option).collect();
    let few = options.filter(|_| share.exclude.patterns().len() <= PATTERNS_IN_REMEDY_MAX);
    few.unwrap_or_else(|| " --no-default-excludes".to_owned())
}

/// Returns the excluding pattern and, for a default one, how to share the name anyway.
pub(super) fn remedy_of_excluded(by: &ExcludedBy, share: &OfferedShare) -> String {
    let ExcludedBy { pattern, default } = by;
    if !default {
        return format!("{pattern}, of this share's exclude");
    }
    // these patterns are ASCII, for which Rust's quoted form is also TOML's
    let but = format!("!{pattern}");
    if share.spec.is_by_command {
        let options = options_of_patterns(share, &but);
        let again = command_again(&share.dir);
        return format!("{pattern}, by default; {again}{options} shares it");
    }
    format!("{pattern}, by default; exclude = [{but:?}] shares it")
}

/// Returns an absolute path as one literal shell word. Returns `None` for a relative path, and for
/// one with a character other than letters, digits, spaces and ASCII punctuation. A terminal may
/// show other characters differently, so a malicious user could choose a name with which a pasted
/// remedy runs another command.
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

    use super::super::config::ShareSpec;
    use super::super::exclude::Exclude;
    use super::super::tree::Tree;
    use super::*;

    fn share(dir: &Path, exclude: &[&str], is_by_command: bool) -> OfferedShare {
        let exclude = exclude.iter().map(|it| (*it).to_owned()).collect();
        let spec = ShareSpec {
            exclude,
            is_by_command,
            ..ShareSpec::new(dir)
        };
        let exclude = Exclude::new(&spec.exclude, true).unwrap();
        OfferedShare::new(dir, &spec, exclude.into(), Tree::new().insert_root(0))
    }

    #[test]
    fn a_share_added_by_command_gets_its_remedies_as_commands() {
        let dir = Path::new("/srv/my docs");
        let by = ExcludedBy {
            pattern: "*.key".to_owned(),
            default: true,
        };
        let configured = share(dir, &[], false);
        let private = |share| LeftOutWhy::Private.remedy(Path::new("/f"), false, share);
        assert_eq!(
            private(&configured),
            "chmod o+r /f, or include_private = true"
        );
        let said = "*.key, by default; exclude = [\"!*.key\"] shares it";
        assert_eq!(remedy_of_excluded(&by, &configured), said);

        let added = share(dir, &["a b"], true);
        let command = "p2pfs share add '/srv/my docs' --include-private";
        assert_eq!(private(&added), format!("chmod o+r /f, or {command}"));
        let command = "p2pfs share add '/srv/my docs' --exclude 'a b' --exclude '!*.key'";
        let said = format!("*.key, by default; {command} shares it");
        assert_eq!(remedy_of_excluded(&by, &added), said);
        let many = share(dir, &["a"; PATTERNS_IN_REMEDY_MAX + 1], true);
        let said = remedy_of_excluded(&by, &many);
        assert!(said.contains(" --no-default-excludes "), "{said}");
    }

    #[test]
    fn a_remedy_pasted_into_a_shell_works_for_any_file_name() {
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
            let remedy = LeftOutWhy::Private.remedy(&file, false, &share(dir.path(), &[], false));
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
    fn a_name_that_cannot_be_shown_exactly_gets_no_command_to_paste() {
        for name in ["/s/a\nb", "/s/a\u{1b}[2J", "/s/a\u{202e}b"] {
            let remedy = LeftOutWhy::Private.remedy(
                Path::new(name),
                false,
                &share(Path::new("/s"), &[], false),
            );
            assert!(
                !remedy.contains("chmod") && !remedy.contains(name),
                "{remedy}"
            );
        }
    }
}
