//! The sources of settings, and their precedence.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pfs::daemon::config::{
    Config, ConfigError, Environment, Loaded, LogLevel, Overrides, Place, SETTINGS, SettingKind,
    Sources, compare, load,
};

/// A configuration directory with its own file and drop-ins.
pub(crate) struct Files {
    pub(crate) dir: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new(main: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("p2pfs.toml"), main).unwrap();
        Self { dir }
    }

    pub(crate) fn drop_in(self, name: &str, text: &str) -> Self {
        let folder = self.dir.path().join("p2pfs.toml.d");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
        self
    }

    pub(crate) fn sources(&self) -> Sources {
        Sources {
            config_file: Some(self.dir.path().join("p2pfs.toml")),
            ..nothing_set()
        }
    }

    pub(crate) fn load(&self) -> Result<Loaded, ConfigError> {
        load(&self.sources())
    }

    /// Returns the error without the name of the temporary directory.
    pub(crate) fn error(&self) -> String {
        let text = self.load().unwrap_err().to_string();
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

pub(crate) fn nothing_set() -> Sources {
    let mut place = Place::system("lab-3.example.org");
    place.config_file = PathBuf::from("/nonexistent/p2pfs.toml");
    Sources {
        config_file: None,
        environment: Environment::default(),
        overrides: Overrides::default(),
        place,
    }
}

pub(crate) fn from_environment<const N: usize>(
    variables: [(&str, &str); N],
) -> Result<Config, ConfigError> {
    let environment = Environment::from(variables);
    load(&Sources {
        environment,
        ..nothing_set()
    })
    .map(|loaded| loaded.config)
}

pub(crate) fn file_error(text: &str) -> String {
    Files::new(text).error()
}

#[test]
fn without_any_file_the_defaults_apply() {
    let config = load(&nothing_set()).unwrap().config;
    assert_eq!(config, Config::defaults(&nothing_set().place));
    assert_eq!(config.name.as_str(), "lab-3");
    assert_eq!(config.listen.port(), 1378);
    assert_eq!(config.mount.dir, Path::new("/mnt/p2p"));
    assert_eq!(config.cache.size_bytes, 10 << 30);
    assert_eq!(config.mount.read_deadline, Duration::from_secs(10));
    assert_eq!(config.membership.away_grace, Duration::from_secs(30));
    assert!(config.share.is_empty() && !config.legacy.enabled);
}

#[test]
fn each_layer_overrides_those_before_it() {
    let files = Files::new("name = 'file'\n[cache]\nsize = '1GiB'\nfloor = '1MiB'\n")
        .drop_in("20-b.toml", "name = 'drop-in-b'\n[cache]\nsize = '3GiB'\n")
        .drop_in(
            "10-a.toml",
            "name = 'drop-in-a'\n[cache]\nsize = '2GiB'\n[log]\nlevel='debug'\n",
        )
        .drop_in("README", "this is no configuration");
    let mut sources = files.sources();
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.name.as_str(), "drop-in-b");
    assert_eq!(loaded.config.cache.size_bytes, 3 << 30);
    assert_eq!(loaded.config.cache.floor_bytes, 1 << 20);
    assert_eq!(loaded.config.log.level, LogLevel::Debug);
    assert_eq!(loaded.files.len(), 3);

    sources.environment = Environment::from([("P2PFS_NAME", "env"), ("P2PFS_CACHE_SIZE", "4GiB")]);
    let config = load(&sources).unwrap().config;
    assert_eq!(
        (config.name.as_str(), config.cache.size_bytes),
        ("env", 4 << 30)
    );

    sources.overrides.cache_size_bytes = Some(5 << 30);
    sources.overrides.name = Some("flag".parse().unwrap());
    let config = load(&sources).unwrap().config;
    assert_eq!(
        (config.name.as_str(), config.cache.size_bytes),
        ("flag", 5 << 30)
    );
}

#[test]
fn shares_accumulate_and_seeds_are_replaced() {
    let files = Files::new("seeds = ['a:1']\n[[share]]\ndir = '/srv/one'\n")
        .drop_in(
            "a.toml",
            "seeds = ['b:2']\n[[share]]\ndir = '/srv/two'\ninclude_private = true\n",
        )
        .drop_in("b.toml", "[[share]]\ndir = '/srv/one'\nlegacy = true\n");
    let mut sources = files.sources();
    sources.environment = Environment::from([("P2PFS_SHARE_DIR", "/srv/three:/srv/four")]);
    sources.overrides.shares = vec![PathBuf::from("/srv/five")];
    let config = load(&sources).unwrap().config;
    let dirs: Vec<_> = config
        .share
        .iter()
        .map(|s| s.dir.to_str().unwrap())
        .collect();
    assert_eq!(
        dirs,
        [
            "/srv/two",
            "/srv/one",
            "/srv/three",
            "/srv/four",
            "/srv/five"
        ]
    );
    assert!(config.share[0].include_private && config.share[1].legacy);
    assert_eq!(
        config
            .seeds
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["b:2"]
    );
}

