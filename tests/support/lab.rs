//! Hosts on separate links, in network namespaces, made by `tests/lab/netlab`.

use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::{Mutex, MutexGuard};

use super::process::{Finished, run};

/// The hosts always have the same names and addresses.
static HOSTS: Mutex<()> = Mutex::new(());

/// A set of hosts that is removed on drop. Only one exists at a time.
pub(crate) struct Lab(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Lab {
    /// Starts these hosts. `more` are options of `netlab up`.
    pub(crate) fn up(hosts: &str, more: &[&str]) -> Self {
        let this = Self(HOSTS.lock());
        let arguments = [&["up", hosts], more].concat();
        netlab(&arguments).expect_ok();
        this
    }

    /// Puts a router that translates addresses in front of a host. `more` are options of `netlab
    /// nat`.
    pub(crate) fn add_nat(&self, host: &str, more: &[&str]) {
        netlab(&[&["nat", host], more].concat()).expect_ok();
    }

    /// Makes the router in front of a host forget its mappings.
    pub(crate) fn forget_mappings(&self, host: &str) {
        netlab(&["nat", host, "--forget"]).expect_ok();
    }

    /// Connects two hosts by one more link, with an interface of this name on each.
    pub(crate) fn link(&self, one: &str, other: &str, name: &str) {
        let mut command = Command::new("ip");
        command.args(["link", "add", name, "netns", &format!("nlab-{one}")]);
        command.args(["type", "veth", "peer", "name", name]);
        run(command.args(["netns", &format!("nlab-{other}")])).expect_ok();
    }

    /// Returns a command that runs on a host.
    pub(crate) fn on(&self, host: &str) -> Command {
        let mut command = Command::new(netlab_path());
        command.args(["exec", host, "--"]);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        netlab(&["down"]);
    }
}

/// Returns why hosts cannot be made here, if so.
pub(crate) fn hosts() -> Option<String> {
    tried(&["up", "2"])
}

/// Returns why hosts with a delay between them cannot be made here, if so.
pub(crate) fn far_hosts() -> Option<String> {
    tried(&["up", "2", "--delay", "0ms"])
}

fn tried(arguments: &[&str]) -> Option<String> {
    let _no_others = HOSTS.lock();
    let tried = netlab(arguments);
    netlab(&["down"]);
    let why = tried.stderr.trim();
    (!tried.status.success()).then(|| format!("no hosts can be made here: {why}"))
}

fn netlab(arguments: &[&str]) -> Finished {
    run(Command::new(netlab_path()).args(arguments))
}

fn netlab_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/netlab")
}
