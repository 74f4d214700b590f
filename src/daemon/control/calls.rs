//! The calls of the control socket: each is declared once, here.
//!
//! A declaration is the variant of [`Call`] with its documentation and parameters, then the type of
//! its last reply and that of the replies before it, and its [`CallInfo`]. Generated from a
//! declaration are the decoding, the check of rights, the requirement of an [`Answer`],
//! `org.p2pfs.Control.varlink`, and p2pfs-json(5).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Answer, LastReply, Parameters};
use super::call::{CallError, CallInfo, INTERFACE};
use super::described::{Described, Field, parameter};
use super::failure::Failure;
use super::giving::{MeshInfo, Said, SendDone, SendProgress};
use super::health::{Checkup, Limits, Pong, Settings};
use super::lost::{Adopted, DeletedFiles, Restored};
use super::membership::{Admitted, Expelled, Left, Rotated, Trust};
use super::names::Named;
use super::provenance::{Event, Provenance};
use super::shares::{Mine, ShareChange, Shares, Writing};
use super::top::Top;
use super::types::{
    CacheCleared, CacheListing, CacheUsage, CacheVerified, GetDone, GetStarted, Invitation, Joined,
    Listing, Nothing, Peers, Progress, Status, Touched,
};
use p2pfs_types::id::NodeName;

