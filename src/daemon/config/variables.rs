//! The environment as a layer of settings: `P2PFS_…` for each setting, and the variables that users
//! of the legacy programs know.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use toml::{Table, Value};

use super::environment::Environment;
use super::error::ConfigError;
use super::layer::{check_alone, overlay};
use super::setting::{SETTINGS, Setting, SettingKind};

/// Variables with the prefix of settings that are not settings.
const NOT_SETTINGS: [&str; 2] = ["P2PFS_CONFIG", "P2PFS_BROKER"];

/// Returns names with the prefix `P2PFS_` that are not settings; most likely they are misspelt.
pub(super) fn unknown(environment: &Environment) -> Vec<String> {
    environment
        .names()
        .filter(|name| name.starts_with("P2PFS_"))
        .filter(|name| !NOT_SETTINGS.contains(name))
        .filter(|name| !SETTINGS.iter().any(|setting| setting.variable() == *name))
        .map(str::to_owned)
        .collect()
}

/// Returns the valid variables as one layer, and the errors of the others.
pub(super) fn layer(environment: &Environment) -> (Table, Vec<ConfigError>) {
    let settings = SETTINGS.iter().filter(|it| it.section() != "share");
    let tables = legacy_names(environment).into_iter();
    let tables = tables.chain(settings.map(|setting| table_of(environment, setting)));
    let (mut layer, mut errors) = (Table::new(), Vec::new());
    for table in tables.chain([shares(environment)]) {
        match table {
            Ok(table) => overlay(&mut layer, table),
            Err(error) => errors.push(error),
        }
    }
    (layer, errors)
}

/// Reads the variable of a setting; returns an empty table if it is unset.
fn table_of(environment: &Environment, setting: &Setting) -> Result<Table, ConfigError> {
    let Some((name, text)) = text_of(environment, &setting.variable())? else {
        return Ok(Table::new());
    };
    let value = value_of(setting, text).map_err(|why| wrong(&name, why))?;
    checked(&name, nested(setting, value))
}

/// Returns the table if it makes a valid configuration by itself.
fn checked(name: &str, table: Table) -> Result<Table, ConfigError> {
    check_alone(&table).map_err(|why| wrong(name, why))?;
    Ok(table)
}

/// Reads `P2P_HOST` and the like, which users of the legacy programs have in their scripts.
fn legacy_names(environment: &Environment) -> Vec<Result<Table, ConfigError>> {
    vec![
        legacy_listen(environment),
        legacy_seconds(environment, "P2P_PERIOD", "period"),
        legacy_seconds(environment, "P2P_WAITING", "waiting"),
        older_folder(environment),
        legacy_cluster(environment),
    ]
}

fn legacy_listen(environment: &Environment) -> Result<Table, ConfigError> {
    let (host, port) = (
        text_of(environment, "P2P_HOST")?,
        text_of(environment, "P2P_PORT")?,
    );
    let Some((name, _)) = host.as_ref().or(port.as_ref()) else {
        return Ok(Table::new());
    };
    let listen = legacy_address(host.as_ref(), port.as_ref())?;
    checked(name, table("", "listen", Value::from(listen.to_string())))
}

fn legacy_seconds(environment: &Environment, name: &str, key: &str) -> Result<Table, ConfigError> {
    let Some((name, seconds)) = text_of(environment, name)? else {
        return Ok(Table::new());
    };
    // The legacy programs have no units.
    let is_number = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    if seconds.is_empty() || !seconds.bytes().all(is_number) {
        let why = format!(
            "{seconds:?} is not a count of seconds: write a number without a unit, such as 20"
        );
        return Err(wrong(&name, why));
    }
    let value = Value::from(format!("{seconds}s"));
    checked(&name, table("legacy", key, value))
}

fn older_folder(environment: &Environment) -> Result<Table, ConfigError> {
    let Some((name, folder)) = text_of(environment, "P2P_FOLDER")? else {
        return Ok(Table::new());
    };
    let legacy = table("", "legacy", Value::from(true));
    let share = share_table(&folder, &legacy).map_err(|why| wrong(&name, why))?;
    checked(&name, share)
}

fn legacy_cluster(environment: &Environment) -> Result<Table, ConfigError> {
    let Some((name, members)) = text_of(environment, "P2P_CLUSTER")? else {
        return Ok(Table::new());
    };
    let mut legacy = table("legacy", "members", list(&members, ','));
    overlay(&mut legacy, table("legacy", "enabled", Value::from(true)));
    checked(&name, legacy)
}