#[test]
fn a_user_and_a_group_can_be_named_or_numbered() {
    let config = Files::new("[mount]\nuid = 'root'\ngid = '7'\n")
        .load()
        .unwrap()
        .config;
    assert_eq!((config.mount.uid, config.mount.gid), (Some(0), Some(7)));
    let config = from_environment([("P2PFS_MOUNT_UID", "root")]).unwrap();
    assert_eq!(config.mount.uid, Some(0));
}

#[test]
fn each_setting_is_shown_with_its_origin() {
    let files = Files::new("seeds = ['a:1']\n[cache]\nsize = '10G'\n[[share]]\ndir = '/srv/one'\n")
        .drop_in("b.toml", "\n[log]\nlevel = 'debug'\n");
    let mut sources = files.sources();
    sources.environment = Environment::from([("P2PFS_LAN_MDNS", "off")]);
    sources.overrides.name = Some("n".parse().unwrap());
    sources.overrides.shares = vec![PathBuf::from("/srv/two")];
    let shown = load(&sources).unwrap().shown;
    let of = |key: &str| {
        let shown = shown.iter().find(|shown| shown.key == key).unwrap();
        let origin = shown
            .origin
            .replace(&format!("{}/", files.dir.path().display()), "");
        (shown.value.clone(), origin)
    };
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(of("name"), pair("\"n\"", "set by --name"));
    assert_eq!(of("seeds"), pair("[\"a:1\"]", "set in p2pfs.toml line 1"));
    assert_eq!(
        of("cache.size"),
        pair("\"10GiB\"", "set in p2pfs.toml line 3")
    );
    assert_eq!(
        of("log.level"),
        pair("\"debug\"", "set in p2pfs.toml.d/b.toml line 3")
    );
    assert_eq!(of("lan.mdns"), pair("false", "set in the environment"));
    assert_eq!(of("cache.floor"), pair("\"1GiB\"", "the default"));
    assert_eq!(of("mount.uid"), pair("", "the default"));
    let shares: Vec<_> = shown.iter().filter(|shown| shown.key == "share").collect();
    assert_eq!(shares[0].value, "\"/srv/one\"");
    let place = "p2pfs.toml line 5";
    assert!(shares[0].origin.ends_with(place), "{shares:?}");
    assert_eq!(shares[1].origin, "set by --share");
    let of_shares = SETTINGS.iter().filter(|it| it.key.starts_with("share."));
    assert_eq!(shown.len(), SETTINGS.len() - of_shares.count() + 2);
}

#[test]
fn a_named_file_must_exist_and_the_default_one_need_not() {
    let missing = Sources {
        config_file: Some("/nonexistent/x.toml".into()),
        ..nothing_set()
    };
    let error = load(&missing).unwrap_err().to_string();
    assert!(
        error.starts_with("/nonexistent/x.toml: cannot be read"),
        "{error}"
    );
    assert!(error.ends_with("; name a file that is there"), "{error}");
    let folder = Sources {
        config_file: Some("/".into()),
        ..nothing_set()
    };
    let error = load(&folder).unwrap_err().to_string();
    assert!(error.ends_with("; name a file, not a folder"), "{error}");
    assert!(load(&nothing_set()).unwrap().files.is_empty());
}

