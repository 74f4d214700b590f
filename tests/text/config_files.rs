//! Which files are accepted as configuration files.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::cli_alone::{run, stderr};
use super::config_layers::Files;

fn fifo(place: &Path) {
    mknodat(CWD, place, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_configuration_that_is_not_a_regular_file_is_reported_at_once() {
    let files = Files::new("");
    let at = |name: &str| files.dir.path().join(name);
    fifo(&at("fifo"));
    symlink("fifo", at("link")).unwrap();
    let _bound = UnixListener::bind(at("socket")).unwrap();
    for name in ["fifo", "link", "socket", "/dev/zero"] {
        let named = at(name);
        let named = named.to_str().unwrap();
        let why = "it is not a regular file; name one, or /dev/null for an empty one";
        let said = format!("{named}: cannot be read: {why}");
        for arguments in [
            &["daemon", "--check-config"][..],
            &["daemon"],
            &["config", "show"],
            &["doctor"],
        ] {
            let ended = run(
                files.dir.path(),
                &[arguments, &["--config", named]].concat(),
            );
            let told = String::from_utf8_lossy(&ended.stdout).into_owned() + &stderr(&ended);
            assert!(!ended.status.success(), "{arguments:?}");
            // `doctor` wraps its lines.
            let words: Vec<&str> = told.split_whitespace().collect();
            assert!(words.join(" ").contains(&said), "{arguments:?}: {told}");
        }
    }
}

#[test]
fn a_drop_in_that_is_not_a_regular_file_is_reported() {
    let files = Files::new("").drop_in("a.toml", "");
    fifo(&files.dir.path().join("p2pfs.toml.d/b.toml"));
    let error = files.error();
    let said = "p2pfs.toml.d/b.toml: cannot be read: it is not a regular file";
    assert!(error.starts_with(said), "{error}");
}

#[test]
fn the_null_device_means_no_configuration() {
    let mut files = Files::new("");
    for name in ["null.toml", "/dev/null"] {
        let named = files.dir.path().join(name);
        if name != "/dev/null" {
            symlink("/dev/null", &named).unwrap();
        }
        let mut sources = files.sources();
        sources.config_file = Some(named);
        assert!(p2pfs::daemon::config::load(&sources).is_ok(), "{name}");
    }
    files = files.drop_in("a.toml", "name = 'a'\n");
    let folder = files.dir.path().join("p2pfs.toml.d");
    symlink("/dev/null", folder.join("b.toml")).unwrap();
    assert_eq!(files.load().unwrap().config.name.as_str(), "a");
}

#[test]
fn a_configuration_file_up_to_the_limit_is_read_and_a_larger_one_is_refused() {
    let files = Files::new("");
    let place = files.dir.path().join("p2pfs.toml");
    fs::write(&place, " ".repeat(16 << 20)).unwrap();
    assert!(files.load().is_ok());
    File::options()
        .write(true)
        .open(&place)
        .unwrap()
        .set_len((16 << 20) + 1)
        .unwrap();
    let error = files.error();
    let said = "p2pfs.toml: cannot be read: it is larger than 16 MiB, the most that is read";
    assert!(error.starts_with(said), "{error}");
}
