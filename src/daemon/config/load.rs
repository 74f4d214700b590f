//! Loading and merging the layers of the configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::alike::variable_alike;
use super::environment::Environment;
use super::error::{ConfigError, line_and_column, one_line};
use super::file::read;
use super::layer::overlay;
use super::place::{Place, credential};
use super::secret::trouble_with_secret;
use super::sections::ShareSettings;
use super::seed::Seed;
use super::settings::Config;
use super::shown::{DEFAULT, share_key, shown};
use super::{check, document, one_folder, variables};
use crate::daemon::control::{SettingInfo, Settings};
use p2pfs_types::id::NodeName;

/// The sources of the settings. The daemon keeps them to load the settings again on SIGHUP.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The file of `--config`, which must exist. Without it, the default file of `place` is used,
    /// which may be missing.
    pub config_file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// The command line.
    pub overrides: Overrides,
    /// The defaults.
    pub place: Place,
}

/// The options of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--name`
    pub name: Option<NodeName>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--seed`, repeatable; replaces the seeds of other layers.
    pub seeds: Vec<Seed>,
    /// `--share`, repeatable; adds to the shares of other layers, or replaces one of the same
    /// folder.
    pub shares: Vec<PathBuf>,
    /// `--mount`
    pub mount_dir: Option<PathBuf>,
    /// `--state`
    pub state_dir: Option<PathBuf>,
    /// `--cache`
    pub cache_dir: Option<PathBuf>,
    /// `--cache-size`
    pub cache_size_bytes: Option<u64>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--secret-file`
    pub secret_file: Option<PathBuf>,
    /// `--legacy`
    pub legacy: bool,
}

/// The settings and their origins.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// Warnings to be logged; none of them prevents the start.
    pub warnings: Vec<String>,
    /// Each setting with its origin.
    pub shown: Vec<SettingInfo>,
}

impl Loaded {
    /// Returns the settings as a reply of the control socket.
    pub fn settings(&self) -> Settings {
        let files = self.files.iter();
        Settings {
            files: files.map(|file| file.display().to_string()).collect(),
            settings: self.shown.clone(),
        }
    }
}

/// Reads and checks all layers, and asks the disks which shares name the same folder.
///
/// # Errors
/// [`ConfigError`], which names the wrong places.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    load_with(sources, one_folder::standing)
}

/// Reads and checks all layers for callers that need no share. Starts no thread and does not wait
/// for a share's disk.
///
/// # Errors
/// [`ConfigError`], which names the wrong places.
pub fn load_texts(sources: &Sources) -> Result<Loaded, ConfigError> {
    load_with(sources, |shares| (shares, Vec::new()))
}

/// Returns the control socket that the valid values of the sources set, also if the configuration
/// as a whole is refused. Returns `None` if they set none, so that the default of the place applies.
pub fn socket_of(sources: &Sources) -> Option<PathBuf> {
    if let Some(named) = &sources.overrides.socket {
        return Some(named.clone());
    }
    let mut merged = Merged::default();
    for path in config_files(sources).unwrap_or_default() {
        if let Ok(text) = read(&path) {
            let _refused = merged.add_file(&path, &text);
        }
    }
    let (environment, _refused) = variables::layer(&sources.environment);
    merged.add(environment, "the environment");
    if merged.origins.contains_key("socket") {
        Some(merged.settings(&sources.place).ok()?.socket)
    } else {
        None
    }
}

fn load_with(
    sources: &Sources,
    standing: impl FnOnce(Vec<ShareSettings>) -> (Vec<ShareSettings>, Vec<String>),
) -> Result<Loaded, ConfigError> {
    let mut merged = Merged::default();
    let mut files = Vec::new();
    let mut errors = Vec::new();
    for path in config_files(sources)? {
        match read(&path) {
            Ok(text) => errors.extend(merged.add_file(&path, &text)),
            Err(error) => errors.push(error),
        }
        files.push(path);
    }
    let (environment, wrong) = variables::layer(&sources.environment);
    errors.extend(wrong);
    merged.add(environment, "the environment");
    let mut config = merged.settings(&sources.place)?;
    apply(&sources.overrides, &mut config, &mut merged);
    if let Some(secret) = credential(&sources.environment, config.secret_file.as_deref()) {
        config.secret_file = Some(secret);
    }
    errors.extend(check::check(&config, |key| merged.origin(key)));
    if !errors.is_empty() {
        // The secret file is checked now, although the start fails anyway. Otherwise the user would
        // see its error only after correcting the others.
        let bad = trouble_with_secret(&config, &merged.origin("secret_file"));
        errors.extend(bad.map(|message| ConfigError::Secret { message }));
    }
    if let Some(error) = ConfigError::all(errors) {
        return Err(error);
    }
    // Runs after the checks of the settings' text, so that an invalid share on our own mount is not
    // accessed.
    let (standing, superseded) = standing(std::mem::take(&mut config.share));
    config.share = standing;
    let unknown = variables::unknown(&sources.environment);
    let warnings = unknown
        .iter()
        .map(|name| not_a_setting(name))
        .chain(superseded)
        .collect();
    let shown = shown(&config, &merged.origins);
    Ok(Loaded {
        config,
        files,
        warnings,
        shown,
    })
}

