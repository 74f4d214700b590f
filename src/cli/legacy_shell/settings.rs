//! Settings of the older program, from the places where it looked for them: the environment, then
//! `config.yml`.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::super::error::CliError;

/// Configuration files of the older program, in order.
const FILES: [&str; 2] = ["config.yml", "configs/config.yml"];
/// Keys of the older program, with their environment variables, which take precedence, and their
/// defaults.
const KEYS: [(&str, &str, &str); 4] = [
    ("host", "P2P_HOST", "127.0.0.1"),
    ("port", "P2P_PORT", "1378"),
    ("period", "P2P_PERIOD", "20"),
    ("waiting", "P2P_WAITING", "100"),
];

/// Values by environment variable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OldSettings(BTreeMap<&'static str, String>);

impl OldSettings {
    /// Reads the environment and the file.
    ///
    /// # Errors
    /// If a file exists and cannot be read.
    pub(super) fn read() -> Result<Self, CliError> {
        let mut text = String::new();
        for file in FILES {
            match fs::read_to_string(file) {
                Ok(found) => {
                    text = found;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(CliError::plain(format!("{file}: {error}"))),
            }
        }
        Ok(Self::of(&text, |variable| std::env::var(variable).ok()))
    }

    fn of(file: &str, environment: impl Fn(&str) -> Option<String>) -> Self {
        let values = KEYS.map(|(key, variable, default)| {
            let set = environment(variable).or_else(|| value_in(file, key));
            (variable, set.unwrap_or_else(|| default.to_owned()))
        });
        Self(values.into())
    }

    /// Returns the listen address. If the host is not an IPv4 address, this is all addresses, as in
    /// the older program with a name.
    ///
    /// # Errors
    /// If the port is invalid.
    pub(super) fn listen(&self) -> Result<String, CliError> {
        let any = std::net::Ipv4Addr::UNSPECIFIED;
        let ip = self.0["P2P_HOST"].parse().unwrap_or(any);
        let port = &self.0["P2P_PORT"];
        let port: u16 = port
            .parse()
            .map_err(|_| CliError::plain(format!("P2P_PORT: {port:?} is not a port")))?;
        Ok(format!("{ip}:{port}"))
    }

    /// Returns the times as environment variables for the daemon.
    pub(super) fn times(&self) -> impl Iterator<Item = (&str, &str)> {
        let times = ["P2P_PERIOD", "P2P_WAITING"];
        times.into_iter().map(|name| (name, self.0[name].as_str()))
    }
}

/// Returns the value of a top-level key; the file has no other levels.
fn value_in(file: &str, key: &str) -> Option<String> {
    let found = file.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then_some(value)
    })?;
    let value = found.split(" #").next().unwrap_or_default().trim();
    Some(value.trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides_the_file_and_the_file_the_defaults() {
        let file = "host: \"10.0.0.1\" # ours\nport: 1379\n\nperiod:\n# waiting: 5\n";
        let nothing = |_: &str| None;
        let settings = OldSettings::of(file, nothing);
        assert_eq!(settings.listen().unwrap(), "10.0.0.1:1379");
        let times: Vec<_> = settings.times().collect();
        assert_eq!(times, [("P2P_PERIOD", "20"), ("P2P_WAITING", "100")]);
        let port = |name: &str| (name == "P2P_PORT").then(|| "7".to_owned());
        let settings = OldSettings::of(file, port);
        assert_eq!(settings.listen().unwrap(), "10.0.0.1:7");
        let name = |name: &str| (name == "P2P_HOST").then(|| "node1".to_owned());
        let settings = OldSettings::of("", name);
        assert_eq!(settings.listen().unwrap(), "0.0.0.0:1378");
    }
}
