//! Requests that bring data to the peer: a file for the inbox, a chat line, bytes of a program.

use bytes::{Bytes, BytesMut};

use super::{FILE_MAX_BYTES, Frame, FrameKind, body_of, fixed, parse};
use crate::wire::WireError;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::NAME_MAX_BYTES;

/// Maximum number of bytes of a file in one frame.
pub const GIVEN_MAX_BYTES: usize = 256 << 10;
/// Maximum length of a chat line in bytes.
pub const SAID_MAX_BYTES: usize = 4096;
/// Maximum size in bytes of the body of a [`FrameKind::Offer`]: a name, and room for the other
/// fields.
pub(super) const OFFER_FRAME_MAX_BYTES: usize = NAME_MAX_BYTES + 64;
pub(super) const GIVE_FRAME_MAX_BYTES: usize = GIVEN_MAX_BYTES + GIVE_HEAD_BYTES;
/// Size in bytes of the hash and the offset (u64, big endian) before the bytes.
const GIVE_HEAD_BYTES: usize = 40;

/// Data for the peer, or a question about data that was sent. A part of a file can be sent again
/// without harm. A chat line or a message that is sent again is delivered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// A file for the inbox. If the peer accepts it, the answer is how much of it is there already.
    Offer {
        /// The file's name, 1 to 255 bytes, not trusted.
        name: Bytes,
        /// Size of the file in bytes.
        size_bytes: u64,
        /// Hash of the content.
        hash: ContentHash,
        /// Whether the file was offered before. Then a file that has already arrived is not
        /// requested a second time.
        again: bool,
    },
    /// A part of a file that the peer accepted. The answer is how much of the file is there, from
    /// its beginning.
    Give {
        /// Hash of the content.
        hash: ContentHash,
        /// Offset of the bytes in the file.
        offset: u64,
        /// From 1 to [`GIVEN_MAX_BYTES`] bytes.
        bytes: Bytes,
    },
    /// A question for the name under which the peer keeps a file that was sent whole. Only for a
    /// peer that speaks `p2pfs/3`.
    AskKept {
        /// Hash of the content.
        hash: ContentHash,
    },
    /// A chat line.
    Say {
        /// At most [`SAID_MAX_BYTES`].
        text: String,
    },
    /// Bytes for a program that embeds the other node.
    Message {
        /// At most [`GIVEN_MAX_BYTES`].
        bytes: Bytes,
    },
}

impl Push {
    pub(super) fn encode(&self, id: u32) -> Result<Frame, WireError> {
        self.check()?;
        match self {
            Self::Offer {
                name,
                size_bytes,
                hash,
                again,
            } => Frame::new(
                id,
                FrameKind::Offer,
                body_of(&(name, size_bytes, hash, again)),
            ),
            Self::Give {
                hash,
                offset,
                bytes,
            } => {
                let mut body = BytesMut::with_capacity(GIVE_HEAD_BYTES + bytes.len());
                body.extend_from_slice(hash.as_bytes());
                body.extend_from_slice(&offset.to_be_bytes());
                body.extend_from_slice(bytes);
                Frame::new(id, FrameKind::Give, body.freeze())
            }
            Self::AskKept { hash } => {
                let hash = Bytes::copy_from_slice(hash.as_bytes());
                Frame::new(id, FrameKind::AskKept, hash)
            }
            Self::Say { text } => {
                Frame::new(id, FrameKind::Say, Bytes::copy_from_slice(text.as_bytes()))
            }
            Self::Message { bytes } => Frame::new(id, FrameKind::Message, bytes.clone()),
        }
    }

    pub(super) fn decode(kind: FrameKind, body: &Bytes) -> Result<Self, WireError> {
        let malformed = || WireError::Malformed { what: "a push" };
        let push = match kind {
            FrameKind::Offer => {
                let (name, size_bytes, hash, again) = parse(body, "a push")?;
                Self::Offer {
                    name,
                    size_bytes,
                    hash,
                    again,
                }
            }
            FrameKind::Give => {
                let (head, _) = body
                    .split_first_chunk::<GIVE_HEAD_BYTES>()
                    .ok_or_else(malformed)?;
                let (hash, offset) = head.split_first_chunk::<32>().ok_or_else(malformed)?;
                let offset = offset.first_chunk::<8>().ok_or_else(malformed)?;
                Self::Give {
                    hash: ContentHash::new(*hash),
                    offset: u64::from_be_bytes(*offset),
                    bytes: body.slice(GIVE_HEAD_BYTES..),
                }
            }
            FrameKind::AskKept => Self::AskKept {
                hash: ContentHash::new(fixed(body, "a push")?),
            },
            FrameKind::Say => Self::Say {
                text: String::from_utf8(body.to_vec()).map_err(|_| malformed())?,
            },
            FrameKind::Message => Self::Message {
                bytes: body.clone(),
            },
            _ => return Err(malformed()),
        };
        push.check()?;
        Ok(push)
    }

