//! `/sbin/mount.p2pfs` without a service manager: it starts the daemon itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount, no_manager];

fn no_manager() -> Option<String> {
    let manager = Path::new("/run/systemd/system");
    manager
        .exists()
        .then(|| "systemd starts the daemon here".to_owned())
}

/// The settings of a machine. Its daemon ends on drop.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        let built = Path::new(env!("CARGO_BIN_EXE_p2pfs")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let place = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("PATH", format!("{}:{path}", built.display()))
            .env("P2PFS_SOCKET", place("socket"))
            .env("P2PFS_STATE_DIR", place("state"))
            .env("P2PFS_CACHE_DIR", place("cache"))
            .env("P2PFS_CONFIG", "/dev/null")
            .env("P2PFS_LISTEN", "127.0.0.1:0")
            .env("P2PFS_LAN_MDNS", "false");
        run(&mut command)
    }

    fn mount(&self) -> Finished {
        let helper = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/mount.p2pfs");
        self.run("sh", &[helper, "none", self.dir().to_str().unwrap()])
    }

    fn pid(&self) -> String {
        let status = self.run("p2pfs", &["status", "--json"]).expect_json();
        status["pid"].to_string()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if is_mounted(&self.dir()) {
            self.run("kill", &[&self.pid()]);
            eventually("it is unmounted", HANG_LIMIT, || !is_mounted(&self.dir()));
        }
    }
}

#[apply(promise)]
#[takes("findmnt", "setsid", "umount")]
fn an_unmounted_folder_is_mounted_again() {
    let machine = Machine::new();
    machine.mount().expect_ok();
    let first = machine.pid();
    let dir = machine.dir();
    machine.run("umount", &[dir.to_str().unwrap()]).expect_ok();
    machine.mount().expect_ok();
    assert!(is_mounted(&dir));
    assert_ne!(machine.pid(), first);
    // An existing mount is left unchanged.
    let second = machine.pid();
    machine.mount().expect_ok();
    assert_eq!(machine.pid(), second);
}
