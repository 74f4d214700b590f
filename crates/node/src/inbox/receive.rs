//! Receiving pushed files: offered, sent in pieces, verified, and published under a name.
//!
//! Start at [`Pushes::answer`]. An unfinished file stays open when its connection breaks, so that
//! its sender can continue. A large file can also be continued after a restart of this node. A file
//! is given up if its sender requests nothing for it for [`COMING_PATIENCE`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Once, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::coming::{IncomingPush, PushKey};
use super::opening::InboxHandle;
use super::origin::ChargedSender;
use super::parts::{PartPaths, ProgressNote};
use super::store::{Inbox, InboxFile};
use crate::events::{EventLog, News, Push as Told, PushStage};
use crate::mailbox::Mailbox;
use crate::names::Names;
use crate::traffic::PeerBytes;
use p2pfs_proto::wire::native::record::Sender;
use p2pfs_proto::wire::native::tcp::{Push, Response};
use p2pfs_transfer::Pace;
use p2pfs_types::id::NodeId;
use p2pfs_types::keyed_buckets::KeyedBuckets;

/// Maximum number of files in transfer at once, from all nodes.
pub const COMING_MAX: usize = 64;
/// Maximum number of files in transfer at once from one sender ([`ChargedSender`]).
pub const COMING_OF_NODE_MAX: usize = 8;
/// How long the sender of an unfinished file may be silent until the file is given up: time to
/// repair a network. A published file is forgotten after the same time.
pub const COMING_PATIENCE: Duration = Duration::from_secs(600);
/// How long a piece may wait for the rate limit; then it is handled anyway. A sender ends a
/// connection on which a request stays unanswered for 30 s.
const PACE_PATIENCE: Duration = Duration::from_secs(20);
/// Maximum number of remembered published files. A sender that missed the acknowledgement can offer
/// such a file again and gets it then.
const ARRIVED_MAX: usize = 256;
/// Burst of lines of talk and messages that one sender may send. After each [`SAID_EACH`] one more
/// is allowed.
const SAID_BURST: u32 = 16;
/// Interval after which one more line or message is allowed; see [`SAID_BURST`].
const SAID_EACH: Duration = Duration::from_millis(250);
/// Maximum number of senders with a counted allowance ([`SAID_BURST`]). While there are as many, a
/// line or message of a further sender is refused.
const SAID_SENDERS_MAX: usize = 4096;

/// The senders whose files are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// None.
    #[default]
    Nobody,
    /// Every member of the cluster.
    Members,
    /// The listed nodes, by their keys or the names in their certificates.
    Listed(Vec<String>),
}

/// The receiving side of pushes. Clones share their state.
#[derive(Clone)]
pub struct Pushes {
    inner: Arc<PushReceiver>,
}

/// The parts of the node that receiving uses. Without an inbox every file is refused.
pub(crate) struct PushParts {
    pub(crate) inbox: InboxHandle,
    pub(crate) accept: Accept,
    pub(crate) events: EventLog,
    pub(crate) mailbox: Mailbox,
    pub(crate) names: Names,
    /// Download limit for files of nodes, shared with all other data from them.
    pub(crate) download: Pace,
    /// Bytes received, by sender.
    pub(crate) taken: PeerBytes,
}

struct PushReceiver {
    parts: PushParts,
    state: Mutex<PushTable>,
    taken_up: Once,
}

/// A file in transfer, shared by the calls that work on it.
type SharedPush = Arc<Mutex<IncomingPush>>;

/// A file in transfer, and the sender to which its slot is charged.
struct PushSlot {
    origin: ChargedSender,
    held: SharedPush,
}

struct PushTable {
    coming: HashMap<PushKey, PushSlot>,
    arrived: Vec<ArrivedPush>,
    said: KeyedBuckets<ChargedSender>,
}

impl Default for PushTable {
    fn default() -> Self {
        Self {
            coming: HashMap::new(),
            arrived: Vec::new(),
            said: KeyedBuckets::one_in(SAID_EACH, SAID_BURST, SAID_SENDERS_MAX),
        }
    }
}

/// The reason for a refusal.
enum PushRefusal {
    /// Too many files are in transfer. The sender may retry after some of them have arrived.
    Now,
    Never(String),
}

impl From<String> for PushRefusal {
    fn from(reason: String) -> Self {
        Self::Never(reason)
    }
}

/// A file that was published.
struct ArrivedPush {
    key: PushKey,
    at: Instant,
    /// Name of the file in the inbox. `None` if an earlier run of this node published the file.
    name: Option<Vec<u8>>,
    /// Paths of the note that tells a later run of this node of the arrival. `None` if there is no
    /// note.
    part: Option<PartPaths>,
}

