//! Frames: the header, the kinds, and the limit of each.

use bytes::Bytes;

use super::batch::{BATCH_ANSWER_MAX_BYTES, BATCH_QUESTION_MAX_BYTES};
use super::push::{GIVE_FRAME_MAX_BYTES, OFFER_FRAME_MAX_BYTES};
use super::{
    CHAIN_MAX_BYTES, GIVEN_MAX_BYTES, HEADS_MAX_BYTES, HOLDINGS_MAX_BYTES, LOG_MAX_BYTES,
    MEMBERS_MAX_BYTES, REASON_MAX_BYTES, SAID_MAX_BYTES, TRUST_MAX_BYTES,
};
use crate::wire::WireError;
use p2pfs_types::path::NAME_MAX_BYTES;

/// Size of a frame's header in bytes: length, request id and kind.
pub const HEADER_BYTES: usize = 9;
/// Size in bytes of the length field, which the length does not count.
const LENGTH_BYTES: usize = 4;
/// Maximum size in bytes of a frame's body. It leaves ample room for a range of 1 MiB with its
/// proof.
pub const FRAME_MAX_BYTES: usize = 2 << 20;
/// Maximum size in bytes of the body of a request for a log, a range or holdings.
const PLAIN_REQUEST_MAX_BYTES: usize = 128;
/// Maximum size in bytes of a greeting: a secret, a proof, and a chain of certificates.
const GREETING_MAX_BYTES: usize = 64 + CHAIN_MAX_BYTES;

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident = $byte:literal,)*) => {
        /// Kind of a frame. The numbers are part of the format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum FrameKind {
            $($(#[$meta])* $kind = $byte,)*
        }

        impl FrameKind {
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
    /// Greeting of the acceptor to a node that it admits.
    Enrolled = 4,
    /// Greeting of the acceptor to a former member, with the statements by which it is out.
    PutOut = 5,
    /// Greeting of the acceptor to a node with an invitation that does not admit it, of `p2pfs/4`.
    Declined = 6,
    /// Question whether the peer is there. With the id of a request, it cancels that request.
    Ping = 8,
    /// The answer to a ping.
    Pong = 9,
    /// Request for the member list.
    AskMembers = 16,
    /// Request for log heads.
    AskHeads = 17,
    /// Request for a part of a log.
    AskLog = 18,
    /// Request for a range of a content.
    AskRange = 19,
    /// Request for the ranges of a content that the peer can send.
    AskHoldings = 20,
    /// Request for membership statements.
    AskTrust = 25,
    /// Request for several small files, of `p2pfs/2`.
    AskBatch = 26,
    /// Request to dial back.
    AskReach = 21,
    /// Request to accept a file into the inbox.
    Offer = 22,
    /// Request with a part of an offered file.
    Give = 23,
    /// Request with a chat line.
    Say = 24,
    /// Request with bytes for the program that embeds the peer.
    Message = 30,
    /// Request for the name of a file in the peer's inbox, of `p2pfs/3`.
    AskKept = 31,
    /// Response with the member list.
    Members = 32,
    /// Response with log heads.
    Heads = 33,
    /// Response with a part of a log.
    Log = 34,
    /// Response with a range and its proof.
    Data = 35,
    /// Response with the ranges that the peer can send.
    Holdings = 36,
    /// Response: the peer has lost the content.
    Gone = 37,
    /// Response: the peer does not have it, or does not give it.
    NotHere = 38,
    /// Response: the peer is busy.
    Busy = 39,
    /// Response: the peer refuses the request.
    Refused = 40,
    /// Response with membership statements.
    Trust = 43,
    /// Response with the files of a batch, of `p2pfs/2`.
    Batch = 44,
    /// Response with the result of dialling back.
    Reached = 41,
    /// Response with the number of pushed bytes that the peer has.
    Taken = 42,
    /// Response with the name of a file in the peer's inbox, of `p2pfs/3`.
    Kept = 45,
}

/// State of one side of a connection, which determines the kinds of frames that it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Membership is not proven: greetings only.
    Greeting,
    /// The acceptor of a proven connection up to `p2pfs/3`: requests and pings.
    Requests,
    /// The dialler of a proven connection up to `p2pfs/3`: responses and pongs.
    Responses,
    /// Either end of a proven connection of `p2pfs/4`: all of these.
    Both,
}

/// Maximum size in bytes of a response to [`FrameKind::AskReach`]: a clock and a reason.
const REACHED_MAX_BYTES: usize = 8 + REASON_MAX_BYTES;

impl FrameKind {
    /// Returns the maximum size in bytes of a body of this kind.
    pub const fn limit_bytes(self) -> usize {
        match self {
            Self::Prove | Self::Enrol | Self::Proven | Self::Enrolled | Self::PutOut => {
                GREETING_MAX_BYTES
            }
            Self::Declined => 1,
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
            Self::AskKept => 32,
            Self::Kept => NAME_MAX_BYTES,
        }
    }

    /// Returns whether a frame of this kind is the response to the request with its id.
    pub const fn is_response(self) -> bool {
        matches!(self as u8, 32..=47)
    }

    const fn belongs_to(self, phase: Phase) -> bool {
        match phase {
            Phase::Greeting => (self as u8) < Self::Ping as u8,
            Phase::Requests => matches!(self as u8, 8 | 16..=31),
            Phase::Responses => matches!(self, Self::Pong) || self.is_response(),
            Phase::Both => self as u8 >= Self::Ping as u8,
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

/// The decoded header of a frame. The body's length is within the limit of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Id of the request that the frame carries or answers; 0 in greetings.
    pub id: u32,
    /// Kind of the frame.
    pub kind: FrameKind,
    /// Size of the body in bytes.
    pub body_bytes: usize,
}

impl FrameHeader {
    /// Decodes and checks a header before any of the body is read.
    ///
    /// # Errors
    /// [`WireError::TooLong`] over the limit of the kind; [`WireError::Malformed`] for an unknown
    /// kind, a kind that is not allowed in this phase, or a length that does not cover the id and
    /// the kind.
    pub fn decode(header: &[u8; HEADER_BYTES], phase: Phase) -> Result<Self, WireError> {
        let [l0, l1, l2, l3, i0, i1, i2, i3, kind] = *header;
        let malformed = WireError::Malformed {
            what: "a frame's header",
        };
        let kind = FrameKind::from_byte(kind).filter(|kind| kind.belongs_to(phase));
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
    /// The body.
    pub body: Bytes,
}

impl Frame {
    /// Creates a frame of any kind.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the body exceeds the limit of the kind.
    pub fn new(id: u32, kind: FrameKind, body: Bytes) -> Result<Self, WireError> {
        kind.check_length(body.len())?;
        let header = FrameHeader {
            id,
            kind,
            body_bytes: body.len(),
        }
        .encode();
        Ok(Self { header, body })
    }

    /// Creates a frame without a body. Every kind allows an empty body, but not every kind has a
    /// meaning for it.
    pub fn empty(id: u32, kind: FrameKind) -> Self {
        Self::new(id, kind, Bytes::new()).expect("no kind has a limit below nothing")
    }

    /// Returns the id of the request that the frame carries or answers.
    pub fn id(&self) -> u32 {
        let [_, _, _, _, i0, i1, i2, i3, _] = self.header;
        u32::from_be_bytes([i0, i1, i2, i3])
    }

    /// Returns whether the frame is the response to the request with this id.
    pub fn answers(&self, id: u32) -> bool {
        let kind = FrameKind::from_byte(self.header[HEADER_BYTES - 1]);
        self.id() == id && kind.is_some_and(FrameKind::is_response)
    }

    /// Returns the size of the whole frame in bytes.
    pub fn len_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}
