//! The list of mounts, as in `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Path of the list for this mount namespace. An open file of it polls with POLLPRI when it
/// changes.
pub const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Returns the mount point of a line.
pub fn point(line: &[u8]) -> Option<PathBuf> {
    path(line, 4)
}

/// Returns the directory of the file system that a line mounts, as a path from the root of the file
/// system. Only bind mounts have another one than `/`.
pub fn root(line: &[u8]) -> Option<PathBuf> {
    path(line, 3)
}

/// Returns the device number of the file system of a line, as text.
pub fn device(line: &[u8]) -> Option<&[u8]> {
    line.split(|byte| *byte == b' ').nth(2)
}

fn path(line: &[u8], field: usize) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(field)?;
    Some(PathBuf::from(OsString::from_vec(unescape(field))))
}

/// Returns the file system type and the source of a line.
pub fn filesystem(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = line.split(|byte| *byte == b' ');
    // Optional fields precede the dash.
    fields.find(|field| *field == b"-")?;
    Some((fields.next()?, fields.next().unwrap_or_default()))
}

/// Returns whether the file system of a line is read-only, whatever the flags of its mount are.
pub fn is_read_only(line: &[u8]) -> bool {
    let mut fields = line
        .split(|byte| *byte == b' ')
        .skip_while(|field| *field != b"-");
    let options = fields.nth(3).unwrap_or_default();
    options
        .split(|byte| *byte == b',')
        .any(|option| option == b"ro")
}

/// Decodes the list's escapes, such as `\040` for a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match tail.get(..3).filter(|_| *first == b'\\').and_then(octal) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    let value = digits.iter().try_fold(0u32, |sum, digit| match digit {
        b'0'..=b'7' => Some(sum * 8 + u32::from(digit - b'0')),
        _ => None,
    });
    u8::try_from(value?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_space_is_found_in_the_mount_list() {
        let line = b"41 22 0:46 / /mnt/a\\040b rw shared:1 master:2 - fuse.p2pfs p2pfs rw";
        assert_eq!(point(line), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(root(line), Some(PathBuf::from("/")));
        assert_eq!(device(line), Some(&b"0:46"[..]));
        assert_eq!(filesystem(line), Some((&b"fuse.p2pfs"[..], &b"p2pfs"[..])));
    }

    #[test]
    fn read_only_file_system_is_distinguished_from_a_read_only_mount() {
        let line = |mount: &str, whole: &str| {
            format!(
                "41 22 0:46 / /mnt {mount},nosuid shared:1 - fuse.p2pfs p2pfs {whole},user_id=0"
            )
        };
        assert!(is_read_only(line("rw", "ro").as_bytes()));
        assert!(!is_read_only(line("ro", "rw").as_bytes()));
        assert!(!is_read_only(b"torn line -"));
    }

    #[test]
    fn a_torn_line_is_ignored() {
        for line in [&b""[..], b"torn line", b"36 35 0:9 /"] {
            assert_eq!((point(line), filesystem(line)), (None, None));
        }
        assert_eq!(filesystem(b"36 35 0:9 / /mnt rw -"), None);
    }

    #[test]
    fn a_backslash_that_escapes_nothing_is_literal() {
        assert_eq!(unescape(b"a\\b\\0"), b"a\\b\\0");
        assert_eq!(unescape(b"\\134\\012"), b"\\\n");
        for text in [&b"\\999"[..], b"\\+12", b"\\777"] {
            assert_eq!(unescape(text), text);
        }
    }
}