impl Pushes {
    /// Needs a running tokio runtime.
    pub(crate) fn new(parts: PushParts) -> Self {
        let inner = PushReceiver {
            parts,
            state: Mutex::default(),
            taken_up: Once::new(),
        };
        let pushes = Self {
            inner: Arc::new(inner),
        };
        tokio::spawn(expire_for_ever(Arc::downgrade(&pushes.inner)));
        pushes
    }

    /// Answers a push of an authenticated member at that address. Needs a running tokio runtime.
    pub async fn answer(&self, from: NodeId, address: SocketAddr, push: Push) -> Response {
        if let Push::Give { bytes, .. } = &push {
            // The sender has only a few pieces in flight, so a late answer slows it down.
            let passed = self.inner.parts.download.pass(bytes.len() as u64, false);
            let _late = tokio::time::timeout(PACE_PATIENCE, passed).await;
        }
        let inner = self.inner.clone();
        let origin = inner.parts.names.origin_of(&from, address);
        let answer = tokio::task::spawn_blocking(move || inner.answer(from, origin, push));
        answer.await.unwrap_or(Response::Busy)
    }
}

fn is_old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) > COMING_PATIENCE
}

async fn expire_for_ever(inner: Weak<PushReceiver>) {
    let mut tick = tokio::time::interval(COMING_PATIENCE / 10);
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let expire = move || inner.expire(Instant::now());
        // The disk may block this call, and no other task should wait for it.
        let _ended = tokio::task::spawn_blocking(expire).await;
    }
}

impl PushReceiver {
    /// Gives up the files whose senders are silent, and forgets old arrivals. Blocking.
    fn expire(&self, now: Instant) {
        let _inbox = self.inbox();
        let (forgotten, coming) = self.state.lock().take_expired(now);
        forgotten.into_iter().for_each(ArrivedPush::forget);
        for (key, coming) in coming {
            // A locked file is in use by another call, so it is not old.
            let Some(mut coming) = coming.try_lock() else {
                continue;
            };
            if coming.is_on_its_way() && is_old(coming.touched, now) {
                self.give_up(key, &mut coming, "nothing more of it came");
            }
        }
    }

    fn answer(&self, from: NodeId, origin: ChargedSender, push: Push) -> Response {
        let answered = match push {
            Push::Offer {
                name,
                size_bytes,
                hash,
                again,
            } => {
                let (key, name) = ((from, hash), name.to_vec());
                let coming = IncomingPush::new(key, name, size_bytes);
                self.handle_offer(origin, key, coming, again).map(Some)
            }
            Push::Give {
                hash,
                offset,
                bytes,
            } => self
                .handle_give((from, hash), offset, &bytes)
                .map_err(PushRefusal::Never),
            Push::AskKept { hash } => return self.kept_name(&(from, hash)),
            Push::Say { text } => self
                .handle_say(from, origin, text)
                .map(Some)
                .map_err(PushRefusal::Never),
            Push::Message { bytes } => self
                .handle_push_message(from, origin, bytes)
                .map(Some)
                .map_err(PushRefusal::Never),
        };
        match answered {
            Ok(Some(to_bytes)) => Response::Taken { to_bytes },
            // The file was given up, or this node was restarted: the sender has to offer it again.
            Ok(None) => Response::NotHere,
            Err(PushRefusal::Now) => Response::Busy,
            Err(PushRefusal::Never(reason)) => Response::Refused { reason },
        }
    }

    fn takes_from(&self, from: &NodeId) -> Result<&Inbox, String> {
        let closed = || {
            let opens = "list this node there: from = [...] under [inbox]";
            format!("its inbox is closed to this node; {opens}")
        };
        let is_open = match &self.parts.accept {
            Accept::Nobody => false,
            Accept::Members => true,
            Accept::Listed(listed) => {
                let names = &self.parts.names;
                listed.iter().any(|it| names.is_meant(it, from))
            }
        };
        if !is_open || !self.parts.inbox.is_set() {
            return Err(closed());
        }
        let silent = || "the disk of its inbox does not answer".to_owned();
        self.inbox().ok_or_else(silent)
    }

    /// Returns the inbox, or `None` if it is not open. The first call with an open inbox restores
    /// the unfinished files of an earlier life. Blocking.
    fn inbox(&self) -> Option<&Inbox> {
        let inbox = self.parts.inbox.get()?;
        self.taken_up.call_once(|| {
            let left = inbox.left(COMING_MAX);
            self.state.lock().restore_left(left);
        });
        Some(inbox)
    }

