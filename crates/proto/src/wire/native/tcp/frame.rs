//! The outside of a frame: its header, its kinds, and how long each may be.

use bytes::Bytes;

use super::batch::{BATCH_ANSWER_MAX_BYTES, BATCH_QUESTION_MAX_BYTES};
use super::push::{GIVE_FRAME_MAX_BYTES, OFFER_FRAME_MAX_BYTES};
use super::{
    CHAIN_MAX_BYTES, GIVEN_MAX_BYTES, HEADS_MAX_BYTES, HOLDINGS_MAX_BYTES, LOG_MAX_BYTES,
    MEMBERS_MAX_BYTES, REASON_MAX_BYTES, SAID_MAX_BYTES, TRUST_MAX_BYTES,
};
use crate::wire::WireError;

/// Length, request id and kind.
pub const HEADER_BYTES: usize = 9;
/// What the length does not count: itself.
const LENGTH_BYTES: usize = 4;
/// The longest body of any frame: a range of 1 MiB with its proof fits twice.
pub const FRAME_MAX_BYTES: usize = 2 << 20;
/// The longest body of a request that holds no list.
const PLAIN_REQUEST_MAX_BYTES: usize = 128;
/// The longest greeting: a secret, a proof, and a chain of certificates.
const GREETING_MAX_BYTES: usize = 64 + CHAIN_MAX_BYTES;

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident = $byte:literal,)*) => {
        /// What a frame is. The numbers are the format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$meta])* $kind = $byte,)*
        }

        impl Kind {
            const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Greeting of the dialler.
    Prove = 1,
    /// Greeting of a dialler with an invitation.
    Enrol = 2,
    /// Greeting of the acceptor.
    Proven = 3,
    /// Greeting of the acceptor to one that it admits.
    Enrolled = 4,
    /// Greeting of the acceptor to one that was put out: the word that did it.
    PutOut = 5,
    /// Are you there (dialler); with the id of a request, that its answer is of no use any more.
    Ping = 8,
    /// I am (acceptor).
    Pong = 9,
    /// Request.
    AskMembers = 16,
    /// Request.
    AskHeads = 17,
    /// Request.
    AskLog = 18,
    /// Request.
    AskRange = 19,
    /// Request.
    AskHoldings = 20,
    /// Request.
    AskTrust = 25,
    /// Request, of `p2pfs/2`.
    AskBatch = 26,
    /// Request.
    AskReach = 21,
    /// Request.
    Offer = 22,
    /// Request.
    Give = 23,
    /// Request.
    Say = 24,
    /// Request.
    Message = 30,
    /// Response.
    Members = 32,
    /// Response.
    Heads = 33,
    /// Response.
    Log = 34,
    /// Response.
    Data = 35,
    /// Response.
    Holdings = 36,
    /// Response.
    Gone = 37,
    /// Response.
    NotHere = 38,
    /// Response.
    Busy = 39,
    /// Response.
    Refused = 40,
    /// Response.
    Trust = 43,
    /// Response, of `p2pfs/2`.
    Batch = 44,
    /// Response.
    Reached = 41,
    /// Response.
    Taken = 42,
}

/// What a side of a connection may receive now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Membership is not proven: greetings only.
    Greeting,
    /// The acceptor of a proven connection: requests and pings.
    Requests,
    /// The dialler of a proven connection: responses and pongs.
    Responses,
}

/// A clock and a reason.
const REACHED_MAX_BYTES: usize = 8 + REASON_MAX_BYTES;

