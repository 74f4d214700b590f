//! The payloads that carry a file: a start message, chunks, and an end message.

use p2pfs_types::id::{from_hex, to_hex};

/// A SHA-256, by which this protocol identifies the content of a file.
pub type Sha256 = [u8; 32];

/// Maximum length of a payload. The original programs refuse to send more.
pub const BYTES_MAX: u64 = 16 << 20;
const START: &[u8] = b"FILESTART:";
const CHUNK: &[u8] = b"FILECHUNK:";
const END: &[u8] = b"FILEEND:";

/// Minimum length of every chunk but the last. The chunks of the original programs have this
/// length.
const CHUNK_MIN_BYTES: u64 = 256 << 10;
/// Maximum length of a chunk: below [`BYTES_MAX`], with room for the head of the payload.
pub const CHUNK_MAX_BYTES: u64 = 15 << 20;
/// Maximum chunks of a file, unless they would exceed [`CHUNK_MAX_BYTES`]. With the start and the
/// end message they fit the queue of an original program, which has 100 places and drops messages
/// when it is full.
const CHUNKS_WANTED: u64 = 80;

/// The start of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStart {
    /// Name as the peer sent it. It is not checked and may be a path.
    pub name: Vec<u8>,
    /// Announced size.
    pub size_bytes: u64,
    /// Announced hash of the content.
    pub sha256: Sha256,
}

/// The end of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEnd {
    /// Name as in the start message.
    pub name: Vec<u8>,
    /// Hash of the content; `None` if the peer does not repeat it here.
    pub sha256: Option<Sha256>,
}

/// The parsed head of a payload: its first line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PayloadHead {
    Start(FileStart),
    /// The rest of the payload belongs to the file of that name.
    Chunk(Vec<u8>),
    End(FileEnd),
    /// An invalid head of a file.
    BadFile,
    /// A payload that is not about a file.
    Binary,
}

impl PayloadHead {
    /// Parses a head. `is_whole` is false if the end of the line was not found.
    pub(super) fn parse(line: &[u8], is_whole: bool) -> Self {
        if let Some(fields) = line.strip_prefix(START) {
            let start = is_whole.then(|| FileStart::parse(fields)).flatten();
            return start.map_or(Self::BadFile, Self::Start);
        }
        if let Some(name) = line.strip_prefix(CHUNK) {
            return if is_whole {
                Self::Chunk(name.to_vec())
            } else {
                Self::BadFile
            };
        }
        match line.strip_prefix(END) {
            Some(fields) if is_whole => Self::End(FileEnd::parse(fields)),
            Some(_) => Self::BadFile,
            None => Self::Binary,
        }
    }
}

impl FileStart {
    /// Parses the fields from the right, because a name may contain their separator.
    fn parse(fields: &[u8]) -> Option<Self> {
        let mut fields = fields.rsplitn(3, |b| *b == b'|');
        let sha256 = hash_of(fields.next()?)?;
        let size = fields.next()?;
        let digits = !size.is_empty() && size.iter().all(u8::is_ascii_digit);
        let size_bytes = std::str::from_utf8(size).ok()?.parse().ok()?;
        digits.then_some(())?;
        Some(Self {
            name: fields.next()?.to_vec(),
            size_bytes,
            sha256,
        })
    }
}

impl FileEnd {
    fn parse(fields: &[u8]) -> Self {
        let at = fields.iter().rposition(|b| *b == b'|');
        let hash = at.and_then(|at| hash_of(&fields[at + 1..]));
        let end = at.filter(|_| hash.is_some()).unwrap_or(fields.len());
        Self {
            name: fields[..end].to_vec(),
            sha256: hash,
        }
    }
}

fn hash_of(text: &[u8]) -> Option<Sha256> {
    from_hex(std::str::from_utf8(text).ok()?.trim_end())
}

/// Returns the length of the chunks of a file of `size_bytes`. The last one may be shorter.
pub fn chunk_bytes(size_bytes: u64) -> u64 {
    let share = size_bytes.div_ceil(CHUNKS_WANTED);
    share.clamp(CHUNK_MIN_BYTES, CHUNK_MAX_BYTES)
}

/// Encodes the message that starts a file. `name` must come from
/// [`sent_name`](p2pfs_types::file_name::sent_name).
pub fn encode_start(name: &[u8], size_bytes: u64, sha256: &Sha256) -> Vec<u8> {
    let rest = format!("|{size_bytes}|{}\n", to_hex(sha256));
    message(&[START, name, rest.as_bytes()].concat(), 0)
}

