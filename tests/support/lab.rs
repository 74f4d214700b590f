//! Hosts on separate links, in network namespaces, made by `tests/lab/netlab`.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::process::Command;

use super::process::{Finished, run};

/// A set of hosts that is removed on drop. Several sets can exist at once, in this process and in
/// others. Their hosts have the same names and addresses, but do not reach each other.
pub(crate) struct Lab {
    number: usize,
    /// Holds the number until the hosts are removed.
    _lock: File,
}

impl Lab {
    /// Starts these hosts. `more` are options of `netlab up`.
    pub(crate) fn up(hosts: &str, more: &[&str]) -> Self {
        let this = Self::reserve().expect("the number of a lab can be locked");
        this.start(hosts, more).expect_ok();
        this
    }

    /// Takes the first free number. Hosts with this number remain from a process that was killed,
    /// so they are removed.
    fn reserve() -> io::Result<Self> {
        let mut number = 0;
        loop {
            number += 1;
            let lock = File::create(format!("/run/netlab{number}.lock"))?;
            match lock.try_lock() {
                Ok(()) => {
                    let this = Self {
                        number,
                        _lock: lock,
                    };
                    this.down();
                    return Ok(this);
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn start(&self, hosts: &str, more: &[&str]) -> Finished {
        run(self.netlab().args(["up", hosts]).args(more))
    }

    fn down(&self) {
        run(self.netlab().arg("down"));
    }

    fn netlab(&self) -> Command {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/netlab");
        let mut command = Command::new(program);
        command.arg("-n").arg(self.number.to_string());
        command
    }

    /// Puts a router that translates addresses in front of a host. `more` are options of `netlab
    /// nat`.
    pub(crate) fn add_nat(&self, host: &str, more: &[&str]) {
        run(self.netlab().args(["nat", host]).args(more)).expect_ok();
    }

    /// Makes the router in front of a host forget its mappings.
    pub(crate) fn forget_mappings(&self, host: &str) {
        self.add_nat(host, &["--forget"]);
    }

    /// Connects two hosts by one more link, with an interface of this name on each.
    pub(crate) fn link(&self, one: &str, other: &str, name: &str) {
        let namespace = |host: &str| format!("nlab{}-{host}", self.number);
        let mut command = Command::new("ip");
        command.args(["link", "add", name, "netns", &namespace(one)]);
        command.args(["type", "veth", "peer", "name", name]);
        run(command.args(["netns", &namespace(other)])).expect_ok();
    }

    /// Returns a command that runs on a host.
    pub(crate) fn on(&self, host: &str) -> Command {
        let mut command = self.netlab();
        command.args(["exec", host, "--"]);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.down();
    }
}

/// Returns why hosts cannot be made here, if so.
pub(crate) fn hosts() -> Option<String> {
    tried(&[])
}

/// Returns why hosts with a delay between them cannot be made here, if so.
pub(crate) fn far_hosts() -> Option<String> {
    tried(&["--delay", "0ms"])
}

/// Tries hosts with these options of `netlab up`.
fn tried(options: &[&str]) -> Option<String> {
    let why = match Lab::reserve() {
        Ok(lab) => {
            let tried = lab.start("2", options);
            (!tried.status.success()).then(|| tried.stderr.trim().to_owned())
        }
        Err(error) => Some(error.to_string()),
    };
    why.map(|why| format!("no hosts can be made here: {why}"))
}
