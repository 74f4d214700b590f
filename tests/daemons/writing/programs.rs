//! Everyday programs that write into the mount of several nodes. Afterwards each node has exactly
//! the names and bytes that the programs leave on a disk.

use super::*;

/// Returns a directory on the disk of the tests, for the same work without p2pfs.
fn beside(node: &Node, name: &str) -> PathBuf {
    let dir = node.home.join("beside").join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Runs a shell line in a directory on the disk.
#[track_caller]
fn sh_on_disk(dir: &Path, line: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-ec", line]).env("LC_ALL", "C");
    run(shell.current_dir(dir)).expect_ok();
}

/// Runs the same lines on the disk and in the mount, each in turn on another node, and compares
/// everything after each line.
#[track_caller]
fn work_in_turn(nodes: &[Node], dir: &str, lines: &[&str]) {
    make_dir(nodes, dir);
    let control = beside(&nodes[0], dir);
    for (line, node) in lines.iter().zip(nodes.iter().cycle()) {
        sh_on_disk(&control, line);
        sh(node, dir, line).expect_ok();
        expect_tree(nodes, dir, &tree(&control));
    }
}

#[apply(promise)]
#[takes("sed")]
fn sed_in_place_replaces_files_of_any_node() {
    let lines = [
        "echo 'one line' > text; echo 'a line' > other",
        "sed -i s/line/word/ text other",
        "sed -i s/word/letter/ text",
        "sed -i.bak s/letter/digit/ text",
        "sed -i s/a/the/ other text.bak",
    ];
    work_in_turn(&world(), "sed", &lines);
}

#[apply(promise)]
#[takes("vim")]
fn vim_saves_files_of_any_node() {
    let vim = |change: &str| format!("vim -u NONE -es -c '%s/{change}/' -c wq text");
    let changes = ["line/word", "word/letter", "letter/digit", "one/first"].map(vim);
    let begin = "echo 'one line' > text";
    let lines = [begin, &changes[0], &changes[1], &changes[2], &changes[3]];
    work_in_turn(&world(), "vim", &lines);
    let keeps = "vim -u NONE -es -c 'set backup' -c '%s/first/last/' -c wq kept";
    let links = "vim -u NONE -es -c 'set backupcopy=no' -c '%s/last/newest/' -c wq kept";
    work_in_turn(&world(), "vim-kept", &["echo first > kept", keeps, links]);
}

#[apply(promise)]
#[takes("tar")]
fn tar_unpacks_over_files_of_any_node() {
    let world = world();
    let source = beside(&world[0], "tar-source");
    let make = "mkdir -p a/b/c d; echo 1 > a/1; echo 2 > a/b/2; echo 3 > d/3; echo '#!' > run; \
                chmod 755 run; ln -s a/b/2 link; touch -d 1999-01-02 a/1; \
                tar -cf ../first.tar .; echo 4 > a/1; echo 5 > a/b/c/5; rm d/3; rm link; \
                ln -s a/1 link; tar -cf ../second.tar .";
    sh_on_disk(&source, make);
    let archives = world[0].home.join("beside");
    let unpack = |archive: &str| format!("tar -xf {}/{archive}.tar", archives.display());
    let [first, second] = ["first", "second"].map(unpack);
    work_in_turn(&world, "tar", &[&first, &second, &first, &second]);
}

#[apply(promise)]
#[takes("rsync")]
fn rsync_makes_exact_copies_over_files_of_any_node() {
    let world = world();
    let source = beside(&world[0], "rsync-source");
    let states = [
        "mkdir -p a/b c; seq 20000 > a/numbers; echo 2 > a/b/2; echo 3 > c/3; ln -s a/b/2 link",
        "seq 20001 > a/numbers; echo other > a/b/2; rm -r c; mkdir d; echo 4 > d/4; rm link",
        "(seq 9999; echo x; seq 10000 20001) > a/numbers; rm d/4",
        "rm -r a; echo 5 > 5",
    ];
    for (dir, flags) in [
        ("rsync", "-a --delete"),
        ("rsync-inplace", "-a --inplace --no-whole-file --delete"),
        ("rsync-checksum", "-ac --delete"),
    ] {
        sh_on_disk(&source, "rm -rf ./*");
        make_dir(&world, dir);
        for (state, node) in states.iter().zip(world.iter().cycle()) {
            // The modes that the mount shows.
            sh_on_disk(&source, &format!("umask 002; chmod 775 .; {state}"));
            let line = format!("rsync {flags} {}/ .", source.display());
            sh(node, dir, &line).expect_ok();
            expect_tree(&world, dir, &tree(&source));
            // A directory shows the newest time of its entries, and a link when it was made.
            let check = format!("{line} --omit-dir-times --omit-link-times -ni");
            let again = sh(node, dir, &check).expect_ok();
            assert_eq!(again, "", "nothing is left to copy");
        }
    }
}

#[apply(promise)]
#[takes("sqlite3")]
fn sqlite_changes_a_database_of_any_node_in_each_journal_mode() {
    let world = world();
    for mode in ["delete", "truncate", "persist", "wal"] {
        let dir = format!("sqlite-{mode}");
        make_dir(&world, &dir);
        let control = beside(&world[0], &dir);
        let mode = format!("pragma journal_mode = {mode};");
        let statements = [
            "create table t(n integer primary key, s text); with recursive c(n) as \
             (select 1 union all select n + 1 from c where n < 500) \
             insert into t select n, 'row ' || n from c;",
            "update t set s = 'changed' where n % 3 = 0;",
            "delete from t where n > 100; vacuum;",
            "begin; insert into t(s) values ('new'); rollback; insert into t(s) values ('kept');",
        ];
        for (statement, node) in statements.iter().zip(world.iter().cycle()) {
            let line = format!("sqlite3 data.db \"{mode} {statement}\"");
            sh_on_disk(&control, &line);
            sh(node, &dir, &line).expect_ok();
            let names = names_below(&control);
            let written = hash_of(&node.mounted(&dir).join("data.db")).unwrap();
            for other in &*world {
                eventually("the database is on all", HANG_LIMIT, || {
                    let there = other.mounted(&dir);
                    names_below(&there) == names
                        && hash_of(&there.join("data.db")).is_ok_and(|hash| hash == written)
                });
            }
        }
        let question = "sqlite3 data.db 'pragma integrity_check; select count(*), max(s) from t;'";
        for node in &*world {
            let answer = sh(node, &dir, question).expect_ok();
            assert_eq!(answer, "ok\n101|row 98\n", "{mode} on {}", node.name);
        }
    }
}

#[apply(promise)]
#[takes("git")]
fn git_commits_on_one_node_and_goes_on_on_the_next() {
    let world = world();
    make_dir(&world, "git");
    let git = |node: &Node, line: &str| {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-c", "gc.auto=0"]);
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
        git.args(line.split(' ')).current_dir(node.mounted("git"));
        // Otherwise `status` writes the index on each node at once.
        git.env("GIT_OPTIONAL_LOCKS", "0");
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", &node.home);
        run(&mut git).expect_ok()
    };
    git(&world[0], "init -q -b main");
    for (number, node) in (1..).zip(world.iter().chain(&*world)) {
        for file in 0..5 {
            let name = format!("git/dir-{}/file-{file}", (number + file) % 4);
            let path = node.mounted(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{number} {file}\n").repeat(number)).unwrap();
        }
        git(node, "add -A");
        git(node, "commit -q -m more");
        if number == 4 {
            git(node, "gc -q");
        }
        let whole = tree(&node.mounted("git"));
        let litter: Vec<_> = whole
            .keys()
            .filter(|it| it.to_string_lossy().contains('~'))
            .collect();
        assert!(litter.is_empty(), "{litter:#?}");
        expect_tree(&world, "git", &whole);
        for node in &*world {
            git(node, "fsck --no-progress");
            assert_eq!(
                git(node, "rev-list --count HEAD").trim(),
                number.to_string()
            );
            assert_eq!(git(node, "status --porcelain"), "");
        }
        expect_tree(&world, "git", &tree(&world[0].mounted("git")));
    }
}