    fn check(&self) -> Result<(), WireError> {
        let is_good = match self {
            Self::Offer {
                name, size_bytes, ..
            } => (1..=NAME_MAX_BYTES).contains(&name.len()) && *size_bytes <= FILE_MAX_BYTES,
            Self::Give { offset, bytes, .. } => {
                let end = offset.checked_add(bytes.len() as u64);
                (1..=GIVEN_MAX_BYTES).contains(&bytes.len())
                    && end.is_some_and(|end| end <= FILE_MAX_BYTES)
            }
            Self::AskKept { .. } => true,
            Self::Say { text } => text.len() <= SAID_MAX_BYTES,
            Self::Message { bytes } => bytes.len() <= GIVEN_MAX_BYTES,
        };
        let malformed = WireError::Malformed { what: "a push" };
        is_good.then_some(()).ok_or(malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::native::tcp::{FrameHeader, Phase, Request, Response};

    fn there_and_back(push: Push) {
        let request = Request::Push(push);
        let frame = request.encode(7).unwrap();
        let header = FrameHeader::decode(&frame.header, Phase::Requests).unwrap();
        assert_eq!(header.body_bytes, frame.body.len());
        assert_eq!(Request::decode(header.kind, frame.body).unwrap(), request);
    }

    fn offer(name: &[u8], size_bytes: u64) -> Push {
        Push::Offer {
            name: Bytes::copy_from_slice(name),
            size_bytes,
            hash: ContentHash::of(b"x"),
            again: true,
        }
    }

    fn give(offset: u64, length: usize) -> Push {
        Push::Give {
            hash: ContentHash::of(b"x"),
            offset,
            bytes: Bytes::from(vec![7; length]),
        }
    }

    #[test]
    fn a_push_round_trips() {
        there_and_back(offer(&[b'n'; NAME_MAX_BYTES], FILE_MAX_BYTES));
        there_and_back(offer(b"caf\xe9", 0));
        there_and_back(give(FILE_MAX_BYTES - 1, 1));
        there_and_back(give(0, GIVEN_MAX_BYTES));
        let text = "ü".repeat(SAID_MAX_BYTES / 2);
        there_and_back(Push::Say { text });
        for length in [0, GIVEN_MAX_BYTES] {
            let bytes = Bytes::from(vec![7; length]);
            there_and_back(Push::Message { bytes });
        }
        let hash = ContentHash::of(b"x");
        there_and_back(Push::AskKept { hash });
        let name = Bytes::from_static(b"caf\xe9 (2)");
        for response in [
            Response::Taken { to_bytes: u64::MAX },
            Response::Kept { name },
        ] {
            let frame = response.encode(9).unwrap();
            let header = FrameHeader::decode(&frame.header, Phase::Responses).unwrap();
            assert_eq!(Response::decode(header.kind, frame.body).unwrap(), response);
        }
    }

    #[test]
    fn a_message_over_a_limit_is_neither_sent_nor_accepted() {
        for push in [
            offer(b"", 1),
            offer(&[b'n'; NAME_MAX_BYTES + 1], 1),
            offer(b"a", FILE_MAX_BYTES + 1),
            give(0, 0),
            give(0, GIVEN_MAX_BYTES + 1),
            give(FILE_MAX_BYTES, 1),
            give(u64::MAX, 1),
        ] {
            assert!(Request::Push(push.clone()).encode(1).is_err(), "{push:?}");
        }
        let text = "a".repeat(SAID_MAX_BYTES + 1);
        assert!(Push::Say { text }.encode(1).is_err());
        for (kind, body) in [
            (FrameKind::Give, vec![0; GIVE_HEAD_BYTES]),
            (FrameKind::Give, vec![0; 8]),
            (FrameKind::Give, vec![0xff; GIVE_HEAD_BYTES + 1]),
            (FrameKind::Say, vec![0xff]),
            (FrameKind::AskKept, vec![0; 31]),
            (FrameKind::Offer, vec![0xff; 60]),
        ] {
            assert!(Push::decode(kind, &Bytes::from(body)).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_input_breaks_the_decoder(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            for kind in [FrameKind::Offer, FrameKind::Give, FrameKind::Say, FrameKind::AskKept] {
                let _any = Push::decode(kind, &Bytes::from(body.clone()));
            }
        }
    }
}
