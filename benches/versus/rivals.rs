//! The other ways to read a file of another machine, each serving the same folder on loopback
//! with a mount of its own. What is not installed is named and left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sshd::{START_LIMIT, Sshd, free_port, is_installed, wait_until_listening};
use crate::support::daemon::{detach, is_mounted};
use crate::support::process::{self, Running, eventually};

/// A rival that is mounted, for as long as this lives.
pub(crate) struct Rival {
    pub name: &'static str,
    pub mount: PathBuf,
    /// The port that it serves the bytes from.
    pub port: u16,
    processes: Vec<Running>,
    sshd: Option<Sshd>,
}

impl Rival {
    /// One that is these processes, and serves from this port.
    pub(crate) fn of_processes(
        name: &'static str,
        mount: PathBuf,
        port: u16,
        processes: Vec<Running>,
    ) -> Self {
        Self {
            name,
            mount,
            port,
            processes,
            sshd: None,
        }
    }

    /// The processes that do its work, as far as they are known now; they have children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let sshd = self.sshd.iter().map(Sshd::pid);
        self.processes
            .iter()
            .map(Running::pid)
            .chain(sshd)
            .collect()
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        detach(&self.mount);
        self.processes
            .iter()
            .for_each(|process| process.signal(libc::SIGTERM));
    }
}

pub(crate) fn folders<const N: usize>(home: &Path, names: [&str; N]) -> [PathBuf; N] {
    let dirs = names.map(|name| home.join(name));
    dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    dirs
}

/// sshfs over an sshd of our own, with the fastest cipher that both have.
///
/// # Errors
/// What is missing, in a form to print.
pub(crate) fn sshfs(folder: &Path, share: &Path) -> Result<Rival, String> {
    if !is_installed("sshfs") || !is_installed("sshd") {
        return Err("sshfs (apt install sshfs openssh-server)".into());
    }
    let [home, mount] = folders(folder, ["ssh", "sshfs"]);
    let server = Sshd::start(&home)?;
    let mut sshfs = Command::new("sshfs");
    sshfs.arg(format!("127.0.0.1:{}", share.display()));
    sshfs
        .arg(&mount)
        .args(["-f", "-p", &server.port.to_string()]);
    for option in server.options() {
        sshfs.args(["-o", &option]);
    }
    let client = process::start(&mut sshfs);
    eventually("sshfs has mounted", START_LIMIT, || is_mounted(&mount));
    Ok(Rival {
        name: "sshfs, aes128-gcm",
        mount,
        port: server.port,
        processes: vec![client],
        sshd: Some(server),
    })
}

/// rclone over its own plain HTTP server, with its full cache.
///
/// # Errors
/// What is missing, in a form to print.
pub(crate) fn rclone(folder: &Path, share: &Path) -> Result<Rival, String> {
    if !is_installed("rclone") {
        return Err("rclone (apt install rclone)".into());
    }
    let [cache, mount] = folders(folder, ["rclone-cache", "rclone"]);
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut serve = Command::new("rclone");
    serve.args(["serve", "http", "--addr", &address]);
    serve.args(["--dir-cache-time", "0s"]).arg(share);
    let server = process::start(&mut serve);
    wait_until_listening("rclone serves", port);
    let mut mounter = Command::new("rclone");
    mounter.args(["mount", ":http:"]).arg(&mount);
    mounter.args(["--http-url", &format!("http://{address}")]);
    mounter.args(["--vfs-cache-mode", "full", "--dir-cache-time", "1s"]);
    mounter.args(["--read-only", "--cache-dir"]).arg(&cache);
    let client = process::start(&mut mounter);
    eventually("rclone has mounted", START_LIMIT, || is_mounted(&mount));
    let processes = vec![client, server];
    Ok(Rival::of_processes(
        "rclone, plain http",
        mount,
        port,
        processes,
    ))
}
