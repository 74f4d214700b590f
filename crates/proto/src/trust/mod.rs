//! Membership of a cluster: node keys, the ledger of admitted nodes, epoch secrets, invitations,
//! and the proofs made with them. [`Keyring`] owns them, and [`TrustView`] shows them to the rest of
//! the program; [`ledger`] has the rules of membership.
//!
//! This module owns the files `node.key`, `secrets`, `members` and `former-names` in the state
//! directory. They have mode 0600 and are replaced atomically, so none is ever partly written. The
//! module opens no socket and reads no clock; callers pass in the time. It does not know frames: it
//! makes and checks the bytes of proofs and statements. Its only randomness is the system's, for
//! keys.

mod epoch;
mod epochs;
pub mod exchange;
mod file;
pub mod invites;
pub mod keyring;
pub mod ledger;
mod node_key;
mod proof;
mod share_key;
pub mod statement;
pub mod token;
mod view;

pub use epoch::EpochSecret;
pub use epochs::{EPOCH_OVERLAP_S, EPOCH_SWITCH_S, Epochs};
pub use exchange::EXCHANGE_MAX_BYTES;
pub use invites::{
    Grant, INVITES_MAX, InviteRefusal, Invites, IsReserved, Known, Redeemed, USED_INVITES_MAX,
};
#[cfg(any(test, feature = "test-support"))]
pub use keyring::TestKeyring;
pub use keyring::{
    Claims, Fault, InvitedNode, Keyring, KeyringFiles, RETRY_AFTER_S, Reply, StoredTrust,
    TrustAction, TrustCommand, TrustWrite, WAITING_MAX, Welcome,
};
pub use ledger::{
    CHAIN_MAX, CHAIN_MAX_BYTES, Certificate, DepartedNodes, FAREWELLS_PER_MEMBERSHIP_MAX, Ledger,
    LedgerSigner, STATEMENTS_MAX, STATEMENTS_PER_ADMIN_MAX,
};
pub use node_key::{NodeKey, verify};
pub use proof::{Channel, Role};
pub use share_key::{SEAL_BYTES, ShareKey, WrappedKey, has_key};
pub use statement::{
    Claim, OWNED_PATH_MAX_BYTES, STATEMENT_MAX_BYTES, SignedStatement, Statement, StatementId,
};
pub use token::{InviteToken, TOKEN_MAX_BYTES, TOKEN_SEEDS_MAX};
pub use view::{TrustReader, TrustView};

use std::io;
use std::path::PathBuf;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use p2pfs_types::files::is_full;
use p2pfs_types::id::NodeName;

/// Returns the remedy to append to a file error: for a full disk, to free some of it. Other errors
/// have none.
fn remedy(source: &io::Error) -> &'static str {
    if is_full(source) {
        "; free some of its disk, and do it again"
    } else {
        ""
    }
}

