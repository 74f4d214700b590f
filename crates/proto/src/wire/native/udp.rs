//! Datagrams of the native plane: the clear header, the sealed body, and what bodies carry.
//!
//! Owns the layout and every size limit; sealing, sessions and what the frames mean are the
//! cluster's. Decoding never panics, allocates no more than the datagram's own length times a small
//! factor, and gives an error for anything that the encoder would not have written.
//!
//! ```text
//! magic 1 | version 1 | epoch id 8 | salt 16 | counter 8 (big endian) | ciphertext | tag 16
//! ```
//!
//! The header is the associated data of AES-256-GCM (NIST SP 800-38D) under a key that all members
//! have; the ciphertext is a postcard-encoded [`Body`] and a code of [`MAC_BYTES`] under a key that
//! only its sender and its receiver have, which proves the sender. In a hello and a challenge, from
//! which nothing follows but an answer, the code is zeros.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use p2pfs_types::id::{EpochId, Generation, NodeId};

pub mod message;

pub use message::{GET_HASHES_MAX, Message, OFFER_ASKERS_MAX, OFFER_RANGES_MAX, OfferSummary};

/// First byte: at least 0x80, so that it is no letter of the legacy text protocol.
pub const MAGIC: u8 = 0xd8;
/// Second byte: the layout that this page describes.
pub const VERSION: u8 = 2;
/// The longest datagram: fits the smallest link that IPv6 allows (1280 bytes, RFC 8200 section 5)
/// with its headers and a tunnel's.
pub const DATAGRAM_MAX_BYTES: usize = 1200;
/// Magic, version, epoch id, salt, counter.
pub const HEADER_BYTES: usize = 1 + 1 + 8 + 16 + 8;
/// The tag of AES-256-GCM.
pub const TAG_BYTES: usize = 16;
/// The code that proves the sender: half of an HMAC-SHA256, as RFC 2104 allows.
pub const MAC_BYTES: usize = 16;
/// The longest encoded [`Body`].
pub const BODY_MAX_BYTES: usize = DATAGRAM_MAX_BYTES - HEADER_BYTES - MAC_BYTES - TAG_BYTES;
/// The longest payload of [`Frame::Swim`] and [`Frame::Message`]: leaves room for the rest of a
/// body with its longest proof.
pub const PAYLOAD_MAX_BYTES: usize = 848;
/// The longest head that gossip carries.
pub const HEAD_MAX_BYTES: usize = 300;
/// The longest statement about who is in that gossip carries.
pub const STATEMENT_MAX_BYTES: usize = 320;
/// A hello is padded to this size, which no answer to it reaches, so that an address that has
/// proven nothing never gets more bytes than it sent.
pub const HELLO_BYTES: usize = 512;

/// What tells one start of a process from every other: random, and half of its sealing key.
pub type Salt = [u8; 16];
/// The start of a [`Salt`]: says for which life of the receiver a datagram was sealed.
pub type SaltTag = [u8; 8];
/// A challenge, and its echo.
pub type Token = [u8; 16];
/// The two halves of an Ed25519 signature (RFC 8032).
pub type Signature = [[u8; 32]; 2];
/// What proves a datagram's sender to its receiver.
pub type Mac = [u8; MAC_BYTES];

/// The clear part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which secret seals it.
    pub epoch: EpochId,
    /// Of the sender's process.
    pub salt: Salt,
    /// Of all the datagrams that this process sealed, from 0: the nonce.
    pub counter: u64,
}

/// Why bytes are not a datagram, a body or a message. Always the sender's fault; the same bytes
/// fail again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than header and tag, or longer than [`DATAGRAM_MAX_BYTES`].
    #[error("a datagram has {HEADER_BYTES} to {DATAGRAM_MAX_BYTES} bytes, this one {length_bytes}")]
    BadLength {
        /// How many bytes came.
        length_bytes: usize,
    },
    /// Another protocol's first byte.
    #[error("not a datagram of this plane")]
    NotOurs,
    /// A later (or no) version of this plane.
    #[error("datagram of version {version}, this node speaks {VERSION}")]
    OtherVersion {
        /// What came.
        version: u8,
    },
    /// Not what the encoder writes.
    #[error("malformed body")]
    Malformed,
    /// A list or a payload is longer than its limit.
    #[error("{what} exceeds its limit")]
    TooLong { what: &'static str },
}

