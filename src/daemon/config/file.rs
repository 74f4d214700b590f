//! One file of the configuration as text: never waited for, and no more of it than a limit.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{major, minor};

use super::error::{ConfigError, line_and_column};

/// The largest configuration file that is read: a thousand times what a large one has.
const FILE_MAX_BYTES: u64 = 16 << 20;
/// The device that has nothing in it, `/dev/null` by whatever name (null(4)).
const NULL_DEVICE: (u32, u32) = (1, 3);

/// What is in a regular file; nothing in `/dev/null`.
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
    // a pipe that nobody writes to would hold the start up for ever; a file does not care
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // a socket, or a device that nothing is behind
            Some(libc::ENXIO) => no_regular_file(),
            _ => error,
        })?;
    let metadata = file.metadata()?;
    if is_null(&metadata) {
        return Ok(Vec::new());
    }
    // a folder says itself that it is one
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
    let why = "it is no regular file; name one, or /dev/null for an empty one";
    io::Error::new(ErrorKind::InvalidInput, why)
}

fn too_large() -> io::Error {
    let most = FILE_MAX_BYTES >> 20;
    let why = format!("it is larger than {most} MiB, the most that is read; name another");
    io::Error::new(ErrorKind::FileTooLarge, why)
}
