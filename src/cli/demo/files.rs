//! Files shared by the nodes of the demo: a few small text files, some nested, and one of tens of
//! MB.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::DemoError;

/// Size of the one large file.
pub(super) const FILM_BYTES: usize = 48 << 20;
/// Path of the large file in the mount.
pub(super) const FILM: &str = "films/harbour.bin";
/// Index of the node that shares the large file.
pub(super) const FILM_OWNER: usize = 1;

/// Fills the share of node `index`.
pub(super) fn fill_share(index: usize, name: &str, share: &Path) -> Result<(), DemoError> {
    match index {
        0 => {
            write(
                share,
                "resume.pdf",
                b"A resume, in the share of the first node.\n",
                0o644,
            )?;
            write(
                share,
                "notes/2026/harvest.txt",
                b"Apples: 412 kg. Pears: 98 kg.\n",
                0o644,
            )?;
        }
        FILM_OWNER => {
            write(share, FILM, &film(), 0o644)?;
            write(
                share,
                "films/about.txt",
                b"harbour.bin: 48 MiB of noise.\n",
                0o644,
            )?;
        }
        _ => {
            let script = format!("#!/bin/sh\necho \"a program shared by {name}\"\n");
            write(
                share,
                &format!("tools/hello-{name}.sh"),
                script.as_bytes(),
                0o755,
            )?;
            write(
                share,
                &format!("notes/{name}.txt"),
                format!("{name} was here\n").as_bytes(),
                0o644,
            )?;
        }
    }
    Ok(())
}

/// Returns incompressible bytes, the same each time.
fn film() -> Vec<u8> {
    let mut bytes = vec![0; FILM_BYTES];
    blake3::Hasher::new()
        .update(b"harbour")
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn write(share: &Path, path: &str, bytes: &[u8], mode: u32) -> Result<(), DemoError> {
    let full = share.join(path);
    let folder = full.parent().unwrap_or(share);
    let failed = |source| DemoError::Folder {
        action: "write",
        path: full.clone(),
        source,
    };
    fs::create_dir_all(folder).map_err(failed)?;
    fs::write(&full, bytes).map_err(failed)?;
    // The modes do not depend on the umask, because files that others may not read are not shared.
    let mut opened = folder;
    while opened.starts_with(share) {
        fs::set_permissions(opened, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        let Some(above) = opened.parent() else { break };
        opened = above;
    }
    fs::set_permissions(&full, fs::Permissions::from_mode(mode)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_demo_share_has_readable_files() {
        for index in 0..4 {
            let folder = tempfile::tempdir().unwrap();
            let share = folder.path().join("share");
            fill_share(index, "node", &share).unwrap();
            let mode = fs::metadata(&share).unwrap().permissions().mode();
            assert_eq!(mode & 0o005, 0o005);
            assert!(fs::read_dir(&share).unwrap().count() > 0);
        }
    }
}