/// Combines host and port into an address. A host that is not an IP address stands for all IPv4
/// addresses, because the legacy programs accept any host name.
fn legacy_address(
    host: Option<&(String, String)>,
    port: Option<&(String, String)>,
) -> Result<SocketAddr, ConfigError> {
    let all = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let ip = host.map_or(all, |(_, host)| host.parse().unwrap_or(all));
    let port = match port {
        None => super::DEFAULT_PORT,
        Some((name, port)) => port
            .parse()
            .map_err(|_| wrong(name, format!("{port:?} is not a port: write 0 to 65535")))?,
    };
    Ok(SocketAddr::new(ip, port))
}

/// Returns the folders of `P2PFS_SHARE_DIR`, all with the settings of the other variables
/// `P2PFS_SHARE_…`.
fn shares(environment: &Environment) -> Result<Table, ConfigError> {
    let mut said = Table::new();
    let settings = SETTINGS.iter().filter(|it| it.section() == "share");
    for setting in settings.filter(|it| it.key != "share.dir") {
        let Some((name, text)) = text_of(environment, &setting.variable())? else {
            continue;
        };
        let value = value_of(setting, text).map_err(|why| wrong(&name, why))?;
        let alone = table("", setting.key.trim_start_matches("share."), value);
        let share = share_table("/", &alone).map_err(|why| wrong(&name, why))?;
        checked(&name, share)?;
        overlay(&mut said, alone);
    }
    let mut shares = Table::new();
    if let Some((name, dirs)) = text_of(environment, "P2PFS_SHARE_DIR")? {
        for dir in dirs.split(':').filter(|dir| !dir.is_empty()) {
            let share = share_table(dir, &said);
            overlay(&mut shares, share.map_err(|why| wrong(&name, why))?);
        }
    }
    Ok(shares)
}

/// Returns a variable as text, together with its name for messages.
fn text_of(environment: &Environment, name: &str) -> Result<Option<(String, String)>, ConfigError> {
    let Some(value) = environment.get(name) else {
        return Ok(None);
    };
    match value.to_str() {
        Some(text) => Ok(Some((name.to_owned(), text.to_owned()))),
        None => {
            let why = "the value is not UTF-8: give it on the command line instead";
            Err(wrong(name, why.to_owned()))
        }
    }
}

fn wrong(name: &str, message: String) -> ConfigError {
    ConfigError::Variable {
        name: name.to_owned(),
        message,
    }
}

/// Converts the variable's text into the value that a file would have.
fn value_of(setting: &Setting, text: String) -> Result<Value, String> {
    match setting.kind {
        SettingKind::Text | SettingKind::Size | SettingKind::Duration | SettingKind::Rate => {
            Ok(Value::from(text))
        }
        SettingKind::Path => absolute(&text).map(Value::from),
        SettingKind::List => Ok(list(&text, ',')),
        SettingKind::Switch => match text.as_str() {
            "true" | "yes" | "on" | "1" => Ok(Value::from(true)),
            "false" | "no" | "off" | "0" => Ok(Value::from(false)),
            _ => Err(format!("{text:?} is not true or false")),
        },
        SettingKind::Number => match text.parse::<u32>() {
            Ok(number) => Ok(Value::from(number)),
            Err(_) => Err(format!(
                "{text:?} is not a whole number from 0 to {}",
                u32::MAX
            )),
        },
    }
}

/// Resolves a relative path against the directory that the daemon was started in.
fn absolute(text: &str) -> Result<String, String> {
    let path = std::path::absolute(text).map_err(|e| format!("{text:?} is not a path: {e}"))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| "the working directory is not UTF-8".to_owned())
}

fn list(text: &str, separator: char) -> Value {
    let items = text
        .split(separator)
        .map(str::trim)
        .filter(|item| !item.is_empty());
    Value::Array(items.map(|item| Value::from(item.to_owned())).collect())
}

fn nested(setting: &Setting, value: Value) -> Table {
    let (section, key) = setting.key.split_once('.').unwrap_or(("", setting.key));
    table(section, key, value)
}

fn table(section: &str, key: &str, value: Value) -> Table {
    let inner = Table::from_iter([(key.to_owned(), value)]);
    match section {
        "" => inner,
        _ => Table::from_iter([(section.to_owned(), Value::Table(inner))]),
    }
}

/// Returns a table with one share and its settings.
fn share_table(dir: &str, said: &Table) -> Result<Table, String> {
    let mut share = said.clone();
    share.insert("dir".to_owned(), Value::from(absolute(dir)?));
    Ok(Table::from_iter([(
        "share".to_owned(),
        Value::Array(vec![Value::Table(share)]),
    )]))
}
