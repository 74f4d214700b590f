//! Promises about membership, with daemons on loopback.

use std::fs;

use macro_rules_attribute::apply;
use serde_json::{Value, json};

use crate::support::daemon::*;
use crate::support::process::{HANG_LIMIT, WAIT_LIMIT, eventually};
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// Lets a node join the cluster of another.
pub(crate) fn invite(inviter: &Node, flags: &[&str], joiner: &Node) {
    let token = inviter.cli(&[&["invite"], flags].concat()).expect_ok();
    joiner.cli(&["join", "--yes", token.trim()]).expect_ok();
}

fn trust(node: &Node) -> Value {
    serde_json::from_str(&node.cli(&["trust", "--json"]).expect_ok()).unwrap()
}

fn node_key(node: &Node) -> String {
    let status: Value = serde_json::from_str(&node.cli(&["status", "--json"]).expect_ok()).unwrap();
    status["node"].as_str().unwrap().to_owned()
}

pub(crate) fn members(node: &Node) -> Vec<String> {
    let trust = trust(node);
    let members = trust["members"].as_array().unwrap().iter();
    let mut names: Vec<String> = members
        .map(|it| it["name"].as_str().unwrap().into())
        .collect();
    names.sort();
    names
}

/// Returns the state of another node in `p2pfs peers`.
pub(crate) fn state_of(node: &Node, name: &str) -> String {
    let peers = node.cli(&["peers", "--json"]).expect_json();
    let peers = peers["peers"].as_array().unwrap().iter();
    let mut called = peers.filter(|peer| peer["name"] == name);
    let state = called.next().map(|peer| peer["state"].clone());
    state.map_or_else(String::new, |state| state.as_str().unwrap().to_owned())
}

#[apply(promise)]
fn a_joiner_finds_the_others_even_if_restarted_right_away() {
    let mut home = Cluster::with_own_secrets();
    let one = home.start_with(NodeOptions::unmounted("one"));
    for name in ["two", "three", "four"] {
        // The joiner has its own folder, so no seed names the first node.
        let mut folder = Cluster::with_own_secrets();
        let mut joiner = folder.start_with(NodeOptions::unmounted(name));
        invite(&one, &[], &joiner);
        joiner.stop();
        joiner.launch();
        let waited = ["wait", "--peers", "1", "--timeout", WAIT_LIMIT];
        joiner.cli(&waited).expect_ok();
    }
}

#[apply(promise)]
fn a_member_has_one_name_in_all_commands() {
    let mut cluster = Cluster::with_own_secrets();
    let (home, attic) = (cluster.start("home"), cluster.start("attic"));
    invite(&home, &["--name", "attic3"], &attic);
    attic.write("of-attic.txt", b"x");
    home.cli(&["wait", "--file", "of-attic.txt"]).expect_ok();
    eventually("attic3 is alive", HANG_LIMIT, || {
        state_of(&home, "attic3") == "alive"
    });
    assert_eq!(members(&home), ["attic3", "home"]);
    let status = attic.cli(&["status", "--json"]).expect_json();
    assert_eq!(status["name"], "attic3");
    let why = home.cli(&["why", "of-attic.txt", "--json"]).expect_json();
    assert_eq!(why["versions"][0]["author"], "attic3");
    home.cli(&["ping", "attic3"]).expect_ok();
    let said = home.cli(&["events"]).expect_ok();
    assert!(said.contains("attic3 is up"), "{said}");
    assert!(!said.contains("attic is up"), "{said}");
    let readers = home.share.with_file_name("for-attic");
    fs::create_dir(&readers).unwrap();
    let dir = readers.to_str().unwrap();
    let shared = home.cli(&["share", "add", dir, "--yes", "--readers", "attic3"]);
    let shared = shared.expect_ok();
    assert!(shared.contains("to attic3 alone"), "{shared}");
    let rotated = home.cli(&["rotate"]).expect_ok();
    assert_eq!(rotated, "the members receive a fresh secret\n");
}

