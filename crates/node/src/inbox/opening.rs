//! Opening an inbox at the start of its node. The start waits only a limited time, because the disk
//! may hang.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::store::{Inbox, InboxSettings};

/// How long the start waits for the inbox. If the disk answers in this time, the node accepts files
/// right after its start.
const OPENS_WITHIN: Duration = Duration::from_secs(5);

/// An inbox that may still be opening. [`Self::get`] returns `None` if no inbox is configured, if
/// the inbox could not be opened, and until its disk answers. Clones share their state.
#[derive(Clone, Default)]
pub struct InboxHandle {
    inbox: Arc<OnceLock<Inbox>>,
    is_set: bool,
}

impl InboxHandle {
    /// Begins to open the inbox and waits at most [`OPENS_WITHIN`]. Calls `warn` with the reason if
    /// the inbox is not open by then, and if it cannot be opened. Blocking.
    pub(crate) fn begin(
        settings: InboxSettings,
        warn: impl Fn(io::Error) + Clone + Send + 'static,
    ) -> Self {
        let opening = Self {
            is_set: true,
            ..Self::default()
        };
        let (inbox, failed) = (opening.inbox.clone(), warn.clone());
        let (opened, is_opened) = channel();
        let open = move || {
            match Inbox::open(settings) {
                Ok(open) => drop(inbox.set(open)),
                Err(error) => failed(error),
            }
            let _late = opened.send(());
        };
        // A thread of its own, so that the end of the node does not wait for it.
        let begun = thread::Builder::new().name("inbox".to_owned()).spawn(open);
        match begun.map(|_| is_opened.recv_timeout(OPENS_WITHIN)) {
            Ok(Err(RecvTimeoutError::Timeout)) => warn(silent()),
            Ok(_) => {}
            Err(error) => warn(error),
        }
        opening
    }

    /// Returns the inbox once it is open.
    pub fn get(&self) -> Option<&Inbox> {
        self.inbox.get()
    }

    /// Returns whether an inbox is configured.
    pub(super) fn is_set(&self) -> bool {
        self.is_set
    }
}

impl From<Inbox> for InboxHandle {
    fn from(inbox: Inbox) -> Self {
        Self {
            inbox: Arc::new(OnceLock::from(inbox)),
            is_set: true,
        }
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "its disk does not answer")
}
