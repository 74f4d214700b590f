//! Shares that do not exist when the daemon starts.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

fn warnings(node: &Node) -> String {
    node.cli(&["status", "--json"]).expect_json()["warnings"].to_string()
}

fn reload(node: &Node, config: &str) {
    fs::write(node.home.join("p2pfs.toml"), config).unwrap();
    node.signal(libc::SIGHUP);
}

fn share_with_a_file(dir: &Path, name: &str) {
    fs::create_dir(dir).unwrap();
    fs::write(dir.join(name), name).unwrap();
}

#[apply(promise)]
fn a_missing_share_is_reported_until_it_is_present_or_unwanted() {
    let mut cluster = Cluster::new();
    let dir = |name: &str| cluster.folder.path().join(name);
    let [comes, goes, last] = [dir("comes"), dir("goes"), dir("last")];
    let share = |dir: &Path| format!("[[share]]\ndir = '{}'\n", dir.display());
    let node = cluster.start_with(NodeOptions {
        config: share(&comes) + &share(&goes),
        ..NodeOptions::new("one")
    });
    let not_shared = |dir: &Path| format!("{} is not shared: ", dir.display());
    for missing in [&comes, &goes] {
        let told = warnings(&node);
        assert!(told.contains(&not_shared(missing)), "{told}");
    }
    share_with_a_file(&comes, "came");
    reload(&node, &share(&comes));
    node.wait_for_file("came");
    eventually("nothing is missing", HANG_LIMIT, || {
        !warnings(&node).contains("shared")
    });
    // A folder that returns after its section was removed is not shared.
    share_with_a_file(&goes, "late");
    share_with_a_file(&last, "last");
    reload(&node, &(share(&comes) + &share(&last)));
    node.wait_for_file("last");
    let shares = node.cli(&["share", "--json"]).expect_json()["shares"].to_string();
    assert!(!shares.contains(goes.to_str().unwrap()), "{shares}");
}

#[apply(promise)]
fn a_missing_share_added_by_command_can_be_removed_by_command() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    let added = node.home.join("added");
    share_with_a_file(&added, "file");
    node.cli(&["share", "add", added.to_str().unwrap()])
        .expect_ok();
    node.stop();
    fs::rename(&added, node.home.join("away")).unwrap();
    node.launch();
    let told = warnings(&node);
    assert!(told.contains("is not shared"), "{told}");
    node.cli(&["share", "remove", added.to_str().unwrap()])
        .expect_ok();
    let told = warnings(&node);
    assert!(!told.contains("is not shared"), "{told}");
    node.stop();
    node.launch();
    let told = warnings(&node);
    assert!(!told.contains("is not shared"), "{told}");
}

#[apply(promise)]
fn a_folder_replaced_by_a_link_since_share_add_is_not_followed() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    let (added, private) = (node.home.join("added"), node.home.join("private"));
    share_with_a_file(&added, "file");
    share_with_a_file(&private, "nobody's");
    let name = added.to_str().unwrap();
    node.cli(&["share", "add", name]).expect_ok();
    node.stop();
    fs::rename(&added, node.home.join("away")).unwrap();
    symlink(&private, &added).unwrap();
    node.launch();
    let told = warnings(&node);
    assert!(
        told.contains("leads to") && told.contains("private"),
        "{told}"
    );
    node.write("last", b"last");
    node.wait_for_file("last");
    assert!(!node.cli(&["ls"]).expect_ok().contains("nobody's"));
    node.cli(&["share", "remove", name]).expect_ok();
    assert!(!warnings(&node).contains("leads to"));
    node.stop();
    node.launch();
    assert!(!warnings(&node).contains("leads to"));
    // A link that leads to a share is a name of that share.
    let other = node.home.join("other");
    share_with_a_file(&other, "others");
    let by_link = node.home.join("link");
    symlink(&other, &by_link).unwrap();
    let by_link = by_link.to_str().unwrap();
    node.cli(&["share", "add", by_link]).expect_ok();
    node.wait_for_file("others");
    node.cli(&["share", "remove", by_link]).expect_ok();
    node.stop();
    node.launch();
    assert!(!node.cli(&["share"]).expect_ok().contains("other"));
}

