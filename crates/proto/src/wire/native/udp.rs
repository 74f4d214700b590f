//! Datagrams of the native plane: the clear header, the sealed body, and the contents of bodies.
//!
//! This module owns the layout and every size limit. Sealing, sessions and the meaning of the
//! frames belong to the membership. Decoding never panics, and allocates at most a small multiple
//! of the datagram's length.
//!
//! ```text
//! magic 1 | version 1 | epoch id 8 | salt 16 | counter 8 (big endian) | ciphertext | tag 16
//! ```
//!
//! The header is the associated data of AES-256-GCM (NIST SP 800-38D) under a key that every member
//! can derive. The ciphertext is a postcard-encoded [`Body`] and a code of [`MAC_BYTES`]. The key
//! of the code is known only to the sender and the receiver, so the code authenticates the sender.
//! In a hello and a challenge the code is zeros, because they cause nothing but an answer.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use p2pfs_types::id::{EpochId, Generation, NodeId};

pub mod message;

pub use message::{GET_HASHES_MAX, Message, OFFER_ASKERS_MAX, OFFER_RANGES_MAX, OfferSummary};

/// First byte of a datagram. It is at least 0x80, so it is not a letter of a text protocol.
pub const MAGIC: u8 = 0xd8;
/// Second byte of a datagram: the version of this layout.
pub const VERSION: u8 = 2;
/// Maximum size of a datagram in bytes. With 48 bytes of IPv6 and UDP headers it is 32 bytes below
/// the smallest link that IPv6 allows (1280 bytes, RFC 8200 section 5), which leaves room for a
/// tunnel.
pub const DATAGRAM_MAX_BYTES: usize = 1200;
/// Size of the header in bytes: magic, version, epoch id, salt, counter.
pub const HEADER_BYTES: usize = 1 + 1 + 8 + 16 + 8;
/// Size of the AES-256-GCM tag in bytes.
pub const TAG_BYTES: usize = 16;
/// Size in bytes of the code that authenticates the sender: half of an HMAC-SHA256, as RFC 2104
/// allows.
pub const MAC_BYTES: usize = 16;
/// Maximum size of an encoded [`Body`] in bytes.
pub const BODY_MAX_BYTES: usize = DATAGRAM_MAX_BYTES - HEADER_BYTES - MAC_BYTES - TAG_BYTES;
/// Maximum payload of [`DatagramFrame::Swim`] and [`DatagramFrame::Message`] in bytes. It leaves
/// room for the rest of a body with its longest proof.
pub const PAYLOAD_MAX_BYTES: usize = 848;
/// Maximum size in bytes of a log head that gossip carries.
pub const HEAD_MAX_BYTES: usize = 300;
/// Maximum size in bytes of a membership statement that gossip carries.
pub const STATEMENT_MAX_BYTES: usize = 320;
/// Size in bytes to which a hello is padded. A shorter hello gets no answer, and no answer is
/// longer. So an unauthenticated address never receives more bytes than it sent.
pub const HELLO_BYTES: usize = 512;

/// Random identifier of one start of a process. The sealing key of the process is derived from the
/// salt and the epoch's secret.
pub type Salt = [u8; 16];
/// First bytes of a [`Salt`]. They name the start of the receiver's process for which a datagram
/// was sealed.
pub type SaltTag = [u8; 8];
/// A challenge or its echo.
pub type Token = [u8; 16];
/// The two halves of an Ed25519 signature (RFC 8032).
pub type Signature = [[u8; 32]; 2];
/// The code that authenticates a datagram's sender to its receiver.
pub type Mac = [u8; MAC_BYTES];

/// The clear part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Epoch of the secret that seals the datagram.
    pub epoch: EpochId,
    /// Salt of the sender's process.
    pub salt: Salt,
    /// Number of the datagram among all that the sender's process sealed, from 0. It is the nonce.
    pub counter: u64,
}

/// The reason why bytes are not a datagram, a body or a message, or why one cannot be encoded. The
/// same input fails again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than header and tag, or longer than [`DATAGRAM_MAX_BYTES`].
    #[error(
        "a datagram has {} to {DATAGRAM_MAX_BYTES} bytes, this one {length_bytes}",
        HEADER_BYTES + TAG_BYTES
    )]
    BadLength {
        /// Number of bytes received.
        length_bytes: usize,
    },
    /// The first byte belongs to another protocol.
    #[error("not a datagram of this plane")]
    NotOurs,
    /// The version is not [`VERSION`].
    #[error("datagram of version {version}, this node speaks {VERSION}")]
    OtherVersion {
        /// The received version.
        version: u8,
    },
    /// The bytes are not one whole body or message, or a request has no hashes.
    #[error("malformed body")]
    Malformed,
    /// A list or a payload exceeds its limit.
    #[error("{what} exceeds its limit")]
    TooLong {
        /// The list or payload.
        what: &'static str,
    },
}

impl Header {
    /// Encodes the header, which is also the associated data of the seal.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = MAGIC;
        bytes[1] = VERSION;
        bytes[2..10].copy_from_slice(&self.epoch.0);
        bytes[10..26].copy_from_slice(&self.salt);
        bytes[26..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// Splits a datagram into its header and its sealed part, tag included.
    ///
    /// # Errors
    /// [`DatagramError::BadLength`], [`DatagramError::NotOurs`], [`DatagramError::OtherVersion`].
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

/// Address of a node in one of its lives in the membership, which [`Generation`] numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Contact {
    /// The node.
    pub node: NodeId,
    /// Its advertised address.
    pub address: SocketAddr,
    /// Generation of the life.
    pub generation: Generation,
}

impl Contact {
    /// Returns the bytes that the node signs. A label separates them from all other signed bytes.
    pub fn signed_bytes(&self) -> Vec<u8> {
        labelled(b"p2pfs life 1\0", self)
    }
}

/// A contact signed by its node. A node that does not know its own IP address signs without one;
/// the receiver then fills in the address that it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedContact {
    /// The signed contact.
    pub contact: Contact,
    /// Signature over [`Contact::signed_bytes`].
    pub signature: Signature,
}

