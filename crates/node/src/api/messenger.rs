//! Sending files, bytes and lines of chat to nodes and foreign peers, and receiving bytes from
//! them.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use crate::{FileSender, Message, Parcel, PushError, Recipient, SendError};
use p2pfs_proto::wire::native::tcp::GIVEN_MAX_BYTES;
use p2pfs_types::files::trusted_way::open_file;

/// Maximum size of one message of [`Messenger::send_bytes`]: 256 KiB.
pub const MESSAGE_MAX_BYTES: usize = GIVEN_MAX_BYTES;
/// How long to look for a recipient whose name is unknown: a few rounds of gossip.
const NAME_PATIENCE: Duration = Duration::from_secs(3);
/// Maximum number of files that are read and hashed for sending at one time. Others wait. The read
/// of a hung disk keeps its thread after its caller has left, and the runtime has 512 of them.
const READS_MAX: usize = 64;
/// Interval between lookups of an unknown recipient.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// The name under which a recipient keeps a file, if its protocol reports the name, or the error.
type SendOutcome = Result<Option<Vec<u8>>, PushError>;

/// A file or message on its way to some peers. Dropping this cancels the unfinished transfers. At a
/// node, a file appears under its name only when all of its bytes have arrived.
#[must_use = "dropping it ends the delivery"]
pub struct Delivery {
    size_bytes: u64,
    sending: Vec<(Recipient, Arc<AtomicU64>)>,
    tasks: JoinSet<(usize, SendOutcome)>,
}

/// The result at one peer.
#[derive(Debug)]
pub struct Delivered {
    /// The name of the peer.
    pub peer: String,
    /// Whether the peer acknowledges the whole file or message. Foreign peers do not, and for them
    /// `Ok` in `outcome` means that all bytes were written to the connection.
    pub confirmed: bool,
    /// The name under which the peer keeps the file, if the peer reports it. It has a number added
    /// if the sent name was taken there.
    pub kept_as: Option<Vec<u8>>,
    /// `Ok`, or the reason why the delivery failed.
    pub outcome: Result<(), PushError>,
}

impl Delivery {
    /// Returns the size of the file or message in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns the name of each recipient and the number of bytes sent to it, in the order of the
    /// request.
    pub fn progress(&self) -> impl Iterator<Item = (&str, u64)> {
        let sending = self.sending.iter();
        sending.map(|(to, sent)| (to.name(), sent.load(Ordering::Relaxed)))
    }

    /// Returns the result of the next peer that has finished, or `None` after the last one. The
    /// future may be dropped early without losing a result.
    pub async fn next(&mut self) -> Option<Delivered> {
        // A delivery task neither panics nor is aborted while the delivery exists.
        let (index, outcome) = self.tasks.join_next().await?.ok()?;
        let (to, _) = &self.sending[index];
        let (kept_as, outcome) = match outcome {
            Ok(kept_as) => (kept_as, Ok(())),
            Err(why) => (None, Err(why)),
        };
        Some(Delivered {
            peer: to.name().to_owned(),
            confirmed: to.confirms(),
            kept_as,
            outcome,
        })
    }