#[test]
fn every_setting_has_a_variable_and_a_place_in_the_printed_configuration() {
    let mut sources = nothing_set();
    // A share has either readers or legacy peers.
    let given = SETTINGS.iter().filter(|it| it.key != "share.legacy");
    sources.environment = given.map(|it| (it.variable(), it.example)).collect();
    let printed = load(&sources).unwrap().config.to_toml();
    let table: toml::Table = toml::from_str(&printed).unwrap();
    let mut found = Vec::new();
    for (key, value) in &table {
        let inner = match value {
            toml::Value::Table(table) => Some(table),
            toml::Value::Array(items) => items.first().and_then(toml::Value::as_table),
            _ => None,
        };
        match inner {
            Some(inner) => found.extend(inner.keys().map(|inner| format!("{key}.{inner}"))),
            None => found.push(key.clone()),
        }
    }
    let mut known: Vec<_> = SETTINGS.iter().map(|s| s.key.to_owned()).collect();
    found.sort();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn the_printed_configuration_round_trips() {
    let files = Files::new("seeds = ['a:1']\n[[share]]\ndir = '/srv/one'\n[mount]\nuid = 5\n");
    let config = files.load().unwrap().config;
    assert_eq!(Files::new(&config.to_toml()).load().unwrap().config, config);
}

#[test]
fn every_variable_sets_its_setting_as_a_file_does() {
    for setting in SETTINGS.iter().filter(|it| it.section() != "share") {
        let (name, text) = (setting.variable(), setting.example);
        let value = match setting.kind {
            SettingKind::Switch => ["true", "yes"].contains(&text).to_string(),
            SettingKind::Number => text.to_owned(),
            SettingKind::List => {
                let items = text.split(',').map(|item| format!("'{}'", item.trim()));
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
            _ => format!("'{text}'"),
        };
        let line = format!("{} = {value}\n", setting.name());
        let file = match setting.section() {
            "" => line,
            section => format!("[{section}]\n{line}"),
        };
        // The mesh needs an address if it has peers.
        let files = || Files::new("[mesh]\nlisten = '0.0.0.0:18001'\n");
        let by_file = files().drop_in("a.toml", &file).load().unwrap().config;
        let files = files();
        let before = files.load().unwrap().config;
        let mut sources = files.sources();
        sources.environment = Environment::from([(&*name, text)]);
        let by_variable = load(&sources).unwrap().config;
        assert_eq!(by_variable, by_file, "{name}={text}");
        assert_ne!(by_variable, before, "{name}={text}");
    }
}

#[test]
fn every_value_out_of_range_is_refused() {
    for setting in SETTINGS.iter().filter(|it| !it.refused.is_empty()) {
        let (name, text) = (setting.variable(), setting.refused);
        let mut sources = nothing_set();
        sources.environment = Environment::from([(&*name, text)]);
        assert!(load(&sources).is_err(), "{name}={text}");
    }
}

#[test]
fn a_variable_reads_each_spelling_of_a_value() {
    let printed = |name, value| from_environment([(name, value)]).unwrap().to_toml();
    assert!(printed("P2PFS_MOUNT_ENABLED", "off").contains("enabled = false"));
    assert!(printed("P2PFS_LEGACY_ENABLED", "no").contains("enabled = false"));
    assert!(printed("P2PFS_LAN_MDNS", "0").contains("mdns = false"));
    assert!(printed("P2PFS_LEGACY_BRIDGE", "on").contains("bridge = true"));
    assert!(printed("P2PFS_MOUNT_FMASK", "0137").contains("fmask = \"137\""));
    assert!(printed("P2PFS_MOUNT_DMASK", "0").contains("dmask = \"000\""));
    let lists = printed("P2PFS_SEEDS", "a:1, b:2");
    assert!(lists.contains("seeds = [\"a:1\", \"b:2\"]"));
}

#[test]
fn shares_of_the_environment_have_the_flags_of_their_variables() {
    let shares = [
        ("P2PFS_SHARE_DIR", "/d"),
        ("P2PFS_SHARE_INCLUDE_PRIVATE", "1"),
        ("P2PFS_SHARE_EXCLUDE", "*.log, !.env"),
        ("P2PFS_SHARE_READERS", "alice, @office"),
        ("P2PFS_GROUPS", "office=bob"),
    ];
    let share = &from_environment(shares).unwrap().share[0];
    assert!(share.include_private && share.default_excludes);
    assert_eq!(share.exclude, ["*.log", "!.env"]);
    let readers = share.readers.clone().unwrap();
    assert_eq!(readers, ["alice", "@office"]);
    let wrong = from_environment([("P2PFS_SHARE_EXCLUDE", "[z-a]")]).unwrap_err();
    assert!(wrong.to_string().contains("is not a pattern"), "{wrong}");
}

#[test]
fn the_variable_names_of_legacy_peers_keep_working() {
    let config = from_environment([
        ("P2P_HOST", "127.0.0.1"),
        ("P2P_PORT", "21001"),
        ("P2P_PERIOD", "5"),
        ("P2P_WAITING", "50"),
        ("P2P_FOLDER", "/srv/old"),
    ])
    .unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:21001");
    assert_eq!(config.legacy.period, Duration::from_secs(5));
    assert_eq!(config.legacy.waiting, Duration::from_secs(50));
    assert_eq!(config.share[0].dir, Path::new("/srv/old"));
    assert!(config.share[0].legacy);
    let named = from_environment([("P2P_HOST", "node1")]).unwrap();
    assert_eq!(named.listen.to_string(), "0.0.0.0:1378");
    let both = [("P2P_PORT", "1"), ("P2PFS_LISTEN", "0.0.0.0:2")];
    assert_eq!(from_environment(both).unwrap().listen.port(), 2);
}

#[test]
fn legacy_peers_are_enabled_by_file_environment_or_flag() {
    let config = Files::new("[legacy]\nenabled = true\n")
        .load()
        .unwrap()
        .config;
    assert!(config.legacy.enabled);
    let config = Files::new("[legacy]\nperiod = '5s'\n")
        .load()
        .unwrap()
        .config;
    assert!(!config.legacy.enabled, "the section alone turns nothing on");
    let config = from_environment([("P2P_CLUSTER", "a:1, b:2")]).unwrap();
    assert!(config.legacy.enabled && config.legacy.members.len() == 2);
    let mut sources = nothing_set();
    sources.overrides.legacy = true;
    assert!(load(&sources).unwrap().config.legacy.enabled);
}

#[test]
fn a_mount_named_on_the_command_line_is_created() {
    let mut sources = Files::new("[mount]\nenabled = false\n").sources();
    sources.config_file = None;
    sources.environment = Environment::from([("P2PFS_MOUNT_ENABLED", "false")]);
    assert!(!load(&sources).unwrap().config.mount.enabled);
    sources.overrides.mount_dir = Some(PathBuf::from("/m"));
    let config = load(&sources).unwrap().config;
    assert!(config.mount.enabled && config.mount.dir == Path::new("/m"));
}

#[test]
fn a_reload_distinguishes_changes_that_need_a_restart() {
    let old = Files::new("seeds=['a:1']\n[[share]]\ndir='/a'\n[[share]]\ndir='/b'\n");
    let new = Files::new(
        "name='other'\nseeds=['b:1']\n[cache]\nsize='1GiB'\n[log]\nlevel='debug'\n\
         [readers]\nbudgets=['rsync=1MiB/s']\n\
         [mount]\nread_deadline='3s'\n[[share]]\ndir='/b'\ninclude_private=true\n\
         [[share]]\ndir='/c'\n",
    );
    let (old, new) = (old.load().unwrap().config, new.load().unwrap().config);
    let changes = compare(&old, &new);
    let added: Vec<_> = changes
        .shares_added
        .iter()
        .map(|s| s.dir.to_str().unwrap())
        .collect();
    assert_eq!(added, ["/b", "/c"]);
    assert_eq!(changes.shares_removed, [Path::new("/a")]);
    assert_eq!(changes.seeds.unwrap(), new.seeds);
    assert_eq!(changes.cache_size_bytes, Some(1 << 30));
    assert_eq!(changes.budgets.unwrap(), new.readers.budgets);
    assert_eq!(changes.log_level, Some(LogLevel::Debug));
    assert_eq!(changes.restart, ["name", "mount.read_deadline"]);
    assert_eq!(compare(&new, &new), Default::default());
}

#[test]
fn editor_files_beside_the_drop_ins_are_ignored() {
    let files = Files::new("").drop_in("10.toml", "name = \"n\"\n");
    let files = files.drop_in(".hidden.toml", "no = 1\n");
    let folder = files.dir.path().join("p2pfs.toml.d");
    std::os::unix::fs::symlink("user@host.1:2", folder.join(".#10.toml")).unwrap();
    let loaded = files.load().unwrap();
    assert_eq!(loaded.files.len(), 2, "{:?}", loaded.files);
}

#[test]
fn a_share_within_another_is_reported_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (outer, inner) = (folder.path().join("s"), folder.path().join("s/sub"));
    fs::create_dir_all(&inner).unwrap();
    let share = |dir: &std::path::Path| format!("[[share]]\ndir = '{}'\n", dir.display());
    let loaded = Files::new(&(share(&outer) + &share(&inner)))
        .load()
        .unwrap();
    let warnings = p2pfs::daemon::config::inspect(&loaded).warnings;
    let said = format!(
        "{} and the share {} overlap",
        inner.display(),
        outer.display()
    );
    assert!(
        warnings.len() == 1 && warnings[0].contains(&said),
        "{warnings:?}"
    );
}