/// Errors of keys, secrets, the ledger and invitations.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file system refused an operation.
    #[error("cannot {action} {path}: {source}{}", remedy(.source))]
    File {
        /// The operation that failed, as a verb.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Other users can read or write a file that holds a secret.
    #[error(
        "{path} has mode {mode:04o}, so others may know the secret in it: make a new one, or run \
         'chmod 600 {path}' if nobody can have read it"
    )]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Permission bits of the file.
        mode: u32,
    },
    /// A file has unexpected content.
    #[error("{path} does not hold {expected}: put back a copy of it that does{or}")]
    BadFile {
        /// Path of the file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
        /// Another remedy, appended to the message; may be empty.
        or: &'static str,
    },
    /// The configured secret file does not exist.
    #[error(
        "the secret file {path} does not exist: copy another node's there, or write 64 hexadecimal \
         digits and a newline into it, mode 0600"
    )]
    NoSecretFile {
        /// Path of the missing file.
        path: PathBuf,
    },
    /// The secret comes from a configured file, so p2pfs must not replace it.
    #[error("the secret is given by {path}: take the setting out to join with a token")]
    Given {
        /// Path of the file with the secret.
        path: PathBuf,
    },
    /// There is no ledger to write to, because a configured file gives the secret.
    #[error(
        "the members are those who have the secret of {path}: to let one in, give it that file; to \
         leave one out, give the others a new file; to admit and expel nodes, take the setting out \
         and join with tokens"
    )]
    NoLedger {
        /// Path of the file with the secret.
        path: PathBuf,
    },
    /// This node does not have the right to admit and expel.
    #[error(
        "this node may not admit or expel others: ask on one that may ('p2pfs trust' shows which)"
    )]
    NotAdmin,
    /// No member has the right to admit and expel.
    #[error(
        "no member may admit or expel any more, since the last that might has left: the others go \
         on as they are; to have more, begin anew on one node ('p2pfs leave' there), and let the \
         others join it"
    )]
    NobodyMay,
    /// The chain of certificates from the founding to this node has [`CHAIN_MAX`] statements
    /// already, so it cannot have one more for a node that this node admits.
    #[error(
        "{CHAIN_MAX} nodes have let each other in, one after the other, from the first of the \
         cluster down to this one, which is as many as may be: invite on one that was let in \
         nearer to the first ('p2pfs trust' shows by whom each was)"
    )]
    TooFar,
    /// The named node is not a member.
    #[error("that node is not a member of the cluster")]
    NoMember,
    /// The named node is senior to this node (see [`ledger`]).
    #[error(
        "cannot expel {name}: it is nearer to the first node of the cluster than this node, or as \
         near and admitted earlier; expel it on a node that is senior to it ('p2pfs trust' shows \
         by whom each was admitted), or let it leave by itself"
    )]
    Senior {
        /// Name of the senior node.
        name: NodeName,
    },
    /// The named node left by itself, and was senior to this node. An expulsion of it by this node
    /// would not count.
    #[error(
        "cannot expel {name}, which left by itself: it was nearer to the first node of the cluster \
         than this node, or as near and admitted earlier; expel it on a node that is senior to it \
         ('p2pfs trust' shows by whom each was admitted)"
    )]
    SeniorLeft {
        /// Name of the node that left.
        name: NodeName,
    },
    /// The path is too long for a statement.
    #[error(
        "only a path of up to {OWNED_PATH_MAX_BYTES} bytes can have an owner: name one above it"
    )]
    OwnedPath,
    /// The ledger did not take in a statement of this node. Usually it is full, or this node has
    /// made as many statements as one node may.
    #[error("{STATEMENTS_MAX} joins and expulsions are on record, which is as many as may be")]
    LedgerFull,
    /// The ledger accepted an expulsion and had no room for a rotation.
    #[error(
        "that node is out, and the members keep their secret, because {STATEMENTS_MAX} joins and \
         expulsions are on record, which is as many as may be; rotate on another node that may expel"
    )]
    NoFreshSecret,
    /// The key has used the highest membership number, so it cannot be admitted again.
    #[error(
        "that node's key can be let in no more: move node.key out of its state directory, so that \
         it gets another, and invite it anew"
    )]
    KeyWorn,
    /// The chain shown by the inviting node does not make this node a member.
    #[error("the inviting node did not show a certificate for this one; make a new invitation")]
    BadChain,
    /// The text is not a token, or a token that was truncated or mistyped.
    #[error("this is not a whole invitation: {why}; copy it again from 'p2pfs invite'")]
    BadToken {
        /// The defect of the token.
        why: &'static str,
    },
    /// The token has the format of another version.
    #[error("this invitation was made by another version of p2pfs; make the versions equal")]
    TokenVersion,
    /// The token has expired.
    #[error("the invitation has expired; make a new one with 'p2pfs invite'")]
    Expired,
    /// The invitation was for another cluster, or is older than an expulsion that excludes the
    /// joining node. Or the node used it before and is not a member any longer.
    #[error(
        "the invitation was made before that node was put out, or into another cluster; make a new \
         one with 'p2pfs invite'"
    )]
    Overtaken,
    /// Another member already has the name.
    #[error("a member is called {name} already: choose another name, or expel that member first")]
    NameTaken {
        /// The name in use.
        name: NodeName,
    },
    /// Too many commands wait for the disk of the state directory.
    #[error(
        "the disk of the state directory does not answer, and {WAITING_MAX} changes wait for it; do \
         it again once the disk answers"
    )]
    StandsStill,
    /// Too many unused invitations.
    #[error("{INVITES_MAX} invitations are waiting; wait until some are used or expire")]
    TooManyInvites,
    /// The number of addresses for one token is zero or too high.
    #[error("an invitation names 1 to {TOKEN_SEEDS_MAX} addresses, not {count}")]
    BadSeeds {
        /// Number of addresses that were given.
        count: usize,
    },
}

/// Returns random bytes from the system.
///
/// # Panics
/// Panics if the system has no randomness, because no key would be safe then.
fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system gives random bytes");
    bytes
}