#[apply(promise)]
fn a_daemon_admits_no_guest_under_a_name_with_a_meaning() {
    let mut cluster = Cluster::with_own_secrets();
    let folder = cluster.folder.path().join("for-readers");
    fs::create_dir(&folder).unwrap();
    let inbox = cluster.folder.path().join("inbox");
    let one = cluster.start_with(NodeOptions {
        config: format!(
            "groups = ['office=grouped']\n[mount]\nenabled = false\n[inbox]\ndir = '{}'\n\
             from = ['sender']\n[[share]]\ndir = '{}'\nreaders = ['reader', 'office']\n",
            inbox.display(),
            folder.display()
        ),
        ..NodeOptions::unmounted("one")
    });
    let two = cluster.start_with(NodeOptions::unmounted("two"));
    invite(&one, &[], &two);
    let mut guest = cluster.start_with(NodeOptions::unmounted("guest"));
    for name in ["one", "two", "reader", "office", "grouped", "sender"] {
        guest.stop();
        guest.name = name.to_owned();
        guest.launch();
        let token = one.cli(&["invite"]).expect_ok();
        let refused = guest.cli(&["join", token.trim()]);
        assert_eq!(refused.status.code(), Some(1), "{name}: {}", refused.stderr);
        assert_eq!(members(&one), ["one", "two"], "{name}");
    }
    // The issuer can give such a name.
    invite(&one, &["--name", "reader"], &guest);
    assert_eq!(members(&one), ["one", "reader", "two"]);
}

#[apply(promise)]
fn an_expelled_node_is_out_everywhere_within_seconds_and_the_others_continue() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, two, three) = (
        cluster.start("one"),
        cluster.start("two"),
        cluster.start("three"),
    );
    invite(&one, &[], &two);
    invite(&one, &[], &three);
    for node in [&one, &two, &three] {
        node.write(&format!("of-{}.txt", node.name), node.name.as_bytes());
    }
    for node in [&one, &two, &three] {
        for file in ["of-one.txt", "of-two.txt", "of-three.txt"] {
            node.wait_for_file(file);
        }
    }
    assert_eq!(members(&two), ["one", "three", "two"]);
    // A member without the right can neither expel nor invite.
    for refused in [two.cli(&["expel", "three", "--yes"]), two.cli(&["invite"])] {
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
        assert!(
            refused.stderr.contains("may not admit or expel"),
            "{}",
            refused.stderr
        );
    }
    let before = trust(&two)["epoch"].clone();
    one.cli(&["expel", "three", "--yes"]).expect_ok();
    for node in [&one, &two] {
        eventually("its file is gone from the listing", HANG_LIMIT, || {
            !node.mounted("of-three.txt").exists()
        });
        eventually("it is not a member", HANG_LIMIT, || {
            members(node) == ["one", "two"]
        });
        eventually("the secret is fresh", HANG_LIMIT, || {
            trust(node)["epoch"] != before
        });
    }
    one.write("after.txt", b"after");
    two.wait_for_file("after.txt");
    eventually("it sees nobody", HANG_LIMIT, || {
        !three.mounted("of-one.txt").exists() && !three.mounted("after.txt").exists()
    });
    let history = trust(&two)["history"].clone();
    let steps = history.as_array().unwrap().iter();
    let out = steps
        .clone()
        .find(|step| step["what"] == "expelled")
        .unwrap();
    assert_eq!(
        (out["name"].as_str(), out["by"].as_str()),
        (Some("three"), Some("one"))
    );
    assert!(steps.clone().any(|step| step["what"] == "rotated"));
    let told = one.cli(&["trust"]).expect_ok();
    assert!(told.contains("three: expelled"), "{told}");
    let three_key = node_key(&three);
    for node in [&one, &two] {
        eventually("peers says how it went", HANG_LIMIT, || {
            state_of(node, "three") == "expelled"
        });
        let peers = node.cli(&["peers"]).expect_ok();
        assert!(
            !peers.contains(&three_key[..8]),
            "a key for a name: {peers}"
        );
    }
    let again = one.cli(&["expel", "three", "--yes"]);
    assert_eq!(again.status.code(), Some(1), "{}", again.stderr);
}

