//! Failures of a call: what happened, and what the user can do about it.

use serde::{Deserialize, Serialize};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// The error message, with the name of the thing; lower case, without a full stop.
    pub message: String,
    /// The remedy, if the user has one.
    pub remedy: Option<String>,
}

/// The kinds of failure; each is one Varlink error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// No such name, share, peer or content.
    NotFound,
    /// The caller lacks the right.
    Denied,
    /// The condition was not met in time.
    TimedOut,
    /// The daemon has too many calls or connections; try again.
    Busy,
    /// The daemon is ending; the call can be repeated at the next daemon.
    Stopping,
    /// The parameters are invalid.
    Invalid,
    /// The call has effects that its caller may not mean; confirm it.
    Unconfirmed,
    /// The daemon tried and failed.
    Failed,
}

impl FailureKind {
    /// Every kind with its Varlink error.
    const NAMES: [(Self, &str); 8] = [
        (Self::NotFound, "org.p2pfs.Control.NotFound"),
        (Self::Denied, "org.varlink.service.PermissionDenied"),
        (Self::TimedOut, "org.p2pfs.Control.TimedOut"),
        (Self::Busy, "org.p2pfs.Control.Busy"),
        (Self::Stopping, "org.p2pfs.Control.Stopping"),
        (Self::Invalid, "org.varlink.service.InvalidParameter"),
        (Self::Unconfirmed, "org.p2pfs.Control.Unconfirmed"),
        (Self::Failed, "org.p2pfs.Control.Failed"),
    ];

    /// Returns the name of the Varlink error.
    pub fn error_name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }

    /// Returns the kind of a Varlink error. An unknown error counts as [`Self::Failed`].
    pub fn from_error_name(name: &str) -> Self {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map_or(Self::Failed, |(kind, _)| *kind)
    }
}

/// The parameters of a Varlink error in JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct FailureParameters {
    #[serde(default)]
    pub(super) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Failure {
    /// Creates a failure without a remedy.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            remedy: None,
        }
    }

    /// Adds a remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}