impl Kind {
    /// The longest body of this kind.
    pub const fn limit_bytes(self) -> usize {
        match self {
            Self::Prove | Self::Enrol | Self::Proven | Self::Enrolled | Self::PutOut => {
                GREETING_MAX_BYTES
            }
            Self::Ping | Self::Pong | Self::Gone | Self::NotHere | Self::Busy => 0,
            Self::AskReach => 0,
            Self::Reached => REACHED_MAX_BYTES,
            Self::AskLog | Self::AskRange | Self::AskHoldings => PLAIN_REQUEST_MAX_BYTES,
            Self::AskMembers | Self::Members => MEMBERS_MAX_BYTES,
            Self::AskHeads | Self::Heads => HEADS_MAX_BYTES,
            Self::Log => LOG_MAX_BYTES,
            Self::Data => FRAME_MAX_BYTES,
            Self::AskTrust | Self::Trust => TRUST_MAX_BYTES,
            Self::AskBatch => BATCH_QUESTION_MAX_BYTES,
            Self::Batch => BATCH_ANSWER_MAX_BYTES,
            Self::Holdings => HOLDINGS_MAX_BYTES,
            Self::Refused => REASON_MAX_BYTES,
            Self::Offer => OFFER_FRAME_MAX_BYTES,
            Self::Give => GIVE_FRAME_MAX_BYTES,
            Self::Say => SAID_MAX_BYTES,
            Self::Message => GIVEN_MAX_BYTES,
            Self::Taken => 8,
        }
    }

    const fn belongs_to(self, phase: Phase) -> bool {
        match phase {
            Phase::Greeting => (self as u8) < Self::Ping as u8,
            Phase::Requests => matches!(self as u8, 8 | 16..=31),
            Phase::Responses => matches!(self as u8, 9 | 32..=47),
        }
    }

    pub(super) fn check_length(self, length_bytes: usize) -> Result<(), WireError> {
        let limit_bytes = self.limit_bytes();
        if length_bytes > limit_bytes {
            return Err(WireError::TooLong {
                what: "a frame",
                length_bytes,
                limit_bytes,
            });
        }
        Ok(())
    }
}

/// The decoded header of a frame; the body's length is within the limit of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Which request this is, or answers; 0 in greetings.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// How many bytes follow.
    pub body_bytes: usize,
}

impl FrameHeader {
    /// Checks a header before anything of the body is read.
    ///
    /// # Errors
    /// [`WireError::TooLong`] over the limit of the kind; [`WireError::Malformed`] for an unknown
    /// kind, one that has no place in this phase, or a length below the header's own.
    pub fn decode(header: &[u8; HEADER_BYTES], phase: Phase) -> Result<Self, WireError> {
        let [l0, l1, l2, l3, i0, i1, i2, i3, kind] = *header;
        let malformed = WireError::Malformed {
            what: "a frame's header",
        };
        let kind = Kind::from_byte(kind).filter(|kind| kind.belongs_to(phase));
        let kind = kind.ok_or_else(|| malformed.clone())?;
        let length_bytes = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let body_bytes = length_bytes
            .checked_sub(HEADER_BYTES - LENGTH_BYTES)
            .ok_or(malformed)?;
        kind.check_length(body_bytes)?;
        Ok(Self {
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            kind,
            body_bytes,
        })
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let length = (self.body_bytes + HEADER_BYTES - LENGTH_BYTES) as u32;
        header[..4].copy_from_slice(&length.to_be_bytes());
        header[4..8].copy_from_slice(&self.id.to_be_bytes());
        header[8] = self.kind as u8;
        header
    }
}

/// A frame to be written: the header, then the body, which is not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The encoded header.
    pub header: [u8; HEADER_BYTES],
    /// What follows it.
    pub body: Bytes,
}

impl Frame {
    /// A frame of any kind.
    ///
    /// # Errors
    /// [`WireError::TooLong`] where the body is over the limit of the kind.
    pub fn new(id: u32, kind: Kind, body: Bytes) -> Result<Self, WireError> {
        kind.check_length(body.len())?;
        let header = FrameHeader {
            id,
            kind,
            body_bytes: body.len(),
        }
        .encode();
        Ok(Self { header, body })
    }

    /// A frame without a body; every kind allows that length, not every kind means something by it.
    pub fn empty(id: u32, kind: Kind) -> Self {
        Self::new(id, kind, Bytes::new()).expect("no kind has a limit below nothing")
    }

    /// Which request it is, or answers.
    pub fn id(&self) -> u32 {
        let [_, _, _, _, i0, i1, i2, i3, _] = self.header;
        u32::from_be_bytes([i0, i1, i2, i3])
    }

    /// All its bytes on the wire.
    pub fn len_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}
