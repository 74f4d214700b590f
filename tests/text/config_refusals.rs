//! The errors for wrong settings.

use std::fs;

use p2pfs::daemon::config::{Environment, Sources, load};

use super::config_layers::{Files, file_error, from_environment, nothing_set};

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_known_keys() {
    let text = "name = 'a'\n\n[cache]\nsize = '1GiB'\nsise = '2GiB'\n";
    assert_eq!(
        file_error(text),
        "p2pfs.toml:5:1: cache.sise: unknown field `sise`, expected `size` or `floor`; did \
         you mean size?"
    );
    let misspelt = file_error("[cash]\n");
    assert!(misspelt.starts_with("p2pfs.toml:1:2: cash: unknown field `cash`"));
    assert!(misspelt.ends_with("; did you mean [cache]?"), "{misspelt}");
    assert!(file_error("[[share]]\ndir='/a'\n[[share]]\ndirr='/b'\n").contains(":4:1: share.dirr"));
}

#[test]
fn a_bad_value_is_refused_with_its_line_and_the_accepted_ones() {
    let says = |text: &str, parts: &[&str]| {
        let error = file_error(text);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    says(
        "[mount]\nread_deadline = \"10\"\n",
        &[
            "p2pfs.toml:2:17: mount.read_deadline: ",
            "\"10\" has no unit: write 10ms, 10s, 10m, 10h, 10d",
        ],
    );
    says(
        "[mount]\nread_deadline = 10\n",
        &[":2:17: mount.read_deadline", "such as \"10s\""],
    );
    says("[mount]\nread_deadline = '0s'\n", &[":2:17:", "zero"]);
    says(
        "[cache]\nsize = '10Gi'\n",
        &[":2:8: cache.size", "the units are B, kB, KiB, MB, MiB"],
    );
    says("[cache]\nsize = '-1GiB'\n", &["negative"]);
    says(
        "[log]\nlevel = 'loud'\n",
        &[":2:9: log.level", "`error`, `warn`, `info`, `debug`"],
    );
    says("listen = 'here'\n", &[":1:10: listen", "ADDRESS:PORT"]);
    says("seeds = ['a:1', 'b']\n", &[":1:17: seeds", "HOST:PORT"]);
    says(
        "[readers]\nbudgets = ['rsync=1GiB/s', 'rsync']\n",
        &[":2:28: readers.budgets", "PROGRAM=RATE", "rsync=10MiB/s"],
    );
    says(
        "[readers]\nbudgets = ['rsync=10MiB']\n",
        &[":2:12: readers.budgets", "such as \"10MiB/s\""],
    );
    says(
        "[readers]\nbudgets = ['rsync=1B/s']\n",
        &[":2:12: readers.budgets", "the least is 64KiB/s"],
    );
    says("name = 'a/b'\n", &[":1:8: name", "not a node name"]);
    says(
        "state_dir = 'here'\n",
        &[":1:13: state_dir", "begin it with /"],
    );
    says(
        "[[share]]\ninclude_private = true\n",
        &[":1:1: share", "missing field `dir`"],
    );
    says(
        "[limits]\npeer_connections = 0\n",
        &[":2:20: limits.peer_connections", "1 or more"],
    );
    says("[mount]\nuid = -1\n", &[":2:7: mount.uid"]);
    says(
        "[mount]\ngid = 'no-such-group-here'\n",
        &[
            ":2:7: mount.gid",
            "there is no group \"no-such-group-here\"",
        ],
    );
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_its_line() {
    assert!(file_error("name = 'a'\n[cache\nsize = 1\n").starts_with("p2pfs.toml:2:7: "));
    assert!(!file_error("= 3").contains('\n'));
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_with_the_line() {
    let files = Files::new("");
    let text = b"name = 'a'\n\nstate_dir = '/srv/caf\xe9'\n";
    fs::write(files.dir.path().join("p2pfs.toml"), text).unwrap();
    let error = files.error();
    assert!(
        error.starts_with("p2pfs.toml: cannot be read: line 3 is not UTF-8"),
        "{error}"
    );
}

#[test]
fn a_duplicate_group_is_refused_and_named() {
    let error = file_error("groups = ['office=a', 'lab=c', 'office=b']\n");
    assert!(error.contains("two groups \"office\""), "{error}");
    assert!(!error.contains("lab"), "{error}");
}

#[test]
fn all_errors_are_reported_at_once_with_their_lines() {
    let files = Files::new("nam = 'a'\n[cache]\nsize = '1'\nfloor = 3\n[cash]\nx = 1\ny = 2\n")
        .drop_in(
            "a.toml",
            "[[share]]\nlegacy = 'x'\n[[share]]\ndir = 'b'\n[[share]]\ndir = '/mnt/p2p'\n",
        );
    let mut sources = files.sources();
    let variables = [("P2PFS_LAN_MDNS", "maybe"), ("P2P_PORT", "70000")];
    sources.environment = Environment::from(variables);
    let error = load(&sources).unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    let dir = format!("{}/", files.dir.path().display());
    let told: Vec<String> = lines.iter().map(|line| line.replace(&dir, "")).collect();
    let expected = [
        "p2pfs.toml:1:1: nam: ",
        "p2pfs.toml:3:8: cache.size: ",
        "p2pfs.toml:4:9: cache.floor: ",
        "p2pfs.toml:5:2: cash: ",
        "p2pfs.toml.d/a.toml:1:1: share: missing field `dir`",
        "p2pfs.toml.d/a.toml:2:10: share.legacy: ",
        "p2pfs.toml.d/a.toml:4:7: share.dir: ",
        "P2P_PORT in the environment: ",
        "P2PFS_LAN_MDNS in the environment: ",
        "share.dir: /mnt/p2p and the mount /mnt/p2p overlap",
    ];
    assert_eq!(told.len(), expected.len(), "{text}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told} is not {expected}");
    }
    assert_eq!(error.each().len(), expected.len());
}

#[test]
fn an_unusable_secret_file_is_reported_with_all_other_errors() {
    let secret = "secret_file = '/nonexistent/secret'\n";
    let error = file_error(&format!(
        "{secret}nam = 'a'\n[membership]\nperiod = '9ms'\n"
    ));
    let lines: Vec<&str> = error.lines().collect();
    let [unknown, impossible, no_secret] = lines[..] else {
        panic!("three are wrong: {error}");
    };
    assert!(unknown.starts_with("p2pfs.toml:2:1: nam: "), "{error}");
    assert!(impossible.starts_with("membership.period: "), "{error}");
    let place = "secret_file, set in p2pfs.toml line 1: ";
    assert!(no_secret.starts_with(place), "{error}");
    assert!(no_secret.contains("/nonexistent/secret"), "{error}");
    assert!(Files::new(secret).load().is_ok(), "a start tells of it");
}

#[test]
fn every_wrong_item_of_a_list_is_reported_with_its_line() {
    let error = file_error("seeds = ['a', 'b:1', 'c']\n[readers]\nbudgets = ['x', 'y']\n");
    let places: Vec<&str> = error
        .lines()
        .filter_map(|line| line.split(": ").next())
        .collect();
    let at = |place: &str| places.iter().any(|it| it.ends_with(place));
    assert!(
        at(":1:10") && at(":1:22") && at(":3:12") && at(":3:17"),
        "{error}"
    );
    assert_eq!(places.len(), 4, "{error}");
}

#[test]
fn any_number_of_errors_is_reported_at_once() {
    let keys: String = (0..27).map(|n| format!("wrong{n} = 1\n")).collect();
    let shares: String = (0..27)
        .map(|n| format!("[[share]]\nwrong{n} = 1\n"))
        .collect();
    let error = file_error(&(keys + &shares));
    for wrong in 0..27 {
        assert_eq!(
            error.matches(&format!("`wrong{wrong}`")).count(),
            2,
            "{error}"
        );
    }
}

#[test]
fn of_a_file_that_is_not_toml_the_first_lines_are_reported_and_the_others_counted() {
    let wrong: String = (0..27).map(|n| format!("line {n} of a text\n")).collect();
    let error = file_error(&wrong);
    assert_eq!(error.lines().count(), 21);
    assert!(error.ends_with("p2pfs.toml: and 7 more"), "{error}");
}

#[test]
fn a_number_invalid_in_toml_hides_no_other_error() {
    let error = file_error("name = 'a/b'\n[mount]\numask = 022\nread_deadline = '0s'\n");
    assert_eq!(error.lines().count(), 3, "{error}");
    for part in [
        ":1:8: name",
        ":3:9: mount.umask: a number does not begin with 0",
        "such as \"022\" for a mask",
        ":4:17: mount.read_deadline",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_number_out_of_range_is_reported_with_its_range() {
    let error = file_error("[limits]\npeer_connections = -4\n");
    assert!(
        error.contains("a whole number from 0 to 4294967295"),
        "{error}"
    );
    let error = file_error("[log]\nlevel = fast\n");
    assert!(error.contains("put text in quotes"), "{error}");
}

#[test]
fn a_value_that_is_not_a_list_is_reported_with_the_list_syntax() {
    let error = file_error("seeds = 'a:1'\n[share]\ndir = '/srv'\n");
    assert!(error.contains("expected a list in brackets"), "{error}");
    assert!(error.contains("two brackets, as in [[share]]"), "{error}");
    let error = file_error("seeds = [127.0.0.1:1378]\n");
    assert!(error.contains("put text in quotes"), "{error}");
}

#[test]
fn a_value_that_is_not_a_section_is_reported_with_the_section_syntax() {
    let says = |text: &str, place: &str, part: &str| {
        let error = file_error(text);
        assert!(
            error.starts_with(&format!("p2pfs.toml:{place}: ")),
            "{error}"
        );
        assert!(error.contains(part), "{error}");
        assert!(!error.contains("struct"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    let share = "as in [[share]], and below it its keys: dir, as, include_private";
    says("share = [['/srv/x', false]]\n", "1:10: share", share);
    says("share = [3, {dir='/srv/x'}]\n", "1:10: share", share);
    says("share = '/srv/x'\n", "1:9: share", share);
    says("[share]\ndir = '/srv/x'\n", "1:1: share", share);
    let cache = "write [cache], and below it its keys: size, floor";
    says("cache = ['20GiB', '1MiB']\n", "1:9: cache", cache);
    says("cache = '20GiB'\n", "1:9: cache", cache);
    says("[[cache]]\nsize = '20GiB'\n", "1:1: cache", cache);
    for (section, values) in [
        ("lan", "[false]"),
        ("mount", "[false]"),
        ("log", "['debug']"),
        ("limits", "['1MiB/s']"),
        ("readers", "[]"),
        ("metrics", "[]"),
    ] {
        let place = format!("1:{}: {section}", section.len() + 4);
        says(&format!("{section} = {values}\n"), &place, "is a section");
    }
    says("[seeds]\na = 1\n", "1:1: seeds", "a list in brackets");
}

#[test]
fn a_date_is_not_text() {
    let error = file_error("name = 1979-05-27\n");
    let expected = "p2pfs.toml:1:8: name: 1979-05-27 without quotes is a date: put a text in \
                    quotes, as in \"1979-05-27\"";
    assert_eq!(error, expected);
    let error = file_error("[inbox]\nfrom = ['a', 07:32:00]\n");
    assert!(
        error.starts_with("p2pfs.toml:2:14: inbox.from: 07:32:00"),
        "{error}"
    );
}

#[test]
fn an_endless_wait_is_refused_with_the_longest_one() {
    let error = file_error("[mount]\nread_deadline = '999999999d'\n");
    assert!(error.contains("is too long: at most 365d"), "{error}");
}

#[test]
fn an_error_in_a_drop_in_names_the_drop_in() {
    let files = Files::new("").drop_in("50-x.toml", "\n\nnam = 'a'\n");
    assert!(
        files
            .error()
            .starts_with("p2pfs.toml.d/50-x.toml:3:1: nam: ")
    );
}

#[test]
fn an_impossible_mesh_or_inbox_is_refused() {
    let says = |text: &str, part: &str| {
        let error = Files::new(text).load().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    says("[mesh]\npeers = ['a:1']\n", "say mesh.listen");
    says("[mesh]\nlisten = '[::1]:1'\n", "IPv4 only");
    says("[mesh]\nlisten = '1.2.3.4:5'\nmax_peers = 0\n", "1 or more");
    let state = "state_dir = '/srv/state'\n";
    says(
        &format!("{state}[inbox]\ndir = '/srv/state/inbox'\nfrom = ['*']\n"),
        "/srv/state/inbox and the state directory /srv/state overlap",
    );
    let closed = format!("{state}[inbox]\ndir = '/srv/state/inbox'\n");
    assert!(
        Files::new(&closed).load().is_ok(),
        "a closed inbox is nowhere"
    );
    let peers = [
        ("P2PFS_MESH_LISTEN", "0.0.0.0:7"),
        ("P2PFS_MESH_PEERS", "a:1, b:2"),
    ];
    assert_eq!(from_environment(peers).unwrap().mesh.peers.len(), 2);
}

#[test]
fn a_bad_variable_is_refused_by_its_name() {
    let says = |name: &str, value: &str, part: &str| {
        let error = from_environment([(name, value)]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{name} in the environment: ")),
            "{error}"
        );
        assert!(error.contains(part), "{error}");
    };
    says("P2PFS_CACHE_SIZE", "10", "no unit");
    says("P2PFS_LAN_MDNS", "maybe", "is not true or false");
    says("P2PFS_MOUNT_UID", "no-such-user-here", "there is no user");
    says(
        "P2PFS_LIMITS_PEER_CONNECTIONS",
        "many",
        "not a whole number",
    );
    says("P2P_PORT", "70000", "not a port");
    says("P2P_PERIOD", "soon", "\"soon\" is not a count of seconds");
    says("P2P_WAITING", "10s", "write a number without a unit");
    says("P2P_PERIOD", "0", "zero");
    says("P2PFS_SHARE_LEGACY", "x", "is not true or false");
}

#[test]
fn a_misspelt_variable_is_reported() {
    let environment = Environment::from([("P2PFS_CACHESIZE", "1GiB"), ("P2PFS_CONFIG", "/x")]);
    let loaded = load(&Sources {
        environment,
        ..nothing_set()
    })
    .unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("P2PFS_CACHESIZE"));
    assert!(loaded.warnings[0].ends_with("; did you mean P2PFS_CACHE_SIZE?"));
}

#[test]
fn legacy_peers_on_an_ipv6_address_are_refused_and_not_ignored() {
    let error = Files::new("listen = '[::1]:5'\n[legacy]\nenabled = true\n").error();
    assert!(error.contains("IPv4 only"), "{error}");
}

#[test]
fn two_listeners_on_one_port_are_refused_and_named() {
    let mesh = |listen: &str| format!("listen = '{listen}'\n[mesh]\nlisten = '0.0.0.0:1400'\n");
    // IPv6's "any" address is of both families.
    let listens = [
        "0.0.0.0:1400",
        "127.0.0.1:1400",
        "[::]:1400",
        "[::ffff:127.0.0.1]:1400",
    ];
    for listen in listens {
        let error = file_error(&mesh(listen));
        let says = "mesh.listen: listen has port 1400 already: choose another (set in";
        assert!(error.contains(says), "{error}");
    }
    let metrics = "[mesh]\nlisten = '0.0.0.0:1400'\n[metrics]\nlisten = '127.0.0.1:1400'\n";
    let error = file_error(metrics);
    assert!(
        error.contains("metrics.listen: mesh.listen has port 1400"),
        "{error}"
    );
    let error = file_error("listen = '[::]:1400'\n[metrics]\nlisten = '127.0.0.1:1400'\n");
    assert!(error.contains("metrics.listen: listen has port"), "{error}");
    let apart = "listen = '10.0.0.1:1400'\n[metrics]\nlisten = '127.0.0.1:1400'\n";
    let families = "listen = '0.0.0.0:1400'\n[metrics]\nlisten = '[::1]:1400'\n";
    let free = "listen = '0.0.0.0:0'\n[mesh]\nlisten = '0.0.0.0:0'\n";
    for text in [apart, families, free] {
        assert!(Files::new(text).load().is_ok());
    }
}

#[test]
fn folders_that_contain_each_other_are_refused() {
    let refused = |text: &str| {
        let error = file_error(text);
        assert!(
            error.contains("overlap") || error.contains("must not hold"),
            "{text}: {error}"
        );
    };
    refused("[[share]]\ndir = '/mnt/p2p/inside'\n");
    refused("[[share]]\ndir = '/mnt'\n");
    refused("[[share]]\ndir = '/var/lib/p2pfs'\n");
    refused("[[share]]\ndir = '/'\n[mount]\nenabled = false\n");
    refused("cache_dir = '/var/lib/p2pfs'\n");
    refused("cache_dir = '/mnt/p2p/cache'\n");
    let alone = Files::new("[[share]]\ndir = '/mnt'\n[mount]\nenabled = false\n");
    assert!(alone.load().is_ok());
}

#[test]
fn of_two_conflicting_folders_the_configured_one_is_named_with_its_line() {
    let says = |text: &str, expected: &str| assert_eq!(file_error(text), expected);
    says(
        "state_dir = '/'\n",
        "state_dir: / and the mount /mnt/p2p overlap (set in p2pfs.toml line 1; mount.dir: the \
         default)",
    );
    says(
        "cache_dir = '/mnt/p2p/x'\n",
        "cache_dir: /mnt/p2p/x and the mount /mnt/p2p overlap (set in p2pfs.toml line 1; \
         mount.dir: the default)",
    );
    says(
        "state_dir = '/srv/s'\n[mount]\ndir = '/srv/s/m'\n",
        "mount.dir: /srv/s/m and the state directory /srv/s overlap (set in p2pfs.toml line 3; \
         state_dir: set in p2pfs.toml line 1)",
    );
    says(
        "state_dir = '/var/cache/p2pfs/s'\n",
        "state_dir: it must not be in the cache /var/cache/p2pfs (set in p2pfs.toml line 1; \
         cache_dir: the default)",
    );
    says(
        "state_dir = '/var/lib'\n[inbox]\nfrom = ['*']\n",
        "state_dir: /var/lib and the inbox /var/lib/p2pfs-inbox overlap (set in p2pfs.toml line \
         1; inbox.dir: the default)",
    );
    let overlap = "state_dir: / and the mount /mnt/p2p overlap";
    let error = from_environment([("P2PFS_STATE_DIR", "/")]).unwrap_err();
    let expected = format!("{overlap} (set in the environment; mount.dir: the default)");
    assert_eq!(error.to_string(), expected);
    let mut sources = nothing_set();
    sources.overrides.state_dir = Some("/".into());
    let error = load(&sources).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{overlap} (set by --state; mount.dir: the default)")
    );
}

#[test]
fn a_socket_path_that_is_too_long_is_refused() {
    let error = file_error(&format!("socket = '/{}'\n", "s".repeat(107)));
    assert!(error.contains("at most 107 bytes"), "{error}");
    assert!(
        Files::new(&format!("socket = '/{}'\n", "s".repeat(106)))
            .load()
            .is_ok()
    );
}

#[test]
fn a_membership_timing_that_could_never_hear_an_answer_is_refused() {
    let error = file_error("[membership]\nperiod = '99ms'\n");
    let expected = "membership.period: at least 100ms is needed (set in p2pfs.toml line 2)";
    assert_eq!(error, expected);
}
