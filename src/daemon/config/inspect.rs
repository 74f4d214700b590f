//! Checks of the files that a configuration refers to, without starting anything: for
//! `--check-config`.

use std::path::Path;

use super::check::overlap;
use super::load::Loaded;
use super::secret::trouble_with_secret;
use crate::daemon::control::SettingInfo;

/// The result of the checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Errors that would prevent the start.
    pub errors: Vec<String>,
    /// Warnings that the daemon would log without refusing to start.
    pub warnings: Vec<String>,
}

/// Checks the secret file and the shares.
pub fn inspect(loaded: &Loaded) -> Inspection {
    let (config, mut found) = (&loaded.config, Inspection::default());
    let is_it = |it: &&SettingInfo| it.key == "secret_file";
    let origin = loaded.shown.iter().find(is_it).map_or("", |it| &it.origin);
    found.errors.extend(trouble_with_secret(config, origin));
    for (number, share) in config.share.iter().enumerate() {
        found.warnings.extend(trouble_with(&share.dir));
        let earlier = config.share[..number].iter().map(|it| &it.dir);
        found
            .warnings
            .extend(earlier.filter_map(|other| trouble_between(&share.dir, other)));
    }
    found
}

/// Warns of two shares that overlap.
fn trouble_between(dir: &Path, other: &Path) -> Option<String> {
    let real = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    overlap(&real(dir), &real(other)).then(|| {
        let (dir, other) = (dir.display(), other.display());
        format!("share.dir: {dir} and the share {other} overlap; share the outer one alone")
    })
}

/// Warns of a share that cannot be read.
fn trouble_with(dir: &Path) -> Option<String> {
    let shown = dir.display();
    match std::fs::read_dir(dir) {
        Ok(_) => None,
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotADirectory => Some(format!(
                "share.dir: {shown} is not a directory: name the one that holds it"
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