    /// Begins the file `new`, or continues it if it is already in transfer. Returns how many of its
    /// bytes have arrived: all of them if `again` is set and the file was published.
    fn handle_offer(
        &self,
        origin: ChargedSender,
        key: PushKey,
        new: IncomingPush,
        again: bool,
    ) -> Result<u64, PushRefusal> {
        let inbox = self.takes_from(&key.0)?;
        loop {
            let state = self.state.lock();
            if again && state.has_arrived(&key) {
                return Ok(new.size_bytes);
            }
            let Some(known) = state.coming.get(&key).map(|it| it.held.clone()) else {
                return self.begin(inbox, origin, (key, new), state);
            };
            drop(state);
            let mut coming = known.lock();
            // Otherwise the file was given up while this call waited for its lock.
            if !coming.is_gone() {
                return self
                    .resume_push(key, &mut coming)
                    .map_err(PushRefusal::Never);
            }
        }
    }

    /// Begins a new file. Releases `state` before it uses the disk, so that calls for other files
    /// do not wait for `state` meanwhile.
    fn begin(
        &self,
        inbox: &Inbox,
        origin: ChargedSender,
        (key, coming): (PushKey, IncomingPush),
        mut state: MutexGuard<'_, PushTable>,
    ) -> Result<u64, PushRefusal> {
        let known = Arc::new(Mutex::new(coming));
        let mut coming = known.lock();
        let held = known.clone();
        let forgotten = state.take_slot(key, PushSlot { origin, held })?;
        drop(state);
        forgotten.into_iter().for_each(ArrivedPush::forget);
        if let Err(why) = coming.begin(inbox, origin) {
            self.state.lock().coming.remove(&key);
            return Err(PushRefusal::Never(why.to_string()));
        }
        self.report(key.0, &coming, PushStage::Started);
        self.resume_push(key, &mut coming)
            .map_err(PushRefusal::Never)
    }

    /// Verifies the bytes of an earlier life, publishes the file if it is complete, and returns how
    /// many bytes have arrived.
    fn resume_push(&self, key: PushKey, coming: &mut IncomingPush) -> Result<u64, String> {
        coming.touched = Instant::now();
        if coming.is_left() {
            coming.verify_left();
            self.report(key.0, coming, PushStage::Started);
        }
        // Also for an empty file, and for one that was complete when an earlier life ended before
        // it was published.
        if coming.is_whole() && !coming.is_named() {
            self.finish(key, coming)
        } else {
            Ok(coming.prefix())
        }
    }

    fn handle_give(&self, key: PushKey, offset: u64, bytes: &Bytes) -> Result<Option<u64>, String> {
        self.takes_from(&key.0)?;
        let known = |state: &PushTable| state.coming.get(&key).map(|it| it.held.clone());
        let Some(coming) = known(&self.state.lock()) else {
            return Ok(None);
        };
        let mut coming = coming.lock();
        coming.touched = Instant::now();
        // The file was given up, or its stored progress is not verified yet: it must be offered
        // again.
        if coming.is_gone() || coming.is_left() {
            return Ok(None);
        }
        if coming.is_named() {
            return Ok(Some(coming.size_bytes));
        }
        if offset + bytes.len() as u64 > coming.size_bytes {
            return Err("more bytes than were offered".to_owned());
        }
        if let Err(why) = coming.write_piece(offset, bytes) {
            return Err(self.give_up(key, &mut coming, &why.to_string()));
        }
        if coming.is_scattered() {
            return Err(self.give_up(key, &mut coming, "its pieces come in no order"));
        }
        self.parts.taken.add(key.0, bytes.len() as u64);
        if coming.is_whole() {
            self.finish(key, &mut coming).map(Some)
        } else {
            Ok(Some(coming.prefix()))
        }
    }

    /// Publishes the complete file if its bytes match the hash, and returns its size. Otherwise
    /// gives it up.
    fn finish(&self, key: PushKey, coming: &mut IncomingPush) -> Result<u64, String> {
        if !coming.is_proven() {
            return Err(self.give_up(key, coming, "its bytes do not fit its hash"));
        }
        match coming.publish(&Sender::Node(key.0), &self.name_of(&key.0)) {
            Ok(part) => {
                let name = Some(coming.name.clone());
                let forgotten = self.state.lock().arrived(key, name, part);
                forgotten.into_iter().for_each(ArrivedPush::forget);
                self.report(key.0, coming, PushStage::Done);
                Ok(coming.size_bytes)
            }
            Err(why) => Err(self.give_up(key, coming, &why.to_string())),
        }
    }

    /// Returns the name under which this node published a pushed file, or [`Response::NotHere`] if
    /// it is not remembered.
    fn kept_name(&self, key: &PushKey) -> Response {
        let state = self.state.lock();
        let mut arrived = state.arrived.iter().filter(|arrived| arrived.key == *key);
        match arrived.next().and_then(|arrived| arrived.name.clone()) {
            Some(name) => Response::Kept { name: name.into() },
            None => Response::NotHere,
        }
    }

