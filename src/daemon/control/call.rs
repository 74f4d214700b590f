//! The calls of the control socket, and the right that each call requires of its caller.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::Named;
use super::shares::ShareChange;
use p2pfs_types::id::NodeName;

/// The Varlink interface that all calls belong to.
pub const INTERFACE: &str = "org.p2pfs.Control";
/// The interface in Varlink's language, for `varlinkctl introspect` and for authors of clients.
pub const DESCRIPTION: &str = include_str!("org.p2pfs.Control.varlink");

/// A method with its parameters. In JSON, `{"method": "org.p2pfs.Control.Ls", "parameters": {…}}`.
///
/// Calls marked *more* answer with any number of replies and must be called with `more`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Call {
    /// The state of the node: [`super::Status`].
    Status {},
    /// The other nodes: [`super::Peers`].
    Peers {},
    /// Measures how long another node takes to answer: [`super::Pong`].
    Ping {
        /// Its name, its address, or the start of its key.
        peer: String,
    },
    /// Checks the setup of this node: [`super::Checkup`]. Takes some seconds if other nodes do not
    /// answer.
    Doctor {},
    /// The settings in force: [`super::Settings`].
    Settings {},
    /// The limits of the transfer rates between nodes: [`super::Limits`].
    Limits {},
    /// Sets the given limits until the next start; 0 means no limit. Without any parameter, all
    /// limits return to the configured values. [`super::Limits`].
    SetLimits {
        /// Upper limit of the send rate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        up_bytes_per_s: Option<u64>,
        /// Upper limit of the receive rate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        down_bytes_per_s: Option<u64>,
        /// Whether the network is metered, so that only data that a user requested is fetched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metered: Option<bool>,
    },
    /// The current transfers and readers: [`super::Top`].
    Top {},
    /// The names in a directory, or a file itself: [`super::Listing`].
    Ls {
        /// Path from the root of the mount; empty for the root.
        #[serde(flatten)]
        path: Named,
        /// The last path of the previous page; the listing continues after it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Named>,
    },
    /// *More.* Reads a file. The first reply is a [`super::GetStarted`] with a descriptor. The last
    /// is [`super::GetDone`], sent when the last byte was written, or an error that says why the
    /// descriptor ended early. Bytes are verified before they are written.
    Get {
        /// The file.
        #[serde(flatten)]
        path: Named,
    },
    /// Returns once all requested conditions hold: [`super::Nothing`], or
    /// [`super::FailureKind::TimedOut`].
    Wait {
        /// Wait until the folder is mounted.
        #[serde(default)]
        mounted: bool,
        /// Minimum number of other nodes that are alive.
        #[serde(default)]
        peers: u64,
        /// Name that must be listed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<Named>,
        /// Maximum wait.
        timeout_ms: u64,
    },
    /// Explains why a name shows its current content: [`super::Provenance`].
    Why {
        /// The name.
        #[serde(flatten)]
        path: Named,
    },
    /// *More.* The recent events, oldest first, each as a [`super::Event`]. The last reply is
    /// [`super::Nothing`].
    Events {
        /// Whether to continue with new events until the caller closes the connection.
        #[serde(default)]
        follow: bool,
    },
    /// *More.* Sends a file to other nodes. A descriptor of the file, opened for reading, arrives
    /// with the call. Replies with [`super::SendProgress`] on the way and [`super::SendDone`] at
    /// the end.
    Send {
        /// Name of the file at the receivers.
        #[serde(flatten)]
        name: Named,
        /// The receivers: names, keys or their starts, IDs or addresses. Empty means all peers.
        #[serde(default)]
        to: Vec<String>,
    },
    /// Sends a line of text to every peer: [`super::Said`].
    Say {
        /// The line.
        text: String,
    },
    /// The state of the mesh beyond its connected peers: [`super::MeshInfo`].
    Mesh {
        /// An address to connect to from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connect: Option<String>,
        /// Whether to request addresses from the peers of the mesh.
        #[serde(default)]
        discover: bool,
    },
    /// The shares of this node: [`super::Shares`].
    Shares {},
    /// The names that this node gives to others: [`super::Mine`].
    Mine {
        /// The `next` of the previous page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u32>,
    },
    /// Shares a folder from now on and across restarts: [`super::Shares`]. If the folder is already
    /// shared, absent parameters keep their values.
    ShareAdd {
        /// An absolute local path.
        #[serde(flatten)]
        dir: Named,
        /// How the folder is shared.
        #[serde(flatten)]
        how: ShareChange,
    },
    /// Stops sharing a folder: [`super::Shares`].
    ShareRemove {
        /// The path that the folder was added with.
        #[serde(flatten)]
        dir: Named,
    },
    /// Creates an invitation token for one new node: [`super::Invitation`].
    Invite {
        /// How long the token is valid.
        lifetime_s: u64,
        /// Whether the new node may invite and expel nodes itself.
        #[serde(default)]
        admin: bool,
        /// The name in the new node's certificate. Without it, the new node chooses its name when
        /// it joins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<NodeName>,
    },
    /// The members that would lose their membership without this member's statements:
    /// [`super::Admitted`].
    Admitted {
        /// The member's name, or the start of its key.
        peer: String,
    },
    /// Expels a node from the cluster for good: [`super::Expelled`].
    Expel {
        /// The node's name, or the start of its key.
        peer: String,
        /// Whether to expel the members that depend on this node's statements alone, too.
        #[serde(default)]
        with_admitted: bool,
    },
    /// Makes a member the owner of a path: at and below it, only the files of the owner are listed.
    /// [`super::Nothing`].
    Own {
        /// The path.
        #[serde(flatten)]
        path: Named,
        /// The owner's name, or the start of its key. If absent, the path has no owner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// Gives the members a new secret: [`super::Rotated`].
    Rotate {},
    /// The members, with the time of their admission and the node that admitted them:
    /// [`super::Trust`].
    Trust {},
    /// Drops the entries of a node that will not return: [`super::Nothing`].
    Forget {
        /// The node's name, its address, or the start of its key.
        peer: String,
    },
    /// Joins the cluster of the node that created the token: [`super::Joined`].
    Join {
        /// The token.
        token: String,
    },
    /// Leaves the cluster for good: the other nodes forget this node at once. [`super::Nothing`].
    Leave {},
    /// The contents in the cache: [`super::CacheListing`].
    CacheLs {
        /// The last hash of the previous page; the listing continues after it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Empties the cache except for pinned and open contents: [`super::CacheCleared`].
    CacheClear {},
    /// *More.* Reads and verifies every cached byte: [`super::Progress`] on the way,
    /// [`super::CacheVerified`] at the end.
    CacheVerify {},
    /// Sets the budget of the cache until the next start: [`super::CacheUsage`].
    CacheResize {
        /// The new budget.
        budget_bytes: u64,
    },
    /// Pins files in the cache and fetches missing bytes later: [`super::Touched`].
    Pin {
        /// Files and directories, at most [`super::PATHS_MAX`].
        paths: Vec<Named>,
    },
    /// Unpins files: [`super::Touched`].
    Unpin {
        /// Files and directories, at most [`super::PATHS_MAX`].
        paths: Vec<Named>,
    },
    /// *More.* Fetches files into the cache: [`super::Progress`] on the way, [`super::Touched`] at
    /// the end.
    Prefetch {
        /// Files and directories, at most [`super::PATHS_MAX`].
        paths: Vec<Named>,
        /// Whether to fetch on a metered network, too.
        #[serde(default)]
        anyway: bool,
    },
}

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
    #[error("there is no method {method:?}")]
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

/// Returns whether the interface has a method of this name.
fn is_described(name: &str) -> bool {
    let mut methods = DESCRIPTION
        .lines()
        .filter_map(|it| it.strip_prefix("method "));
    methods.any(|method| {
        method
            .split_once('(')
            .is_some_and(|(known, _)| known == name)
    })
}

/// Converts a JSON error. Leaves out its position, because it refers to the tagged text and not to
/// the caller's.
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
        if !is_described(name) {
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

    /// Returns the right that the caller needs.
    pub fn right(&self) -> Right {
        match self {
            Self::Status { .. }
            | Self::Peers { .. }
            | Self::Ping { .. }
            | Self::Doctor { .. }
            | Self::Settings { .. }
            | Self::Top { .. }
            | Self::Ls { .. }
            | Self::Get { .. }
            | Self::Wait { .. }
            | Self::Why { .. }
            | Self::Events { .. }
            | Self::Shares { .. }
            | Self::Mine { .. } => Right::Read,
            Self::Limits { .. }
            | Self::SetLimits { .. }
            | Self::Send { .. }
            | Self::Say { .. }
            | Self::Mesh { .. }
            | Self::CacheLs { .. }
            | Self::CacheClear { .. }
            | Self::CacheVerify { .. }
            | Self::CacheResize { .. }
            | Self::Pin { .. }
            | Self::Unpin { .. }
            | Self::Prefetch { .. } => Right::Cache,
            Self::ShareAdd { .. }
            | Self::ShareRemove { .. }
            | Self::Invite { .. }
            | Self::Admitted { .. }
            | Self::Expel { .. }
            | Self::Own { .. }
            | Self::Rotate { .. }
            | Self::Trust { .. }
            | Self::Forget { .. }
            | Self::Join { .. }
            | Self::Leave { .. } => Right::Own,
        }
    }

    /// Returns whether a second call has no further effect, even if it reaches the daemon's next
    /// process.
    pub fn is_repeatable(&self) -> bool {
        !matches!(
            self,
            Self::Send { .. }
                | Self::Say { .. }
                | Self::ShareAdd { .. }
                | Self::ShareRemove { .. }
                | Self::Invite { .. }
                | Self::Expel { .. }
                | Self::Own { .. }
                | Self::Rotate { .. }
                | Self::Forget { .. }
                | Self::Join { .. }
                | Self::Leave { .. }
        )
    }

    /// Returns whether the answer is computed at once, without waiting for the network, the disk or
    /// the caller.
    pub fn is_prompt(&self) -> bool {
        let waits = matches!(
            self,
            Self::Ping { .. }
                | Self::Doctor {}
                | Self::Wait { .. }
                | Self::Expel { .. }
                | Self::Rotate {}
                | Self::Join { .. }
                | Self::Leave {}
                | Self::Say { .. }
                | Self::Mesh { .. }
                | Self::CacheClear {}
                | Self::CacheResize { .. }
                | Self::Pin { .. }
                | Self::Unpin { .. }
                | Self::ShareAdd { .. }
                | Self::ShareRemove { .. }
        );
        !waits && !self.needs_more()
    }

    /// Returns whether the answer depends on the shares of other nodes.
    pub fn is_about_names(&self) -> bool {
        matches!(
            self,
            Self::Ls { .. }
                | Self::Get { .. }
                | Self::Why { .. }
                | Self::Pin { .. }
                | Self::Unpin { .. }
                | Self::Prefetch { .. }
        )
    }

    /// Returns whether the call may have more than one reply, so that it must be called with
    /// `more`.
    pub fn needs_more(&self) -> bool {
        matches!(
            self,
            Self::Get { .. }
                | Self::Events { .. }
                | Self::Send { .. }
                | Self::CacheVerify { .. }
                | Self::Prefetch { .. }
        )
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