#[apply(promise)]
fn nodes_admitted_by_a_bad_administrator_are_named_and_expelled_with_it() {
    let mut cluster = Cluster::with_own_secrets();
    let [one, mallory, carol, dave] =
        ["one", "mallory", "carol", "dave"].map(|name| cluster.start(name));
    invite(&one, &["--admin"], &mallory);
    invite(&mallory, &[], &carol);
    invite(&mallory, &[], &dave);
    // A second member admits dave too.
    invite(&one, &[], &dave);
    carol.write("of-carol.txt", b"carol");
    for node in [&one, &dave] {
        node.wait_for_file("of-carol.txt");
    }
    let named = one.cli(&["expel", "mallory", "--yes"]).expect_ok();
    assert!(named.contains("by the word of mallory alone"), "{named}");
    assert!(
        named.contains("carol") && !named.contains("dave"),
        "{named}"
    );
    assert_eq!(members(&one), ["carol", "dave", "one"], "they stay");
    let expel = ["expel", "mallory", "--with-admitted", "--yes", "--json"];
    let expelled = one.cli(&expel).expect_json();
    assert_eq!(expelled["admitted"][0]["name"], "carol");
    assert_eq!(expelled["admitted"].as_array().unwrap().len(), 1);
    for node in [&one, &dave] {
        eventually("she is not a member", HANG_LIMIT, || {
            members(node) == ["dave", "one"]
        });
        eventually("her file is gone", HANG_LIMIT, || {
            !node.mounted("of-carol.txt").exists()
        });
    }
    eventually("she is told", HANG_LIMIT, || {
        said(&carol, "status").contains("this node was expelled by one on ")
    });
    let told = one.cli(&["trust"]).expect_ok();
    let gone = |name: &str, with: &str| {
        let line = told.lines().find(|line| line.starts_with(name));
        line.is_some_and(|line| line.contains(": expelled ") && line.ends_with(with))
    };
    assert!(gone("mallory", " by one"), "{told}");
    assert!(
        gone("carol", " by one, with mallory, who had let it in"),
        "{told}"
    );
    dave.write("after.txt", b"after");
    one.wait_for_file("after.txt");
    assert!(!carol.mounted("after.txt").exists());
}

/// Returns the output of a command without its line breaks.
fn said(node: &Node, command: &str) -> String {
    let said = node.cli(&[command]).text();
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[apply(promise)]
fn a_node_expelled_while_away_is_told_by_which_node_and_how_to_return() {
    let mut cluster = Cluster::with_own_secrets();
    // The node to be expelled has no seed. It must use the addresses that it remembers.
    let (mut two, one) = (cluster.start("two"), cluster.start("one"));
    invite(&one, &[], &two);
    one.write("of-one.txt", b"one");
    two.wait_for_file("of-one.txt");
    two.stop();
    one.cli(&["expel", "two", "--yes"]).expect_ok();
    two.launch();
    let expelled = "this node was expelled by one on ";
    let way_back = "p2pfs join - here";
    eventually("status warns of it", HANG_LIMIT, || {
        said(&two, "status").contains(expelled)
    });
    let status = said(&two, "status");
    assert!(status.contains(way_back), "{status}");
    let doctor = two.cli(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "{}", doctor.stderr);
    let doctor = said(&two, "doctor");
    assert!(
        doctor.contains(expelled) && doctor.contains(way_back),
        "{doctor}"
    );
    for wrong in ["bring one in", "firewall", "another secret"] {
        assert!(!doctor.contains(wrong), "{doctor}");
    }
    invite(&one, &[], &two);
    two.wait_for_file("of-one.txt");
    assert!(!said(&two, "status").contains(expelled));
}

#[apply(promise)]
fn an_unsigned_refusal_expels_no_node_and_explains_its_meaning() {
    let mut cluster = Cluster::with_own_secrets();
    let (mut one, two) = (cluster.start("one"), cluster.start("two"));
    let elsewhere = cluster.start("elsewhere");
    invite(&one, &[], &two);
    two.write("of-two.txt", b"two");
    one.wait_for_file("of-two.txt");
    one.stop();
    // A node in another cluster has no information about this one.
    invite(&elsewhere, &[], &two);
    one.launch();
    let refusal = "takes this node for no member: either this node was expelled, or that one is";
    eventually("doctor says what it can mean", HANG_LIMIT, || {
        said(&one, "doctor").contains(refusal)
    });
    assert!(!said(&one, "doctor").contains("firewall"));
    let status = said(&one, "status");
    assert!(!status.contains("expelled"), "{status}");
    assert_eq!(members(&one), ["one", "two"]);
    // The node goes on as before and may still invite.
    let three = cluster.start("three");
    invite(&one, &[], &three);
    three.write("of-three.txt", b"three");
    one.wait_for_file("of-three.txt");
}

#[apply(promise)]
fn an_invited_administrator_invites_and_a_restart_keeps_the_members() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two, three) = (
        cluster.start("one"),
        cluster.start("two"),
        cluster.start("three"),
    );
    invite(&one, &["--admin"], &two);
    invite(&two, &[], &three);
    one.write("a.txt", b"a");
    three.wait_for_file("a.txt");
    two.stop();
    one.cli(&["rotate"]).expect_ok();
    two.launch();
    eventually("it is back under the fresh secret", HANG_LIMIT, || {
        two.mounted("a.txt").exists() && trust(&two)["epoch"] == trust(&one)["epoch"]
    });
    assert_eq!(members(&two), ["one", "three", "two"]);
}