/// Proof that a process acts for its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Contact of the process's node.
    pub who: SignedContact,
    /// X25519 public key of the process (RFC 7748), renewed with its salt.
    pub exchange: [u8; 32],
    /// The node's signature over [`Credentials::bound_bytes`].
    pub binding: Signature,
}

impl Credentials {
    /// Returns the bytes that bind the key and the salt of a process to its node.
    pub fn bound_bytes(node: &NodeId, salt: &Salt, exchange: &[u8; 32]) -> Vec<u8> {
        labelled(b"p2pfs process 1\0", &(node, salt, exchange))
    }
}

/// Returns the bytes that a node signs for its farewell.
pub fn departure_bytes(who: &Contact, how: Farewell) -> Vec<u8> {
    labelled(b"p2pfs departure 1\0", &(who, how))
}

fn labelled(label: &[u8], value: &impl Serialize) -> Vec<u8> {
    let mut bytes = label.to_vec();
    bytes.extend(postcard::to_stdvec(value).expect("plain data always encodes"));
    bytes
}

/// The echo of the receiver's challenge, with the sender's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The token of the receiver's challenge.
    pub token: Token,
    /// Credentials of the sender.
    pub who: Credentials,
    /// The receiver's address as the sender uses it.
    pub reached: SocketAddr,
}

/// The sealed part of a datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Start of the receiver's process for which the datagram is sealed; zeros if the sender knows
    /// none yet.
    pub to: SaltTag,
    /// The proof of the sender's membership and address. Sent until the sender knows that the
    /// receiver has accepted one.
    pub proof: Option<Proof>,
    /// The content.
    pub frame: DatagramFrame,
}

/// The content of a datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatagramFrame {
    /// Opens a session.
    Hello {
        /// A fresh token for the receiver to echo.
        nonce: Token,
        /// Contact of the sender, not authenticated.
        who: Contact,
        /// X25519 public key of the sender's process, not authenticated.
        exchange: [u8; 32],
        /// The receiver's address as the sender uses it.
        reached: SocketAddr,
        /// Zeros up to [`HELLO_BYTES`].
        padding: Bytes,
    },
    /// Answers a hello, to the address from which it arrived.
    HelloReply {
        /// The nonce of the hello.
        nonce: Token,
        /// A token that the receiver must echo before its frames count.
        token: Token,
        /// Credentials of the sender.
        who: Box<Credentials>,
        /// The receiver's address as the sender sees it.
        reached: SocketAddr,
        /// A later life of the receiver that the sender has heard of.
        known: Option<Box<SignedContact>>,
    },
    /// The receiver's session is unknown to the sender, or belongs to an earlier process of the
    /// sender.
    Challenge {
        /// A token for the receiver to echo.
        token: Token,
    },
    /// Carries a proof and nothing else.
    Nothing,
    /// A packet of the membership engine.
    Swim(Bytes),
    /// The current life of the sender.
    Life(SignedContact),
    /// The sender has no signed contact of the receiver's life. The receiver answers with
    /// [`DatagramFrame::Life`].
    Unintroduced,
    /// The sender knows a later life of the receiver's node than the one that the receiver uses.
    Outlived {
        /// The known life.
        known: SignedContact,
    },
    /// News for every member.
    Rumors(Vec<Rumor>),
    /// A body of the application, opaque here: see [`Message`].
    Message(Bytes),
}

/// Kind of a node's farewell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Farewell {
    /// The node will return soon: a restart or a stop of the service.
    Away,
    /// The node leaves for good.
    Final,
}

/// News that spreads from member to member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rumor {
    /// A log head.
    Head(EncodedHead),
    /// A membership statement. Only the application can verify it.
    Statement(Bytes),
    /// A farewell.
    Departure(Departure),
}

/// An encoded log head, signed by its author. Only the application can verify it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedHead {
    /// Author of the log.
    pub author: NodeId,
    /// Epoch and sequence of the head. A newer head has a higher rank.
    pub rank: (u64, u64),
    /// The encoded signed head, at most [`HEAD_MAX_BYTES`].
    pub bytes: Bytes,
}

/// A farewell of a node that stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Its last life.
    pub who: Contact,
    /// Whether the node will return.
    pub how: Farewell,
    /// The node's signature over [`departure_bytes`].
    pub signature: Signature,
}

impl Body {
    /// Encodes the body for sealing.
    ///
    /// # Errors
    /// [`DatagramError::TooLong`] if the body does not fit into a datagram or exceeds a limit.
    pub fn encode(&self) -> Result<Vec<u8>, DatagramError> {
        self.frame.check()?;
        let bytes = postcard::to_stdvec(self).map_err(|_| DatagramError::Malformed)?;
        if bytes.len() > BODY_MAX_BYTES {
            return Err(DatagramError::TooLong { what: "body" });
        }
        Ok(bytes)
    }

    /// Decodes an opened body.
    ///
    /// # Errors
    /// [`DatagramError::TooLong`] and [`DatagramError::Malformed`] if the bytes are not exactly one
    /// body within the limits.
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

impl DatagramFrame {
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
