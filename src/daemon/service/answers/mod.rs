//! The daemon's answers on its control socket.
//!
//! Owns the translation between the node's own types and the plain types of the interface. Each
//! call runs as its own task; work that blocks on a disk runs on a blocking thread.

mod cache;
mod content;
mod doctor;
mod fills;
mod foreign;
mod gets;
mod giving;
mod handing;
#[cfg(feature = "legacy")]
mod legacy;
mod limits;
mod membership;
#[cfg(feature = "legacy")]
mod mesh;
mod names;
mod network;
mod news;
mod node;
mod pace;
mod paths;
mod shares;
mod status;
mod top;
mod transfers;
mod trust;
mod viewer;
mod wait;
#[cfg(not(feature = "legacy"))]
mod without_legacy;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::effective_config::EffectiveConfig;
use super::missing::Missing;
use super::mount_rights::MountRights;
use super::rates::{Counter, Rates};
use super::served::Served;
use crate::daemon::config::{Config, ShareSettings};
use crate::daemon::control::{
    Call, CallerGone, ControlRequest, Failure, FailureKind, MountStatus, Policy, ReplySink,
    ServiceState, Subject,
};
use p2pfs_node::api::Timestamp as FileTime;
use p2pfs_node::{Node, NodeError};

use gets::Gets;
pub(super) use pace::ProbePace;
use viewer::{Sight, Viewer};

/// The state that all answers use.
pub(super) struct Service {
    pub node: Arc<Node>,
    /// The settings of the start.
    pub config: Config,
    /// The settings in force.
    pub in_force: ArcSwap<EffectiveConfig>,
    /// Why the settings that were last read were refused; `None` if they are in force.
    pub refused_config: ArcSwapOption<String>,
    /// Locked while a review of the conditions runs.
    pub reviewing: Arc<tokio::sync::Mutex<()>>,
    /// Locked while a checkup runs.
    pub checking: tokio::sync::Mutex<()>,
    /// When the daemon started.
    pub started: Timestamp,
    /// The phase of the daemon.
    pub state: watch::Receiver<ServiceState>,
    /// The current state of the mount.
    pub mount: watch::Receiver<MountStatus>,
    /// The activity of the mount.
    pub served: Served,
    /// Ends the daemon as SIGTERM does, but leaves the cluster for good.
    pub leave: mpsc::Sender<()>,
    /// The transfer rates of the node.
    pub rates: Rates,
    /// The rights of callers.
    pub policy: Policy,
    /// The rights of users in the mount.
    pub mount_rights: MountRights,
    /// The files that each user got lately.
    pub gets: Mutex<Gets>,
    /// The limits on probes of other nodes, for each user.
    pub probes: ProbePace,
    /// The saved shares, which were added by command.
    pub saved_shares: Mutex<Vec<ShareSettings>>,
    /// The shares that could not be added yet.
    pub missing_shares: Mutex<Missing>,
}

/// A call and all that its answer depends on.
struct Asked {
    call: Call,
    viewer: Viewer,
    /// The descriptor that arrived with the call.
    descriptor: Option<OwnedFd>,
    reply: ReplySink,
}

impl Service {
    /// Answers calls until the control socket is closed.
    pub(super) async fn serve(self: Arc<Self>, mut requests: mpsc::Receiver<ControlRequest>) {
        while let Some(request) = requests.recv().await {
            let service = self.clone();
            tokio::spawn(async move {
                service.await_names(&request.call).await;
                service.answer(request).await;
            });
        }
    }

    /// Delays a call about names until the start is complete. After a restart, the names of other
    /// nodes are known again once the folder is mounted.
    async fn await_names(&self, call: &Call) {
        let mut state = self.state.clone();
        if call.info().is_about_names {
            // Otherwise it ends only with the daemon.
            let _started = state.wait_for(|it| *it != ServiceState::Starting).await;
        }
    }

    async fn answer(self: Arc<Self>, request: ControlRequest) {
        let ControlRequest {
            call,
            caller,
            descriptor,
            turn,
            reply,
        } = request;
        let info = call.info();
        let _at_work = if info.is_prompt {
            turn.take().await
        } else {
            None
        };
        let asked = Asked {
            call,
            viewer: self.viewer(&caller),
            descriptor,
            reply,
        };
        match info.subject {
            Subject::Node => node::answer(self, asked).await,
            Subject::Names => names::answer(self, asked).await,
            Subject::Shares => shares::answer(self, asked).await,
            Subject::Trust => trust::answer(self, asked).await,
            Subject::Cache => cache::answer(self, asked).await,
            Subject::Giving => giving::answer(self, asked).await,
        }
    }

    /// Computes an answer and its JSON on a blocking thread, because both take milliseconds of a
    /// processor if there are many names.
    async fn compute<T: serde::Serialize>(
        self: &Arc<Self>,
        reply: ReplySink,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) {
        let service = self.clone();
        let computing = tokio::task::spawn_blocking(move || reply_with(reply, work(&service)));
        // A sink that a panic drops reports a failure to its caller.
        let _panicked = computing.await;
    }

    /// Runs work that waits for a disk on a blocking thread, where it delays no other task.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let service = self.clone();
        let outcome = tokio::task::spawn_blocking(move || work(&service)).await;
        outcome.unwrap_or_else(|_| Err(failed("a fault of p2pfs: the call ended in a panic")))
    }
}

fn reply_with<T: serde::Serialize>(reply: ReplySink, outcome: Result<T, Failure>) {
    match outcome {
        Ok(answer) => reply.done(&answer),
        Err(failure) => reply.fail(failure),
    }
}

/// Replies with the outcome of work that may take long. Drops the work if the caller disconnects.
async fn reply_while_heard<T: serde::Serialize>(
    reply: ReplySink,
    work: impl Future<Output = Result<T, Failure>>,
) {
    if let Some(outcome) = reply.while_heard(work).await {
        reply_with(reply, outcome);
    }
}

/// Reports a call whose subject in its declaration does not answer it.
fn unanswered(call: &Call, reply: ReplySink) {
    let (method, _) = call.encode();
    reply.fail(failed(format!("a fault of p2pfs: nobody answers {method}")));
}

/// Splits a problem into its cause and, behind a semicolon, its remedy.
fn told(problem: &str) -> (&str, Option<&str>) {
    match problem.split_once("; ") {
        Some((why, remedy)) => (why, Some(remedy)),
        None => (problem, None),
    }
}

fn failed(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Failed, message)
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let kind = match error {
            NodeError::Stopping => FailureKind::Stopping,
            _ => FailureKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CallerGone> for Failure {
    fn from(_: CallerGone) -> Self {
        failed("the caller is gone")
    }
}

/// Converts a file's time; a time beyond the calendar becomes its nearest end.
fn calendar_time(time: FileTime) -> Timestamp {
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or(0);
    Timestamp::new(time.seconds, nanoseconds).unwrap_or(if time.seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_beyond_the_calendar_is_shown_as_its_end() {
        let late = FileTime {
            seconds: i64::MAX,
            nanoseconds: 0,
        };
        let early = FileTime {
            seconds: i64::MIN,
            nanoseconds: 0,
        };
        assert_eq!(calendar_time(late), Timestamp::MAX);
        assert_eq!(calendar_time(early), Timestamp::MIN);
    }

    #[test]
    fn a_time_before_1970_keeps_its_nanoseconds() {
        let time = FileTime {
            seconds: -2,
            nanoseconds: 500_000_000,
        };
        assert_eq!(calendar_time(time).as_nanosecond(), -1_500_000_000);
    }
}