/// Encodes the head of a chunk of `length_bytes`. The caller sends the chunk itself after it.
pub fn encode_chunk_head(name: &[u8], length_bytes: u64) -> Vec<u8> {
    debug_assert!(
        length_bytes <= CHUNK_MAX_BYTES,
        "over the limit of a payload"
    );
    message(&[CHUNK, name, b"\n"].concat(), length_bytes)
}

/// Encodes the message that ends a file.
pub fn encode_end(name: &[u8], sha256: &Sha256) -> Vec<u8> {
    let rest = format!("|{}\n", to_hex(sha256));
    message(&[END, name, rest.as_bytes()].concat(), 0)
}

/// Encodes a payload that is not part of a file. The caller ensures that `bytes` has at most
/// [`BYTES_MAX`] bytes and that [`is_about_file`] returns false for it.
pub fn encode_message(bytes: &[u8]) -> Vec<u8> {
    message(bytes, 0)
}

/// Returns whether the receiver of this payload would take it for a message about a file.
pub fn is_about_file(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    PayloadHead::parse(line, false) != PayloadHead::Binary
}

fn message(head: &[u8], following_bytes: u64) -> Vec<u8> {
    let length_bytes = head.len() as u64 + following_bytes;
    debug_assert!(length_bytes <= BYTES_MAX, "over the limit of a payload");
    [format!("BYTES:{length_bytes}\n").as_bytes(), head].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Sha256 = [0xba; 32];

    #[test]
    fn a_file_is_sent_byte_for_byte_as_the_old_programs_send_it() {
        let hex = "ba".repeat(32);
        let start = format!("BYTES:88\nFILESTART:test.txt|300|{hex}\n");
        assert_eq!(encode_start(b"test.txt", 300, &HASH), start.as_bytes());
        let chunk = encode_chunk_head(b"test.txt", 300);
        assert_eq!(chunk, b"BYTES:319\nFILECHUNK:test.txt\n");
        let end = format!("BYTES:82\nFILEEND:test.txt|{hex}\n");
        assert_eq!(encode_end(b"test.txt", &HASH), end.as_bytes());
        let big = encode_chunk_head(b"big.bin", 256 << 10);
        assert_eq!(big, b"BYTES:262162\nFILECHUNK:big.bin\n");
    }

    #[test]
    fn bytes_that_an_old_program_would_take_for_a_file_are_distinguished() {
        for file in ["FILESTART:", "FILECHUNK:x\nyz", "FILEEND:a|b\n"] {
            assert!(is_about_file(file.as_bytes()), "{file}");
        }
        for other in ["", "x\nFILEEND:", "FILE", "filestart:"] {
            assert!(!is_about_file(other.as_bytes()), "{other}");
        }
        assert_eq!(encode_message(b"x\n"), b"BYTES:2\nx\n");
    }

    #[test]
    fn a_file_of_a_gibibyte_fits_the_queue_of_an_old_receiver() {
        assert_eq!(chunk_bytes(0), 256 << 10);
        assert_eq!(chunk_bytes(1 << 20), 256 << 10);
        for size in [64 << 20, 1 << 30] {
            let messages = 2 + u64::div_ceil(size, chunk_bytes(size));
            assert!(messages < 100, "{messages}");
        }
        assert_eq!(chunk_bytes(1 << 40), CHUNK_MAX_BYTES);
    }

    #[test]
    fn every_known_form_of_a_files_begin_and_end_is_read() {
        let hex = "BA".repeat(32);
        let start = |fields: String| match PayloadHead::parse(fields.as_bytes(), true) {
            PayloadHead::Start(start) => Some((start.name, start.size_bytes)),
            _ => None,
        };
        let name = |text: &str, size| Some((text.as_bytes().to_vec(), size));
        assert_eq!(start(format!("FILESTART:a|3|{hex}")), name("a", 3));
        assert_eq!(start(format!("FILESTART:a|b|3|{hex}")), name("a|b", 3));
        assert_eq!(start(format!("FILESTART:|0|{hex}\r")), name("", 0));
        for bad in [
            "a|-3|",
            "a|x|",
            "a||",
            "a|+3|",
            "3|",
            "a|99999999999999999999|",
        ] {
            assert_eq!(start(format!("FILESTART:{bad}{hex}")), None, "{bad}");
        }
        assert_eq!(start("FILESTART:a|3|short".to_owned()), None);
        let end = |fields: &str| match PayloadHead::parse(fields.as_bytes(), true) {
            PayloadHead::End(end) => (end.name, end.sha256),
            other => panic!("{other:?}"),
        };
        let with_hash = end(&format!("FILEEND:a|b|{hex}"));
        assert_eq!(with_hash, (b"a|b".to_vec(), Some(HASH)));
        assert_eq!(end("FILEEND:a|b"), (b"a|b".to_vec(), None));
    }
}
