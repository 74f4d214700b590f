//! Finds the command that mounts the folder again after it was unmounted by hand.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::started_by::StartedBy;

/// The script that mount(8) runs for `-t p2pfs`.
const HELPER: &str = "/sbin/mount.p2pfs";
/// The directory that exists if systemd manages the machine.
const SYSTEMD: &str = "/run/systemd/system";

/// The properties of the machine and of the daemon that decide which command mounts the folder.
struct MountSetup {
    started_by: StartedBy,
    has_systemd: bool,
    has_helper: bool,
    /// The command line of the daemon.
    arguments: Vec<OsString>,
    fstab: Vec<u8>,
}

/// Returns the remedy for a folder that was unmounted by hand. Reads small files of the system.
pub(super) fn remedy(dir: &Path) -> String {
    let setup = MountSetup {
        started_by: StartedBy::of_this_process(),
        has_systemd: Path::new(SYSTEMD).is_dir(),
        has_helper: Path::new(HELPER).exists(),
        arguments: std::env::args_os().collect(),
        fstab: fs::read("/etc/fstab").unwrap_or_default(),
    };
    format!("to mount it again: {}", setup.command(dir))
}

impl MountSetup {
    fn command(&self, dir: &Path) -> String {
        let shown = dir.display();
        if self.is_mounted_by_helper(dir) {
            return if has_line(&self.fstab, dir) {
                format!("mount {shown}")
            } else {
                format!("mount -t p2pfs none {shown}")
            };
        }
        let restart = self.started_by.command("restart");
        restart.unwrap_or_else(|| "stop this daemon, and start it as before".to_owned())
    }

    /// Returns whether the script [`HELPER`] restarts this daemon. The script knows the service of
    /// the machine. Without systemd, it knows a daemon that it started itself.
    fn is_mounted_by_helper(&self, dir: &Path) -> bool {
        let own = ["p2pfs", "daemon", "--mount"].map(OsString::from);
        let is_own = || self.arguments.split_last() == Some((&dir.into(), &own[..]));
        self.has_helper
            && if self.has_systemd {
                self.started_by == StartedBy::System
            } else {
                is_own()
            }
    }
}

/// Returns whether fstab(5) has a line that mounts p2pfs at the directory.
fn has_line(fstab: &[u8], dir: &Path) -> bool {
    fstab.split(|byte| *byte == b'\n').any(|line| {
        let fields = line.split(u8::is_ascii_whitespace);
        let mut fields = fields.filter(|field| !field.is_empty());
        let is_comment = line.trim_ascii_start().starts_with(b"#");
        let (place, kind) = (fields.nth(1), fields.next());
        !is_comment && kind == Some(b"p2pfs") && place.is_some_and(|it| unescaped(it) == dir)
    })
}

/// Decodes a path of fstab(5), which has blanks as octal numbers.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, more @ ..] = rest {
        let digits = more.get(..3).filter(|_| *first == b'\\');
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = &more[if decoded.is_some() { 3 } else { 0 }..];
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> MountSetup {
        MountSetup {
            started_by: StartedBy::System,
            has_systemd: true,
            has_helper: true,
            arguments: vec!["/usr/bin/p2pfs".into(), "daemon".into()],
            fstab: Vec::new(),
        }
    }

    fn command(setup: &MountSetup) -> String {
        setup.command(Path::new("/mnt/p2p"))
    }

    #[test]
    fn the_services_folder_is_mounted_by_mount_if_its_script_is_installed() {
        assert_eq!(command(&setup()), "mount -t p2pfs none /mnt/p2p");
        let fstab = b"# none /mnt/p2p p2pfs\nnone /mnt/p2p p2pfs _netdev,nofail 0 0\n".to_vec();
        let with_line = MountSetup { fstab, ..setup() };
        assert_eq!(command(&with_line), "mount /mnt/p2p");
        let without_script = MountSetup {
            has_helper: false,
            ..with_line
        };
        assert_eq!(command(&without_script), "systemctl restart p2pfs");
    }

    #[test]
    fn the_script_mounts_for_no_other_daemon() {
        let by = |started_by| MountSetup {
            started_by,
            ..setup()
        };
        let user = command(&by(StartedBy::User));
        assert_eq!(user, "systemctl --user restart p2pfs");
        assert!(command(&by(StartedBy::Hand)).starts_with("stop this daemon"));
        let mut without_systemd = MountSetup {
            has_systemd: false,
            ..by(StartedBy::Hand)
        };
        assert!(command(&without_systemd).starts_with("stop this daemon"));
        let words = ["p2pfs", "daemon", "--mount", "/mnt/p2p"];
        without_systemd.arguments = words.map(OsString::from).to_vec();
        assert_eq!(command(&without_systemd), "mount -t p2pfs none /mnt/p2p");
    }

    #[test]
    fn a_line_of_fstab_is_found_by_directory_and_type() {
        let dir = Path::new("/mnt/my p2p");
        assert!(has_line(b"none /mnt/my\\040p2p\tp2pfs nofail 0 0", dir));
        assert!(!has_line(b"none /mnt/my\\040p2p ext4 nofail 0 0", dir));
        assert!(!has_line(b"  # none /mnt/my\\040p2p p2pfs", dir));
        assert!(!has_line(b"none /mnt/p2p p2pfs\nshort\n", dir));
    }
}