#[apply(promise)]
fn a_node_that_lost_its_secret_file_is_back_after_a_start() {
    let mut cluster = Cluster::with_own_secrets();
    let (mut one, mut two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &[], &two);
    one.write("of-one.txt", b"one");
    two.wait_for_file("of-one.txt");
    // A node that may admit gives the others a new secret.
    for turn in 0..2 {
        let node = [&mut two, &mut one].into_iter().nth(turn).unwrap();
        node.stop();
        fs::remove_file(node.home.join("state/secrets")).unwrap();
        node.launch();
        let name = format!("after-{turn}.txt");
        one.write(&name, b"after");
        two.wait_for_file(&name);
        eventually("both have one secret", HANG_LIMIT, || {
            trust(&two)["epoch"] == trust(&one)["epoch"]
        });
    }
}

#[apply(promise)]
fn joining_another_cluster_drops_the_previous_one() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, two, other) = (
        cluster.start("one"),
        cluster.start("two"),
        cluster.start("other"),
    );
    invite(&one, &[], &two);
    one.write("old.txt", b"old");
    two.wait_for_file("old.txt");
    other.write("new.txt", b"new");
    invite(&other, &[], &two);
    two.wait_for_file("new.txt");
    eventually(
        "the names of the cluster before are gone",
        HANG_LIMIT,
        || !two.mounted("old.txt").exists(),
    );
    assert_eq!(members(&two), ["other", "two"]);
    one.write("later.txt", b"later");
    other.write("last.txt", b"last");
    two.wait_for_file("last.txt");
    assert!(!two.mounted("later.txt").exists());
    let peers = two.cli(&["peers"]).expect_ok();
    assert!(peers.contains("other"), "{peers}");
    let before = one.cli(&["status", "--json"]).expect_json()["node"].to_string();
    assert!(
        !peers.contains("expelled") && !peers.contains(&before[1..9]),
        "nobody of the cluster before: {peers}"
    );
}

/// Without this, a node would try a waiting token again and again, and might join another cluster
/// one day.
#[apply(promise)]
fn a_waiting_token_and_its_warning_end_once_another_was_used() {
    let mut cluster = Cluster::with_own_secrets();
    let (mut one, mut two, other) = (
        cluster.start("one"),
        cluster.start("two"),
        cluster.start("other"),
    );
    let token = one.cli(&["invite"]).expect_ok();
    let own = one.cli(&["join", token.trim()]).stderr;
    assert!(own.contains("on the machine that is to come in"), "{own}");
    one.stop();
    two.stop();
    let state = two.home.join("state");
    let place = ["--state", state.to_str().unwrap()];
    let join = |token: &str| {
        two.cli(&[&["join", token][..], &place].concat())
            .expect_ok()
    };
    let told = join(token.trim());
    assert!(
        told.contains(&format!("p2pfs daemon --state {}", state.display())),
        "{told}"
    );
    assert!(!told.contains("in place of another"), "{told}");
    let told = join(other.cli(&["invite"]).expect_ok().trim());
    assert!(told.contains("in place of another"), "{told}");
    join(token.trim());
    two.launch();
    let warned = || two.cli(&["status"]).expect_ok().contains("not used yet");
    eventually("it is said that the token waits", HANG_LIMIT, warned);
    invite(&other, &[], &two);
    assert!(!warned() && !state.join("join-token").exists());
    assert_eq!(members(&two), ["other", "two"]);
}

