//! A daemon that takes over the mount of the one before goes by the rules for its readers, too.

use std::io::{ErrorKind, Read};
use std::{fs, io};

use macro_rules_attribute::apply;

use super::{MIB, NEEDS, SECOND, own_name};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
#[takes("cat")]
fn who_is_given_cached_bytes_only_gets_no_more_of_what_it_had_open_when_the_daemon_restarts() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let socket = cluster.folder.path().join("broker");
    let mount = cluster.folder.path().join("reader/mnt");
    fs::create_dir_all(&mount).unwrap();
    let mut broker = program();
    broker.arg("mount-broker").arg("--socket").arg(&socket);
    let _broker = start(broker.arg("--allow").arg(&mount));
    eventually("the broker listens", 90 * SECOND, || {
        connected(&socket).is_ok()
    });
    let mut reader = cluster.start_with(NodeOptions {
        config: format!("[readers]\ncached_only = ['{}']\n", own_name()),
        environment: vec![("P2PFS_BROKER", socket.to_str().unwrap().to_owned())],
        ..NodeOptions::new("reader")
    });
    let bytes = noise(40, MIB);
    author.write("picture.bin", &bytes);
    reader.wait_for_file("picture.bin");
    let open = || fs::File::open(reader.mounted("picture.bin")).unwrap();
    let mut file = open();
    // after the first close the kernel asks for none any more: not even for that of the copy of
    // this file which is closed as the next daemon is started
    drop(open());

    reader.stop();
    assert!(is_mounted(&mount), "the broker keeps it");
    reader.launch();
    reader.wait_for_file("picture.bin");
    let mut read = |part: &mut [u8]| -> io::Result<()> { file.read_exact(part) };
    let refused = read(&mut [0; 4096]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    let whole = run_with("cat", &[&reader.mounted("picture.bin")]);
    assert!(whole.stdout == bytes, "others are served");
    let mut part = vec![0; MIB];
    read(&mut part).unwrap();
    assert!(part == bytes, "and then it is cached");
}
