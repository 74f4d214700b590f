//! Other programs that read files of another machine. Each serves the same folder on loopback
//! through its own mount. A program that is not installed is named and left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sshd::{START_LIMIT, Sshd, free_port, is_installed, wait_until_listening};
use crate::support::daemon::{detach, is_mounted};
use crate::support::process::{self, Running, eventually};

/// A mounted rival. Dropping it ends it.
pub(crate) struct Rival {
    pub name: &'static str,
    pub mount: PathBuf,
    /// Port from which it serves the bytes.
    pub port: u16,
    processes: Vec<Running>,
    sshd: Option<Sshd>,
}

impl Rival {
    /// Returns a rival with these processes that serves from this port.
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

    /// Returns its main processes that are known now. They have children.
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

/// Mounts sshfs over a separate sshd, with the fastest cipher that both have.
///
/// # Errors
/// The missing program, in a printable form.
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

/// Mounts rclone over its own plain HTTP server, with its full cache.
///
/// # Errors
/// The missing program, in a printable form.
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
