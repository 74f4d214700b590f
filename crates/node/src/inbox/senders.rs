//! The senders of the files that this node shares.

use tokio::sync::{mpsc, oneshot};

use super::attributes::sender_of;
use super::opening::InboxHandle;
use p2pfs_content::ContentStore;
use p2pfs_content::shares::ShareEvent;
use p2pfs_proto::wire::native::record::{Entry, Kind, Sender, ShareIndex};
use p2pfs_types::path::SharedPath;

/// Maximum number of share events that wait for the event loop after their senders were looked up.
const SHARE_EVENTS_MAX: usize = 1024;

/// Finds the sender of files in the own shares that were pushed to this node.
#[derive(Clone)]
pub(crate) struct SenderLookup {
    inboxes: Vec<InboxHandle>,
    store: ContentStore,
}

/// A lookup of a file's sender, which may block.
trait FindSender: Send + 'static {
    fn sender(&self, share: ShareIndex, path: &SharedPath) -> Option<Sender>;
}

impl FindSender for ContentStore {
    fn sender(&self, share: ShareIndex, path: &SharedPath) -> Option<Sender> {
        let file = self.own_file(&(share, path.clone()))?;
        sender_of(&file)
    }
}

/// A file for the lookup thread, and the channel for its sender.
type SenderQuestion = ((ShareIndex, SharedPath), oneshot::Sender<Option<Sender>>);

impl SenderLookup {
    pub(crate) fn new(inboxes: Vec<InboxHandle>, store: ContentStore) -> Self {
        Self { inboxes, store }
    }

    /// Returns the events in their order, with the sender of each file that was pushed and has its
    /// sender recorded. Opens the files of which an inbox remembers the name, on a thread of its
    /// own. On a disk that hangs this delays all further share events, and nothing else.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn add_senders(
        self,
        events: mpsc::Receiver<ShareEvent>,
    ) -> mpsc::Receiver<ShareEvent> {
        let Self { inboxes, store } = self;
        if !inboxes.iter().any(InboxHandle::is_set) {
            return events;
        }
        let is_pushed = move |name: &[u8]| {
            let mut open = inboxes.iter().filter_map(InboxHandle::get);
            open.any(|inbox| inbox.may_have_taken(name))
        };
        forward(events, is_pushed, store)
    }
}

/// Forwards the events and asks `find` for the sender of each file with a name that `is_pushed`
/// accepts.
fn forward(
    mut events: mpsc::Receiver<ShareEvent>,
    is_pushed: impl Fn(&[u8]) -> bool + Send + 'static,
    find: impl FindSender,
) -> mpsc::Receiver<ShareEvent> {
    let (to, forwarded) = mpsc::channel(SHARE_EVENTS_MAX);
    let (questions, asked) = std::sync::mpsc::channel::<SenderQuestion>();
    let answer = move || {
        while let Ok(((share, path), reply)) = asked.recv() {
            let _ended = reply.send(find.sender(share, &path));
        }
    };
    std::thread::Builder::new()
        .name("senders".to_owned())
        .spawn(answer)
        .expect("a process that just started can start a thread");
    let loop_end = to.clone();
    let forward = async move {
        while let Some(mut event) = events.recv().await {
            if let ShareEvent::Put { share, path, entry } = &mut event
                && is_file(entry)
                && is_pushed(path.file_name())
            {
                let (reply, answer) = oneshot::channel();
                let _ended = questions.send(((*share, path.clone()), reply));
                if let Ok(Some(sender)) = answer.await {
                    entry.sent_by = Some(sender);
                }
            }
            if to.send(event).await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            // This task must not wait for the end of the shares: they end when their last handle is
            // dropped, and the lookup thread, which this task keeps alive, has one.
            () = loop_end.closed() => {}
            () = forward => {}
        }
    });
    forwarded
}

fn is_file(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { .. })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender as StdSender, channel};

    use super::*;
    use p2pfs_proto::wire::native::record::Timestamp;
    use p2pfs_types::digest::ContentHash;
    use p2pfs_types::id::NodeId;

    const SENDER: Sender = Sender::Node(NodeId::new([7; 32]));

    /// A disk that answers one lookup for each message, and reports its end.
    struct SlowDisk {
        answers: Receiver<()>,
        ended: StdSender<()>,
    }

    impl FindSender for SlowDisk {
        fn sender(&self, _: ShareIndex, _: &SharedPath) -> Option<Sender> {
            self.answers.recv().ok().map(|()| SENDER)
        }
    }

    impl Drop for SlowDisk {
        fn drop(&mut self) {
            let _ended = self.ended.send(());
        }
    }

    fn put(name: &str) -> ShareEvent {
        let time = Timestamp {
            seconds: 1,
            nanoseconds: 0,
        };
        ShareEvent::Put {
            share: ShareIndex(0),
            path: SharedPath::new(name.as_bytes()).unwrap(),
            entry: Entry {
                kind: Kind::File {
                    hash: ContentHash::of(b"x"),
                    size_bytes: 1,
                    executable: false,
                },
                mtime: time,
                version_time: time,
                sent_by: None,
                replaces: Vec::new(),
            },
        }
    }

    fn seen(event: Option<ShareEvent>) -> (String, Option<Sender>) {
        match event {
            Some(ShareEvent::Put { path, entry, .. }) => (path.to_string(), entry.sent_by),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_pushed_file_on_a_hung_disk_delays_share_events_and_not_the_loop() {
        let (events, received) = mpsc::channel(8);
        let (answer, answers) = channel();
        let (ended, has_ended) = channel();
        let disk = SlowDisk { answers, ended };
        let mut forwarded = forward(received, |name| name == b"pushed", disk);
        for name in ["own", "pushed", "last"] {
            events.send(put(name)).await.unwrap();
        }
        // The runtime has one thread, so it would stop here if the lookup blocked it.
        assert_eq!(seen(forwarded.recv().await), ("own".to_owned(), None));
        tokio::task::yield_now().await;
        assert!(forwarded.try_recv().is_err());
        answer.send(()).unwrap();
        let pushed = seen(forwarded.recv().await);
        assert_eq!(pushed, ("pushed".to_owned(), Some(SENDER)));
        assert_eq!(seen(forwarded.recv().await), ("last".to_owned(), None));
        // The thread and its handle of the shares end with the loop, although the shares go on.
        drop(forwarded);
        events.closed().await;
        has_ended.recv().unwrap();
    }
}
