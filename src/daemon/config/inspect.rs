//! What a configuration refers to, looked at without starting anything: for `--check-config`.

use std::path::Path;

use super::check::overlap;
use super::load::Loaded;
use crate::daemon::control::SettingInfo;
use crate::trust::Keyring;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// What would stop the start; whoever set it is at fault.
    pub errors: Vec<String>,
    /// What the daemon would start with all the same, and tell of.
    pub warnings: Vec<String>,
}

/// Looks at the secret file and the shares.
pub fn inspect(loaded: &Loaded) -> Inspection {
    let (config, mut found) = (&loaded.config, Inspection::default());
    if let Some(file) = &config.secret_file
        && let Err(error) = Keyring::from_secret_file(file)
    {
        // set nowhere it is a credential of the service, which the error names
        let is_it = |it: &&SettingInfo| it.key == "secret_file" && it.origin.starts_with("set in");
        let set = loaded.shown.iter().find(is_it);
        let origin = set.map_or_else(String::new, |it| format!(", {}", it.origin));
        found.errors.push(format!("secret_file{origin}: {error}"));
    }
    for (number, share) in config.share.iter().enumerate() {
        found.warnings.extend(trouble_with(&share.dir));
        let earlier = config.share[..number].iter().map(|it| &it.dir);
        found
            .warnings
            .extend(earlier.filter_map(|other| trouble_between(&share.dir, other)));
    }
    found
}

/// Of shares that overlap the first alone is shared.
fn trouble_between(dir: &Path, other: &Path) -> Option<String> {
    let real = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    overlap(&real(dir), &real(other)).then(|| {
        let (dir, other) = (dir.display(), other.display());
        format!("share.dir: {dir} and the share {other} overlap; share the outer one alone")
    })
}

/// A share that is not there is tried again while the daemon runs.
fn trouble_with(dir: &Path) -> Option<String> {
    let shown = dir.display();
    match std::fs::read_dir(dir) {
        Ok(_) => None,
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotADirectory => Some(format!(
                "share.dir: {shown} is no directory: name the one that holds it"
            )),
            std::io::ErrorKind::NotFound => Some(format!(
                "share.dir: {shown} is not there: make it, or take it out"
            )),
            std::io::ErrorKind::PermissionDenied => Some(format!(
                "share.dir: {shown} cannot be read by this user: check as the daemon's"
            )),
            _ => Some(format!("share.dir: {shown} cannot be read: {error}")),
        },
    }
}
