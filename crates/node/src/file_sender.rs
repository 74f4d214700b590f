//! Sending files, messages and lines of chat to other nodes and to foreign peers.
//!
//! Owns the meaning of a recipient's name, the state of each send, and the native side of a push.
//! Reads the file anew for each recipient and keeps none of its bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::events::{EventLog, News, Push as Told, PushStage};
use super::foreign::{ForeignPeer, ForeignPeers, foreign_id};
use super::mailbox::Mailbox;
use super::names::Names;
use super::parcel::{Parcel, PushError};
use super::published::Published;
use super::traffic::PeerBytes;
use p2pfs_proto::wire::native::tcp::{GIVEN_MAX_BYTES, Push, Request, Response, SAID_MAX_BYTES};
use p2pfs_transfer::Pace;
use p2pfs_transfer::net::NetError;
use p2pfs_transfer::net::peer::{Lane, PeerNet};
use p2pfs_types::file_name::sent_name;
use p2pfs_types::id::NodeId;

/// Maximum number of pieces of a file in flight to one node.
const WINDOW: usize = 8;
/// Maximum number of consecutive retries without progress after a broken connection.
const TRIES_MAX: u32 = 6;
/// Delay before the first retry after a broken connection; it doubles with each further one without
/// progress. A busy recipient is asked again at this interval.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Time after the start of a send at which the send fails if its recipient is busy with other
/// files. It is longer than the time after which the recipient gives up a stalled file and so has a
/// free slot ([`COMING_PATIENCE`](super::inbox::COMING_PATIENCE)).
const BUSY_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How long a node may take to acknowledge a line of chat.
const SAY_PATIENCE: Duration = Duration::from_secs(5);
/// How long a recipient may take to return the name under which it keeps a file.
const KEPT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a node may take to acknowledge a message.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(30);

/// A peer that can receive files.
#[derive(Clone)]
pub struct Recipient {
    name: String,
    route: Route,
}

#[derive(Clone)]
enum Route {
    Native(NodeId),
    /// A foreign peer, by its ID.
    Foreign(String),
}

/// The reason why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No peer has this name.
    #[error("no peer is called {name:?}")]
    Unknown {
        /// The name in the request.
        name: String,
    },
    /// Several peers have this name.
    #[error("several peers are called {name:?}: name one by its key, ID or address")]
    Ambiguous {
        /// The name in the request.
        name: String,
    },
    /// There is no other peer at all.
    #[error("no node to send to")]
    Nobody,
    /// The file cannot be opened or read.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The bytes do not fit into one message.
    #[error("{size_bytes} bytes are more than one message carries, {GIVEN_MAX_BYTES}: send a file")]
    TooLong {
        /// Size of the message in bytes.
        size_bytes: u64,
    },
    /// The protocol of a foreign peer gives these bytes another meaning.
    #[error("a peer of another protocol would take the bytes for a message of that protocol")]
    Reserved,
}

/// The sender of files, messages and lines of chat. Clones share their state.
#[derive(Clone)]
pub struct FileSender {
    pub(super) me: NodeId,
    pub(super) net: PeerNet,
    pub(super) published: Published,
    pub(super) names: Names,
    pub(super) foreign: Option<Arc<dyn ForeignPeers>>,
    pub(super) events: EventLog,
    pub(super) mailbox: Mailbox,
    pub(super) sent: PeerBytes,
    /// Upload limit for pushed files, shared with all other data sent to nodes.
    pub(super) upload: Pace,
}

impl Recipient {
    /// Returns the name of the recipient.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the recipient acknowledges what it receives.
    pub fn confirms(&self) -> bool {
        matches!(self.route, Route::Native(_))
    }
}

impl FileSender {
    /// Returns all peers that can receive files now, or the named ones. A peer is named by its
    /// name, its key or the start of the key, its ID, or its address.
    ///
    /// # Errors
    /// [`SendError`] for the first name that no peer has, or that several peers have.
    pub async fn recipients(&self, named: &[String]) -> Result<Vec<Recipient>, SendError> {
        let all = self.all().await;
        if named.is_empty() {
            return Ok(all.into_iter().map(|(recipient, _)| recipient).collect());
        }
        let mut chosen: Vec<Recipient> = Vec::new();
        for name in named {
            let is_called = all.iter().any(|(_, aliases)| aliases.contains(name));
            // If a known node has this name and is away, the name does not select another node
            // whose key begins with it.
            let by_key = !is_called && self.published.view.load().node_called(name).is_none();
            let is_meant = |(recipient, aliases): &&(Recipient, Vec<String>)| {
                aliases.contains(name) || by_key && recipient.has_key(name)
            };
            let mut meant = all.iter().filter(is_meant);
            let name = name.clone();
            let Some((recipient, _)) = meant.next() else {
                return Err(SendError::Unknown { name });
            };
            if meant.next().is_some() {
                return Err(SendError::Ambiguous { name });
            }
            if !chosen.iter().any(|other| other.is(recipient)) {
                chosen.push(recipient.clone());
            }
        }
        Ok(chosen)
    }