/// Returns the warning for a variable that is not a setting.
fn not_a_setting(name: &str) -> String {
    let meant = variable_alike(name).map(|meant| format!("; did you mean {meant}?"));
    let ignored = format!("{name} in the environment is not a setting and was ignored");
    ignored + &meant.unwrap_or_default()
}

/// Returns the files to read, in order.
fn config_files(sources: &Sources) -> Result<Vec<PathBuf>, ConfigError> {
    let (main, named) = match &sources.config_file {
        Some(path) => (path.clone(), true),
        None => (sources.place.config_file.clone(), false),
    };
    let mut folder = main.clone().into_os_string();
    folder.push(".d");
    let drop_ins = drop_ins(Path::new(&folder))?;
    // The default file is skipped if no entry has its name. A dangling link of that name is an
    // error.
    let main = Some(main).filter(|main| named || main.symlink_metadata().is_ok());
    Ok(main.into_iter().chain(drop_ins).collect())
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: folder.to_path_buf(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let is_toml = path.extension().is_some_and(|it| it == "toml");
        // Takes the files that `*.toml` names in a shell, because editors keep locks and copies
        // under hidden names.
        let name = path.file_name().unwrap_or_default().as_bytes();
        if is_toml && !name.starts_with(b".") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The merged layers, and where each key was last set.
#[derive(Default)]
struct Merged {
    table: Table,
    origins: BTreeMap<String, String>,
}

impl Merged {
    /// Merges the valid values of a file and returns its errors.
    fn add_file(&mut self, path: &Path, text: &str) -> Vec<ConfigError> {
        let (table, errors) = document::read(path, text);
        let lines = key_lines(text);
        let origin = |key: &str| {
            let line = lines.get(key).copied().unwrap_or(1);
            format!("set in {} line {line}", path.display())
        };
        for key in leaf_keys(&table).into_iter().chain(share_keys(&table)) {
            self.origins.insert(key.clone(), origin(&key));
        }
        overlay(&mut self.table, table);
        errors
    }

    fn add(&mut self, table: Table, origin: &str) {
        for key in leaf_keys(&table).into_iter().chain(share_keys(&table)) {
            self.origins.insert(key, format!("set in {origin}"));
        }
        overlay(&mut self.table, table);
    }

    fn origin(&self, key: &str) -> String {
        self.origins
            .get(key)
            .cloned()
            .unwrap_or_else(|| DEFAULT.to_owned())
    }

    /// Builds the configuration from all layers. The defaults of the place apply to keys that no
    /// layer sets.
    fn settings(&self, place: &Place) -> Result<Config, ConfigError> {
        let mut config: Config = self
            .table
            .clone()
            .try_into()
            .map_err(|e: toml::de::Error| {
                let message = one_line(e.message());
                ConfigError::Variable {
                    name: "a setting".to_owned(),
                    message,
                }
            })?;
        let defaults = Config::defaults(place);
        let unset = |key: &str| !self.origins.contains_key(key);
        let paths = [
            ("state_dir", &mut config.state_dir, defaults.state_dir),
            ("cache_dir", &mut config.cache_dir, defaults.cache_dir),
            ("socket", &mut config.socket, defaults.socket),
            ("mount.dir", &mut config.mount.dir, defaults.mount.dir),
            ("inbox.dir", &mut config.inbox.dir, defaults.inbox.dir),
        ];
        for (key, path, default) in paths {
            if unset(key) {
                *path = default;
            }
        }
        if unset("name") {
            config.name = defaults.name;
        }
        Ok(config)
    }
}

fn apply(overrides: &Overrides, config: &mut Config, merged: &mut Merged) {
    let flags = overrides.clone();
    let mut from_flag = |key: &str, flag: &str| {
        merged
            .origins
            .insert(key.to_owned(), format!("set by {flag}"));
    };
    let given = [
        (flags.name.is_some(), "name", "--name"),
        (flags.listen.is_some(), "listen", "--listen"),
        (
            flags.cache_size_bytes.is_some(),
            "cache.size",
            "--cache-size",
        ),
        (flags.secret_file.is_some(), "secret_file", "--secret-file"),
        (!flags.seeds.is_empty(), "seeds", "--seed"),
        (flags.legacy, "legacy.enabled", "--legacy"),
        (flags.mount_dir.is_some(), "mount.enabled", "--mount"),
    ];
    for (_, key, flag) in given.into_iter().filter(|(is_given, ..)| *is_given) {
        from_flag(key, flag);
    }
    let mut set_path = |value: Option<PathBuf>, key: &str, flag: &str, to: &mut PathBuf| {
        if let Some(path) = value {
            from_flag(key, flag);
            *to = path;
        }
    };
    config.mount.enabled |= flags.mount_dir.is_some();
    set_path(
        flags.mount_dir,
        "mount.dir",
        "--mount",
        &mut config.mount.dir,
    );
    set_path(
        flags.state_dir,
        "state_dir",
        "--state",
        &mut config.state_dir,
    );
    set_path(
        flags.cache_dir,
        "cache_dir",
        "--cache",
        &mut config.cache_dir,
    );
    set_path(flags.socket, "socket", "--socket", &mut config.socket);
    config.name = flags.name.unwrap_or_else(|| config.name.clone());
    config.listen = flags.listen.unwrap_or(config.listen);
    config.cache.size_bytes = flags.cache_size_bytes.unwrap_or(config.cache.size_bytes);
    config.secret_file = flags.secret_file.or_else(|| config.secret_file.take());
    if !flags.seeds.is_empty() {
        config.seeds = flags.seeds;
    }
    config.legacy.enabled |= flags.legacy;
    for dir in flags.shares {
        from_flag("share.dir", "--share");
        from_flag(&share_key(&dir.to_string_lossy()), "--share");
        config.share.retain(|share| share.dir != dir);
        let mut share = ShareSettings::new(dir);
        share.legacy = flags.legacy;
        config.share.push(share);
    }
}

/// Returns the keys of all values with their sections; keys of shares have no index.
fn leaf_keys(table: &Table) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in table {
        let tables: Vec<&Table> = match value {
            Value::Table(inner) => vec![inner],
            Value::Array(items) => items.iter().filter_map(Value::as_table).collect(),
            _ => Vec::new(),
        };
        if tables.is_empty() {
            keys.push(key.clone());
        }
        for inner in tables {
            keys.extend(
                leaf_keys(inner)
                    .into_iter()
                    .map(|inner| format!("{key}.{inner}")),
            );
        }
    }
    keys
}

/// Returns the keys under which the origins of the table's shares are stored.
fn share_keys(table: &Table) -> Vec<String> {
    let shares = table.get("share").and_then(Value::as_array);
    let dirs = shares.into_iter().flatten().filter_map(|it| it.get("dir"));
    dirs.filter_map(Value::as_str).map(share_key).collect()
}

/// Returns the line of each key of a file, with its section, and the line of each share's folder.
fn key_lines(text: &str) -> BTreeMap<String, usize> {
    fn collect(
        table: &toml::de::DeTable<'_>,
        section: &str,
        text: &str,
        lines: &mut BTreeMap<String, usize>,
    ) {
        use toml::de::DeValue;
        for (key, value) in table {
            let path = format!("{section}{}", key.get_ref());
            let inner = format!("{path}.");
            let line = line_and_column(text, key.span().start).0;
            if let ("share.dir", DeValue::String(dir)) = (&*path, value.get_ref()) {
                lines.insert(share_key(dir), line);
            }
            lines.insert(path, line);
            match value.get_ref() {
                DeValue::Table(table) => collect(table, &inner, text, lines),
                DeValue::Array(items) => {
                    for table in items.iter().filter_map(|item| item.get_ref().as_table()) {
                        collect(table, &inner, text, lines);
                    }
                }
                _ => {}
            }
        }
    }
    let mut lines = BTreeMap::new();
    if let Ok(table) = toml::de::DeTable::parse(text) {
        collect(table.get_ref(), "", text, &mut lines);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_set_to_the_default_is_told_from_one_that_is_not_set() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p2pfs.toml");
        let place = Place::system("lab");
        let default = place.socket.display().to_string();
        let mut sources = Sources {
            config_file: Some(file.clone()),
            environment: Environment::default(),
            overrides: Overrides::default(),
            place,
        };
        let texts = [
            (String::new(), None),
            (format!("socket = '{default}'\n"), Some(default.as_str())),
            ("socket = '/run/x'\n".to_owned(), Some("/run/x")),
            ("socket = '/run/x'\ncash = 1\n".to_owned(), Some("/run/x")),
            ("socket = 1\n".to_owned(), None),
        ];
        for (text, set) in texts {
            std::fs::write(&file, &text).unwrap();
            assert_eq!(socket_of(&sources), set.map(PathBuf::from), "{text}");
        }
        sources.environment = Environment::from([("P2PFS_SOCKET", "/run/y")]);
        assert_eq!(socket_of(&sources), Some("/run/y".into()));
        sources.overrides.socket = Some("/run/z".into());
        assert_eq!(socket_of(&sources), Some("/run/z".into()));
    }
}