#[apply(promise)]
fn link_of_another_user_in_place_of_a_configured_share_is_never_followed() {
    const BOB: u32 = 1234;
    let mut cluster = Cluster::new();
    let folder = cluster.folder.path().canonicalize().unwrap();
    let (bob, private) = (folder.join("bob"), folder.join("private"));
    let shared = bob.join("pub");
    share_with_a_file(&private, "diary");
    set_mode(&private, 0o700);
    fs::create_dir(&bob).unwrap();
    chown(&bob, Some(BOB), Some(BOB)).unwrap();
    let config = format!("[[share]]\ndir = {shared:?}\ninclude_private = true\n");
    let mut node = cluster.start_with(NodeOptions {
        config: config.clone(),
        ..NodeOptions::new("one")
    });
    let is_refused = |node: &Node| {
        let told = warnings(node);
        let why = format!("user {BOB} owns");
        told.contains("leads elsewhere") && told.contains(&why) && told.contains("by its own name")
    };
    let lists_nothing = |node: &Node| {
        assert!(!node.cli(&["ls"]).expect_ok().contains("diary"));
        let shares = node.cli(&["share", "--json"]).expect_json();
        let shares = shares["shares"].to_string();
        assert!(!shares.contains(private.to_str().unwrap()), "{shares}");
    };
    // The missing share is tried again without a reload.
    symlink(&private, &shared).unwrap();
    eventually("it is refused", HANG_LIMIT, || is_refused(&node));
    lists_nothing(&node);
    node.stop();
    node.launch();
    eventually("it is refused again", HANG_LIMIT, || is_refused(&node));
    lists_nothing(&node);
    let refused = node.cli(&["share", "add", shared.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let said = refused.stderr.split_whitespace().collect::<Vec<_>>();
    let said = said.join(" ");
    assert!(said.contains("user 1234 owns"), "{said}");
    // What replaces the share later is not followed either, with other settings at a reload too.
    fs::remove_file(&shared).unwrap();
    share_with_a_file(&shared, "of-bob");
    node.wait_for_file("of-bob");
    fs::rename(&shared, bob.join("aside")).unwrap();
    symlink(&private, &shared).unwrap();
    reload(&node, &(config + "as = 'elsewhere'\n"));
    eventually("it is withdrawn", HANG_LIMIT, || {
        is_refused(&node) && !node.cli(&["ls"]).expect_ok().contains("of-bob")
    });
    lists_nothing(&node);
    let below = node.cli(&["ls", "elsewhere"]);
    assert!(!String::from_utf8_lossy(&below.stdout).contains("diary"));
}

#[apply(promise)]
fn a_share_added_by_command_stays_when_the_configuration_drops_it() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    let (added, last) = (node.home.join("added"), node.home.join("last"));
    share_with_a_file(&added, "file");
    share_with_a_file(&last, "last");
    let name = added.to_str().unwrap();
    let share = |dir: &Path| format!("[[share]]\ndir = '{}'\n", dir.display());
    let excludes = |node: &Node| {
        let shares = node.cli(&["share", "--json"]).expect_json()["shares"].clone();
        let shares = shares.as_array().unwrap().clone();
        let found = shares.into_iter().find(|share| share["path"] == name);
        found.map(|share| share["exclude"].to_string())
    };
    node.cli(&["share", "add", name, "--exclude", "by-command"])
        .expect_ok();
    node.wait_for_file("file");
    reload(&node, &(share(&added) + "exclude = ['configured']\n"));
    eventually("the configuration has it", HANG_LIMIT, || {
        excludes(&node).is_some_and(|it| it.contains("configured"))
    });
    let refused = node.cli(&["share", "remove", name]);
    assert!(
        refused.stderr.contains("by the configuration"),
        "{}",
        refused.stderr
    );
    reload(&node, &share(&last));
    node.wait_for_file("last");
    let told = excludes(&node);
    assert!(
        told.as_ref().is_some_and(|it| it.contains("by-command")),
        "{told:?}"
    );
    node.cli(&["share", "remove", name]).expect_ok();
    assert_eq!(excludes(&node), None);
    node.stop();
    node.launch();
    assert_eq!(excludes(&node), None);
}

#[apply(promise)]
fn a_share_configured_by_a_link_ends_when_it_is_removed() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let at = |name: &str| node.home.join(name);
    let [real, link, first, second] = ["real", "link", "first", "second"].map(at);
    for dir in [&real, &first, &second] {
        share_with_a_file(dir, dir.file_name().unwrap().to_str().unwrap());
    }
    symlink(&real, &link).unwrap();
    let share = |dir: &Path| format!("[[share]]\ndir = '{}'\n", dir.display());
    reload(&node, &share(&link));
    node.wait_for_file("real");
    reload(&node, &share(&first));
    node.wait_for_file("first");
    eventually("it is listed no more", HANG_LIMIT, || {
        !node.cli(&["ls"]).expect_ok().contains("real")
    });
    // A share added by command stays.
    node.cli(&["share", "add", real.to_str().unwrap()])
        .expect_ok();
    node.wait_for_file("real");
    reload(&node, &(share(&link) + &share(&second)));
    node.wait_for_file("second");
    reload(&node, &share(&first));
    node.wait_for_file("first");
    eventually("it is shared as it was added", HANG_LIMIT, || {
        let shares = node.cli(&["share"]).expect_ok();
        shares.contains(real.to_str().unwrap())
    });
}

