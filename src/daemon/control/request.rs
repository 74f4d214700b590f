//! The border between the control socket and the node: calls arrive in one queue, each with its
//! caller and the sink for its replies.

use std::os::fd::OwnedFd;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::calls::Call;
use super::credentials::Credentials;
use super::failure::{Failure, FailureKind};
use super::turn::Turn;

/// A decoded and permitted call for the node to answer.
#[derive(Debug)]
pub struct ControlRequest {
    /// The call.
    pub call: Call,
    /// The caller, as the kernel reports it.
    pub caller: Credentials,
    /// The descriptor that arrived with the call.
    pub descriptor: Option<OwnedFd>,
    /// The turn of the caller's user, for work that needs a processor.
    pub turn: Turn,
    /// The sink for the replies. If it is dropped before the last reply, the caller receives a
    /// failure.
    pub reply: ReplySink,
}

/// Maximum replies of one call that wait for a slow caller. While this many wait,
/// [`ReplySink::more`] waits and [`ReplySink::try_more`] returns an error.
pub const PENDING_REPLIES_MAX: usize = 256;

/// A reply on its way to the caller.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The JSON of its parameters.
    pub(super) parameters: String,
    /// A descriptor that is sent with the reply.
    pub(super) descriptor: Option<OwnedFd>,
}

/// The error that the caller has closed its connection or reads too slowly, so that a further reply
/// is useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller of the control socket is gone")]
pub struct CallerGone;

/// The sender of the replies to one call.
#[derive(Debug)]
pub struct ReplySink {
    more: mpsc::Sender<Outgoing>,
    last: Option<oneshot::Sender<Result<Outgoing, Failure>>>,
}

/// The receiving end of a [`ReplySink`].
#[derive(Debug)]
pub(super) struct Replies {
    /// Replies before the last.
    pub(super) more: mpsc::Receiver<Outgoing>,
    /// The last reply.
    pub(super) last: oneshot::Receiver<Result<Outgoing, Failure>>,
}

impl ReplySink {
    /// Creates a sink and its receiving end.
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

    /// Sends one reply of several with a descriptor, which the caller receives as a copy. Waits
    /// while the caller is slow. Pass only descriptors that were opened for reading: the caller may
    /// be any local user.
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
    /// [`CallerGone`] if the caller is gone, or has [`PENDING_REPLIES_MAX`] unread replies.
    pub fn try_more(&self, reply: &impl Serialize) -> Result<(), CallerGone> {
        self.more
            .try_send(encode(reply, None))
            .map_err(|_| CallerGone)
    }

    /// Sends the last or only reply. Never waits.
    pub fn done(mut self, reply: &impl Serialize) {
        self.finish(Ok(encode(reply, None)));
    }

    /// Reports to the caller that the call failed. Never waits.
    pub fn fail(mut self, failure: Failure) {
        self.finish(Err(failure));
    }

    /// Returns the outcome of the work. If the caller closes its connection first, drops the work
    /// and returns `None`.
    pub async fn while_heard<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            outcome = work => Some(outcome),
            () = self.closed() => None,
        }
    }

    /// Waits until the caller is gone, so that work on its behalf can stop.
    pub async fn closed(&self) {
        self.more.closed().await;
    }

    /// Discards the sink without a reply, for a call that is answered in another way.
    pub(super) fn abandon(mut self) {
        self.last = None;
    }

    fn finish(&mut self, last: Result<Outgoing, Failure>) {
        if let Some(sender) = self.last.take() {
            // A caller that is gone needs no answer.
            let _gone = sender.send(last);
        }
    }
}

impl Drop for ReplySink {
    /// Reports to the caller that the work ended in a panic. Without one, work ends unanswered only
    /// with the daemon, and the caller may repeat the call at the next daemon.
    fn drop(&mut self) {
        let failure = if std::thread::panicking() {
            Failure::new(FailureKind::Failed, "the call ended in a fault of p2pfs")
                .with_remedy("its log says why: journalctl -u p2pfs")
        } else {
            Failure::new(FailureKind::Stopping, "the daemon is stopping")
                .with_remedy("try again in a moment")
        };
        self.finish(Err(failure));
    }
}

fn encode(reply: &impl Serialize, descriptor: Option<OwnedFd>) -> Outgoing {
    // A reply is a plain struct with text keys, which always has a JSON form.
    let parameters = serde_json::to_string(reply).unwrap_or_else(|_| "{}".to_owned());
    Outgoing {
        parameters,
        descriptor,
    }
}