impl Header {
    /// The bytes that go first, and under the seal as associated data.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = MAGIC;
        bytes[1] = VERSION;
        bytes[2..10].copy_from_slice(&self.epoch.0);
        bytes[10..26].copy_from_slice(&self.salt);
        bytes[26..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// Splits a datagram into its header and what is sealed, tag included.
    ///
    /// # Errors
    /// Where length, magic or version are not this plane's.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), DatagramError> {
        let length_bytes = datagram.len();
        if !(HEADER_BYTES + TAG_BYTES..=DATAGRAM_MAX_BYTES).contains(&length_bytes) {
            return Err(DatagramError::BadLength { length_bytes });
        }
        let (header, sealed) = datagram.split_at(HEADER_BYTES);
        if header[0] != MAGIC {
            return Err(DatagramError::NotOurs);
        }
        if header[1] != VERSION {
            return Err(DatagramError::OtherVersion { version: header[1] });
        }
        let mut epoch = [0; 8];
        let mut salt = [0; 16];
        let mut counter = [0; 8];
        epoch.copy_from_slice(&header[2..10]);
        salt.copy_from_slice(&header[10..26]);
        counter.copy_from_slice(&header[26..]);
        let counter = u64::from_be_bytes(counter);
        Ok((
            Self {
                epoch: EpochId(epoch),
                salt,
                counter,
            },
            sealed,
        ))
    }
}

/// Where a life of a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Contact {
    pub node: NodeId,
    /// Its advertised address.
    pub address: SocketAddr,
    /// Which life.
    pub generation: Generation,
}

impl Contact {
    /// The bytes that its node signs, with a label so that they can be nothing else.
    pub fn signed_bytes(&self) -> Vec<u8> {
        labelled(b"p2pfs life 1\0", self)
    }
}

/// A contact that its node has signed, or signed but for its IP address, which a node that does
/// not know its own leaves to who sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedContact {
    /// Who, where, which life.
    pub contact: Contact,
    /// Over [`Contact::signed_bytes`].
    pub signature: Signature,
}

/// What a process proves that it speaks for its node with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Whose process it is.
    pub who: SignedContact,
    /// Its X25519 public key (RFC 7748), as fresh as its salt.
    pub exchange: [u8; 32],
    /// By the node, over [`Credentials::bound_bytes`].
    pub binding: Signature,
}

impl Credentials {
    /// What binds the key and the salt of a process to its node.
    pub fn bound_bytes(node: &NodeId, salt: &Salt, exchange: &[u8; 32]) -> Vec<u8> {
        labelled(b"p2pfs process 1\0", &(node, salt, exchange))
    }
}

/// What a node signs to say goodbye.
pub fn departure_bytes(who: &Contact, how: Farewell) -> Vec<u8> {
    labelled(b"p2pfs departure 1\0", &(who, how))
}

fn labelled(label: &[u8], value: &impl Serialize) -> Vec<u8> {
    let mut bytes = label.to_vec();
    bytes.extend(postcard::to_stdvec(value).expect("plain data always encodes"));
    bytes
}

/// The echo of the receiver's challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What the receiver challenged us with.
    pub token: Token,
    /// Who we are.
    pub who: Credentials,
    /// The receiver's address as we use it.
    pub reached: SocketAddr,
}

