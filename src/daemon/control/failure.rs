//! How a call fails: what happened, and what the user can do about it.

use serde::{Deserialize, Serialize};

/// Why a call was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Which kind, for programs.
    pub kind: FailureKind,
    /// What happened, naming the thing; lower case, no full stop.
    pub message: String,
    /// What to do about it, where something can be done.
    pub remedy: Option<String>,
}

/// The kinds of failure; each is one Varlink error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// No such name, share, peer or content.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// It did not become so in time.
    TimedOut,
    /// The daemon is starting, or has too much to do; try again.
    Busy,
    /// The daemon ends; the next one can be asked.
    Stopping,
    /// The parameters make no sense.
    Invalid,
    /// It was tried and went wrong.
    Failed,
}

impl FailureKind {
    /// Every kind, with its Varlink error.
    const NAMES: [(Self, &str); 7] = [
        (Self::NotFound, "org.p2pfs.Control.NotFound"),
        (Self::Denied, "org.varlink.service.PermissionDenied"),
        (Self::TimedOut, "org.p2pfs.Control.TimedOut"),
        (Self::Busy, "org.p2pfs.Control.Busy"),
        (Self::Stopping, "org.p2pfs.Control.Stopping"),
        (Self::Invalid, "org.varlink.service.InvalidParameter"),
        (Self::Failed, "org.p2pfs.Control.Failed"),
    ];

    /// The Varlink error.
    pub fn error_name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }

    /// The kind of a Varlink error; one that is not known counts as [`Self::Failed`].
    pub fn from_error_name(name: &str) -> Self {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map_or(Self::Failed, |(kind, _)| *kind)
    }
}

/// The parameters of a Varlink error, as written.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct FailureParameters {
    #[serde(default)]
    pub(super) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Failure {
    /// A failure with no remedy to tell.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            remedy: None,
        }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}