#[apply(promise)]
fn doctor_shows_a_waiting_token_that_is_broken_until_another_is_used() {
    let mut cluster = Cluster::with_own_secrets();
    let other = cluster.start_with(NodeOptions::unmounted("other"));
    let mut node = cluster.start_with(NodeOptions::unmounted("node"));
    node.stop();
    fs::write(node.home.join("state/join-token"), "p2pfs1-abcdef\n").unwrap();
    node.launch();
    let told = |command: &str| {
        let said = node.cli(&[command, "--json"]).stdout;
        let said = String::from_utf8(said).unwrap();
        said.contains("not a whole invitation") && said.contains("copy it again")
    };
    eventually("status warns of the token", HANG_LIMIT, || told("status"));
    assert!(told("doctor"));
    invite(&other, &[], &node);
    assert!(!told("status") && !told("doctor"));
}

#[apply(promise)]
fn entries_of_a_departed_node_can_be_dropped_and_those_of_a_present_one_cannot() {
    let mut cluster = Cluster::new();
    let (one, mut two) = (cluster.start("one"), cluster.start("two"));
    two.write("a.txt", b"a");
    one.wait_for_file("a.txt");
    let refused = one.cli(&["forget", "two"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    two.kill();
    eventually("it is gone", HANG_LIMIT, || !one.mounted("a.txt").exists());
    one.cli(&["forget", "two"]).expect_ok();
    two.launch();
    one.wait_for_file("a.txt");
    let told = one.cli(&["trust"]).expect_ok();
    assert!(told.contains("secret file"), "{told}");
    let refused = one.cli(&["expel", "two", "--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("secret"), "{}", refused.stderr);
}

#[apply(promise)]
fn in_a_cluster_with_a_secret_file_no_useless_token_is_made() {
    let mut cluster = Cluster::new();
    let one = cluster.start("one");
    let file = one.home.join("secret");
    for flags in [&[][..], &["--name", "desk"], &["--admin"]] {
        let refused = one.cli(&[&["invite"], flags].concat());
        assert_eq!(refused.status.code(), Some(1), "{flags:?}");
        assert!(refused.stdout.is_empty(), "{flags:?}");
        let told = refused.stderr.replace('\n', " ");
        assert!(told.contains(file.to_str().unwrap()), "{told}");
        assert!(told.contains("give it that file"), "{told}");
    }
}

#[apply(promise)]
fn entries_of_a_departed_node_can_be_dropped_by_its_admitted_name() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &["--name", "desk"], &two);
    two.write("a.txt", b"a");
    one.wait_for_file("a.txt");
    two.kill();
    eventually("it is gone", HANG_LIMIT, || !one.mounted("a.txt").exists());
    one.cli(&["forget", "desk"]).expect_ok();
}

/// Returns the output of `ls` for a directory.
fn listed_in(node: &Node, directory: &str) -> String {
    let listed = node.cli(&["ls", directory]);
    String::from_utf8_lossy(&listed.stdout).into_owned()
}

#[apply(promise)]
fn an_owner_that_hides_files_of_others_needs_a_confirmation() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &[], &two);
    for name in ["docs/a.txt", "docs/deep/b.txt"] {
        one.write(name, b"of one");
        two.wait_for_file(name);
    }
    let refused = one.cli(&["own", "docs", "two"]);
    assert_eq!(refused.status.code(), Some(1));
    for part in ["hides 2 files of one", "--yes to go on"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let absent = one.cli(&["own", "dcos", "two"]);
    assert!(
        absent.stderr.contains("no node shares such a name"),
        "{}",
        absent.stderr
    );
    assert_eq!(trust(&one)["owners"], json!([]));
    // No `--yes` is needed for an owner that hides no file.
    one.cli(&["own", "docs", "one"]).expect_ok();
    one.cli(&["own", "dcos", "two", "--yes"]).expect_ok();

    one.cli(&["own", "docs", "two", "--yes"]).expect_ok();
    for node in [&one, &two] {
        eventually("nothing of it is listed", HANG_LIMIT, || {
            !node.mounted("docs").exists()
        });
        for name in ["docs", "docs/deep"] {
            let why = node.cli(&["why", name, "--json"]).expect_json();
            assert_eq!(why["owner"], "two", "{why}");
            let rule = why["rule"].as_str().unwrap();
            assert!(rule.starts_with("two owns docs"), "{why}");
            let ls = node.cli(&["ls", name]).stderr;
            assert!(ls.contains("is not listed: two owns docs"), "{ls}");
        }
        let get = node.cli(&["get", "docs/a.txt"]).stderr;
        assert!(get.contains("is not listed: two owns docs"), "{get}");
        let absent = node.cli(&["why", "docs/absent"]);
        assert!(
            absent.stderr.contains("no node shares"),
            "{}",
            absent.stderr
        );
    }
    one.cli(&["own", "docs", "--nobody"]).expect_ok();
    two.wait_for_file("docs/deep/b.txt");
}

/// Makes the node the owner of `docs`, after a first attempt that is refused because it hides
/// files.
fn own_despite_hiding(one: &Node) -> String {
    let docs = one.mounted("docs");
    let own = ["own", docs.to_str().unwrap(), "one", "--yes"];
    let hides = one.cli(&own[..3]).stderr;
    assert!(hides.contains("hides 2 files of two"), "{hides}");
    one.cli(&own).expect_ok()
}

#[apply(promise)]
fn below_an_owned_path_only_the_owners_files_win_and_why_names_it() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &[], &two);
    one.write("docs/guide.txt", b"right");
    two.wait_for_file("docs/guide.txt");
    two.write("docs/guide.txt", b"newer and wrong");
    two.write("docs/more.txt", b"more");
    eventually("the newer file has the name", HANG_LIMIT, || {
        listed_in(&one, "docs") == "guide.txt\nguide~one.txt\nmore.txt\n"
    });
    let refused = two.cli(&["own", "docs", "two"]);
    assert!(refused.stderr.contains("may not"), "{}", refused.stderr);
    let nameless = one.cli(&["own", "", "one"]);
    assert!(
        nameless.stderr.contains("an empty path names nothing"),
        "{}",
        nameless.stderr
    );
    let said = own_despite_hiding(&one);
    assert!(said.contains("below docs,"), "{said}");
    for node in [&one, &two] {
        eventually("the owner's file alone is listed", HANG_LIMIT, || {
            listed_in(node, "docs") == "guide.txt\n"
        });
        let why = node.cli(&["why", "docs/guide.txt", "--json"]).expect_json();
        assert_eq!(why["owner"], "one");
        let versions = why["versions"].as_array().unwrap();
        let won = |version: &&Value| version["won"] == true;
        let winners: Vec<&Value> = versions.iter().filter(won).collect();
        assert_eq!((versions.len(), winners.len()), (2, 1));
        assert_eq!(winners[0]["author"], "one");
    }
    let kept_out = two.cli(&["why", "docs/more.txt", "--json"]).expect_json();
    let next_read = kept_out["next_read"].as_str().unwrap();
    assert!(next_read.ends_with("is listed"), "{next_read}");
    two.stop();
    two.launch();
    eventually("it is so after a restart, too", HANG_LIMIT, || {
        listed_in(&two, "docs") == "guide.txt\n"
    });
    assert_eq!(trust(&two)["owners"][0]["path"], "docs");
    let whose = one.cli(&["own", "docs"]);
    assert!(whose.stderr.contains("--nobody"), "{}", whose.stderr);
    one.cli(&["own", "docs", "--nobody"]).expect_ok();
    let of_all = one.cli(&["own", "/", "one", "--yes"]).expect_ok();
    let told = one.cli(&["trust"]).expect_ok();
    assert!(
        of_all.contains("below /,") && told.contains("\n/: only"),
        "{told}"
    );
    one.cli(&["own", "/", "--nobody"]).expect_ok();
    let history = trust(&one)["history"].clone();
    let steps = history.as_array().unwrap().iter();
    let of_paths: Vec<_> = steps.filter(|it| it["path"] == "docs").collect();
    let told: Vec<_> = of_paths
        .iter()
        .map(|it| (&it["what"], &it["name"]))
        .collect();
    let said = |what: &str, name: Value| (Value::from(what), name);
    let (owns, disowned) = (said("owns", "one".into()), said("disowned", Value::Null));
    assert_eq!(told, [(&owns.0, &owns.1), (&disowned.0, &disowned.1)]);
    for node in [&one, &two] {
        eventually("it is everybody's again", HANG_LIMIT, || {
            listed_in(node, "docs") == "guide.txt\nguide~one.txt\nmore.txt\n"
        });
    }
}