    /// Waits until the delivery has ended at all peers, and returns the results.
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

/// A stream of the messages that arrive from now on.
pub struct Messages {
    live: broadcast::Receiver<Message>,
    lost: u64,
}

impl Messages {
    /// Returns the next message, or `None` once the node has ended. The future may be dropped early
    /// without losing a message.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            match self.live.recv().await {
                Ok(message) => return Some(message),
                Err(RecvError::Lagged(messages)) => self.lost += messages,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Returns how many messages were dropped because [`Self::next`] was not called in time. The
    /// newest 64 messages are buffered.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// The sender of files, bytes and lines of chat to other nodes and to foreign peers, and the
/// receiver of bytes from them. [`Node::messenger`](crate::Node::messenger) returns it. Clones
/// share their state.
#[derive(Clone)]
pub struct Messenger {
    pub(crate) sender: FileSender,
    /// Permits to read and hash a file that is sent.
    reads: Arc<Semaphore>,
}

impl Messenger {
    pub(crate) fn new(sender: FileSender) -> Self {
        Self {
            sender,
            reads: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    /// Sends a line of chat to every live node and every foreign peer. Returns the names of the
    /// nodes that acknowledged the line, and of the foreign peers to whose connections it was
    /// written. The text is cut to at most 4096 bytes.
    pub async fn broadcast(&self, text: &str) -> Vec<String> {
        self.sender.say(text).await
    }

    /// Sends bytes that are not a file to the named peers (by name, start of the key, ID or
    /// address), or to all peers if `to` is empty. A node receives them from
    /// [`Messenger::messages`].
    ///
    /// # Errors
    /// [`SendError`]; then nothing is sent. The delivery reports later failures.
    pub async fn send_bytes(&self, bytes: Bytes, to: &[String]) -> Result<Delivery, SendError> {
        let size_bytes = bytes.len() as u64;
        if bytes.len() > MESSAGE_MAX_BYTES {
            return Err(SendError::TooLong { size_bytes });
        }
        let recipients = self.recipients(to).await?;
        self.sender.check_carried(&bytes, &recipients)?;
        let mut delivery = Delivery::new(size_bytes);
        for to in recipients {
            let sent = Arc::<AtomicU64>::default();
            let index = delivery.add(to.clone(), sent.clone());
            let (courier, bytes) = (self.sender.clone(), bytes.clone());
            delivery.tasks.spawn(async move {
                let outcome = courier.send_bytes(bytes, &to).await;
                if outcome.is_ok() {
                    sent.store(size_bytes, Ordering::Relaxed);
                }
                (index, outcome.map(|()| None))
            });
        }
        Ok(delivery)
    }

    /// Sends a local file to the named peers (by name, start of the key, ID or address), or to all
    /// peers if `to` is empty. A node stores the file under the last part of `path`, with a number
    /// added if that name is taken there.
    ///
    /// # Errors
    /// [`SendError`]; then nothing is sent. The delivery reports later failures.
    pub async fn send_file(
        &self,
        path: impl AsRef<Path>,
        to: &[String],
    ) -> Result<Delivery, SendError> {
        let path = path.as_ref().to_owned();
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        let opened = spawn_blocking(move || open_file(&path).map_err(std::io::Error::from)).await;
        let file = opened.map_err(std::io::Error::other)??;
        self.send_open_file(file, &name, to).await
    }

    /// Sends a file that the caller has opened, as [`Messenger::send_file`] does. So a service can
    /// send a file that it could not open itself. The file is read from its beginning, whatever the
    /// position in `file` is. Only the last part of `name` is used.
    ///
    /// # Errors
    /// [`SendError`]; then nothing is sent. The delivery reports later failures.
    pub async fn send_open_file(
        &self,
        file: File,
        name: &[u8],
        to: &[String],
    ) -> Result<Delivery, SendError> {
        let recipients = self.recipients(to).await?;
        let name = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let name = name.to_vec();
        // If this future is dropped, so is `wait`, and the blocking thread stops reading.
        let wait = Arc::new(());
        let waits = Arc::downgrade(&wait);
        let permit = self.reads.clone().acquire_owned().await;
        let parcel = spawn_blocking(move || {
            // A read that its disk never answers keeps the permit.
            let _permit = permit;
            Parcel::read(file, name, &waits)
        })
        .await;
        drop(wait);
        let parcel = Arc::new(parcel.map_err(std::io::Error::other)??);
        let mut delivery = Delivery::new(parcel.size_bytes);
        for to in recipients {
            let sent = Arc::<AtomicU64>::default();
            let index = delivery.add(to.clone(), sent.clone());
            let (courier, parcel) = (self.sender.clone(), parcel.clone());
            delivery.tasks.spawn(async move {
                let outcome = courier.send(&parcel, &to, &sent).await;
                (index, outcome)
            });
        }
        Ok(delivery)
    }

    /// Returns a stream of the bytes that nodes send with [`Messenger::send_bytes`] and that
    /// foreign peers send.
    pub fn messages(&self) -> Messages {
        Messages {
            live: self.sender.mailbox.follow(),
            lost: 0,
        }
    }

    /// Looks up the recipients. If a name is unknown, looks it up again for [`NAME_PATIENCE`],
    /// because a node that has just joined is reachable before its name is known.
    async fn recipients(&self, named: &[String]) -> Result<Vec<Recipient>, SendError> {
        let begun = Instant::now();
        loop {
            match self.sender.recipients(named).await {
                Ok(recipients) if recipients.is_empty() => return Err(SendError::Nobody),
                Err(SendError::Unknown { .. }) if begun.elapsed() < NAME_PATIENCE => {
                    sleep(LOOK_PERIOD).await;
                }
                outcome => return outcome,
            }
        }
    }
}
