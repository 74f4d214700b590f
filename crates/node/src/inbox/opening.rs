//! Opening an inbox beside the start of its node, which waits a little and not for ever: the disk
//! may stand still.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::store::{Inbox, InboxSettings};

/// How long the start waits, so that who sends a file to a node that just started is taken it from.
const OPENS_WITHIN: Duration = Duration::from_secs(5);

/// An inbox, or none where there is none or its disk has not answered yet. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Opening {
    inbox: Arc<OnceLock<Inbox>>,
    is_set: bool,
}

impl Opening {
    /// Begins to open it, and waits a little. `warn` is told why it is not there, where it is not.
    /// Blocking.
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
        // of its own: nobody waits for it when the node ends
        let begun = thread::Builder::new().name("inbox".to_owned()).spawn(open);
        match begun.map(|_| is_opened.recv_timeout(OPENS_WITHIN)) {
            Ok(Err(RecvTimeoutError::Timeout)) => warn(silent()),
            Ok(_) => {}
            Err(error) => warn(error),
        }
        opening
    }

    /// Once it is open.
    pub(crate) fn get(&self) -> Option<&Inbox> {
        self.inbox.get()
    }

    /// Whether there is to be one.
    pub(super) fn is_set(&self) -> bool {
        self.is_set
    }
}

impl From<Inbox> for Opening {
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
