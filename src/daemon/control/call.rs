//! The description of a call, and the errors of its decoding. The calls are declared in `calls`.

use super::described::{Field, FieldType};

/// The Varlink interface that all calls belong to.
pub const INTERFACE: &str = "org.p2pfs.Control";
/// The interface in Varlink's language, for `varlinkctl introspect` and for authors of clients.
pub const DESCRIPTION: &str = include_str!("org.p2pfs.Control.varlink");

/// The right that a call requires of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Any local user.
    Read,
    /// A member of the group `p2pfs`, root, or the daemon's user.
    Cache,
    /// Root, or the daemon's user.
    Own,
}

/// The description of a call.
#[derive(Debug, Clone, Copy)]
pub struct CallInfo {
    /// The name of its method.
    pub name: &'static str,
    /// The lines of its documentation.
    pub about: &'static [&'static str],
    /// Returns its parameters.
    pub parameters: fn() -> Vec<Field>,
    /// Returns the types of its replies; the last one is the type of the last reply.
    pub replies: fn() -> Vec<FieldType>,
    /// The right that the caller needs.
    pub right: Right,
    /// Whether a second call has no further effect, even if it reaches the daemon's next process.
    pub is_repeatable: bool,
    /// Whether the answer takes a short time. The call then holds the turn of its user
    /// ([`Turn`](super::Turn)) while it is answered.
    pub is_prompt: bool,
    /// Whether it may have more than one reply, so that it must be called with `more`.
    pub needs_more: bool,
    /// Whether the answer depends on the shares of other nodes.
    pub is_about_names: bool,
    /// The command whose `--json` output is the last reply; empty if there is none.
    pub command: &'static str,
    /// The release that introduced it.
    pub since: &'static str,
}

impl CallInfo {
    /// Describes a call for any local user.
    pub(super) const fn open_to_all() -> Self {
        Self::new(Right::Read)
    }

    /// Describes a call for members of the group `p2pfs`.
    pub(super) const fn open_to_group() -> Self {
        Self::new(Right::Cache)
    }

    /// Describes a call for root and the daemon's user.
    pub(super) const fn open_to_owner() -> Self {
        Self::new(Right::Own)
    }

    const fn new(right: Right) -> Self {
        Self {
            name: "",
            about: &[],
            parameters: Vec::new,
            replies: Vec::new,
            right,
            is_repeatable: true,
            is_prompt: true,
            needs_more: false,
            is_about_names: false,
            command: "",
            since: "0.1.0",
        }
    }

    /// Marks a call that has a further effect each time. A client does not repeat it.
    pub(super) const fn once(self) -> Self {
        Self {
            is_repeatable: false,
            ..self
        }
    }

    /// Marks a call that waits for the network, the disk or the caller.
    pub(super) const fn slow(self) -> Self {
        Self {
            is_prompt: false,
            ..self
        }
    }

    /// Marks a call with several replies. It takes as long as its caller reads.
    pub(super) const fn with_more(self) -> Self {
        Self {
            needs_more: true,
            is_prompt: false,
            ..self
        }
    }

    /// Marks a call that depends on the shares of other nodes.
    pub(super) const fn about_names(self) -> Self {
        Self {
            is_about_names: true,
            ..self
        }
    }

    /// Names the command whose `--json` output is the last reply.
    pub(super) const fn shown_by(self, command: &'static str) -> Self {
        Self { command, ..self }
    }
}

/// Why a method and its parameters do not form a call. The error is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The method belongs to another interface.
    #[error("no interface of the method {method:?} is served here")]
    UnknownInterface {
        /// The method as it was called.
        method: String,
    },
    /// The interface has no such method.
    #[error("there is not a method {method:?}")]
    UnknownMethod {
        /// The method as it was called.
        method: String,
    },
    /// The parameters do not fit.
    #[error("{why}")]
    BadParameters {
        /// The reason.
        why: String,
    },
}