/// The sealed part of a datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// The life of the receiver that this is for; zeros where none is known yet.
    pub to: SaltTag,
    /// Until the receiver is known to have accepted one.
    pub proof: Option<Proof>,
    /// What is said.
    pub frame: Frame,
}

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// Opens a session: who is there?
    Hello {
        /// Fresh; to be echoed.
        nonce: Token,
        /// The sender, as it says.
        who: Contact,
        /// Its process's X25519 public key, as it says.
        exchange: [u8; 32],
        /// The receiver's address as the sender uses it.
        reached: SocketAddr,
        /// Zeros up to [`HELLO_BYTES`].
        padding: Bytes,
    },
    /// Answers a hello, to the address that it came from.
    HelloReply {
        /// The hello's.
        nonce: Token,
        /// The receiver is to echo this before anything that it says counts.
        token: Token,
        /// The sender.
        who: Box<Credentials>,
        /// The receiver's address as the sender sees it.
        reached: SocketAddr,
        /// A later life of the receiver that the sender has heard of.
        known: Option<Box<SignedContact>>,
    },
    /// The receiver's session is unknown here, or for an earlier life of the sender.
    Challenge {
        /// To be echoed.
        token: Token,
    },
    /// Carries a proof and nothing else.
    Nothing,
    /// The membership engine's own packet.
    Swim(Bytes),
    /// The life that the sender is in now.
    Life(SignedContact),
    /// The receiver speaks as a life that the sender has not seen signed.
    Unintroduced,
    /// The receiver speaks as a life of its node that is older than the one known here.
    Outlived {
        /// The known one.
        known: SignedContact,
    },
    /// News that every member should hear.
    Rumors(Vec<Rumor>),
    /// A body of the application, opaque here: see [`Message`].
    Message(Bytes),
}

/// Which farewell a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Farewell {
    /// Back soon: a restart or a stop of the service.
    Away,
    /// For good.
    Final,
}

/// News that spreads from member to member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rumor {
    Head(Head),
    /// A statement about who is in, which only the owner can check.
    Statement(Bytes),
    Departure(Departure),
}

/// A head: signed by its author, which only the owner can check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub author: NodeId,
    /// Newer ones have a higher rank.
    pub rank: (u64, u64),
    /// At most [`HEAD_MAX_BYTES`].
    pub bytes: Bytes,
}

/// A node stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Its last life.
    pub who: Contact,
    /// Whether it will be back.
    pub how: Farewell,
    /// Its own, over [`departure_bytes`].
    pub signature: Signature,
}

impl Body {
    /// The bytes to seal.
    ///
    /// # Errors
    /// [`DatagramError::TooLong`] where the body does not fit a datagram or exceeds a limit.
    pub fn encode(&self) -> Result<Vec<u8>, DatagramError> {
        self.frame.check()?;
        let bytes = postcard::to_stdvec(self).map_err(|_| DatagramError::Malformed)?;
        if bytes.len() > BODY_MAX_BYTES {
            return Err(DatagramError::TooLong { what: "body" });
        }
        Ok(bytes)
    }

    /// What was sealed.
    ///
    /// # Errors
    /// Where the bytes are not exactly one body within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DatagramError> {
        if bytes.len() > BODY_MAX_BYTES {
            return Err(DatagramError::TooLong { what: "body" });
        }
        let (body, rest) =
            postcard::take_from_bytes::<Self>(bytes).map_err(|_| DatagramError::Malformed)?;
        if !rest.is_empty() {
            return Err(DatagramError::Malformed);
        }
        body.frame.check()?;
        Ok(body)
    }
}

impl Frame {
    fn check(&self) -> Result<(), DatagramError> {
        match self {
            Self::Swim(payload) | Self::Message(payload) if payload.len() > PAYLOAD_MAX_BYTES => {
                Err(DatagramError::TooLong { what: "payload" })
            }
            Self::Rumors(rumors) if !rumors.iter().all(Rumor::fits) => {
                Err(DatagramError::TooLong { what: "head" })
            }
            _ => Ok(()),
        }
    }
}

impl Rumor {
    fn fits(&self) -> bool {
        match self {
            Self::Head(head) => head.bytes.len() <= HEAD_MAX_BYTES,
            Self::Statement(bytes) => bytes.len() <= STATEMENT_MAX_BYTES,
            Self::Departure(_) => true,
        }
    }
}

#[cfg(test)]
mod tests;
