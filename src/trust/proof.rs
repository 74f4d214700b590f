//! Proofs of membership and of invitation, bound to one TLS connection and one direction.

use aws_lc_rs::hmac;

use super::EpochSecret;
use crate::id::NodeId;

/// Who makes a proof. The label is under the HMAC, so that a stranger who is shown one side's proof
/// cannot send it back as the other's.
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

/// The proof that `role` of this connection knows the epoch's secret. `exporter` is the TLS
/// exporter (RFC 8446, section 7.5), so a proof is worth nothing on another connection.
pub fn membership_proof(
    secret: &EpochSecret,
    role: Role,
    client: NodeId,
    server: NodeId,
    exporter: &[u8; 32],
) -> [u8; 32] {
    let message = membership_message(secret, role, client, server, exporter);
    tag(&secret.auth_key(), &message)
}

/// Whether a membership proof holds; takes the same time whether or not it does.
pub fn verify_membership(
    secret: &EpochSecret,
    role: Role,
    client: NodeId,
    server: NodeId,
    exporter: &[u8; 32],
    proof: &[u8; 32],
) -> bool {
    let message = membership_message(secret, role, client, server, exporter);
    holds(&secret.auth_key(), &message, proof)
}

/// The proof that `role` of this connection knows an invitation's one-use key.
pub fn enrolment_proof(
    key: &[u8; 32],
    role: Role,
    client: NodeId,
    server: NodeId,
    exporter: &[u8; 32],
) -> [u8; 32] {
    tag(
        key,
        &message(ENROLMENT_LABEL, role, &[], client, server, exporter),
    )
}

/// Whether an enrolment proof holds; takes the same time whether or not it does.
pub fn verify_enrolment(
    key: &[u8; 32],
    role: Role,
    client: NodeId,
    server: NodeId,
    exporter: &[u8; 32],
    proof: &[u8; 32],
) -> bool {
    holds(
        key,
        &message(ENROLMENT_LABEL, role, &[], client, server, exporter),
        proof,
    )
}

fn membership_message(
    secret: &EpochSecret,
    role: Role,
    client: NodeId,
    server: NodeId,
    exporter: &[u8; 32],
) -> Vec<u8> {
    message(
        MEMBERSHIP_LABEL,
        role,
        &secret.id().0,
        client,
        server,
        exporter,
    )
}

/// Every field has a fixed length for its label, so no two inputs give one message.
fn message(
    label: &[u8],
    role: Role,
    epoch: &[u8],
    client: NodeId,
    server: NodeId,
    exporter: &[u8; 32],
) -> Vec<u8> {
    [
        label,
        role.label(),
        epoch,
        client.as_bytes(),
        server.as_bytes(),
        exporter,
    ]
    .concat()
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
    const EXPORTER: [u8; 32] = [9; 32];

    #[test]
    fn a_proof_holds_for_its_own_connection_and_nothing_else() {
        let secret = EpochSecret::new([7; 32]);
        let proof = membership_proof(&secret, Role::Client, A, B, &EXPORTER);
        let other = EpochSecret::new([8; 32]);
        let check = verify_membership;
        assert!(check(&secret, Role::Client, A, B, &EXPORTER, &proof));
        assert!(!check(&other, Role::Client, A, B, &EXPORTER, &proof));
        assert!(!check(&secret, Role::Client, B, A, &EXPORTER, &proof));
        assert!(!check(&secret, Role::Client, A, B, &[0; 32], &proof));
        assert!(!check(&secret, Role::Client, A, B, &EXPORTER, &[0; 32]));
    }

    #[test]
    fn an_echoed_proof_is_refused() {
        let secret = EpochSecret::new([7; 32]);
        let proof = membership_proof(&secret, Role::Client, A, B, &EXPORTER);
        assert!(!verify_membership(
            &secret,
            Role::Server,
            A,
            B,
            &EXPORTER,
            &proof
        ));
        let proof = enrolment_proof(&[3; 32], Role::Client, A, B, &EXPORTER);
        assert!(!verify_enrolment(
            &[3; 32],
            Role::Server,
            A,
            B,
            &EXPORTER,
            &proof
        ));
    }

    #[test]
    fn an_invitation_proves_no_membership() {
        let secret = EpochSecret::new([7; 32]);
        let proof = enrolment_proof(&secret.auth_key(), Role::Client, A, B, &EXPORTER);
        assert!(!verify_membership(
            &secret,
            Role::Client,
            A,
            B,
            &EXPORTER,
            &proof
        ));
    }
}