    /// Returns all recipients with their aliases.
    async fn all(&self) -> Vec<(Recipient, Vec<String>)> {
        let addresses = self.published.addresses.load_full();
        let others = addresses.iter().filter(|(node, _)| **node != self.me);
        let mut all: Vec<(Recipient, Vec<String>)> = others
            .map(|(node, address)| {
                let name = self.names.of(node);
                let aliases = vec![name.clone(), node.to_string(), address.to_string()];
                let route = Route::Native(*node);
                (Recipient { name, route }, aliases)
            })
            .collect();
        let native: Vec<String> = addresses.keys().map(foreign_id).collect();
        for peer in self.foreign_recipients().await {
            // A foreign peer that is also a node of the cluster receives everything once.
            if !native.contains(&peer.id) {
                let ForeignPeer { id, name, address } = peer;
                let aliases = vec![name.clone(), id.clone(), address.to_string()];
                let route = Route::Foreign(id);
                all.push((Recipient { name, route }, aliases));
            }
        }
        all
    }

    async fn foreign_recipients(&self) -> Vec<ForeignPeer> {
        match &self.foreign {
            Some(foreign) => foreign.recipients().await,
            None => Vec::new(),
        }
    }

    /// Checks that the foreign peers among the recipients receive a message of these bytes
    /// unchanged.
    ///
    /// # Errors
    /// [`SendError::Reserved`].
    pub(super) fn check_carried(&self, bytes: &[u8], to: &[Recipient]) -> Result<(), SendError> {
        let is_foreign = to.iter().any(|to| !to.confirms());
        match &self.foreign {
            Some(foreign) if is_foreign && !foreign.carries(bytes) => Err(SendError::Reserved),
            _ => Ok(()),
        }
    }

    fn foreign(&self) -> Result<&dyn ForeignPeers, PushError> {
        self.foreign.as_deref().ok_or(PushError::Gone)
    }

    /// Sends a file to one recipient and keeps the progress in bytes in `sent`. After a broken
    /// connection, a transfer to a node continues where it stopped. Returns the name under which
    /// the recipient keeps the file, or `None` if the recipient does not tell.
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn send(
        &self,
        parcel: &Parcel,
        to: &Recipient,
        sent: &Arc<AtomicU64>,
    ) -> Result<Option<Vec<u8>>, PushError> {
        self.report(parcel, to, PushStage::Started);
        let mut ending = ReportOnDrop {
            courier: self,
            parcel,
            to,
            stage: PushStage::Failed("it was stopped".to_owned()),
        };
        let outcome = match &to.route {
            Route::Foreign(id) => match self.foreign() {
                Ok(foreign) => foreign.send_file(id, parcel, sent).await.map(|()| None),
                Err(gone) => Err(gone),
            },
            Route::Native(node) => self.give(parcel, *node, sent).await,
        };
        ending.stage = match &outcome {
            Ok(_) => PushStage::Done,
            Err(why) => PushStage::Failed(why.to_string()),
        };
        outcome
    }

    /// Sends bytes that are not a file to one recipient.
    ///
    /// # Errors
    /// [`PushError`] if the recipient is gone or refuses the bytes.
    pub(super) async fn send_bytes(&self, bytes: Bytes, to: &Recipient) -> Result<(), PushError> {
        let node = match &to.route {
            Route::Foreign(id) => return self.foreign()?.send_bytes(id, bytes).await,
            Route::Native(node) => *node,
        };
        let address = self.published.addresses.load().get(&node).copied();
        let address = address.ok_or(PushError::Gone)?;
        let asked = request(self.net.clone(), node, address, Push::Message { bytes });
        match timeout(MESSAGE_PATIENCE, asked).await {
            Ok(Ok(Response::Taken { .. })) => Ok(()),
            Ok(Ok(Response::Refused { reason })) => Err(PushError::Refused { why: reason }),
            _ => Err(PushError::Gone),
        }
    }

