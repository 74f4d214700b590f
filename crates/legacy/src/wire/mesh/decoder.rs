//! The incremental decoder of a mesh connection: received bytes go into [`Decoder::buffer`], and
//! [`Decoder::next_item`] returns the lines and payloads.

use bytes::{Bytes, BytesMut};

use super::file::{BYTES_MAX, FileEnd, FileStart, PayloadHead};
use super::line::{BYTES, Line};

/// Maximum length of a line: some three thousand addresses. The original programs list at most
/// fifteen.
pub const LINE_MAX_BYTES: usize = 64 << 10;
/// Maximum length of a payload that is not part of a file. A longer one is skipped.
pub const MESSAGE_MAX_BYTES: u64 = 256 << 10;
/// Maximum length of the first line of a payload that is part of a file: a name, a size, a hash.
pub const HEAD_MAX_BYTES: usize = 4096;

/// One decoded item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The first line, without its end and the surrounding blanks.
    Hello(Vec<u8>),
    /// Any later line except `BYTES`.
    Line(Line),
    /// A `BYTES` line without a valid number. The following bytes are read as lines, as in the
    /// original programs.
    BadLength,
    /// The start of a file.
    Start(FileStart),
    /// The start of a chunk, with the name of its file. The following [`Item::Part`]s have the
    /// bytes of the chunk.
    Chunk(Vec<u8>),
    /// Some bytes of the current chunk.
    Part(Bytes),
    /// The end of a file.
    End(FileEnd),
    /// An invalid message about a file. The rest of its payload is skipped.
    BadFile,
    /// A payload that is not part of a file.
    Binary(Bytes),
    /// A payload that is not part of a file and exceeds [`MESSAGE_MAX_BYTES`]. Its bytes are
    /// skipped.
    LongBinary {
        /// Length of the payload.
        length_bytes: u64,
    },
}

/// Why a connection cannot be read any further. The sender is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No line end within [`LINE_MAX_BYTES`].
    #[error("a line of more than {LINE_MAX_BYTES} bytes")]
    EndlessLine,
    /// A payload longer than [`BYTES_MAX`], or with a negative length.
    #[error("a payload of {length_bytes} bytes, where 0 to {BYTES_MAX} may be sent")]
    BadBytes {
        /// Announced length.
        length_bytes: i64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DecoderState {
    First,
    Lines,
    /// At the start of a payload of this length.
    Head(u64),
    /// In a chunk of a file, of which this many bytes are left.
    Parts(u64),
    /// In a payload whose last bytes, this many, are skipped.
    Skip(u64),
}

/// Decoder of one connection. When it needs more bytes, it holds at most an incomplete line
/// ([`LINE_MAX_BYTES`]) or an incomplete payload ([`MESSAGE_MAX_BYTES`]).
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    state: DecoderState,
    /// Number of bytes at the start of `buffer` that were searched for a line end and have none.
    searched: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            state: DecoderState::First,
            searched: 0,
        }
    }
}

impl Decoder {
    /// Returns the buffer to which the caller appends received bytes. The caller must append only
    /// after [`Self::next_item`] returned `None`. Otherwise the buffer grows without limit.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns whether a message has started and is incomplete.
    pub fn is_inside(&self) -> bool {
        !matches!(self.state, DecoderState::First | DecoderState::Lines) || !self.buffer.is_empty()
    }

