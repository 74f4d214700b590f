//! What other nodes push: offered, given piece by piece, proven, and kept under a name.
//!
//! A file that is on its way stays open without a name when its connection breaks, so that its
//! sender goes on where it was; one that nothing more comes of is given up.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::store::{Arriving, Inbox};
use crate::digest::ContentHash;
use crate::extent::{ByteRange, ExtentSet};
use crate::id::NodeId;
use crate::node::events::{EventLog, News, Push as Told, PushStage};
use crate::node::handle::Published;
use crate::node::mailbox::Mailbox;
use crate::wire::native::tcp::{Push, Response};

/// Files that are on their way at one time, of all nodes.
pub const COMING_MAX: usize = 64;
/// Of these, of one node.
pub const COMING_OF_NODE_MAX: usize = 8;
/// How long a file may rest until it is given up: the time to mend a network.
pub const COMING_PATIENCE: Duration = Duration::from_secs(600);
/// Files whose arrival is remembered, for a sender that did not hear of it.
const ARRIVED_MAX: usize = 256;
/// Lines that a node may say at once, and each takes [`SAID_EACH`] to be allowed again.
const SAID_BURST: u32 = 16;
/// See [`SAID_BURST`].
const SAID_EACH: Duration = Duration::from_millis(250);
/// What is hashed at once.
const STEP_BYTES: u64 = 1 << 20;

/// Whose files are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// Nobody's.
    #[default]
    Nobody,
    /// Those of every member of the cluster.
    Members,
    /// Those of these nodes, by name or key.
    Listed(Vec<String>),
}

/// The receiving side. Clones are the same.
#[derive(Clone)]
pub struct Pushes {
    inner: Arc<Inner>,
}

/// What it works with. Without an inbox every file is refused.
pub(in crate::node) struct PushParts {
    pub(in crate::node) inbox: Option<Inbox>,
    pub(in crate::node) accept: Accept,
    pub(in crate::node) events: EventLog,
    pub(in crate::node) mailbox: Mailbox,
    pub(in crate::node) published: Published,
}

struct Inner {
    parts: PushParts,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    coming: HashMap<Key, Arc<Mutex<Coming>>>,
    arrived: Vec<(Key, Instant)>,
    said: HashMap<NodeId, (u32, Instant)>,
}

type Key = (NodeId, ContentHash);

struct Coming {
    name: Vec<u8>,
    size_bytes: u64,
    /// Taken when it is published.
    arriving: Option<Arriving>,
    got: ExtentSet,
    hasher: blake3::Hasher,
    hashed_bytes: u64,
    touched: Instant,
}

impl Pushes {
    /// Needs a running tokio runtime.
    pub(in crate::node) fn new(parts: PushParts) -> Self {
        let inner = Inner {
            parts,
            state: Mutex::default(),
        };
        let pushes = Self {
            inner: Arc::new(inner),
        };
        tokio::spawn(expire_for_ever(Arc::downgrade(&pushes.inner)));
        pushes
    }

    /// Answers what a proven member pushes. Needs a running tokio runtime.
    pub async fn answer(&self, from: NodeId, push: Push) -> Response {
        let inner = self.inner.clone();
        let answer = tokio::task::spawn_blocking(move || inner.answer(from, push));
        answer.await.unwrap_or(Response::Busy)
    }
}

async fn expire_for_ever(inner: Weak<Inner>) {
    let mut tick = tokio::time::interval(COMING_PATIENCE / 10);
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        inner.expire(Instant::now());
    }
}

impl Inner {
    /// Gives up what nothing more comes of.
    fn expire(&self, now: Instant) {
        let old = self.lock().take_old(now);
        for (from, coming) in old {
            let coming = coming.lock();
            let why = "nothing more of it came".to_owned();
            self.tell(from, &coming, PushStage::Failed(why));
        }
    }

