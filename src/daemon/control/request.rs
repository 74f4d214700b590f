//! The seam between the control socket and the node: calls come out of one queue, each with who
//! asks and where the replies go.

use std::os::fd::OwnedFd;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::call::Call;
use super::credentials::Credentials;
use super::failure::{Failure, FailureKind};
use super::turn::Turn;

/// One call, already decoded and allowed, for the node to answer.
#[derive(Debug)]
pub struct ControlRequest {
    /// What is asked.
    pub call: Call,
    /// Who asks, by the kernel's word.
    pub caller: Credentials,
    /// What came with the call.
    pub descriptor: Option<OwnedFd>,
    /// The turn of the caller's user, to be taken for work that needs a processor.
    pub turn: Turn,
    /// Where the replies go. Dropping it unanswered tells the caller that the call failed.
    pub reply: ReplySink,
}

/// Replies of one call that wait for a slow caller, at most; then [`ReplySink::more`] waits and
/// [`ReplySink::try_more`] gives up.
pub const PENDING_REPLIES_MAX: usize = 256;

/// A reply on its way to the caller.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The JSON of its parameters.
    pub(super) parameters: String,
    /// A descriptor that goes with it.
    pub(super) descriptor: Option<OwnedFd>,
}

/// The caller is gone, or too slow; there is nobody to answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller of the control socket is gone")]
pub struct CallerGone;

/// Where the replies to one call go.
#[derive(Debug)]
pub struct ReplySink {
    more: mpsc::Sender<Outgoing>,
    last: Option<oneshot::Sender<Result<Outgoing, Failure>>>,
}

/// The other end of a [`ReplySink`].
#[derive(Debug)]
pub(super) struct Replies {
    /// Replies before the last.
    pub(super) more: mpsc::Receiver<Outgoing>,
    /// The last.
    pub(super) last: oneshot::Receiver<Result<Outgoing, Failure>>,
}

impl ReplySink {
    /// A sink and the other end of it.
    pub(super) fn pair() -> (Self, Replies) {
        let (more, more_end) = mpsc::channel(PENDING_REPLIES_MAX);
        let (last, last_end) = oneshot::channel();
        (
            Self {
                more,
                last: Some(last),
            },
            Replies {
                more: more_end,
                last: last_end,
            },
        )
    }

    /// Sends one reply of several; waits while the caller is slow.
    ///
    /// # Errors
    /// [`CallerGone`]: stop the work.
    pub async fn more(&self, reply: &impl Serialize) -> Result<(), CallerGone> {
        self.more
            .send(encode(reply, None))
            .await
            .map_err(|_| CallerGone)
    }

    /// As [`Self::more`], with a descriptor that the caller gets a copy of. Give only what was
    /// opened for reading: the caller may be any local user.
    ///
    /// # Errors
    /// [`CallerGone`]: stop the work.
    pub async fn more_with(
        &self,
        reply: &impl Serialize,
        descriptor: OwnedFd,
    ) -> Result<(), CallerGone> {
        self.more
            .send(encode(reply, Some(descriptor)))
            .await
            .map_err(|_| CallerGone)
    }

    /// Sends one reply of several without waiting.
    ///
    /// # Errors
    /// [`CallerGone`] where the caller is gone, or has [`PENDING_REPLIES_MAX`] replies to read.
    pub fn try_more(&self, reply: &impl Serialize) -> Result<(), CallerGone> {
        self.more
            .try_send(encode(reply, None))
            .map_err(|_| CallerGone)
    }

    /// Sends the last or only reply. Never waits.
    pub fn done(mut self, reply: &impl Serialize) {
        self.finish(Ok(encode(reply, None)));
    }

    /// Tells the caller that the call failed. Never waits.
    pub fn fail(mut self, failure: Failure) {
        self.finish(Err(failure));
    }

    /// What some work comes to; nothing where the caller goes before, and then the work is dropped.
    pub async fn while_heard<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            outcome = work => Some(outcome),
            () = self.closed() => None,
        }
    }

    /// Returns when the caller is gone: work on its behalf can stop.
    pub async fn closed(&self) {
        self.more.closed().await;
    }

    /// Forgets the call; the caller is answered otherwise.
    pub(super) fn abandon(mut self) {
        self.last = None;
    }

    fn finish(&mut self, last: Result<Outgoing, Failure>) {
        if let Some(sender) = self.last.take() {
            // a caller that is gone needs no answer
            let _gone = sender.send(last);
        }
    }
}

impl Drop for ReplySink {
    fn drop(&mut self) {
        let failure = Failure::new(
            FailureKind::Failed,
            "the daemon gave the call up unanswered",
        )
        .with_remedy("its log says why: journalctl -u p2pfs");
        self.finish(Err(failure));
    }
}

fn encode(reply: &impl Serialize, descriptor: Option<OwnedFd>) -> Outgoing {
    // a reply is a plain struct with text keys, which always has a JSON form
    let parameters = serde_json::to_string(reply).unwrap_or_else(|_| "{}".to_owned());
    Outgoing {
        parameters,
        descriptor,
    }
}