#[apply(promise)]
fn an_inbox_cannot_be_unshared_by_command() {
    let mut cluster = Cluster::new();
    let (shared, link) = (
        cluster.folder.path().join("shared"),
        cluster.folder.path().join("link"),
    );
    fs::create_dir(&shared).unwrap();
    symlink(&shared, &link).unwrap();
    // The inbox lies inside a folder that is shared by another name, so it is a missing share.
    let inbox = shared.join("inbox");
    let node = cluster.start_with(NodeOptions {
        shares: vec![link],
        config: format!("[inbox]\ndir = {inbox:?}\nfrom = ['*']\n"),
        ..NodeOptions::new("one")
    });
    let refused = node.cli(&["share", "remove", inbox.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("is this node's inbox"),
        "{}",
        refused.stderr
    );
    let told = warnings(&node);
    assert!(told.contains("is not shared"), "{told}");
}

#[apply(promise)]
fn an_open_inbox_is_listed_regardless_of_reloaded_shares() {
    let mut cluster = Cluster::new();
    let around = cluster.folder.path().join("around");
    let inbox = around.join("inbox");
    share_with_a_file(&around, "beside");
    share_with_a_file(&inbox, "given");
    let open = format!("[inbox]\ndir = {inbox:?}\nfrom = ['*']\n");
    let shared = |dir: &Path| format!("{open}[[share]]\ndir = {dir:?}\n");
    let node = cluster.start_with(NodeOptions {
        config: shared(&around),
        ..NodeOptions::unmounted("one")
    });
    let reload = |config: &str, expected: &[&str]| {
        fs::write(node.home.join("p2pfs.toml"), config).unwrap();
        node.signal(libc::SIGHUP);
        eventually(config, HANG_LIMIT, || {
            let listed = node.cli(&["ls"]).expect_ok();
            listed.lines().collect::<Vec<_>>() == expected
        });
    };
    node.wait_for_file("inbox/given");
    reload(&open, &["given"]);
    reload(&shared(&inbox), &["given"]);
    reload(&open, &["given"]);
    reload(&shared(&around), &["beside", "inbox"]);
    assert!(
        !warnings(&node).contains("is not shared"),
        "{}",
        warnings(&node)
    );
}

#[apply(promise)]
fn shares_of_an_earlier_run_are_unlisted_once_gone_or_unwanted() {
    let mut cluster = Cluster::new();
    let reader = cluster.start("reader");
    let dir = |name: &str| cluster.folder.path().join(name);
    let [unshared, unplugged, away] = [dir("unshared"), dir("unplugged"), dir("away")];
    share_with_a_file(&unshared, "private");
    share_with_a_file(&unplugged, "film");
    let mut node = cluster.start_with(NodeOptions {
        shares: vec![unshared.clone(), unplugged.clone()],
        ..NodeOptions::unmounted("sharer")
    });
    reader.wait_for_file("private");
    reader.wait_for_file("film");
    node.stop();
    fs::rename(&unplugged, &away).unwrap();
    node.options.shares = vec![unplugged.clone()];
    node.launch();
    eventually("neither is listed", HANG_LIMIT, || {
        let listed = reader.cli(&["ls"]).expect_ok();
        !listed.contains("private") && !listed.contains("film")
    });
    fs::rename(&away, &unplugged).unwrap();
    // The signal makes the node look again sooner than it does by itself.
    node.signal(libc::SIGHUP);
    reader.wait_for_file("film");
}
