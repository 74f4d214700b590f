//! Proofs of membership and of invitation, bound to one TLS connection and one direction.

use aws_lc_rs::hmac;

use super::EpochSecret;
use p2pfs_types::id::NodeId;

/// The end of the connection that makes a proof. Its label is under the HMAC, so that a stranger
/// that receives one side's proof cannot send it back as the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The node that dialled.
    Client,
    /// The node that accepted.
    Server,
}

impl Role {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Client => b"client",
            Self::Server => b"server",
        }
    }
}

const MEMBERSHIP_LABEL: &[u8] = b"p2pfs 1 membership ";
const ENROLMENT_LABEL: &[u8] = b"p2pfs 1 enrolment ";

/// One TLS connection, to which proofs are bound.
#[derive(Clone, Copy)]
pub struct Channel {
    /// The node that dialled.
    pub client: NodeId,
    /// The node that accepted.
    pub server: NodeId,
    /// The TLS exporter (RFC 8446, section 7.5). Only the two ends of this connection know it.
    pub exporter: [u8; 32],
}

impl Channel {
    /// Returns the proof that `role` of this connection knows the epoch's secret. It is invalid on
    /// every other connection.
    pub fn membership_proof(&self, secret: &EpochSecret, role: Role) -> [u8; 32] {
        let message = self.message(MEMBERSHIP_LABEL, role, &secret.id().0);
        tag(&secret.auth_key(), &message)
    }

    /// Verifies a membership proof, in constant time.
    pub fn verify_membership(&self, secret: &EpochSecret, role: Role, proof: &[u8; 32]) -> bool {
        let message = self.message(MEMBERSHIP_LABEL, role, &secret.id().0);
        holds(&secret.auth_key(), &message, proof)
    }

    /// Returns the proof that `role` of this connection knows an invitation's one-use key.
    pub fn enrolment_proof(&self, key: &[u8; 32], role: Role) -> [u8; 32] {
        tag(key, &self.message(ENROLMENT_LABEL, role, &[]))
    }

    /// Verifies an enrolment proof, in constant time.
    pub fn verify_enrolment(&self, key: &[u8; 32], role: Role, proof: &[u8; 32]) -> bool {
        holds(key, &self.message(ENROLMENT_LABEL, role, &[]), proof)
    }

    /// Builds the message under the HMAC. Every field has a fixed length for its label, so two
    /// different inputs never give the same message.
    fn message(&self, label: &[u8], role: Role, epoch: &[u8]) -> Vec<u8> {
        let (client, server) = (self.client.as_bytes(), self.server.as_bytes());
        [label, role.label(), epoch, client, server, &self.exporter].concat()
    }
}

fn tag(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message)
        .as_ref()
        .try_into()
        .expect("SHA-256 gives 32 bytes")
}

fn holds(key: &[u8; 32], message: &[u8], proof: &[u8; 32]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::verify(&key, message, proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId::new([1; 32]);
    const B: NodeId = NodeId::new([2; 32]);
    const CHANNEL: Channel = Channel {
        client: A,
        server: B,
        exporter: [9; 32],
    };

    #[test]
    fn a_proof_is_valid_only_for_its_own_connection() {
        let secret = EpochSecret::new([7; 32]);
        let proof = CHANNEL.membership_proof(&secret, Role::Client);
        let other = EpochSecret::new([8; 32]);
        let (swapped, elsewhere) = (
            Channel {
                client: B,
                server: A,
                ..CHANNEL
            },
            Channel {
                exporter: [0; 32],
                ..CHANNEL
            },
        );
        assert!(CHANNEL.verify_membership(&secret, Role::Client, &proof));
        assert!(!CHANNEL.verify_membership(&other, Role::Client, &proof));
        assert!(!swapped.verify_membership(&secret, Role::Client, &proof));
        assert!(!elsewhere.verify_membership(&secret, Role::Client, &proof));
        assert!(!CHANNEL.verify_membership(&secret, Role::Client, &[0; 32]));
    }

    #[test]
    fn an_echoed_proof_is_refused() {
        let secret = EpochSecret::new([7; 32]);
        let proof = CHANNEL.membership_proof(&secret, Role::Client);
        assert!(!CHANNEL.verify_membership(&secret, Role::Server, &proof));
        let proof = CHANNEL.enrolment_proof(&[3; 32], Role::Client);
        assert!(!CHANNEL.verify_enrolment(&[3; 32], Role::Server, &proof));
    }

    #[test]
    fn an_invitation_proves_no_membership() {
        let secret = EpochSecret::new([7; 32]);
        let proof = CHANNEL.enrolment_proof(&secret.auth_key(), Role::Client);
        assert!(!CHANNEL.verify_membership(&secret, Role::Client, &proof));
    }
}
