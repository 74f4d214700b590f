//! Tests that changes are listed in the order in which they were made, and once their writer is
//! done.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// Puts a file in place as git does with objects: written under another name, linked, unlinked.
fn put_by_link(bench: &ShareBench, tmp: &str, name: &str, bytes: &[u8]) {
    bench.write(tmp, bytes);
    fs::hard_link(bench.at(tmp), bench.at(name)).unwrap();
    fs::remove_file(bench.at(tmp)).unwrap();
}

/// Puts an empty file in place by a link, as a script does: so quickly that the other name is
/// removed while this one is read.
fn put_mark_by_link(bench: &ShareBench, name: &str) {
    run_script(
        ": >\"$1\" && ln \"$1\" \"$2\" && rm \"$1\"",
        &[bench.at("tmp"), bench.at(name)],
    );
}

/// Runs a script in another process, so that only that process has its files open. A file open for
/// writing in this process is inherited for a moment by each program that another test starts.
fn run_script(script: &str, names: &[PathBuf]) {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).args(names);
    assert!(shell.status().unwrap().success());
}

/// Returns the position at which each name was put first, or last.
fn places(bench: &ShareBench, first: bool) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for (at, event) in bench.history.iter().enumerate() {
        if let ShareEvent::Put { path, .. } = event {
            let place = places.entry(path.to_string()).or_insert(at);
            *place = if first { *place } else { at };
        }
    }
    places
}

#[test]
fn a_file_that_arrives_by_link_is_listed_without_a_quiet_period() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    for number in 0..200 {
        let bytes = format!("object {number}");
        let name = format!("o{number}");
        put_by_link(&bench, "tmp_obj", &name, bytes.as_bytes());
    }
    let all = |b: &ShareBench| (0..200).all(|n| b.entry(&format!("o{n}")).is_some());
    bench.wait_for("all linked files", all);
    bench.write("outside", b"whole");
    fs::hard_link(bench.at("outside"), bench.at("second")).unwrap();
    bench.wait_for("a second link", |b| b.has("second", b"whole"));
}

/// Marker files signal that something is done, and must be announced before anything created after
/// them.
#[test]
fn an_empty_file_that_arrives_by_link_is_listed_in_order() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    for number in 0..50 {
        let (mark, after) = (format!("mark{number}"), format!("after{number}"));
        put_mark_by_link(&bench, &mark);
        bench.write(&after, b"a");
        bench.wait_for("what was made after the mark", |b| b.has(&after, b"a"));
        bench.wait_for("the mark", |b| b.has(&mark, b""));
    }
    let places = places(&bench, true);
    let late = (0..50).filter(|n| places[&format!("mark{n}")] > places[&format!("after{n}")]);
    assert_eq!(late.collect::<Vec<_>>(), [0; 0]);
}

#[test]
fn an_empty_file_with_an_open_writer_waits_for_it() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    let mut writer = fs::File::create(bench.at("f")).unwrap();
    bench.write("other", b"o");
    bench.wait_for("the other", |b| b.has("other", b"o"));
    assert!(bench.entry("f").is_none());
    std::io::Write::write_all(&mut writer, b"whole").unwrap();
    drop(writer);
    bench.wait_for("the whole file", |b| b.has("f", b"whole"));
    let sizes = bench.history.iter().filter_map(|event| match event {
        ShareEvent::Put { path, entry, .. } if path.to_string() == "f" => Some(entry),
        _ => None,
    });
    assert_eq!(sizes.count(), 1, "listed once, whole");
}

#[test]
fn a_linked_file_with_an_open_writer_waits_for_it() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    let outside = bench.home.path().join("outside");
    let mut writer = fs::File::create(&outside).unwrap();
    std::io::Write::write_all(&mut writer, b"half").unwrap();
    fs::hard_link(&outside, bench.at("f")).unwrap();
    bench.write("other", b"o");
    bench.wait_for("the other", |b| b.has("other", b"o"));
    assert!(bench.entry("f").is_none());
}

#[test]
fn a_small_pointer_is_not_listed_before_the_earlier_large_file() {
    let mut bench = ShareBench::new();
    let large = bench.home.path().join("large");
    fs::write(&large, vec![7; 60 << 20]).unwrap();
    for round in 0..3 {
        let object = format!("object{round}");
        let script = "(cat \"$1\" && echo \"$3\") >\"$2\" && ln \"$2\" \"$3\" && rm \"$2\" &&
            printf %s \"${3##*/}\" >\"$4\" && mv \"$4\" \"$5\"";
        let names = ["tmp", &object, "ref.lock", "ref"].map(|name| bench.at(name));
        run_script(script, &[std::slice::from_ref(&large), &names[..]].concat());
        bench.wait_for("the pointer", |b| b.has("ref", object.as_bytes()));
        assert!(bench.entry(&object).is_some(), "{object} was told later");
    }
}

#[test]
fn a_removal_is_reported_after_its_replacement() {
    let mut bench = ShareBench::new();
    (0..50).for_each(|n| bench.write(&format!("loose{n}"), b"l"));
    bench.settle();
    bench.history.clear();
    bench.write("pack", &vec![3; 60 << 20]);
    (0..50).for_each(|n| fs::remove_file(bench.at(&format!("loose{n}"))).unwrap());
    bench.settle();
    let packed = places(&bench, true)["pack"];
    let gone = |e: &ShareEvent| matches!(e, ShareEvent::Removed { .. });
    let first_gone = bench.history.iter().position(gone).unwrap();
    assert!(packed < first_gone);
}