    fn answer(&self, from: NodeId, push: Push) -> Response {
        let answered = match push {
            Push::Offer {
                name,
                size_bytes,
                hash,
                again,
            } => self
                .offered((from, hash), &name, size_bytes, again)
                .map(Some),
            Push::Give {
                hash,
                offset,
                bytes,
            } => self.given((from, hash), offset, &bytes),
            Push::Say { text } => self.said(from, text).map(Some),
            Push::Message { bytes } => self.messaged(from, bytes).map(Some),
        };
        match answered {
            Ok(Some(to_bytes)) => Response::Taken { to_bytes },
            // it was given up, or this node was started anew: it is to be offered again
            Ok(None) => Response::NotHere,
            Err(reason) => Response::Refused { reason },
        }
    }

    fn takes_from(&self, from: &NodeId) -> Result<&Inbox, String> {
        let closed = || "its inbox is closed to this node".to_owned();
        let inbox = self.parts.inbox.as_ref().ok_or_else(closed)?;
        let is_open = match &self.parts.accept {
            Accept::Nobody => false,
            Accept::Members => true,
            Accept::Listed(listed) => {
                let (key, name) = (from.to_string(), self.name_of(from));
                listed.iter().any(|it| *it == key || *it == name)
            }
        };
        is_open.then_some(inbox).ok_or_else(closed)
    }

    fn offered(&self, key: Key, name: &Bytes, size: u64, again: bool) -> Result<u64, String> {
        let inbox = self.takes_from(&key.0)?;
        let mut state = self.lock();
        if again && state.arrived.iter().any(|(arrived, _)| *arrived == key) {
            return Ok(size);
        }
        if let Some(coming) = state.coming.get(&key).cloned() {
            drop(state);
            let mut coming = coming.lock();
            coming.touched = Instant::now();
            return Ok(coming.prefix());
        }
        let of_node = state.coming.keys().filter(|(node, _)| *node == key.0);
        if of_node.count() >= COMING_OF_NODE_MAX || state.coming.len() >= COMING_MAX {
            return Err("too many files are on their way to it already".to_owned());
        }
        let arriving = inbox.begin(size).map_err(|why| why.to_string())?;
        let coming = Coming {
            name: name.to_vec(),
            size_bytes: size,
            arriving: Some(arriving),
            got: ExtentSet::new(),
            hasher: blake3::Hasher::new(),
            hashed_bytes: 0,
            touched: Instant::now(),
        };
        let coming = Arc::new(Mutex::new(coming));
        state.coming.insert(key, coming.clone());
        drop(state);
        let mut coming = coming.lock();
        self.tell(key.0, &coming, PushStage::Started);
        match size {
            0 => self.finish(key, &mut coming),
            _ => Ok(0),
        }
    }

    fn given(&self, key: Key, offset: u64, bytes: &Bytes) -> Result<Option<u64>, String> {
        self.takes_from(&key.0)?;
        let Some(coming) = self.lock().coming.get(&key).cloned() else {
            return Ok(None);
        };
        let mut coming = coming.lock();
        coming.touched = Instant::now();
        let end = offset + bytes.len() as u64;
        let Some(arriving) = &coming.arriving else {
            return Ok(Some(coming.size_bytes));
        };
        if end > coming.size_bytes {
            return Err("more bytes than were offered".to_owned());
        }
        if let Err(why) = arriving.write_at(offset, bytes) {
            return Err(self.give_up(key, &coming, &why.to_string()));
        }
        coming.got.insert(ByteRange::new(offset, end));
        if let Err(why) = coming.hash() {
            return Err(self.give_up(key, &coming, &why.to_string()));
        }
        if coming.prefix() == coming.size_bytes {
            return self.finish(key, &mut coming).map(Some);
        }
        Ok(Some(coming.prefix()))
    }

    /// All of it is there: it gets its name if it is what was offered.
    fn finish(&self, key: Key, coming: &mut Coming) -> Result<u64, String> {
        let hash = ContentHash::new(*coming.hasher.finalize().as_bytes());
        let Some(arriving) = coming.arriving.take() else {
            return Ok(coming.size_bytes);
        };
        if hash != key.1 {
            return Err(self.give_up(key, coming, "its bytes do not fit its hash"));
        }
        match arriving.publish(&coming.name, &self.name_of(&key.0)) {
            Ok(name) => {
                coming.name = name;
                self.lock().arrived(key);
                self.tell(key.0, coming, PushStage::Done);
                Ok(coming.size_bytes)
            }
            Err(why) => Err(self.give_up(key, coming, &why.to_string())),
        }
    }