    /// Sends a line of chat, cut to [`SAID_MAX_BYTES`], to all peers. Returns the names of the
    /// nodes that acknowledged it and of the foreign peers to which it was written.
    pub async fn say(&self, text: &str) -> Vec<String> {
        let text = &text[..text.floor_char_boundary(SAID_MAX_BYTES)];
        let addresses = self.published.addresses.load_full();
        let mut saying = JoinSet::new();
        for (node, address) in addresses.iter().filter(|(node, _)| **node != self.me) {
            let request = Request::Push(Push::Say {
                text: text.to_owned(),
            });
            let (net, node, address) = (self.net.clone(), *node, *address);
            saying.spawn(async move {
                let said = net.request(node, address, Lane::Urgent, request);
                let heard = timeout(SAY_PATIENCE, said).await;
                matches!(heard, Ok(Ok(Response::Taken { .. }))).then_some(node)
            });
        }
        let mut heard = Vec::new();
        while let Some(said) = saying.join_next().await {
            if let Ok(Some(node)) = said {
                heard.push(self.names.of(&node));
            }
        }
        if let Some(foreign) = &self.foreign {
            let native = addresses.keys().map(foreign_id).collect();
            heard.extend(foreign.say(text.to_owned(), native).await);
        }
        heard.sort();
        heard
    }

    async fn give(
        &self,
        parcel: &Parcel,
        node: NodeId,
        sent: &Arc<AtomicU64>,
    ) -> Result<Option<Vec<u8>>, PushError> {
        let (mut failures, mut best, mut again) = (0, 0, false);
        let until = Instant::now() + BUSY_PATIENCE;
        loop {
            let giving = SendAttempt {
                courier: self,
                parcel,
                node,
                sent,
            };
            match giving.run(&mut again).await {
                Ok(()) => return Ok(self.kept_name(parcel, node).await),
                Err(AttemptError::ForGood(why)) => return Err(why),
                Err(AttemptError::Busy) if Instant::now() > until => return Err(PushError::Busy),
                Err(AttemptError::Busy) => tokio::time::sleep(RETRY_MIN).await,
                Err(AttemptError::ForNow { to_bytes }) => {
                    // Progress resets the count of failures.
                    failures = if to_bytes > best { 1 } else { failures + 1 };
                    best = best.max(to_bytes);
                    if failures > TRIES_MAX {
                        return Err(PushError::Gone);
                    }
                    tokio::time::sleep(RETRY_MIN * 2_u32.pow(failures - 1)).await;
                }
            }
        }
    }

    /// Asks a node under which name it keeps a file that was sent to it. Returns `None` if the node
    /// does not tell, for example because it runs an older version.
    async fn kept_name(&self, parcel: &Parcel, node: NodeId) -> Option<Vec<u8>> {
        let address = self.published.addresses.load().get(&node).copied()?;
        let ask = Push::AskKept { hash: parcel.hash };
        let asked = request(self.net.clone(), node, address, ask);
        match timeout(KEPT_PATIENCE, asked).await {
            Ok(Ok(Response::Kept { name })) => Some(name.to_vec()),
            _ => None,
        }
    }

    fn report(&self, parcel: &Parcel, to: &Recipient, stage: PushStage) {
        self.events.record(News::Sent(Told {
            peer: to.name.clone(),
            name: parcel.name.clone(),
            size_bytes: parcel.size_bytes,
            stage,
        }));
    }
}

/// Reports how a push ended, even if its future is dropped.
struct ReportOnDrop<'a> {
    courier: &'a FileSender,
    parcel: &'a Parcel,
    to: &'a Recipient,
    stage: PushStage,
}

impl Drop for ReportOnDrop<'_> {
    fn drop(&mut self) {
        self.courier
            .report(self.parcel, self.to, self.stage.clone());
    }
}

impl Recipient {
    fn is(&self, other: &Self) -> bool {
        match (&self.route, &other.route) {
            (Route::Native(one), Route::Native(other)) => one == other,
            (Route::Foreign(one), Route::Foreign(other)) => one == other,
            _ => false,
        }
    }

    /// Returns whether the key of the recipient begins with these digits.
    fn has_key(&self, digits: &str) -> bool {
        matches!(&self.route, Route::Native(node) if node.begins_with(digits))
    }
}

