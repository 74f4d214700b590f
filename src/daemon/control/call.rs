//! What can be asked on the control socket, and what each question asks of the asker.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::Named;
use super::shares::ShareChange;
use p2pfs_types::id::NodeName;

/// The Varlink interface that all calls belong to.
pub const INTERFACE: &str = "org.p2pfs.Control";
/// It in Varlink's language, for `varlinkctl introspect` and for those who write clients.
pub const DESCRIPTION: &str = include_str!("org.p2pfs.Control.varlink");

/// A method with its parameters. In JSON, `{"method": "org.p2pfs.Control.Ls", "parameters": {…}}`.
///
/// Those marked *more* answer with any number of replies and must be called so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Call {
    /// How the node is: [`super::Status`].
    Status {},
    /// The other nodes: [`super::Peers`].
    Peers {},
    /// How long another node takes to answer: [`super::Pong`].
    Ping {
        /// Its name, its address, or the start of its key.
        peer: String,
    },
    /// What is wrong with how this node is placed: [`super::Checkup`]. Takes some seconds where
    /// others do not answer.
    Doctor {},
    /// The settings in force: [`super::Settings`].
    Settings {},
    /// How fast bytes may go between nodes: [`super::Limits`].
    Limits {},
    /// Limits what is named until the next start, 0 for no limit; where nothing is, all are as
    /// configured again. [`super::Limits`].
    SetLimits {
        /// The most that is sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        up_bytes_per_s: Option<u64>,
        /// The most that is fetched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        down_bytes_per_s: Option<u64>,
        /// Whether nothing is fetched that nobody asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metered: Option<bool>,
    },
    /// What is fetched and who reads what at this moment: [`super::Top`].
    Top {},
    /// The names in a directory, or a file itself: [`super::Listing`].
    Ls {
        /// From the root of the mount; empty for the root.
        #[serde(flatten)]
        path: Named,
        /// Start after this path: the last one of the page before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Named>,
    },
    /// *More.* Reads a file: one [`super::GetStarted`] with a descriptor at once, and
    /// [`super::GetDone`] when its last byte was written, or an error that says why the descriptor
    /// ended early. Bytes are proven before they are written.
    Get {
        /// Which file.
        #[serde(flatten)]
        path: Named,
    },
    /// Returns once all that is asked for is so: [`super::Nothing`], or
    /// [`super::FailureKind::TimedOut`].
    Wait {
        /// The folder is mounted.
        #[serde(default)]
        mounted: bool,
        /// At least so many other nodes are alive.
        #[serde(default)]
        peers: u64,
        /// The name is listed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<Named>,
        /// How long to wait at most.
        timeout_ms: u64,
    },
    /// Why a name shows this content: [`super::Provenance`].
    Why {
        /// Which name.
        #[serde(flatten)]
        path: Named,
    },
    /// *More.* What happened lately, oldest first, each a [`super::Event`]; the last reply is
    /// [`super::Nothing`].
    Events {
        /// Whether to stay and tell what happens from now on, until the caller goes.
        #[serde(default)]
        follow: bool,
    },
    /// *More.* Gives a file to others: its descriptor, opened for reading, comes with the call.
    /// [`super::SendProgress`] on the way, [`super::SendDone`] at the end.
    Send {
        /// What it is called.
        #[serde(flatten)]
        name: Named,
        /// To whom, by name, key or its start, ID or address; empty for everyone.
        #[serde(default)]
        to: Vec<String>,
    },
    /// Says a line to every peer: [`super::Said`].
    Say {
        /// The line.
        text: String,
    },
    /// The mesh beyond its peers: [`super::MeshInfo`].
    Mesh {
        /// An address to connect to, from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connect: Option<String>,
        /// Whether to ask its peers for addresses.
        #[serde(default)]
        discover: bool,
    },
    /// What this node shares: [`super::Shares`].
    Shares {},
    /// What leaves this machine: [`super::Mine`].
    Mine {
        /// Where the page before said to go on from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u32>,
    },
    /// Shares a folder from now on and across restarts: [`super::Shares`]. Of one that was added
    /// before, what is absent stays as it is.
    ShareAdd {
        /// An absolute local path.
        #[serde(flatten)]
        dir: Named,
        /// How it is shared.
        #[serde(flatten)]
        how: ShareChange,
    },
    /// Shares a folder no more: [`super::Shares`].
    ShareRemove {
        /// The path that it was added with.
        #[serde(flatten)]
        dir: Named,
    },
    /// Makes a token for one new node: [`super::Invitation`].
    Invite {
        /// How long it serves.
        lifetime_s: u64,
        /// Whether the new node may invite and expel others itself.
        #[serde(default)]
        admin: bool,
        /// The name in its certificate; absent: what it calls itself as it joins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<NodeName>,
    },
    /// Who is in by a member's word alone: [`super::Admitted`].
    Admitted {
        /// Its name, or the start of its key.
        peer: String,
    },
    /// Puts a node out of the cluster for good: [`super::Expelled`].
    Expel {
        /// Its name, or the start of its key.
        peer: String,
        /// Whether those go too who are in by its word alone.
        #[serde(default)]
        with_admitted: bool,
    },
    /// Makes a member the owner of a path: at and below it, nobody else's files are listed.
    /// [`super::Nothing`].
    Own {
        /// Which path.
        #[serde(flatten)]
        path: Named,
        /// Its name, or the start of its key; absent for nobody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// Gives the members a fresh secret: [`super::Rotated`].
    Rotate {},
    /// Who is in, since when, by whose word: [`super::Trust`].
    Trust {},
    /// Drops the entries of a node that will not come back: [`super::Nothing`].
    Forget {
        /// Its name, its address, or the start of its key.
        peer: String,
    },
    /// Joins the cluster of the node that made the token: [`super::Joined`].
    Join {
        /// The token.
        token: String,
    },
    /// Leaves the cluster for good: the others forget this node at once. [`super::Nothing`].
    Leave {},
    /// What the cache holds: [`super::CacheListing`].
    CacheLs {
        /// Start after this hash: the last one of the page before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Empties the cache, but for what is pinned or open: [`super::CacheCleared`].
    CacheClear {},
    /// *More.* Reads and checks every cached byte: [`super::Progress`] on the way,
    /// [`super::CacheVerified`] at the end.
    CacheVerify {},
    /// Gives the cache another budget, until the next start: [`super::CacheUsage`].
    CacheResize {
        /// The new budget.
        budget_bytes: u64,
    },
    /// Keeps files in the cache, and brings in what is missing later: [`super::Touched`].
    Pin {
        /// Files and directories, at most [`super::PATHS_MAX`].
        paths: Vec<Named>,
    },
    /// Keeps them no more: [`super::Touched`].
    Unpin {
        /// Files and directories, at most [`super::PATHS_MAX`].
        paths: Vec<Named>,
    },
    /// *More.* Brings files into the cache: [`super::Progress`] on the way, [`super::Touched`] at
    /// the end.
    Prefetch {
        /// Files and directories, at most [`super::PATHS_MAX`].
        paths: Vec<Named>,
        /// Also where the network is metered.
        #[serde(default)]
        anyway: bool,
    },
}

/// What a caller must be for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Any local user.
    Read,
    /// A member of the group `p2pfs`, root, or the daemon's user.
    Cache,
    /// Root, or the daemon's user.
    Own,
}

