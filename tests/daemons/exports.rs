//! The mounted folder exported again by servers of other protocols.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];

/// Returns the configuration of an NFS server. It finds files by handles, even after the kernel has
/// forgotten them.
fn configuration(folder: &Path, state: &Path, port: u16) -> String {
    let (folder, state) = (folder.display(), state.display());
    format!(
        "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1;
           Enable_NLM = false; Enable_RQUOTA = false; }}
         NFSv4 {{ RecoveryRoot = {state}; Graceless = true; }}
         EXPORT {{ Export_Id = 7; Path = {folder}; Pseudo = /folder; Access_Type = RO;
           Squash = No_Root_Squash; SecType = sys; Filesystem_Id = 7.7; FSAL {{ Name = VFS; }}
           CLIENT {{ Clients = *; Protocols = 4; }} }}"
    )
}

#[apply(promise)]
#[takes("ganesha.nfsd", "nfs-cat")]
fn an_nfs_server_exports_the_folder_even_after_inodes_were_forgotten() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let reader = cluster.start("reader");
    let bytes = noise(7, 3 << 20);
    author.write("deep/er/file", &bytes);
    (reader.cli(&["wait", "--file", "deep/er/file", "--timeout", WAIT_LIMIT])).expect_ok();
    let state = cluster.folder.path().join("nfs");
    fs::create_dir(&state).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let file = state.join("conf");
    fs::write(&file, configuration(&reader.mount, &state, port)).unwrap();
    let mut server = Command::new("ganesha.nfsd");
    server.arg("-F").arg("-f").arg(&file);
    server
        .arg("-L")
        .arg(state.join("log"))
        .arg("-p")
        .arg(state.join("pid"));
    let server = start(&mut server);
    let from = format!("nfs://127.0.0.1/folder/deep/er/file?version=4&nfsport={port}");
    let read = || run(Command::new("nfs-cat").arg(&from));
    eventually("the server answers", HANG_LIMIT, || read().status.success());
    for _ in 0..3 {
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        let read = read();
        assert!(
            read.status.success() && read.stdout == bytes,
            "{}",
            read.stderr
        );
    }
    server.signal(libc::SIGKILL);
}
