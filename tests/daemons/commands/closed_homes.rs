//! Shares inside a home directory that the daemon's user may not pass: the messages, and the ACLs.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use super::NEEDS as MOUNT_NEEDS;
use crate::readers::terminal::Terminal;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, promise, root};

const NEEDS: &[Need] = &[root, acls, MOUNT_NEEDS[0]];
/// The user `nobody`, which owns no file on any machine.
const NOBODY: u32 = 65_534;

fn acls() -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut set = Command::new("setfacl");
    let set = set.args(["-m", "u:65534:x"]).arg(dir.path()).output();
    let works = set.is_ok_and(|ended| ended.status.success());
    (!works).then(|| "needs setfacl (apt install acl) and a filesystem with ACLs".to_owned())
}

/// The daemon of a user without rights, and the home of another user.
struct ClosedHome {
    _cluster: Cluster,
    node: Node,
    _daemon: Running,
    home: PathBuf,
}

impl ClosedHome {
    fn begin() -> Self {
        let mut cluster = Cluster::new();
        let mut node = cluster.start_with(NodeOptions::unmounted("owner"));
        node.stop();
        let folder = cluster.folder.path();
        set_mode(folder, 0o755);
        let mut chown = Command::new("chown");
        run(chown.args(["-R", "65534:65534"]).arg(&node.home)).expect_ok();
        let mut command = node.daemon_command();
        let daemon = start(command.uid(NOBODY).gid(NOBODY).current_dir("/"));
        node.cli(&["wait", "--timeout", WAIT_LIMIT]).expect_ok();
        let home = folder.join("ann");
        for name in ["Pictures", "Music", "Private"] {
            fs::create_dir_all(home.join(name)).unwrap();
            fs::write(home.join(name).join(format!("of-{name}")), name).unwrap();
        }
        set_mode(&home.join("Private/of-Private"), 0o600);
        set_mode(&home.join("Private"), 0o700);
        set_mode(&home, 0o700);
        Self {
            _cluster: cluster,
            node,
            _daemon: daemon,
            home,
        }
    }

    fn share_command(&self, arguments: &[&str], name: &str) -> Command {
        let mut command = self.node.cli_command(&["share"]);
        command.args(arguments).arg(self.home.join(name));
        command.env("XDG_STATE_HOME", self.home.join("records"));
        command
    }

    /// Runs a command as the owner of the home.
    fn share(&self, arguments: &[&str], name: &str) -> Finished {
        run(&mut self.share_command(arguments, name))
    }

    /// Adds a share on a terminal and answers the question. Returns the exit status.
    fn add_after(&self, answer: &[u8]) -> Option<i32> {
        let mut terminal = Terminal::open(24, 200);
        let mut child = terminal.run(&mut self.share_command(&["add"], "Pictures"));
        terminal.read_until("[y/N] ");
        let command = format!("  setfacl -m u:nobody:x {}\r\n", self.home.display());
        let shown = terminal.shown();
        assert!(shown.contains(&command), "{shown}");
        terminal.write(answer);
        wait_child(&mut child, HANG_LIMIT).code()
    }

    fn acls_below(&self, dir: &Path) -> String {
        let mut command = Command::new("getfacl");
        command.args(["-R", "-n", "-s", "-p", "-P"]).arg(dir);
        run(&mut command).expect_ok()
    }
}

#[apply(promise)]
fn share_out_of_closed_home_names_it_and_is_let_in_by_acls_until_it_is_removed() {
    let world = ClosedHome::begin();
    let home = world.home.display().to_string();
    let refused = world.share(&["add"], "Pictures");
    assert_eq!(refused.status.code(), Some(1));
    for part in [
        &*format!("user nobody is not let in by {home};"),
        &format!("give --acl, which runs: setfacl -m u:nobody:x {home}"),
    ] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert_eq!(world.acls_below(&world.home), "");

    world.share(&["add", "--acl"], "Pictures").expect_ok();
    world.node.wait_for_file("of-Pictures");
    assert!(world.acls_below(&world.home).contains("user:65534:--x\n"));
    // The home is open by now.
    world.share(&["add"], "Music").expect_ok();
    world.node.wait_for_file("of-Music");

    world.share(&["remove"], "Pictures").expect_ok();
    assert!(world.acls_below(&world.home).contains("user:65534:--x\n"));
    world.share(&["remove"], "Music").expect_ok();
    assert_eq!(world.acls_below(&world.home), "");
}

#[apply(promise)]
fn acls_for_a_closed_home_are_shown_on_a_terminal_and_set_only_after_a_yes() {
    let world = ClosedHome::begin();
    assert_eq!(world.add_after(b"\n"), Some(1));
    assert_eq!(world.acls_below(&world.home), "");
    assert_eq!(world.add_after(b"y\n"), Some(0));
    world.node.wait_for_file("of-Pictures");
}

#[apply(promise)]
fn private_folder_in_closed_home_is_readable_by_acls_with_its_new_files() {
    let world = ClosedHome::begin();
    let private = world.home.join("Private");
    let refused = world.share(&["add", "--acl"], "Private");
    assert!(
        refused.stderr.contains("--include-private"),
        "{}",
        refused.stderr
    );
    assert_eq!(world.acls_below(&world.home), "");
    world
        .share(&["add", "--acl", "--include-private"], "Private")
        .expect_ok();
    world.node.wait_for_file("of-Private");
    fs::write(private.join("new"), b"new").unwrap();
    world.node.wait_for_file("new");
    // An ACL entry of another user stays.
    let mut other = Command::new("setfacl");
    run(other.args(["-m", "u:12345:r"]).arg(private.join("new"))).expect_ok();
    world.share(&["remove"], "Private").expect_ok();
    let left = world.acls_below(&world.home);
    assert!(!left.contains("65534"), "{left}");
    assert!(left.contains("user:12345:r--"), "{left}");
    assert!(!left.contains("default:"), "{left}");
}

#[apply(promise)]
fn acls_are_taken_back_if_one_file_of_another_user_refuses_them() {
    let world = ClosedHome::begin();
    let private = world.home.join("Private");
    let mut chown = Command::new("chown");
    run(chown.args(["-R", "12345:12345"]).arg(&world.home)).expect_ok();
    fs::write(private.join("of-root"), b"of root").unwrap();
    let refused = world.share(&["add", "--acl", "--include-private"], "Private");
    assert_eq!(refused.status.code(), Some(1));
    for part in ["Private/of-root: ", "12345 own all files there (chown)"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert_eq!(world.acls_below(&world.home), "");
}