/// Declares the calls: the variants as they are written, and the description of each.
macro_rules! calls {
    ($(
        $(#[doc = $about:literal])*
        $Name:ident {
            $( $(#[doc = $doc:literal])* $(#[serde $serde:tt])* $field:ident: $Type:ty, )*
        } -> $Reply:ty $(, after $Earlier:ty)?; $info:expr;
    )*) => {
        /// A method with its parameters. In JSON,
        /// `{"method": "org.p2pfs.Control.Ls", "parameters": {…}}`.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "method", content = "parameters")]
        pub enum Call {$(
            $(#[doc = $about])*
            $Name { $( $(#[doc = $doc])* $(#[serde $serde])* $field: $Type, )* },
        )*}

        /// The descriptions of all calls, in the order of the variants.
        pub const CALLS: &[CallInfo] = &[$(
            CallInfo {
                name: stringify!($Name),
                about: &[$($about),*],
                parameters: || {
                    let all: Vec<Vec<Field>> = vec![$(
                        parameter::<$Type>(
                            stringify!($field), &[$($doc),*], concat!($(stringify!($serde)),*),
                        )
                    ),*];
                    all.concat()
                },
                replies: || vec![$(<$Earlier>::kind(),)? <$Reply>::kind()],
                ..$info
            }
        ),*];

        /// For each call, functions that read a reply of each type and write it again.
        #[cfg(test)]
        pub(super) const ROUND_TRIPS: &[&[fn(serde_json::Value) -> serde_json::Value]] = &[$(
            &[$(round_trip::<$Earlier>,)? round_trip::<$Reply>]
        ),*];

        /// The parameters of each call, as a type of its own.
        pub mod parameters {
            use super::*;

            $(
                #[doc = concat!("The parameters of [`Call::", stringify!($Name), "`].")]
                #[derive(Debug)]
                pub struct $Name { $( $(#[doc = $doc])* pub $field: $Type, )* }
            )*
        }

        $(
            impl Parameters for parameters::$Name {
                type ReplyBody = $Reply;
            }
        )*

        impl Call {
            /// Answers the call by the [`Answer`] of its parameters.
            ///
            /// # Errors
            /// The failure of the answer.
            pub async fn answer<C: Send>(self, context: &mut C) -> Result<LastReply, Failure>
            where
                $( parameters::$Name: Answer<C>, )*
            {
                match self {$(
                    Self::$Name { $($field),* } => {
                        let parameters = parameters::$Name { $($field),* };
                        let answer = Box::pin(parameters.answer(context));
                        answer.await.map(LastReply::new)
                    }
                )*}
            }
        }

        enum Position { $($Name,)* }

        /// Returns the description of a call.
        fn describe(call: &Call) -> &'static CallInfo {
            let position = match call {
                $( Call::$Name { .. } => Position::$Name, )*
            };
            &CALLS[position as usize]
        }
    };
}

/// Reads a reply as its type and writes it again.
#[cfg(test)]
fn round_trip<T: Serialize + serde::de::DeserializeOwned>(
    reply: serde_json::Value,
) -> serde_json::Value {
    let read: T = serde_json::from_value(reply).expect("a reply of the declared type");
    serde_json::to_value(read).expect("a reply is JSON")
}

calls! {
    /// Returns the state of the node.
    Status {} -> Status; CallInfo::open_to_all().shown_by("status");

    /// Returns the other nodes, best responder first.
    Peers {} -> Peers; CallInfo::open_to_all().shown_by("peers");

    /// Measures how long another node takes to answer. The peer is a name, an address or the start
    /// of a key.
    Ping {
        /// Its name, its address, or the start of its key.
        peer: String,
    } -> Pong; CallInfo::open_to_all().slow().shown_by("ping");

    /// Checks the setup of this node. Takes some seconds if other nodes do not answer.
    Doctor {} -> Checkup; CallInfo::open_to_all().slow().shown_by("doctor");

    /// Returns the settings in force.
    Settings {} -> Settings; CallInfo::open_to_all().shown_by("config show");

    /// Returns the limits of the rates between nodes (an absent one is unlimited), and whether the
    /// network is metered, so that only data that a user requested is fetched.
    Limits {} -> Limits; CallInfo::open_to_group().shown_by("limits");

    /// Sets the given limits until the next start or a reload with other configured limits; 0 means
    /// no limit. Without any parameter, the configured limits apply again.
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
    } -> Limits; CallInfo::open_to_group().shown_by("limits");

    /// Returns the current transfers and readers. An ordinary user sees only the number of those of
    /// other users.
    Top {} -> Top; CallInfo::open_to_all().shown_by("top");

    /// Returns one page of a directory, or a file itself, including known files of legacy peers. If
    /// `more` is true, the next page follows after the last path.
    Ls {
        /// Path from the root of the mount; empty for the root.
        #[serde(flatten)]
        path: Named,
        /// The last path of the previous page; the listing continues after it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Named>,
    } -> Listing; CallInfo::open_to_all().about_names().shown_by("ls");

    /// Reads a file. The first reply has a descriptor to read the file from: a pipe, or the file
    /// itself. The last reply follows once a pipe has all bytes, and names the sources. With the
    /// file itself it follows at once and names none. An error in between says why a pipe ended
    /// early.
    Get {
        /// The file.
        #[serde(flatten)]
        path: Named,
    } -> GetDone, after GetStarted; CallInfo::open_to_all().with_more().about_names();

    /// Returns once all conditions hold, or with `TimedOut`. A file is requested from legacy peers,
    /// too.
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
    } -> Nothing; CallInfo::open_to_all().slow().shown_by("wait");

    /// Explains why a name shows its current content.
    Why {
        /// The name.
        #[serde(flatten)]
        path: Named,
    } -> Provenance; CallInfo::open_to_all().about_names().shown_by("why");

    /// Returns the recent events, and with `follow` also all new events.
    Events {
        /// Whether to continue with new events until the caller closes the connection.
        #[serde(default)]
        follow: bool,
    } -> Nothing, after Event; CallInfo::open_to_all().with_more().shown_by("events");

    /// Sends a file to all other nodes or to the named ones. The call has a descriptor of the file,
    /// opened for reading.
    Send {
        /// Name of the file at the receivers.
        #[serde(flatten)]
        name: Named,
        /// The receivers: names, keys or their starts, IDs or addresses. Empty means all peers.
        #[serde(default)]
        to: Vec<String>,
    } -> SendDone, after SendProgress; CallInfo::open_to_group().once().with_more();

    /// Sends a line of text to every peer.
    Say {
        /// The line.
        text: String,
    } -> Said; CallInfo::open_to_group().once().slow().shown_by("say");

    /// Returns the state of the mesh. With `connect`, connects to one more address; with `discover`,
    /// requests addresses from its peers.
    Mesh {
        /// An address to connect to from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connect: Option<String>,
        /// Whether to request addresses from the peers of the mesh.
        #[serde(default)]
        discover: bool,
    } -> MeshInfo; CallInfo::open_to_group().slow();

    /// Returns the shares of this node.
    Shares {} -> Shares; CallInfo::open_to_all().shown_by("share");

    /// Returns one page of the names that this node gives to others, in no order. If `next` is
    /// present, it is the start of the next page.
    Mine {
        /// The `next` of the previous page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u32>,
    } -> Mine; CallInfo::open_to_all();

    /// Shares a folder, given by its absolute path. If the folder is already shared, absent
    /// parameters keep their values. The readers "*", alone, are all members.
    ShareAdd {
        /// An absolute local path.
        #[serde(flatten)]
        dir: Named,
        /// How the folder is shared.
        #[serde(flatten)]
        how: ShareChange,
    } -> Shares; CallInfo::open_to_owner().once().slow().shown_by("share add");

    /// Stops sharing a folder.
    ShareRemove {
        /// The path that the folder was added with.
        #[serde(flatten)]
        dir: Named,
    } -> Shares; CallInfo::open_to_owner().once().slow().shown_by("share remove");

    /// Returns where programs can write in the mount.
    Writing {} -> Writing; CallInfo::open_to_owner().shown_by("write");

    /// Has what programs write at the top of the mount go into a folder. Without `dir` it is the
    /// folder `files` in the state directory. Another folder that was made so by command is shared
    /// read-only from then on.
    WriteOn {
        /// The folder, by its absolute path.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dir: Option<Named>,
    } -> Writing; CallInfo::open_to_owner().once().slow().shown_by("write on");

    /// Makes the mount read-only. The folders that took what programs wrote stay shared.
    WriteOff {} -> Writing; CallInfo::open_to_owner().once().slow().shown_by("write off");

    /// Returns the versions at and below a path that were deleted or replaced and that can be
    /// brought back. Needs the right to write into the mount.
    Deleted {
        /// Path from the root of the mount; empty for the root.
        #[serde(flatten)]
        path: Named,
        /// Only what this node deleted or replaced, by its name or key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Only what was deleted or replaced at this time or later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
    } -> DeletedFiles; CallInfo::open_to_all().slow().about_names().shown_by("ls --deleted");

    /// Brings back the last version of a file that was deleted or replaced. For a directory, brings
    /// back those of all paths below it that have no version now; with `since`, also those of paths
    /// that have one. Needs the right to write into the mount.
    Restore {
        /// Path from the root of the mount; empty for the root.
        #[serde(flatten)]
        path: Named,
        /// Only what this node deleted or replaced, by its name or key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Only what was deleted or replaced at this time or later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
    } -> Restored; CallInfo::open_to_all().once().slow().about_names().shown_by("restore");

    /// Makes this node list the files of a departed node of which it has complete copies. Their
    /// bytes are copied into its writable share.
    Adopt {
        /// The departed node, by its name or key.
        node: String,
        /// Path from the root of the mount; empty for the root.
        #[serde(flatten)]
        path: Named,
    } -> Adopted; CallInfo::open_to_owner().once().slow().about_names().shown_by("adopt");

    /// Creates an invitation token for one new node.
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
    } -> Invitation; CallInfo::open_to_owner().once().shown_by("invite");

    /// Returns the members that depend on one member's statements alone, directly or through other
    /// members.
    Admitted {
        /// The member's name, or the start of its key.
        peer: String,
    } -> Admitted; CallInfo::open_to_owner();

    /// Expels a node from the cluster for good, and gives the remaining members a new secret. With
    /// `with_admitted`, also expels the members that depend on its statements alone, which the reply
    /// lists in any case. `invitations` is the number of unused invitations of the node that answers
    /// the call.
    Expel {
        /// The node's name, or the start of its key.
        peer: String,
        /// Whether to expel the members that depend on this node's statements alone, too.
        #[serde(default)]
        with_admitted: bool,
    } -> Expelled; CallInfo::open_to_owner().once().slow().shown_by("expel");

    /// Makes the peer the owner of a path: at and below it, only the owner's files are listed.
    /// Without a peer, the path has no owner.
    Own {
        /// The path.
        #[serde(flatten)]
        path: Named,
        /// The owner's name, or the start of its key. If absent, the path has no owner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// Whether to go on although the new owner hides files of other nodes, or no node shares
        /// the path. Without it, such a call fails with `Unconfirmed`.
        #[serde(default)]
        confirmed: bool,
    } -> Nothing; CallInfo::open_to_owner().once().slow().shown_by("own");

    /// Gives the members a new secret.
    Rotate {} -> Rotated; CallInfo::open_to_owner().once().slow().shown_by("rotate");

    /// Returns the members, the owned paths and the history of the cluster.
    Trust {} -> Trust; CallInfo::open_to_owner().shown_by("trust");

    /// Drops the entries of a node that will not return.
    Forget {
        /// The node's name, its address, or the start of its key.
        peer: String,
    } -> Nothing; CallInfo::open_to_owner().once().slow().shown_by("forget");

    /// Joins the cluster of the node that created the token.
    Join {
        /// The token.
        token: String,
    } -> Joined; CallInfo::open_to_owner().once().slow().shown_by("join");

    /// Leaves the cluster for good, and then ends the daemon. The nodes that receive the statement
    /// forget this node at once. The reply says whether any did, and arrives before the daemon ends.
    Leave {} -> Left; CallInfo::open_to_owner().once().slow().shown_by("leave");

    /// Returns one page of the contents in the cache. If `more` is true, the next page follows after
    /// the last hash.
    CacheLs {
        /// The last hash of the previous page; the listing continues after it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    } -> CacheListing; CallInfo::open_to_group().shown_by("cache ls");

    /// Empties the cache except for pinned and open contents.
    CacheClear {} -> CacheCleared; CallInfo::open_to_group().slow().shown_by("cache clear");

    /// Reads and verifies the cached bytes, except bytes of incomplete chunks.
    CacheVerify {} -> CacheVerified, after Progress; CallInfo::open_to_group().with_more().shown_by("cache verify");

    /// Sets the budget of the cache until the next start or a reload with another configured budget.
    CacheResize {
        /// The new budget.
        budget_bytes: u64,
    } -> CacheUsage; CallInfo::open_to_group().slow().shown_by("cache resize");

    /// Pins files in the cache and fetches missing bytes later.
    Pin {
        /// Files and directories, at most [`crate::daemon::control::PATHS_MAX`].
        paths: Vec<Named>,
    } -> Touched; CallInfo::open_to_group().slow().about_names().shown_by("pin");

    /// Unpins files.
    Unpin {
        /// Files and directories, at most [`crate::daemon::control::PATHS_MAX`].
        paths: Vec<Named>,
    } -> Touched; CallInfo::open_to_group().slow().about_names().shown_by("unpin");

    /// Fetches files into the cache. On a metered network, this needs `anyway`.
    Prefetch {
        /// Files and directories, at most [`crate::daemon::control::PATHS_MAX`].
        paths: Vec<Named>,
        /// Whether to fetch on a metered network, too.
        #[serde(default)]
        anyway: bool,
    } -> Touched, after Progress; CallInfo::open_to_group().with_more().about_names().shown_by("prefetch");
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
