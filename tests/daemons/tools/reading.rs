//! Programs that read a file: from any offset, through a mapping, under a lock, by executing it, or
//! by detecting its type.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use macro_rules_attribute::apply;

use super::{NEEDS, world};
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
#[takes("grep")]
fn grep_finds_in_all_files() {
    let world = world();
    let mut grep = Command::new("grep");
    let found = run(grep
        .args(["-rl", "needle", "."])
        .current_dir(world.seen("grep")));
    assert_eq!(found.expect_ok(), "./d1/needle.txt\n");
}

#[apply(promise)]
#[takes("dd")]
fn dd_reads_from_any_offset() {
    let world = world();
    let bytes = fs::read(world.source("dd.bin")).unwrap();
    let input = format!("if={}", world.seen("dd.bin").display());
    let dd = |more: &[&str]| {
        let mut dd = Command::new("dd");
        run(dd.arg(&input).arg("status=none").args(more)).stdout
    };
    let pages = dd(&["bs=4096", "skip=500", "count=3"]);
    assert_eq!(pages, bytes[500 * 4096..503 * 4096]);
    let odd = dd(&["bs=1013", "skip=1017", "count=7"]);
    assert_eq!(odd, bytes[1013 * 1017..1013 * 1024]);
    let direct = dd(&["bs=4096", "skip=100", "count=2", "iflag=direct"]);
    assert_eq!(direct, bytes[100 * 4096..102 * 4096]);
    assert_eq!(dd(&["bs=1M", "skip=9"]), b"", "past the end is nothing");
}

#[apply(promise)]
#[takes("python3")]
fn python_maps_a_file() {
    let world = world();
    let program = "import mmap, sys, hashlib\n\
        with open(sys.argv[1], 'rb') as f:\n\
        \x20   m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\n\
        print(m[2999990:].hex(), hashlib.sha256(m).hexdigest())\n";
    let hashed =
        |path: &Path| run(Command::new("python3").arg("-c").arg(program).arg(path)).expect_ok();
    assert_eq!(
        hashed(&world.seen("mmap.bin")),
        hashed(&world.source("mmap.bin"))
    );
}

#[apply(promise)]
#[takes("sqlite3")]
fn sqlite_reads_a_database() {
    let world = world();
    let answer = |path: &Path| {
        let question = "pragma integrity_check; select count(*), sum(length(s)) from t;";
        let mut sqlite = Command::new("sqlite3");
        run(sqlite.arg("-readonly").arg(path).arg(question)).expect_ok()
    };
    let seen = answer(&world.seen("data.db"));
    assert_eq!(seen, "ok\n5000|400000\n");
    assert_eq!(seen, answer(&world.source("data.db")));
}

#[apply(promise)]
fn read_locks_work_among_local_programs() {
    let world = world();
    let open = || File::open(world.seen("words.txt")).unwrap();
    let (one, two) = (open(), open());
    one.lock_shared().unwrap();
    two.lock_shared().unwrap();
    assert!(two.try_lock().is_err(), "the other still reads");
    drop(one);
    eventually("the lock goes with its file", HANG_LIMIT, || {
        two.try_lock().is_ok()
    });
}

#[apply(promise)]
fn a_program_runs_from_the_mount() {
    let world = world();
    let echoed = run(Command::new(world.seen("bin/echo")).arg("hello"));
    assert_eq!(echoed.expect_ok(), "hello\n");
    let script = world.seen("bin/script");
    let ran = run(&mut Command::new(&script)).expect_ok();
    assert_eq!(ran, format!("ran as {}\n", script.display()));
}

#[apply(promise)]
#[takes("file")]
fn file_knows_the_type() {
    let world = world();
    let kind = |path: &Path| run(Command::new("file").arg("-b").arg(path)).expect_ok();
    for name in ["page.html", "bin/echo", "bin/script", "data.db"] {
        assert_eq!(kind(&world.seen(name)), kind(&world.source(name)), "{name}");
    }
}

#[apply(promise)]
#[takes("less", "gio")]
fn viewers_and_file_managers_show_a_file() {
    let world = world();
    let words = world.seen("words.txt");
    let shown = run(Command::new("less").arg(&words));
    assert_eq!(shown.expect_ok(), "some words\nand more\n");
    let mut gio = Command::new("gio");
    let listed = run(gio.args(["list", "-l"]).arg(world.seen("bin"))).expect_ok();
    let names: BTreeSet<&str> = listed
        .lines()
        .map(|l| l.split('\t').next().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(["echo", "script"]));
    let mut gio = Command::new("gio");
    let info = run(gio.args(["info", "-a", "standard::size"]).arg(&words)).expect_ok();
    assert!(info.contains("standard::size: 20"), "{info}");
}

#[apply(promise)]
#[takes("sha256sum")]
fn sha256sum_agrees_with_the_source() {
    let world = world();
    let sum = |path: &Path| {
        let text = run(Command::new("sha256sum").arg(path)).expect_ok();
        text.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(sum(&world.seen("sum.bin")), sum(&world.source("sum.bin")));
}

#[apply(promise)]
fn an_o_direct_read_gets_the_same_bytes() {
    let world = world();
    let bytes = fs::read(world.source("direct.bin")).unwrap();
    for round in ["not cached", "cached"] {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT);
        let file = options.open(world.seen("direct.bin")).unwrap();
        // A disk requires that memory, offset and length are aligned.
        let mut room = vec![0u8; 3 * 4096];
        let start = room.as_ptr().align_offset(4096);
        let page = &mut room[start..start + 8192];
        for offset in [0, 1 << 20, 2_998_272] {
            let length = file.read_at(page, offset as u64).unwrap();
            let end = (offset + 8192).min(bytes.len());
            assert_eq!(page[..length], bytes[offset..end], "{round} at {offset}");
        }
        drop(file);
        assert!(fs::read(world.seen("direct.bin")).unwrap() == bytes);
    }
}

#[apply(promise)]
#[takes("cat")]
fn a_thumbnailer_gets_only_cached_bytes() {
    let world = world();
    let thumbnailer = world.out("tumblerd");
    copy_program("/bin/cat", &thumbnailer);
    let name = "thumbnail.bin";
    let read = |program: &Path| run(Command::new(program).arg(world.seen(name)));
    let cached = || {
        let listed = world.reader.cli(&["ls", name, "--json"]).expect_json();
        listed.to_string()
    };
    let before = cached();
    let refused = read(&thumbnailer);
    assert!(
        refused.stderr.contains("Permission denied"),
        "{}",
        refused.stderr
    );
    assert_eq!(refused.stdout, b"");
    assert_eq!(cached(), before, "nothing was fetched for it");
    let bytes = fs::read(world.source(name)).unwrap();
    assert!(
        read(Path::new("/bin/cat")).stdout == bytes,
        "others are served"
    );
    assert!(
        read(&thumbnailer).stdout == bytes,
        "from the cache it reads as everybody"
    );
    // A running daemon applies a new list.
    let configure = |text: &str| {
        fs::write(world.reader.home.join("p2pfs.toml"), text).unwrap();
        world.reader.signal(libc::SIGHUP);
    };
    configure("[readers]\ncached_only = []\n");
    let unlisted = world.seen("unlisted.bin");
    eventually("whom nobody lists is served", HANG_LIMIT, || {
        run(Command::new(&thumbnailer).arg(&unlisted))
            .status
            .success()
    });
    configure("");
}