/// The failure of one attempt.
enum AttemptError {
    ForGood(PushError),
    /// The attempt may be repeated: the connection broke, the recipient has no known address, or
    /// the recipient has given the file up. The recipient had acknowledged the bytes up to
    /// `to_bytes`.
    ForNow {
        to_bytes: u64,
    },
    /// The recipient is busy with other files.
    Busy,
}

/// One attempt to send a file to a node.
struct SendAttempt<'a> {
    courier: &'a FileSender,
    parcel: &'a Parcel,
    node: NodeId,
    sent: &'a Arc<AtomicU64>,
}

impl SendAttempt<'_> {
    /// Runs the attempt. `again` says whether the recipient has accepted an offer of this push
    /// before. The offer carries it, so that the recipient continues the same push instead of
    /// receiving a second copy of the file.
    async fn run(&self, again: &mut bool) -> Result<(), AttemptError> {
        let parcel = self.parcel;
        let offer = Push::Offer {
            name: sent_name(&parcel.name).into(),
            size_bytes: parcel.size_bytes,
            hash: parcel.hash,
            again: *again,
        };
        let address = self.address(0)?;
        let answer = request(self.courier.net.clone(), self.node, address, offer).await;
        let mut to_bytes = taken(answer, 0)?;
        *again = true;
        self.sent.store(to_bytes, Ordering::Relaxed);
        let (mut next, mut asked) = (to_bytes, JoinSet::new());
        while to_bytes < parcel.size_bytes {
            while asked.len() < WINDOW && next < parcel.size_bytes {
                let length = (GIVEN_MAX_BYTES as u64).min(parcel.size_bytes - next);
                let bytes = self.read(next, length).await?;
                let address = self.address(to_bytes)?;
                let charge = self.courier.upload.charge(length, false).await;
                let give = Push::Give {
                    hash: parcel.hash,
                    offset: next,
                    bytes,
                };
                next += length;
                let (net, node) = (self.courier.net.clone(), self.node);
                asked.spawn(async move {
                    let give = Request::Push(give);
                    let answer = net.request_charged(node, address, Lane::Bulk, give, charge);
                    (length, answer.await)
                });
            }
            let Some(Ok((length, answer))) = asked.join_next().await else {
                return Err(AttemptError::ForNow { to_bytes });
            };
            to_bytes = to_bytes.max(taken(answer, to_bytes)?);
            self.sent.fetch_add(length, Ordering::Relaxed);
            self.courier.sent.add(self.node, length);
        }
        Ok(())
    }

    fn address(&self, to_bytes: u64) -> Result<SocketAddr, AttemptError> {
        let addresses = self.courier.published.addresses.load();
        let address = addresses.get(&self.node).copied();
        address.ok_or(AttemptError::ForNow { to_bytes })
    }

    async fn read(&self, offset: u64, length: u64) -> Result<Bytes, AttemptError> {
        let parcel = self.parcel.clone();
        let read = tokio::task::spawn_blocking(move || parcel.part(offset, length as usize));
        let read = read
            .await
            .map_err(|_| AttemptError::ForGood(PushError::Gone))?;
        let bytes = read.map_err(|error| AttemptError::ForGood(error.into()))?;
        if bytes.len() as u64 != length {
            return Err(AttemptError::ForGood(PushError::Changed));
        }
        Ok(bytes.into())
    }
}

async fn request(
    net: PeerNet,
    node: NodeId,
    address: SocketAddr,
    push: Push,
) -> Result<Response, NetError> {
    net.request(node, address, Lane::Bulk, Request::Push(push))
        .await
}

fn taken(answer: Result<Response, NetError>, before: u64) -> Result<u64, AttemptError> {
    match answer {
        Ok(Response::Taken { to_bytes }) => Ok(to_bytes),
        Ok(Response::Refused { reason }) => {
            Err(AttemptError::ForGood(PushError::Refused { why: reason }))
        }
        Ok(Response::Busy) => Err(AttemptError::Busy),
        Ok(_) => Err(AttemptError::ForNow { to_bytes: before }),
        Err(error) if error.is_retryable() => Err(AttemptError::ForNow { to_bytes: before }),
        Err(error) => Err(AttemptError::ForGood(PushError::Unasked(error))),
    }
}

#[cfg(test)]
mod tests;
