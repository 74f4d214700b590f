//! Why the listings of a node are not forgotten.

use p2pfs_membership::MemberState;

/// Reason why the listings of a node stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotForgotten {
    /// The node is this node.
    #[error("it is this node")]
    Own,
    /// The node counts as live, in this state. A node that was killed does so until the others have
    /// noticed it.
    #[error("it still counts as live; repeat this once it is down")]
    Live(MemberState),
    /// No listing of the node is known.
    #[error("no entry of it is known")]
    Unlisted,
}
