//! The description, decoding and encoding of a call. The calls are declared in `calls`.

use serde_json::Value;

use super::calls::{CALLS, Call, describe};
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

/// Converts a JSON error. Leaves out the position of the error, because it refers to the tagged
/// text and not to the caller's text.
fn bad_parameters(error: &serde_json::Error) -> CallError {
    let said = error.to_string();
    let why = said.rsplit_once(" at line ").map_or(&*said, |(why, _)| why);
    CallError::BadParameters {
        why: why.to_owned(),
    }
}

impl Call {
    /// Decodes a call from its full method name and the JSON object of its parameters.
    ///
    /// # Errors
    /// [`CallError`] says what does not fit.
    pub fn decode(method: &str, parameters: &str) -> Result<Self, CallError> {
        let name = match method.rsplit_once('.') {
            Some((INTERFACE, name)) => name,
            _ => {
                return Err(CallError::UnknownInterface {
                    method: method.to_owned(),
                });
            }
        };
        if !CALLS.iter().any(|call| call.name == name) {
            return Err(CallError::UnknownMethod {
                method: method.to_owned(),
            });
        }
        // The tag comes first, so that serde reads the parameters as their type and not as a
        // generic value.
        let tagged = format!("{{\"method\":\"{name}\",\"parameters\":{parameters}}}");
        let call: Self = serde_json::from_str(&tagged).map_err(|e| bad_parameters(&e))?;
        call.check_limits()?;
        Ok(call)
    }

    /// Returns the full method name and the parameters.
    pub fn encode(&self) -> (String, Value) {
        let mut object = serde_json::to_value(self).unwrap_or_default();
        let name = object["method"].as_str().unwrap_or_default();
        (format!("{INTERFACE}.{name}"), object["parameters"].take())
    }

    /// Returns the description of the call.
    pub fn info(&self) -> &'static CallInfo {
        describe(self)
    }

    /// Returns whether the call continues until its caller closes the connection. A caller that
    /// reads too slowly loses events.
    pub(super) fn is_followed(&self) -> bool {
        matches!(self, Self::Events { follow: true })
    }

    fn check_limits(&self) -> Result<(), CallError> {
        let (given, what, max) = match self {
            Self::Pin { paths } | Self::Unpin { paths } | Self::Prefetch { paths, .. } => {
                (paths.len(), "paths", super::PATHS_MAX)
            }
            // An empty list means all peers, so it counts as one.
            Self::Send { to, .. } => (to.len().max(1), "receivers", super::RECEIVERS_MAX),
            _ => return Ok(()),
        };
        if (1..=max).contains(&given) {
            return Ok(());
        }
        let why = format!("{given} {what} in one call: give 1 to {max}");
        Err(CallError::BadParameters { why })
    }
}

#[cfg(test)]
mod tests;