    fn give_up(&self, key: Key, coming: &Coming, why: &str) -> String {
        self.lock().coming.remove(&key);
        self.tell(key.0, coming, PushStage::Failed(why.to_owned()));
        why.to_owned()
    }

    fn said(&self, from: NodeId, text: String) -> Result<u64, String> {
        self.may_say(from)?;
        self.parts.events.note(News::Chat {
            from: self.name_of(&from),
            text,
        });
        Ok(0)
    }

    fn messaged(&self, from: NodeId, bytes: Bytes) -> Result<u64, String> {
        self.may_say(from)?;
        let length_bytes = bytes.len() as u64;
        let mailbox = &self.parts.mailbox;
        mailbox.take(self.name_of(&from), length_bytes, Some(bytes));
        Ok(length_bytes)
    }

    fn may_say(&self, from: NodeId) -> Result<(), String> {
        let may = self.lock().may_say(from, Instant::now());
        let too_much = || "it says more than anyone reads".to_owned();
        may.then_some(()).ok_or_else(too_much)
    }

    fn name_of(&self, node: &NodeId) -> String {
        let view = self.parts.published.view.load();
        view.label(node).unwrap_or_else(|| node.short(8))
    }

    fn tell(&self, from: NodeId, coming: &Coming, stage: PushStage) {
        self.parts.events.note(News::Received(Told {
            peer: self.name_of(&from),
            name: coming.name.clone(),
            size_bytes: coming.size_bytes,
            stage,
        }));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Coming {
    /// How much of it is there from its begin on.
    fn prefix(&self) -> u64 {
        let first = self.got.iter().next().filter(|range| range.start == 0);
        first.map_or(0, |range| range.end)
    }

    /// Hashes what has come to stand without a gap, while it is still in memory.
    fn hash(&mut self) -> io::Result<()> {
        let to = self.prefix();
        let Some(arriving) = &self.arriving else {
            return Ok(());
        };
        while self.hashed_bytes < to {
            let length = STEP_BYTES.min(to - self.hashed_bytes) as usize;
            let mut bytes = vec![0; length];
            arriving
                .file()
                .read_exact_at(&mut bytes, self.hashed_bytes)?;
            self.hasher.update(&bytes);
            self.hashed_bytes += length as u64;
        }
        Ok(())
    }
}

impl State {
    fn arrived(&mut self, key: Key) {
        self.coming.remove(&key);
        if self.arrived.len() >= ARRIVED_MAX {
            self.arrived.remove(0);
        }
        self.arrived.push((key, Instant::now()));
    }

    fn take_old(&mut self, now: Instant) -> Vec<(NodeId, Arc<Mutex<Coming>>)> {
        let is_old = |at: Instant| now.saturating_duration_since(at) > COMING_PATIENCE;
        self.arrived.retain(|(_, at)| !is_old(*at));
        let old = self.coming.iter().filter(|(_, coming)| {
            // one that is being written to is not old
            coming
                .try_lock()
                .is_some_and(|coming| is_old(coming.touched))
        });
        let old: Vec<Key> = old.map(|(key, _)| *key).collect();
        old.into_iter()
            .filter_map(|key| Some((key.0, self.coming.remove(&key)?)))
            .collect()
    }

    fn may_say(&mut self, from: NodeId, now: Instant) -> bool {
        let (left, at) = self.said.entry(from).or_insert((SAID_BURST, now));
        let gained = now.saturating_duration_since(*at).as_millis() / SAID_EACH.as_millis();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        if gained > 0 {
            (*left, *at) = (left.saturating_add(gained).min(SAID_BURST), now);
        }
        let is_one = *left > 0;
        *left -= u32::from(is_one);
        is_one
    }
}

#[cfg(test)]
mod tests;