#[apply(promise)]
fn a_crash_leaves_no_core_dump_with_secrets() {
    // The machine is set to write core files. Only the daemon may have this limit: other tests end
    // programs by signals that would leave a file `core` in the checkout.
    let with_cores = r#"ulimit -S -c "$(ulimit -H -c)" && exec "$@""#;
    let mut cluster = Cluster::with_own_secrets();
    let one = cluster.start_with(NodeOptions {
        through: ["sh", "-c", with_cores, "sh"].map(str::to_owned).to_vec(),
        ..NodeOptions::new("one")
    });
    let limits = fs::read_to_string(format!("/proc/{}/limits", one.pid())).unwrap();
    let mut lines = limits.lines();
    let cores = lines.find_map(|line| line.strip_prefix("Max core file size"));
    let soft = cores.unwrap().split_whitespace().next();
    assert_eq!(soft, Some("0"), "{limits}");
}

#[apply(promise)]
fn readers_named_in_an_earlier_cluster_mean_no_node_until_they_are_confirmed() {
    let mut first = Cluster::with_own_secrets();
    let folders = ["added", "configured"].map(|name| {
        let folder = first.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name), name).unwrap();
        folder
    });
    let dir = folders[1].display();
    let mut one = first.start_with(NodeOptions {
        config: format!("[[share]]\ndir = '{dir}'\nreaders = ['bob']\n"),
        ..NodeOptions::new("one")
    });
    let bob = first.start("bob");
    invite(&one, &["--name", "bob"], &bob);
    let added = folders[0].to_str().unwrap();
    let share = ["share", "add", added, "--yes", "--readers", "bob"];
    one.cli(&share).expect_ok();
    bob.wait_for_file("added");
    bob.wait_for_file("configured");

    let mut second = Cluster::with_own_secrets();
    let boss = second.start("boss");
    let namesake = second.start("bob");
    invite(&boss, &["--name", "bob"], &namesake);
    invite(&boss, &[], &one);
    let assert_closed = |one: &Node, open: &str| {
        one.write(open, b"open");
        namesake.wait_for_file(open);
        for name in ["added", "configured"] {
            assert!(!namesake.mounted(name).exists(), "{name}");
        }
        for view in ["status", "doctor", "share"] {
            let said = one.cli(&[view]).text();
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains("named in an earlier cluster"), "{said}");
        }
        let status = one.cli(&["status", "--json"]).expect_json();
        let warnings = status["warnings"].to_string();
        let remedy = format!("p2pfs share add {added} --readers bob");
        assert!(warnings.contains(&remedy), "{warnings}");
        assert!(
            warnings.contains("write the node's key instead"),
            "{warnings}"
        );
    };
    assert_closed(&one, "after the change");
    one.stop();
    one.launch();
    assert_closed(&one, "after a restart");

    one.cli(&share).expect_ok();
    namesake.wait_for_file("added");
    namesake.wait_for_file("configured");
    let warnings = one.cli(&["status", "--json"]).expect_json()["warnings"].to_string();
    assert!(!warnings.contains("earlier cluster"), "{warnings}");
}
