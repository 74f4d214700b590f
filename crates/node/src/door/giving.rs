//! Giving others files, bytes and talk, on whichever plane they are, and taking their bytes.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use crate::{Message, Node, Parcel, PushError, Recipient, SendError};
use p2pfs_legacy::wire::mesh::is_about_file;
use p2pfs_proto::wire::native::tcp::GIVEN_MAX_BYTES;

/// The most that [`Node::send_bytes`] carries at once: 256 KiB.
pub const MESSAGE_MAX_BYTES: usize = GIVEN_MAX_BYTES;
/// How long somebody who is named and not known is waited for: a few rounds of gossip.
const NAME_PATIENCE: Duration = Duration::from_secs(3);
/// How often they are looked for meanwhile.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Something on its way to some peers. Dropping it ends what is not there yet: whoever has not the
/// whole of a file has nothing of it under its name.
#[must_use = "dropping it ends the delivery"]
pub struct Delivery {
    size_bytes: u64,
    sending: Vec<(Recipient, Arc<AtomicU64>)>,
    tasks: JoinSet<(usize, Result<(), PushError>)>,
}

/// What became of it at one peer.
#[derive(Debug)]
pub struct Delivered {
    /// What the peer calls itself.
    pub peer: String,
    /// Whether it says itself that it has all of it: a peer of the mesh cannot, and `Ok` means
    /// there that all was written to its connection.
    pub confirmed: bool,
    /// Why it has nothing, where that is so.
    pub outcome: Result<(), PushError>,
}

impl Delivery {
    /// The size of what is sent.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How many bytes went to each, in the order in which they were named.
    pub fn progress(&self) -> impl Iterator<Item = (&str, u64)> {
        let sending = self.sending.iter();
        sending.map(|(to, sent)| (to.name(), sent.load(Ordering::Relaxed)))
    }

    /// The next peer of whom it is known how it ended; none once it is known of all. May be
    /// dropped before it is done: nothing is lost by that.
    pub async fn next(&mut self) -> Option<Delivered> {
        // a task of ours neither panics nor is aborted while this lives
        let (index, outcome) = self.tasks.join_next().await?.ok()?;
        let (to, _) = &self.sending[index];
        Some(Delivered {
            peer: to.name().to_owned(),
            confirmed: to.confirms(),
            outcome,
        })
    }

    /// Waits until it has ended at all of them, and tells how.
    pub async fn finish(mut self) -> Vec<Delivered> {
        let mut all = Vec::new();
        while let Some(delivered) = self.next().await {
            all.push(delivered);
        }
        all
    }

    fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            sending: Vec::new(),
            tasks: JoinSet::new(),
        }
    }

    fn add(&mut self, to: Recipient, sent: Arc<AtomicU64>) -> usize {
        self.sending.push((to, sent));
        self.sending.len() - 1
    }
}

/// The bytes that others send from now on.
pub struct Messages {
    live: broadcast::Receiver<Message>,
    lost: u64,
}

impl Messages {
    /// The next message; none once the node is gone. May be dropped before it is done: nothing is
    /// lost by that.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            match self.live.recv().await {
                Ok(message) => return Some(message),
                Err(RecvError::Lagged(messages)) => self.lost += messages,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// How many were dropped because they were not taken in time: 64 are kept.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Node {
    /// Says a line to every node and every peer of the mesh; gives the names of those who heard
    /// it, or to whom it was sent. What is over 4096 bytes is cut.
    pub async fn broadcast(&self, text: &str) -> Vec<String> {
        self.courier().say(text).await
    }

    /// Sends bytes of no file to those named (by name, start of the key, ID or address), or to
    /// everyone where nobody is named. They come as [`Node::messages`] there.
    ///
    /// # Errors
    /// [`SendError`]; nobody gets anything then. What goes wrong later is told by the delivery.
    pub async fn send_bytes(&self, bytes: Bytes, to: &[String]) -> Result<Delivery, SendError> {
        let size_bytes = bytes.len() as u64;
        if bytes.len() > MESSAGE_MAX_BYTES {
            return Err(SendError::TooLong { size_bytes });
        }
        if is_about_file(&bytes) {
            return Err(SendError::Reserved);
        }
        let mut delivery = Delivery::new(size_bytes);
        for to in self.recipients(to).await? {
            let sent = Arc::<AtomicU64>::default();
            let index = delivery.add(to.clone(), sent.clone());
            let (courier, bytes) = (self.courier().clone(), bytes.clone());
            delivery.tasks.spawn(async move {
                let outcome = courier.send_bytes(bytes, &to).await;
                if outcome.is_ok() {
                    sent.store(size_bytes, Ordering::Relaxed);
                }
                (index, outcome)
            });
        }
        Ok(delivery)
    }

    /// Gives a local file to those named (by name, start of the key, ID or address), or to everyone
    /// where nobody is named. It gets the last part of its path for a name there, or that with a
    /// number where such a file is there already.
    ///
    /// # Errors
    /// [`SendError`]; nobody gets anything then. What goes wrong later is told by the delivery.
    pub async fn send_file(
        &self,
        path: impl AsRef<Path>,
        to: &[String],
    ) -> Result<Delivery, SendError> {
        let path = path.as_ref().to_owned();
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        let opened = spawn_blocking(move || File::open(path)).await;
        let file = opened.map_err(std::io::Error::other)??;
        self.send_open_file(file, &name, to).await
    }

    /// As [`Node::send_file`], for a regular file that the caller has opened: so a service gives
    /// what a user may read, and not what itself may. It is read from its begin, wherever its
    /// position is, and only the last part of `name` counts.
    ///
    /// # Errors
    /// As there.
    pub async fn send_open_file(
        &self,
        file: File,
        name: &[u8],
        to: &[String],
    ) -> Result<Delivery, SendError> {
        let recipients = self.recipients(to).await?;
        let name = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let name = name.to_vec();
        // whoever drops this waits no more, and nothing is read on for nobody
        let wait = Arc::new(());
        let waits = Arc::downgrade(&wait);
        let parcel = spawn_blocking(move || Parcel::read(file, name, &waits)).await;
        drop(wait);
        let parcel = Arc::new(parcel.map_err(std::io::Error::other)??);
        let mut delivery = Delivery::new(parcel.size_bytes);
        for to in recipients {
            let sent = Arc::<AtomicU64>::default();
            let index = delivery.add(to.clone(), sent.clone());
            let (courier, parcel) = (self.courier().clone(), parcel.clone());
            delivery.tasks.spawn(async move {
                let outcome = courier.send(&parcel, &to, &sent).await;
                (index, outcome)
            });
        }
        Ok(delivery)
    }

    /// The bytes that others send from now on, by [`Node::send_bytes`] or as peers of the mesh.
    pub fn messages(&self) -> Messages {
        Messages {
            live: self.courier().mailbox.follow(),
            lost: 0,
        }
    }

    /// A node that came a moment ago is here before its name is: it is waited for a little.
    async fn recipients(&self, named: &[String]) -> Result<Vec<Recipient>, SendError> {
        let begun = Instant::now();
        loop {
            match self.courier().recipients(named).await {
                Ok(recipients) if recipients.is_empty() => return Err(SendError::Nobody),
                Err(SendError::Unknown { .. }) if begun.elapsed() < NAME_PATIENCE => {
                    sleep(LOOK_PERIOD).await;
                }
                outcome => return outcome,
            }
        }
    }
}
