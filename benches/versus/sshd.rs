//! A separate sshd on loopback with its own keys, for the rivals that use ssh.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::process::{self, Running, eventually, run};

pub(crate) const START_LIMIT: Duration = Duration::from_secs(20);
/// The fastest cipher that both sides have.
const CIPHER: &str = "aes128-gcm@openssh.com";

/// A running sshd. Dropping it ends it.
pub(crate) struct Sshd {
    pub port: u16,
    home: PathBuf,
    process: Running,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.process.signal(libc::SIGTERM);
    }
}

pub(crate) fn is_installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

/// Returns a port that is free now. The rivals have no option to choose one by themselves.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub(crate) fn wait_until_listening(what: &str, port: u16) {
    eventually(what, START_LIMIT, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

impl Sshd {
    /// Starts one that keeps its files in a folder.
    ///
    /// # Errors
    /// The missing program or right, in a printable form.
    pub(crate) fn start(home: &Path) -> Result<Self, String> {
        fs::create_dir_all("/run/sshd").map_err(|error| format!("sshd: /run/sshd: {error}"))?;
        fs::create_dir_all(home).unwrap();
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-N", "", "-t", "ed25519", "-f"]);
            run(keygen.arg(home.join(key))).expect_ok();
        }
        fs::copy(home.join("user.pub"), home.join("authorized")).unwrap();
        let port = free_port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\n\
             AuthorizedKeysFile {0}/authorized\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin yes\nSubsystem sftp internal-sftp\n",
            home.display()
        );
        let config_path = home.join("config");
        fs::write(&config_path, config).unwrap();
        let with_config = |options: &[&str]| {
            let mut sshd = Command::new("/usr/sbin/sshd");
            sshd.args(options).arg("-f").arg(&config_path);
            sshd
        };
        // This test mode reports the errors with which a start would end, such as a missing user.
        let tried = run(&mut with_config(&["-t"]));
        if !tried.status.success() {
            return Err(format!("sshd: {}", tried.stderr.trim()));
        }
        let process = process::start(&mut with_config(&["-D", "-e"]));
        wait_until_listening("sshd listens", port);
        Ok(Self {
            port,
            home: home.to_owned(),
            process,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the values for `-o` with which ssh and similar programs connect.
    pub(crate) fn options(&self) -> [String; 5] {
        [
            format!("Ciphers={CIPHER}"),
            "StrictHostKeyChecking=no".to_owned(),
            "UserKnownHostsFile=/dev/null".to_owned(),
            "Compression=no".to_owned(),
            format!("IdentityFile={}", self.home.join("user").display()),
        ]
    }
}
