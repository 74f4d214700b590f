//! Tests that links are judged by where they lead, even if that changes and the links do not.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn a_left_out_link_is_listed_once_its_path_leads_elsewhere() {
    let mut bench = ShareBench::bare();
    for dir in ["plain", "deep", "deep/down"] {
        bench.mkdir(dir);
    }
    bench.write("plain/name", b"in");
    for (target, link) in [
        ("itself", "itself"),
        ("itself", "to-itself"),
        ("/etc", "out"),
        ("out/name", "by-way-of-out"),
        ("/etc", "deep/down/out"),
        ("deep/down/out/name", "by-way-of-deep"),
        (".", "here"),
        ("here/round", "round"),
    ] {
        symlink(target, bench.at(link)).unwrap();
    }
    bench.start();
    assert_eq!(left_out_count(&bench.status()), 7);
    // a file in its place; another link; a move of its directory; a listed link with a new target
    fs::remove_file(bench.at("itself")).unwrap();
    bench.write("itself", b"a file");
    symlink("plain", bench.at("new")).unwrap();
    fs::rename(bench.at("new"), bench.at("out")).unwrap();
    fs::rename(bench.at("deep/down"), bench.at("deep/moved")).unwrap();
    symlink("plain", bench.at("new")).unwrap();
    fs::rename(bench.at("new"), bench.at("here")).unwrap();
    for link in ["to-itself", "by-way-of-out", "by-way-of-deep", "round"] {
        bench.wait_for(link, |bench| bench.entry(link).is_some());
    }
    assert_eq!(left_out_count(&bench.status()), 1, "the one that was moved");
}
