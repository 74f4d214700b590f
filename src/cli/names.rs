//! Names as the user gives them: any bytes, from the root of the mount.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::CliError;
use crate::daemon::control::{Call, Client, Named, Status};

/// The name within the shared folder that an argument means: `docs/a`, `/docs/a` and
/// `/mnt/p2p/docs/a` are the same where the folder is mounted on `/mnt/p2p`.
pub(super) fn shared_name(client: &mut Client, argument: &OsStr) -> Result<Named, CliError> {
    if !argument.as_bytes().starts_with(b"/") {
        return Ok(Named::new(clean(argument.as_bytes())));
    }
    let status: Status = client.call(&Call::Status {})?;
    let beneath = Path::new(argument)
        .strip_prefix(status.mount.dir.as_local())
        .ok();
    let name = beneath.map_or(argument.as_bytes(), |path| path.as_os_str().as_bytes());
    Ok(Named::new(clean(name)))
}

/// Drops what says nothing: slashes at the ends or doubled, and `.`.
fn clean(path: &[u8]) -> Vec<u8> {
    let names = path
        .split(|byte| *byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."));
    names.collect::<Vec<_>>().join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_and_dots_that_say_nothing_are_dropped() {
        for (given, meant) in [
            (&b"a/b"[..], &b"a/b"[..]),
            (b"a/b/", b"a/b"),
            (b"./a//b/.", b"a/b"),
            (b"/", b""),
            (b".", b""),
            (b"a/../b", b"a/../b"),
            (b"caf\xe9", b"caf\xe9"),
        ] {
            assert_eq!(clean(given), meant);
        }
    }
}