    /// Returns the next item, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`DecodeError`]; the connection is then unusable.
    pub fn next_item(&mut self) -> Result<Option<Item>, DecodeError> {
        loop {
            match self.state {
                DecoderState::First | DecoderState::Lines => {
                    let Some(line) = self.take_line()? else {
                        return Ok(None);
                    };
                    if let Some(item) = self.read_line(&line)? {
                        return Ok(Some(item));
                    }
                }
                DecoderState::Head(left) => match self.take_head(left) {
                    Some(item) => return Ok(Some(item)),
                    None => return Ok(None),
                },
                DecoderState::Parts(0) | DecoderState::Skip(0) => self.state = DecoderState::Lines,
                DecoderState::Parts(left) => {
                    let part = self.take(left);
                    self.state = DecoderState::Parts(left - part.len() as u64);
                    return Ok((!part.is_empty()).then_some(Item::Part(part)));
                }
                DecoderState::Skip(left) => {
                    let skipped = self.take(left).len() as u64;
                    self.state = DecoderState::Skip(left - skipped);
                    if skipped == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn take(&mut self, most: u64) -> Bytes {
        let length = self.buffer.len();
        let length = usize::try_from(most).map_or(length, |most| length.min(most));
        self.buffer.split_to(length).freeze()
    }

    fn take_line(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let end = self.buffer[self.searched..]
            .iter()
            .position(|b| *b == b'\n')
            .map(|at| self.searched + at);
        match end {
            Some(end) if end <= LINE_MAX_BYTES => {
                self.searched = 0;
                let line = self.buffer.split_to(end + 1).freeze();
                Ok(Some(line.slice(..end)))
            }
            None if self.buffer.len() <= LINE_MAX_BYTES => {
                self.searched = self.buffer.len();
                Ok(None)
            }
            _ => Err(DecodeError::EndlessLine),
        }
    }

    /// Parses a line. Returns `None` if it starts a payload.
    fn read_line(&mut self, line: &[u8]) -> Result<Option<Item>, DecodeError> {
        let line = line.trim_ascii();
        if self.state == DecoderState::First {
            self.state = DecoderState::Lines;
            return Ok(Some(Item::Hello(line.to_vec())));
        }
        let Some(number) = line.strip_prefix(BYTES) else {
            return Ok(Some(Item::Line(Line::parse(line))));
        };
        // as in the original programs, a sign is allowed, and a number over 64 bits is not valid
        let number = std::str::from_utf8(number).ok().map(str::parse::<i64>);
        let Some(Ok(length_bytes)) = number else {
            return Ok(Some(Item::BadLength));
        };
        match u64::try_from(length_bytes) {
            Ok(length) if length <= BYTES_MAX => {
                self.state = DecoderState::Head(length);
                Ok(None)
            }
            _ => Err(DecodeError::BadBytes { length_bytes }),
        }
    }

    fn take_head(&mut self, left: u64) -> Option<Item> {
        let most = usize::try_from(left).map_or(HEAD_MAX_BYTES, |left| left.min(HEAD_MAX_BYTES));
        let seen = &self.buffer[..self.buffer.len().min(most)];
        let end = seen.iter().position(|b| *b == b'\n');
        if end.is_none() && seen.len() < most {
            return None;
        }
        let is_whole = end.is_some() || most as u64 == left;
        let head = PayloadHead::parse(&seen[..end.unwrap_or(seen.len())], is_whole);
        if head == PayloadHead::Binary && left <= MESSAGE_MAX_BYTES {
            let length = usize::try_from(left).ok()?;
            if self.buffer.len() < length {
                return None;
            }
            self.state = DecoderState::Lines;
            return Some(Item::Binary(self.buffer.split_to(length).freeze()));
        }
        let taken = end.map_or(seen.len(), |end| end + 1);
        let rest = left - taken as u64;
        drop(self.buffer.split_to(taken));
        self.state = DecoderState::Skip(rest);
        Some(match head {
            PayloadHead::Start(start) => Item::Start(start),
            PayloadHead::Chunk(name) => {
                self.state = DecoderState::Parts(rest);
                Item::Chunk(name)
            }
            PayloadHead::End(end) => Item::End(end),
            PayloadHead::BadFile => Item::BadFile,
            PayloadHead::Binary => Item::LongBinary { length_bytes: left },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::mesh::{encode_chunk_head, encode_end, encode_message, encode_start};

    /// Decodes bytes that arrive in steps of that many.
    fn said(bytes: &[u8], step: usize) -> Result<Vec<Item>, DecodeError> {
        let (mut decoder, mut items) = (Decoder::default(), Vec::new());
        for part in bytes.chunks(step.max(1)) {
            decoder.buffer().extend_from_slice(part);
            while let Some(item) = decoder.next_item()? {
                match (item, items.last_mut()) {
                    (Item::Part(more), Some(Item::Part(before))) => {
                        *before = [&before[..], &more].concat().into();
                    }
                    (item, _) => items.push(item),
                }
            }
        }
        Ok(items)
    }

    fn hello(text: &str) -> Item {
        Item::Hello(text.as_bytes().to_vec())
    }

    fn chat(text: &str) -> Item {
        Item::Line(Line::Chat(text.to_owned()))
    }

    #[test]
    fn a_whole_session_is_parsed_in_any_segmentation() {
        let hash = [7; 32];
        let session = [
            &b"290335af:alice\r\n"[..],
            b"PEERS:127.0.0.1:18001\n PING \nhello all\n",
            &encode_start(b"t.txt", 11, &hash),
            &encode_chunk_head(b"t.txt", 11),
            b"BYTES:3\nabc",
            &encode_end(b"t.txt", &hash),
            b"BYTES:5\nxx\nxxBYTES:0\nPONG\n\n",
        ]
        .concat();
        let start = FileStart {
            name: b"t.txt".to_vec(),
            size_bytes: 11,
            sha256: hash,
        };
        let end = FileEnd {
            name: b"t.txt".to_vec(),
            sha256: Some(hash),
        };
        for step in [1, 2, 3, 7, 1000] {
            let mut items = said(&session, step).unwrap();
            assert!(matches!(items.remove(1), Item::Line(Line::Peers { .. })));
            let expected = [
                hello("290335af:alice"),
                Item::Line(Line::Ping),
                chat("hello all"),
                Item::Start(start.clone()),
                Item::Chunk(b"t.txt".to_vec()),
                Item::Part(Bytes::from_static(b"BYTES:3\nabc")),
                Item::End(end.clone()),
                Item::Binary(Bytes::from_static(b"xx\nxx")),
                Item::Binary(Bytes::new()),
                Item::Line(Line::Pong),
                chat(""),
            ];
            assert_eq!(items, expected, "in steps of {step}");
        }
    }

    #[test]
    fn a_payload_over_the_limit_or_negative_ends_the_connection() {
        for (line, length_bytes) in [
            ("BYTES:16777217", 16_777_217),
            ("BYTES:-1", -1),
            ("BYTES:9223372036854775807", i64::MAX),
        ] {
            let ended = said(format!("a\n{line}\n").as_bytes(), 99);
            assert_eq!(ended, Err(DecodeError::BadBytes { length_bytes }));
        }
        let just = said(b"a\nBYTES:16777216\nFILECHUNK:x\nabc", 99).unwrap();
        assert_eq!(just.len(), 3);
    }

    #[test]
    fn bytes_without_a_file_are_forwarded_up_to_their_limit_and_skipped_beyond() {
        let message = |length: u64| {
            let bytes = encode_message(&vec![b'x'; length as usize]);
            said(&[b"a\n", &bytes[..], b"hi\n"].concat(), 4000).unwrap()
        };
        let held = Bytes::from(vec![b'x'; MESSAGE_MAX_BYTES as usize]);
        let whole = [hello("a"), Item::Binary(held), chat("hi")];
        assert_eq!(message(MESSAGE_MAX_BYTES), whole);
        let length_bytes = MESSAGE_MAX_BYTES + 1;
        let long = Item::LongBinary { length_bytes };
        assert_eq!(message(length_bytes), [hello("a"), long, chat("hi")]);
    }

    #[test]
    fn an_invalid_length_is_reported_and_later_lines_are_read() {
        for bad in ["", "x", " 3", "3x", "99999999999999999999"] {
            let items = said(format!("a\nBYTES:{bad}\nhi\n").as_bytes(), 5).unwrap();
            assert_eq!(items, [hello("a"), Item::BadLength, chat("hi")], "{bad:?}");
        }
        assert_eq!(said(b"a\nBYTES:+0\nhi\n", 5).unwrap().len(), 3);
    }

    #[test]
    fn an_endless_line_ends_the_connection_within_the_memory_limit() {
        let mut decoder = Decoder::default();
        let mut given = 0;
        let ended = loop {
            decoder.buffer().extend_from_slice(&[b'x'; 1000]);
            given += 1000;
            if let Err(error) = decoder.next_item() {
                break error;
            }
        };
        assert_eq!(ended, DecodeError::EndlessLine);
        assert!(given <= LINE_MAX_BYTES + 1000);
    }

    #[test]
    fn a_head_without_an_end_is_not_a_file() {
        let long = [b"FILECHUNK:".as_slice(), &[b'n'; 2 * HEAD_MAX_BYTES]].concat();
        let message = [
            format!("a\nBYTES:{}\n", long.len()).as_bytes(),
            &long,
            b"hi\n",
        ]
        .concat();
        let items = said(&message, 100).unwrap();
        assert_eq!(items, [hello("a"), Item::BadFile, chat("hi")]);
    }

    #[test]
    fn a_line_and_a_head_are_read_up_to_their_limits() {
        for (length, fits) in [
            (LINE_MAX_BYTES - 1, true),
            (LINE_MAX_BYTES, true),
            (LINE_MAX_BYTES + 1, false),
        ] {
            let line = [b"a\n".as_slice(), &vec![b'x'; length], b"\n"].concat();
            for step in [4096, line.len()] {
                let expected = fits.then_some(2).ok_or(DecodeError::EndlessLine);
                assert_eq!(
                    said(&line, step).map(|items| items.len()),
                    expected,
                    "{length}"
                );
            }
        }
        for (length, fits) in [
            (HEAD_MAX_BYTES - 1, true),
            (HEAD_MAX_BYTES, true),
            (HEAD_MAX_BYTES + 1, false),
        ] {
            let name = vec![b'n'; length - "FILECHUNK:\n".len()];
            let bytes = encode_chunk_head(&name, 3);
            let items = said(&[b"a\n", &bytes[..], b"abc"].concat(), 1000).unwrap();
            let expected = [Item::Chunk(name), Item::Part(Bytes::from_static(b"abc"))];
            let read = if fits {
                &expected[..]
            } else {
                &[Item::BadFile][..]
            };
            assert_eq!(items[1..], *read, "{length}");
        }
    }

    #[test]
    fn a_payload_of_the_maximum_length_is_not_an_offence() {
        for (length, fits) in [
            (BYTES_MAX - 1, true),
            (BYTES_MAX, true),
            (BYTES_MAX + 1, false),
        ] {
            let read = said(format!("a\nBYTES:{length}\n").as_bytes(), 99);
            assert_eq!(read.is_ok(), fits, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_input_breaks_the_decoder_and_segmentation_changes_nothing(
            parts in proptest::collection::vec(prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                Just(b"\n".to_vec()), Just(b"BYTES:12\n".to_vec()), Just(b"PEERS:a:1,b\n".to_vec()),
                Just(b"FILESTART:a|1|".to_vec()), Just(b"FILECHUNK:a\n".to_vec()),
                Just(b"FILEEND:a\n".to_vec()),
            ], 0..20),
            step in 1_usize..50,
        ) {
            let bytes = parts.concat();
            prop_assert_eq!(said(&bytes, step), said(&bytes, bytes.len()));
        }
    }
}
