//! The other ways to read a file of another machine, each serving the same folder on loopback
//! with a mount of its own. What is not installed is named and left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::daemon::{detach, is_mounted};
use crate::support::process::{self, Running, eventually, run};

const START_LIMIT: Duration = Duration::from_secs(20);

/// A rival that is mounted, for as long as this lives.
pub struct Rival {
    pub name: &'static str,
    pub mount: PathBuf,
    /// The port that it serves the bytes from.
    pub port: u16,
    processes: Vec<Running>,
}

impl Rival {
    /// The processes that do its work, as far as they are known now; they have children.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Running::pid).collect()
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

fn is_installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

/// A port that is free now; the rivals cannot be told to choose one themselves.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn wait_until_listening(what: &str, port: u16) {
    eventually(what, START_LIMIT, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

fn folders<const N: usize>(home: &Path, names: [&str; N]) -> [PathBuf; N] {
    let dirs = names.map(|name| home.join(name));
    dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    dirs
}

/// sshfs over an sshd of our own, with the fastest cipher that both have.
///
/// # Errors
/// What is missing, in a form to print.
pub fn sshfs(folder: &Path, share: &Path) -> Result<Rival, String> {
    if !is_installed("sshfs") || !is_installed("sshd") {
        return Err("sshfs (apt install sshfs openssh-server)".into());
    }
    let [home, mount] = folders(folder, ["ssh", "sshfs"]);
    fs::create_dir_all("/run/sshd").map_err(|error| format!("sshfs: /run/sshd: {error}"))?;
    for key in ["host", "user"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-N", "", "-t", "ed25519", "-f"]);
        run(keygen.arg(home.join(key))).expect_ok();
    }
    fs::copy(home.join("user.pub"), home.join("authorized")).unwrap();
    let port = free_port();
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
         StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n\
         Subsystem sftp internal-sftp\n",
        home.display()
    );
    fs::write(home.join("config"), config).unwrap();
    let mut sshd = Command::new("/usr/sbin/sshd");
    let server = process::start(sshd.args(["-D", "-e", "-f"]).arg(home.join("config")));
    wait_until_listening("sshd listens", port);
    let mut sshfs = Command::new("sshfs");
    sshfs.arg(format!("127.0.0.1:{}", share.display()));
    sshfs.arg(&mount).args(["-f", "-p", &port.to_string()]);
    let identity = format!("IdentityFile={}", home.join("user").display());
    for option in [
        "Ciphers=aes128-gcm@openssh.com",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "Compression=no",
        &identity,
    ] {
        sshfs.args(["-o", option]);
    }
    let client = process::start(&mut sshfs);
    eventually("sshfs has mounted", START_LIMIT, || is_mounted(&mount));
    Ok(Rival {
        name: "sshfs, aes128-gcm",
        mount,
        port,
        processes: vec![client, server],
    })
}

/// rclone over its own plain HTTP server, with its full cache.
///
/// # Errors
/// What is missing, in a form to print.
pub fn rclone(folder: &Path, share: &Path) -> Result<Rival, String> {
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
    Ok(Rival {
        name: "rclone, plain http",
        mount,
        port,
        processes: vec![client, server],
    })
}