/// Returns the positions of the first removal, and of the last put of a name that starts with
/// `new`.
fn first_gone_and_last_put(bench: &ShareBench, new: &str) -> (usize, usize) {
    let gone = |event: &ShareEvent| matches!(event, ShareEvent::Removed { .. });
    let put = |event: &ShareEvent| match event {
        ShareEvent::Put { path, .. } => path.to_string().starts_with(new),
        _ => false,
    };
    let first_gone = bench.history.iter().position(gone).unwrap();
    (first_gone, bench.history.iter().rposition(put).unwrap())
}

#[test]
fn a_renamed_directory_is_listed_whole_before_its_old_name_disappears() {
    const FILES: usize = 1500;
    let mut bench = ShareBench::new();
    bench.mkdir("old");
    (0..FILES).for_each(|n| bench.write(&format!("old/f{n}"), b"f"));
    bench.mkdir("elsewhere");
    bench.settle();
    for (old, new) in [("old", "new"), ("new", "elsewhere/old")] {
        bench.history.clear();
        fs::rename(bench.at(old), bench.at(new)).unwrap();
        bench.settle();
        let (first_gone, last_put) = first_gone_and_last_put(&bench, &format!("{new}/f"));
        assert!(last_put < first_gone, "{old} left before {new} was whole");
        assert_eq!(bench.names().len(), FILES + 2);
    }
}

#[test]
fn a_renamed_file_is_listed_before_its_old_name_disappears() {
    let mut bench = ShareBench::new();
    bench.write("old", &vec![3; 30 << 20]);
    bench.mkdir("elsewhere");
    bench.settle();
    for (old, new) in [("old", "new"), ("new", "elsewhere/old")] {
        bench.history.clear();
        fs::rename(bench.at(old), bench.at(new)).unwrap();
        bench.settle();
        let (first_gone, last_put) = first_gone_and_last_put(&bench, new);
        assert!(last_put < first_gone, "{old} left before {new} was there");
    }
}

#[test]
fn a_file_moved_out_of_the_share_disappears() {
    let mut bench = ShareBench::new();
    bench.write("f", b"f");
    bench.mkdir("d");
    bench.write("d/g", b"g");
    bench.settle();
    for name in ["f", "d"] {
        fs::rename(bench.at(name), bench.home.path().join(name)).unwrap();
        bench.settle();
        assert!(bench.entry(name).is_none());
    }
    assert!(bench.names().is_empty());
}

/// Commits as git does, in new directories and by links, with a pointer that moves.
fn commit(dir: &Path, number: usize) {
    let object = |kind: &str, size: usize| {
        let bytes = format!("{kind}{number}").repeat(size);
        let hash = ContentHash::of(bytes.as_bytes()).to_string();
        let folder = dir.join("objects").join(&hash[..2]);
        let _ = fs::create_dir(&folder);
        let tmp = folder.join(format!("tmp_obj_{kind}"));
        fs::write(&tmp, &bytes).unwrap();
        fs::hard_link(&tmp, folder.join(&hash[2..])).unwrap();
        fs::remove_file(&tmp).unwrap();
        format!("objects/{}/{}", &hash[..2], &hash[2..])
    };
    let named = [
        object("blob", 20_000),
        object("tree", 10),
        object("commit", 10),
    ]
    .join("\n");
    fs::write(dir.join("ref.lock"), named).unwrap();
    fs::rename(dir.join("ref.lock"), dir.join("ref")).unwrap();
    let release = format!("releases/{number}");
    fs::create_dir_all(dir.join(&release)).unwrap();
    fs::write(dir.join(&release).join("app"), release.as_bytes()).unwrap();
    symlink(&release, dir.join("new")).unwrap();
    fs::rename(dir.join("new"), dir.join("current")).unwrap();
}

/// Asserts that everything the pointers refer to is listed.
fn assert_whole(bench: &ShareBench, contents: &BTreeMap<ContentHash, String>) {
    let listed: BTreeSet<String> = bench.names().into_iter().collect();
    if let Some(Kind::File { hash, .. }) = bench.entry("ref").map(|e| &e.kind) {
        for object in contents[hash].lines() {
            assert!(
                listed.contains(object),
                "the reference came before {object}"
            );
        }
    }
    if let Some(Kind::Symlink { target }) = bench.entry("current").map(|e| &e.kind) {
        let app = format!("{}/app", String::from_utf8_lossy(target));
        assert!(listed.contains(&app), "the link came before {app}");
    }
}

#[test]
fn a_pointer_is_never_listed_before_its_target_however_fast_it_changes() {
    const COMMITS: usize = 150;
    let mut bench = ShareBench::new();
    bench.mkdir("objects");
    let dir = bench.dir();
    let writer = std::thread::spawn(move || {
        let mut contents = BTreeMap::new();
        for number in 0..COMMITS {
            commit(&dir, number);
            let named = fs::read_to_string(dir.join("ref")).unwrap();
            contents.insert(ContentHash::of(named.as_bytes()), named);
        }
        contents
    });
    let last = format!("releases/{}", COMMITS - 1);
    let is_last = |b: &ShareBench| match b.entry("current").map(|e| &e.kind) {
        Some(Kind::Symlink { target }) => target == last.as_bytes(),
        _ => false,
    };
    bench.wait_for("the last commit", is_last);
    bench.settle();
    let contents = writer.join().unwrap();
    // replay the listing now that the contents of each reference are known
    bench.listing.clear();
    for event in std::mem::take(&mut bench.history) {
        bench.take(event);
        assert_whole(&bench, &contents);
    }
    assert!(places(&bench, false).contains_key("ref"));
}