    fn give_up(&self, key: PushKey, coming: &mut IncomingPush, why: &str) -> String {
        // The push is discarded before a new push of the same file can take its slot. A call that
        // waits for the lock of `coming` then finds the push gone. If that call is an offer, it
        // searches the table again.
        coming.discard();
        self.state.lock().coming.remove(&key);
        self.report(key.0, coming, PushStage::Failed(why.to_owned()));
        why.to_owned()
    }

    fn handle_say(&self, from: NodeId, origin: ChargedSender, text: String) -> Result<u64, String> {
        self.may_say(origin)?;
        self.parts.events.record(News::Chat {
            from: self.name_of(&from),
            text,
        });
        Ok(0)
    }

    fn handle_push_message(
        &self,
        from: NodeId,
        origin: ChargedSender,
        bytes: Bytes,
    ) -> Result<u64, String> {
        self.may_say(origin)?;
        let length_bytes = bytes.len() as u64;
        let mailbox = &self.parts.mailbox;
        mailbox.deliver(self.name_of(&from), length_bytes, Some(bytes));
        Ok(length_bytes)
    }

    fn may_say(&self, origin: ChargedSender) -> Result<(), String> {
        let may = self.state.lock().may_say(origin, Instant::now());
        let too_much = || "it says more than anyone reads".to_owned();
        may.then_some(()).ok_or_else(too_much)
    }

    fn name_of(&self, node: &NodeId) -> String {
        self.parts.names.of(node)
    }

    fn report(&self, from: NodeId, coming: &IncomingPush, stage: PushStage) {
        self.parts.events.record(News::Received(Told {
            peer: self.name_of(&from),
            name: coming.name.clone(),
            size_bytes: coming.size_bytes,
            stage,
        }));
    }
}

impl ArrivedPush {
    /// Removes the note. Call it without the lock of [`PushTable`], because the disk may block.
    fn forget(self) {
        if let Some(part) = self.part {
            part.remove_note();
        }
    }
}

impl PushTable {
    fn restore_left(&mut self, left: Vec<(ProgressNote, PartPaths, Option<InboxFile>)>) {
        for (note, part, arriving) in left {
            let key = (note.from, note.hash);
            match arriving {
                Some(arriving) => {
                    let origin = arriving.origin();
                    let held = Arc::new(Mutex::new(IncomingPush::left(note, arriving)));
                    self.coming.insert(key, PushSlot { origin, held });
                }
                None => drop(self.arrived(key, None, Some(part))),
            }
        }
    }

    /// Records that a file was published, and frees its slot. If the list is full, removes and
    /// returns its oldest record; the caller must call [`ArrivedPush::forget`].
    #[must_use]
    fn arrived(
        &mut self,
        key: PushKey,
        name: Option<Vec<u8>>,
        part: Option<PartPaths>,
    ) -> Option<ArrivedPush> {
        self.coming.remove(&key);
        let is_full = self.arrived.len() >= ARRIVED_MAX;
        let first = is_full.then(|| self.arrived.remove(0));
        let at = Instant::now();
        self.arrived.push(ArrivedPush {
            key,
            at,
            name,
            part,
        });
        first
    }

    fn has_arrived(&self, key: &PushKey) -> bool {
        self.arrived.iter().any(|arrived| arrived.key == *key)
    }

    /// Takes a slot for a newly offered file, or fails if too many files are in transfer. Removes
    /// and returns the record of an earlier arrival of the same file; the caller must call
    /// [`ArrivedPush::forget`]. If the record stayed, a sender that continues this push would
    /// receive the acknowledgement of the earlier one.
    fn take_slot(
        &mut self,
        key: PushKey,
        place: PushSlot,
    ) -> Result<Vec<ArrivedPush>, PushRefusal> {
        let places = self.coming.values();
        let of_sender = places.filter(|it| it.origin == place.origin);
        if of_sender.count() >= COMING_OF_NODE_MAX || self.coming.len() >= COMING_MAX {
            return Err(PushRefusal::Now);
        }
        self.coming.insert(key, place);
        let before = self.arrived.extract_if(.., |arrived| arrived.key == key);
        Ok(before.collect())
    }

    /// Removes and returns the expired arrivals, and returns all files in transfer.
    fn take_expired(&mut self, now: Instant) -> (Vec<ArrivedPush>, Vec<(PushKey, SharedPush)>) {
        let old = self
            .arrived
            .extract_if(.., |arrived| is_old(arrived.at, now));
        let coming = self
            .coming
            .iter()
            .map(|(key, place)| (*key, place.held.clone()));
        (old.collect(), coming.collect())
    }

    fn may_say(&mut self, origin: ChargedSender, now: Instant) -> bool {
        self.said.take(origin, 1, now)
    }
}

#[cfg(test)]
mod tests;
