//! The names of pushed files, for sending and for storing.

use crate::path::{ARRIVING, HIDDEN_ROOT, NAME_MAX_BYTES};

/// Maximum length of a sent name. The programs of the legacy protocol append five bytes on their
/// disk, and up to six more if they already have such a file.
pub const SENT_NAME_MAX_BYTES: usize = NAME_MAX_BYTES - 11;
/// Maximum length of an extension, with its dot, that is kept when a name is truncated.
const ENDING_MAX_BYTES: usize = 16;
/// Replacement for bytes that a name cannot contain.
const STAND_IN: u8 = b'_';

/// Returns the name under which a local file is pushed: its last component, truncated to
/// [`SENT_NAME_MAX_BYTES`]. Replaces control characters, `|` and `\` by `_`, because they would end
/// a field or a line, or leave a folder.
pub fn sent_name(name: &[u8]) -> Vec<u8> {
    let last = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let is_refused = |b: u8| b.is_ascii_control() || matches!(b, b'|' | b'\\');
    let plain: Vec<u8> = last
        .iter()
        .map(|b| if is_refused(*b) { STAND_IN } else { *b })
        .collect();
    cut(plain, SENT_NAME_MAX_BYTES)
}

/// Returns the name under which a pushed file may be stored: the last component of the sent name,
/// truncated to [`SENT_NAME_MAX_BYTES`]. Replaces control characters, and the names of this
/// program's own folders. Returns `None` if there is no name, or for `.` and `..`.
pub fn received_name(name: &[u8]) -> Option<Vec<u8>> {
    let last = name.rsplit(|b| matches!(b, b'/' | b'\\')).next()?;
    let plain: Vec<u8> = last
        .iter()
        .map(|b| if b.is_ascii_control() { STAND_IN } else { *b })
        .collect();
    match &plain[..] {
        b"" | b"." | b".." => None,
        HIDDEN_ROOT => Some(b"_p2pfs".to_vec()),
        name if name == ARRIVING.as_bytes() => Some(b"_p2pfs-arriving".to_vec()),
        _ => Some(cut(plain, SENT_NAME_MAX_BYTES)),
    }
}

/// Returns the name with a number before its last extension, as the programs of the legacy protocol
/// write it. For 0, returns the name itself.
pub fn numbered_name(name: &[u8], number: u32) -> Vec<u8> {
    if number == 0 {
        return name.to_vec();
    }
    let end = name.iter().rposition(|b| *b == b'.').unwrap_or(name.len());
    let number = format!("-({number})");
    [&name[..end], number.as_bytes(), &name[end..]].concat()
}

/// Truncates a name to `most` bytes at a character boundary. Keeps its extension if that has at
/// most [`ENDING_MAX_BYTES`].
fn cut(name: Vec<u8>, most: usize) -> Vec<u8> {
    if name.len() <= most {
        return name;
    }
    let dot = name.iter().rposition(|b| *b == b'.').unwrap_or(name.len());
    let ending = &name[dot..];
    let ending = if ending.len() > ENDING_MAX_BYTES {
        &[]
    } else {
        ending
    };
    let mut end = most - ending.len();
    // not inside a UTF-8 character, which has at most three continuation bytes
    let is_inside = |at: usize| name[at] & 0xc0 == 0x80;
    for _ in 0..3 {
        if is_inside(end) {
            end -= 1;
        }
    }
    [&name[..end], ending].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::check_name;

    fn received(name: &[u8]) -> Option<String> {
        received_name(name).map(|name| String::from_utf8(name).unwrap())
    }

    #[test]
    fn a_received_name_cannot_leave_the_folder_or_control_a_terminal() {
        for (sent, kept) in [
            (&b"test.txt"[..], "test.txt"),
            (b"../../etc/passwd", "passwd"),
            (b"..\\..\\evil.bat", "evil.bat"),
            (b"sub/x.txt", "x.txt"),
            (b"a\nb\x1b[m", "a_b_[m"),
            (b"a|b", "a|b"),
            (b".p2pfs", "_p2pfs"),
        ] {
            assert_eq!(received(sent).as_deref(), Some(kept));
        }
        for refused in [&b""[..], b".", b"..", b"a/..", b"a/", b"/", b"\\"] {
            assert_eq!(received(refused), None, "{}", refused.escape_ascii());
        }
    }

    #[test]
    fn a_name_of_300_bytes_is_truncated_and_keeps_its_extension() {
        let long = ["n".repeat(296), ".txt".to_owned()].concat();
        for kept in [
            received_name(long.as_bytes()).unwrap(),
            sent_name(long.as_bytes()),
        ] {
            assert!(kept.len() <= SENT_NAME_MAX_BYTES && kept.ends_with(b".txt"));
        }
        let wide = "ü".repeat(200);
        assert!(received(wide.as_bytes()).unwrap().ends_with('ü'));
    }

    #[test]
    fn a_sent_name_breaks_no_field_or_line_of_an_old_program() {
        assert_eq!(sent_name(b"dir/a|b\nc.txt"), b"a_b_c.txt");
        assert_eq!(sent_name("caf\u{e9}".as_bytes()), "caf\u{e9}".as_bytes());
    }

    #[test]
    fn numbers_are_placed_where_the_old_programs_put_them() {
        for (name, numbered) in [
            (&b"test.txt"[..], &b"test-(1).txt"[..]),
            (b"a.tar.gz", b"a.tar-(1).gz"),
            (b".hid", b"-(1).hid"),
            (b"plain", b"plain-(1)"),
        ] {
            assert_eq!(numbered_name(name, 1), numbered);
            assert_eq!(numbered_name(name, 0), name);
        }
    }

    proptest! {
        #[test]
        fn every_received_and_every_sent_name_is_one_path_component(
            name in proptest::collection::vec(any::<u8>(), 0..400), number in 0_u32..1000,
        ) {
            if let Some(kept) = received_name(&name) {
                prop_assert!(check_name(&numbered_name(&kept, number)).is_ok());
                prop_assert!(!kept.iter().any(u8::is_ascii_control));
            }
            let sent = sent_name(&name);
            prop_assert!(!sent.contains(&b'|') && !sent.contains(&b'\n') && !sent.contains(&b'/'));
            prop_assert!(sent.len() <= SENT_NAME_MAX_BYTES);
        }
    }
}
