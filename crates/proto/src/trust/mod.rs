//! Who may be here: node keys, the ledger of who was admitted, epoch secrets, invitations, and the
//! proofs made with them.
//!
//! Owns every secret of a node and the files that keep them and the ledger (`node.key`,
//! `secrets`, `members`, mode 0600, written whole or not at all). Opens no socket, reads no clock
//! (the time is handed in), and knows no frame: it makes and checks the 32 bytes that `net`
//! carries. Its only randomness is the system's, for keys. An error leaves what was loaded as it
//! was, and nothing half written.

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

pub use epoch::EpochSecret;
pub use epochs::{EPOCH_OVERLAP_S, EPOCH_SWITCH_S};
pub use exchange::EXCHANGE_MAX_BYTES;
pub use invites::{Grant, INVITES_MAX, Invites, IsReserved, Known, Redeemed};
pub use keyring::{CHAIN_MAX_BYTES, Fault, Keyring, Welcome};
pub use ledger::{CHAIN_MAX, Certificate, Ledger, STATEMENTS_MAX, STATEMENTS_PER_ADMIN_MAX};
pub use node_key::{NodeKey, verify};
pub use proof::{Channel, Role};
pub use share_key::{SEAL_BYTES, ShareKey, WrappedKey, has_key};
pub use statement::{
    Claim, OWNED_PATH_MAX_BYTES, STATEMENT_MAX_BYTES, SignedStatement, Statement, StatementId,
};
pub use token::{InviteToken, TOKEN_MAX_BYTES, TOKEN_SEEDS_MAX};

use std::io;
use std::path::PathBuf;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use p2pfs_types::files::is_full;
use p2pfs_types::id::NodeName;

/// What to do next, where what the system said does not tell.
fn remedy(source: &io::Error) -> &'static str {
    if is_full(source) {
        "; free some of its disk, and do it again"
    } else {
        ""
    }
}

/// What can go wrong with keys, secrets and invitations. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file system refused; the administrator can mend it.
    #[error("cannot {action} {path}: {source}{}", remedy(.source))]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read or write a file that holds a secret.
    #[error(
        "{path} has mode {mode:04o}, so others may know the secret in it: make a new one, or run \
         'chmod 600 {path}' if nobody can have read it"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{path} does not hold {expected}: put back a copy of it that does{or}")]
    BadFile {
        /// Which file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
        /// What else helps.
        or: &'static str,
    },
    /// The secret is to be read from a file that is not there.
    #[error(
        "the secret file {path} does not exist: copy another node's there, or write 64 hexadecimal \
         digits and a newline into it, mode 0600"
    )]
    NoSecretFile {
        /// Which file.
        path: PathBuf,
    },
    /// The secret was given by hand, so it is not ours to replace.
    #[error("the secret is given by {path}: take the setting out to join with a token")]
    Given {
        /// The file that gives it.
        path: PathBuf,
    },
    /// There is no ledger to write in.
    #[error(
        "the members are those who have the secret of {path}: to let one in, give it that file; to \
         leave one out, give the others a new file; to admit and expel nodes, take the setting out \
         and join with tokens"
    )]
    NoLedger {
        /// The file that gives the secret.
        path: PathBuf,
    },
    /// This node has not the right to admit and expel.
    #[error(
        "this node may not admit or expel others: ask on one that may ('p2pfs trust' shows which)"
    )]
    NotAdmin,
    /// Nobody has.
    #[error(
        "no member may admit or expel any more, since the last that might has left: the others go \
         on as they are; to have more, begin anew on one node ('p2pfs leave' there), and let the \
         others join it"
    )]
    NobodyMay,
    /// Who is admitted here could not show its certificates up to the founding.
    #[error(
        "{CHAIN_MAX} nodes have let each other in, one after the other, from the first of the \
         cluster down to this one, which is as many as may be: invite on one that was let in \
         nearer to the first ('p2pfs trust' shows by whom each was)"
    )]
    TooFar,
    /// There is no such member.
    #[error("that node is no member of the cluster")]
    NoMember,
    /// The node was given its right before this one.
    #[error("{name} may admit and expel for longer than this node: it can only leave by itself")]
    Senior {
        /// What it calls itself.
        name: NodeName,
    },
    /// The node left by itself, and no word of this node can limit what it said before.
    #[error(
        "{name} left by itself, and could admit and expel before this node could: expel it on a \
         node that could earlier than {name} ('p2pfs trust' shows which)"
    )]
    SeniorLeft { name: NodeName },
    /// A statement has no room for the path.
    #[error(
        "only a path of up to {OWNED_PATH_MAX_BYTES} bytes can have an owner: name one above it"
    )]
    OwnedPath,
    /// No statement fits any more.
    #[error("{STATEMENTS_MAX} joins and expulsions are on record, which is as many as may be")]
    LedgerFull,
    /// A node has been in as often as can be said.
    #[error(
        "that node's key can be let in no more: move node.key out of its state directory, so that \
         it gets another, and invite it anew"
    )]
    KeyWorn,
    /// What the inviting node showed does not make this one a member.
    #[error("the inviting node did not show a certificate for this one; make a new invitation")]
    BadChain,
    /// Not a token, or one that was cut or mistyped.
    #[error("this is not a whole invitation: {why}; copy it again from 'p2pfs invite'")]
    BadToken {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A token of another version.
    #[error("this invitation was made by another version of p2pfs; make the versions equal")]
    TokenVersion,
    /// The token's time is over.
    #[error("the invitation has expired; make a new one with 'p2pfs invite'")]
    Expired,
    /// An invitation was for another cluster, or the node was put out since.
    #[error(
        "the invitation was made before that node was put out, or into another cluster; make a new \
         one with 'p2pfs invite'"
    )]
    Overtaken,
    /// Another member has the name.
    #[error("a member is called {name} already: choose another name, or expel that member first")]
    NameTaken { name: NodeName },
    /// Too many invitations wait to be used.
    #[error("{INVITES_MAX} invitations are waiting; wait until some are used or expire")]
    TooManyInvites,
    /// Too many addresses for one token.
    #[error("an invitation names 1 to {TOKEN_SEEDS_MAX} addresses, not {count}")]
    BadSeeds {
        /// How many were given.
        count: usize,
    },
}

/// Random bytes from the system.
///
/// # Panics
/// Where the system has no randomness, in which case nothing here can be safe.
fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system gives random bytes");
    bytes
}