/// Why a method and its parameters are not a call. The caller is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The method belongs to another interface.
    #[error("no interface of the method {method:?} is served here")]
    UnknownInterface {
        /// As it was asked for.
        method: String,
    },
    /// The interface has no such method.
    #[error("there is no method {method:?}")]
    UnknownMethod {
        /// As it was asked for.
        method: String,
    },
    /// The parameters do not fit.
    #[error("{why}")]
    BadParameters {
        /// What is wrong with them.
        why: String,
    },
}

/// Whether the interface has a method of this name.
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

/// What is wrong with parameters. The place in the text is left out: the caller wrote another.
fn bad_parameters(error: &serde_json::Error) -> CallError {
    let said = error.to_string();
    let why = said.rsplit_once(" at line ").map_or(&*said, |(why, _)| why);
    CallError::BadParameters {
        why: why.to_owned(),
    }
}

impl Call {
    /// Reads a call from its full method name and the JSON object of its parameters.
    ///
    /// # Errors
    /// [`CallError`] saying what does not fit.
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
        // the tag comes first, so the parameters are read as what they are, not as a generic value
        let tagged = format!("{{\"method\":\"{name}\",\"parameters\":{parameters}}}");
        let call: Self = serde_json::from_str(&tagged).map_err(|e| bad_parameters(&e))?;
        call.check_limits()?;
        Ok(call)
    }

    /// The full method name and the parameters.
    pub fn encode(&self) -> (String, Value) {
        let mut object = serde_json::to_value(self).unwrap_or_default();
        let name = object["method"].as_str().unwrap_or_default();
        (format!("{INTERFACE}.{name}"), object["parameters"].take())
    }

    /// What the caller must be.
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

    /// Whether asking twice does no more than asking once, also of the daemon's next process.
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

    /// Whether its answer is computed at once, without a wait for the network, the disk or the
    /// caller.
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

    /// Whether its answer depends on what others share.
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

    /// Whether it may answer more than once, and must be called so.
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

    /// Whether it goes on until its caller has enough, and loses what the caller does not read.
    pub(super) fn is_followed(&self) -> bool {
        matches!(self, Self::Events { follow: true })
    }

    fn check_limits(&self) -> Result<(), CallError> {
        let (given, what, max) = match self {
            Self::Pin { paths } | Self::Unpin { paths } | Self::Prefetch { paths, .. } => {
                (paths.len(), "paths", super::PATHS_MAX)
            }
            // nobody but everyone
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
