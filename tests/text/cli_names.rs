//! Names of any bytes in the output of commands.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use p2pfs::daemon::control::{Call, Listing};

use crate::cli_commands::{FakeDaemon, entry};

#[test]
fn a_name_of_any_bytes_is_accepted_and_printed() {
    let daemon = FakeDaemon::start(|request| {
        let Call::Ls { path, .. } = &request.call else {
            panic!("{:?}", request.call)
        };
        let entries = vec![entry(path.as_bytes())];
        request.reply.done(&Listing {
            entries,
            ..Listing::default()
        });
    });
    let raw = OsStr::from_bytes(b"caf\xe9\x1b[2J");
    let output = daemon.command().arg("ls").arg(raw).output().unwrap();
    assert_eq!(output.stdout, b"caf\\xe9\\u{1b}[2J\n");
    for (option, printed) in [
        ("--raw", &b"caf\xe9\x1b[2J\n"[..]),
        ("-0", b"caf\xe9\x1b[2J\0"),
        ("--null", b"caf\xe9\x1b[2J\0"),
    ] {
        let mut command = daemon.command();
        let output = command.args(["ls", option]).arg(raw).output().unwrap();
        assert_eq!(output.stdout, printed, "{option}");
    }
    let output = daemon
        .command()
        .args(["ls", "--json"])
        .arg(raw)
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["entries"][0]["path"], "caf\u{fffd}\u{1b}[2J");
    assert_eq!(json["entries"][0]["path_base64"], "Y2Fm6RtbMko=");
}

#[test]
fn names_in_a_pipe_are_one_line_each_and_move_no_cursor() {
    let daemon = FakeDaemon::start(|request| {
        let names = [&b"a\nb"[..], b"c\x1b[2J", "d\u{61c}e".as_bytes()];
        request.reply.done(&Listing {
            entries: names.map(entry).to_vec(),
            ..Listing::default()
        });
    });
    assert_eq!(
        daemon.output(&["ls", "/"]),
        "a\\nb\nc\\u{1b}[2J\nd\\u{61c}e\n"
    );
}
