//! Greetings: the first messages of both sides of a connection.

use bytes::Bytes;
use thiserror::Error;

use super::parts::split;
use super::{Frame, FrameKind, Lane};
use crate::wire::WireError;

/// The first frame of each side, before any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The dialler proves its membership. The frame does not name the epoch, so a node without the
    /// secret cannot distinguish the proof from noise.
    Prove {
        /// Purpose of the connection.
        lane: Lane,
        /// The proof of `trust::Channel::membership_proof`.
        proof: [u8; 32],
        /// Certificates for a member that may not know the dialler yet, at most
        /// [`CHAIN_MAX_BYTES`](super::CHAIN_MAX_BYTES).
        chain: Bytes,
    },
    /// The dialler proves that it has an invitation.
    Enrol {
        /// The proof of `trust::Channel::enrolment_proof`.
        proof: [u8; 32],
        /// Name of the dialler, a `NodeName`.
        name: Bytes,
    },
    /// The acceptor proves its membership too.
    Proven {
        /// A proof with the secret of the epoch that the dialler's proof used.
        proof: [u8; 32],
        /// Certificates for a dialler that may not know the acceptor yet.
        chain: Bytes,
    },
    /// The acceptor admits the dialler.
    Enrolled {
        /// The cluster's newest secret.
        secret: [u8; 32],
        /// Proof that the acceptor knows the invitation.
        proof: [u8; 32],
        /// Certificates from the founding to the dialler's own; empty if the cluster has no ledger.
        chain: Bytes,
    },
    /// The acceptor tells a former member why its membership ended, and closes the connection.
    PutOut {
        /// Encoded `trust::SignedStatement`s: the one by which the dialler is out, and the
        /// certificates of its issuer.
        word: Bytes,
    },
    /// The acceptor tells a node with an invitation why it does not admit it, and closes the
    /// connection.
    Declined(DeclineReason),
}

/// Reason why an invitation that a node has proven does not admit it. The numbers are part of the
/// format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u8)]
pub enum DeclineReason {
    /// A reason that this version does not know.
    #[error("see the reason there with 'p2pfs events'")]
    Other = 0,
    /// The invitation has expired.
    #[error("it has expired; make another one there with 'p2pfs invite'")]
    Expired = 1,
    /// Another node has used the invitation.
    #[error("another node has used it; make another one there with 'p2pfs invite'")]
    Used = 2,
    /// The acceptor has changed its cluster since it made the invitation.
    #[error(
        "that node has joined another cluster since; make another invitation with 'p2pfs invite' \
         on a member of the cluster to join"
    )]
    OtherCluster = 3,
    /// The node was expelled after the invitation was made.
    #[error("this node was expelled after it was made; make another one there with 'p2pfs invite'")]
    BeforeExpulsion = 4,
    /// Another member has the name of the node.
    #[error("another member has the name of this node; set another name in the configuration")]
    NameTaken = 5,
    /// Settings of the acceptor give a right to the node of this name.
    #[error(
        "settings there give a right to the name of this node; set another name, or make an \
         invitation for this name there with 'p2pfs invite --name'"
    )]
    NameReserved = 6,
    /// The admission could not be recorded.
    #[error("the admission cannot be stored there; see the reason there with 'p2pfs events'")]
    NotRecorded = 7,
    /// The acceptor is stopping.
    #[error("that node is stopping; start it, and make another one there with 'p2pfs invite'")]
    Stopping = 8,
}

impl DeclineReason {
    const KNOWN: [Self; 8] = [
        Self::Expired,
        Self::Used,
        Self::OtherCluster,
        Self::BeforeExpulsion,
        Self::NameTaken,
        Self::NameReserved,
        Self::NotRecorded,
        Self::Stopping,
    ];

    fn from_byte(byte: u8) -> Self {
        let known = Self::KNOWN.into_iter().find(|it| *it as u8 == byte);
        known.unwrap_or(Self::Other)
    }
}

impl Greeting {
    /// Encodes the greeting as a frame. Greetings have the request id 0.
    pub fn encode(&self) -> Frame {
        let (kind, body) = match self {
            Self::Prove { lane, proof, chain } => {
                let lane = matches!(lane, Lane::Bulk) as u8;
                (FrameKind::Prove, [&[lane][..], proof, chain].concat())
            }
            Self::Enrol { proof, name } => (FrameKind::Enrol, [&proof[..], name].concat()),
            Self::Proven { proof, chain } => (FrameKind::Proven, [&proof[..], chain].concat()),
            Self::Enrolled {
                secret,
                proof,
                chain,
            } => (FrameKind::Enrolled, [&secret[..], proof, chain].concat()),
            Self::PutOut { word } => (FrameKind::PutOut, word.to_vec()),
            Self::Declined(why) => (FrameKind::Declined, vec![*why as u8]),
        };
        Frame::new(0, kind, Bytes::from(body)).expect("a greeting is within its limit")
    }

    /// Decodes the greeting of a frame of `kind`.
    ///
    /// # Errors
    /// [`WireError`] if the frame is not a valid greeting.
    pub fn decode(kind: FrameKind, body: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "a greeting";
        match kind {
            FrameKind::Prove => {
                let (lane, rest) = body
                    .split_first()
                    .ok_or(WireError::Malformed { what: WHAT })?;
                let lane = match lane {
                    0 => Lane::Urgent,
                    1 => Lane::Bulk,
                    _ => return Err(WireError::Malformed { what: WHAT }),
                };
                let (proof, chain) = split(rest, WHAT)?;
                Ok(Self::Prove { lane, proof, chain })
            }
            FrameKind::Enrol => {
                let (proof, name) = split(body, WHAT)?;
                Ok(Self::Enrol { proof, name })
            }
            FrameKind::Proven => {
                let (proof, chain) = split(body, WHAT)?;
                Ok(Self::Proven { proof, chain })
            }
            FrameKind::Enrolled => {
                let (secret, rest) = split(body, WHAT)?;
                let (proof, chain) = split(&rest, WHAT)?;
                Ok(Self::Enrolled {
                    secret,
                    proof,
                    chain,
                })
            }
            FrameKind::PutOut => Ok(Self::PutOut {
                word: Bytes::copy_from_slice(body),
            }),
            FrameKind::Declined => match body {
                [why] => Ok(Self::Declined(DeclineReason::from_byte(*why))),
                _ => Err(WireError::Malformed { what: WHAT }),
            },
            _ => Err(WireError::Malformed { what: WHAT }),
        }
    }
}
