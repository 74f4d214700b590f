//! Checks the secret file without starting anything.

use super::settings::Config;
use p2pfs_proto::trust::KeyringFiles;

/// Returns why the secret file is unusable; `None` if it is usable or not set. `origin` is the
/// origin of the setting.
pub(super) fn trouble_with_secret(config: &Config, origin: &str) -> Option<String> {
    let error = KeyringFiles::check_secret_file(config.secret_file.as_ref()?).err()?;
    // The origin is omitted if neither a file nor a variable set the path. The path is then from
    // the command line or a credential of the service, and the error names it.
    let origin = if origin.starts_with("set in") {
        format!(", {origin}")
    } else {
        String::new()
    };
    Some(format!("secret_file{origin}: {error}"))
}
