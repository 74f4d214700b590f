//! Reads one configuration file as text, up to a size limit and without waiting for the writer of a
//! pipe.

use std::fs::Metadata;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{major, minor};

use super::error::{ConfigError, line_and_column};
use p2pfs_types::files::trusted_way::open_to_read;

/// Maximum bytes of a configuration file: a thousand times the size of a large one.
const FILE_MAX_BYTES: u64 = 16 << 20;
/// Device number of the empty device, `/dev/null` under any name (null(4)).
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Returns the content of a regular file; empty text for `/dev/null`.
///
/// # Errors
/// [`ConfigError::Unreadable`].
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let bytes = read_bytes(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let (text, wrong) = (error.as_bytes(), error.utf8_error().valid_up_to());
        let (line, _) = line_and_column(&String::from_utf8_lossy(text), wrong);
        let why = format!("line {line} is not UTF-8, which TOML is written in");
        unreadable(io::Error::new(ErrorKind::InvalidData, why))
    })
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe without a writer must not block the start forever.
    let opened = open_to_read(path).map_err(io::Error::from);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // A socket, or a device without a driver.
        Some(libc::ENXIO) => no_regular_file(),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    if is_null(&metadata) {
        return Ok(Vec::new());
    }
    // For a folder, the read below returns an error that says so.
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(no_regular_file());
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        Err(too_large())
    } else {
        Ok(bytes)
    }
}

fn is_null(metadata: &Metadata) -> bool {
    let device = metadata.rdev();
    metadata.file_type().is_char_device() && (major(device), minor(device)) == NULL_DEVICE
}

fn no_regular_file() -> io::Error {
    let why = "it is not a regular file; name one, or /dev/null for an empty one";
    io::Error::new(ErrorKind::InvalidInput, why)
}

fn too_large() -> io::Error {
    let most = FILE_MAX_BYTES >> 20;
    let why = format!("it is larger than {most} MiB, the most that is read; name another");
    io::Error::new(ErrorKind::FileTooLarge, why)
}
