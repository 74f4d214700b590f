//! The daemon's answers on its control socket.
//!
//! Owns the translation between the node's own types and the plain types of the interface. Each
//! call runs as its own task; work that blocks on a disk runs on a blocking thread.

mod cache;
mod content;
mod doctor;
mod fills;
mod gets;
mod giving;
mod handing;
mod legacy;
mod limits;
mod membership;
mod names;
mod network;
mod news;
mod pace;
mod paths;
mod shares;
mod status;
mod top;
mod transfers;
mod trust;
mod viewer;
mod wait;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::in_force::InForce;
use super::missing::Missing;
use super::mount_rights::MountRights;
use super::rates::{FetchRates, Rates};
use super::served::Served;
use crate::daemon::config::{Config, ShareSettings};
use crate::daemon::control::{
    Call, CallerGone, Check, ControlRequest, Failure, FailureKind, MountStatus, Policy, ReplySink,
    ServiceState,
};
use p2pfs_node::door::Timestamp as FileTime;
use p2pfs_node::{Node, NodeError};
use p2pfs_proto::trust::Grant;

use gets::Gets;
pub(super) use pace::ProbePace;
use viewer::{Sight, Viewer};

/// The state that all answers use.
pub(super) struct Service {
    pub node: Arc<Node>,
    /// The settings of the start.
    pub config: Config,
    /// The settings in force.
    pub in_force: ArcSwap<InForce>,
    /// Why the settings that were last read were refused; `None` if they are in force.
    pub refused_config: ArcSwapOption<String>,
    /// The current causes that cut this node off from the others.
    pub isolation: ArcSwap<Vec<Check>>,
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
    /// The transfer rate of each file.
    pub fetch_rates: FetchRates,
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
        if call.is_about_names() {
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
        let viewer = self.viewer(&caller);
        let sight = viewer.sight;
        let _at_work = if call.is_prompt() {
            turn.take().await
        } else {
            None
        };
        match call {
            Call::Status {} => self.compute(reply, move |s| Ok(s.status(sight))).await,
            Call::Top {} => reply_with(reply, self.top(viewer).await),
            Call::Peers {} => reply_with(reply, self.peers().await),
            Call::Ping { peer } => reply_while_heard(reply, self.ping(&peer, sight)).await,
            Call::Doctor {} => self.doctor_in_turn(sight, reply).await,
            Call::Settings {} => reply_with(reply, Ok(self.in_force.load().shown.clone())),
            Call::Limits {} => reply_with(reply, Ok(self.limits())),
            Call::SetLimits {
                up_bytes_per_s,
                down_bytes_per_s,
                metered,
            } => {
                let rates = (up_bytes_per_s, down_bytes_per_s);
                reply_with(reply, self.set_limits(rates, metered));
            }
            Call::Ls { .. }
            | Call::Get { .. }
            | Call::Wait { .. }
            | Call::Why { .. }
            | Call::Events { .. } => self.answer_about_names(call, viewer, reply).await,
            Call::Send { name, to } => self.send(name, &to, descriptor, reply).await,
            Call::Say { text } => reply_with(reply, self.say(&text).await),
            Call::Mesh { connect, discover } => {
                reply_with(reply, self.mesh(connect.as_deref(), discover).await);
            }
            Call::Shares {}
            | Call::Mine { .. }
            | Call::ShareAdd { .. }
            | Call::ShareRemove { .. } => self.answer_about_shares(call, viewer, reply).await,
            Call::Invite { .. }
            | Call::Join { .. }
            | Call::Leave {}
            | Call::Admitted { .. }
            | Call::Expel { .. }
            | Call::Rotate {}
            | Call::Own { .. }
            | Call::Trust {}
            | Call::Forget { .. } => self.answer_about_trust(call, reply).await,
            Call::CacheLs { .. }
            | Call::CacheClear {}
            | Call::CacheVerify {}
            | Call::CacheResize { .. }
            | Call::Pin { .. }
            | Call::Unpin { .. }
            | Call::Prefetch { .. } => self.answer_about_cache(call, viewer, reply).await,
        }
    }

    /// Answers the calls that name files of the folder.
    async fn answer_about_names(self: Arc<Self>, call: Call, viewer: Viewer, reply: ReplySink) {
        match call {
            Call::Ls { path, after } => {
                let work = move |s: &Self| s.list(&path, after.as_ref(), &viewer);
                self.compute(reply, work).await;
            }
            Call::Get { path } => self.get(path, &viewer, reply).await,
            Call::Wait {
                mounted,
                peers,
                file,
                timeout_ms,
            } => {
                let wanted = wait::Wanted {
                    mounted,
                    peers,
                    file,
                };
                reply_while_heard(reply, self.wait(wanted, timeout_ms, &viewer)).await;
            }
            Call::Why { path } => self.compute(reply, move |s| s.why(&path, &viewer)).await,
            Call::Events { follow } => self.tell_events(follow, &viewer, reply).await,
            other => unanswered(&other, reply),
        }
    }

    /// Answers the calls that read or change the cache.
    async fn answer_about_cache(self: Arc<Self>, call: Call, viewer: Viewer, reply: ReplySink) {
        match call {
            Call::CacheLs { after } => {
                let work = move |s: &Self| s.list_cache(after.as_deref(), &viewer);
                self.compute(reply, work).await;
            }
            Call::CacheClear {} => reply_with(reply, self.blocking(|s| s.clear_cache()).await),
            Call::CacheVerify {} => self.verify_cache(reply).await,
            Call::CacheResize { budget_bytes } => {
                reply_with(
                    reply,
                    self.blocking(move |s| s.resize_cache(budget_bytes)).await,
                );
            }
            Call::Pin { paths } => reply_with(reply, self.pin(paths, true, viewer).await),
            Call::Unpin { paths } => reply_with(reply, self.pin(paths, false, viewer).await),
            Call::Prefetch { paths, anyway } => {
                self.prefetch(paths, anyway, viewer, reply).await;
            }
            other => unanswered(&other, reply),
        }
    }

    async fn answer_about_trust(&self, call: Call, reply: ReplySink) {
        match call {
            Call::Invite {
                lifetime_s,
                admin,
                name,
            } => reply_with(reply, self.invite(lifetime_s, Grant { admin, name })),
            Call::Admitted { peer } => reply_with(reply, self.admitted(&peer)),
            Call::Expel {
                peer,
                with_admitted,
            } => reply_with(reply, self.expel(&peer, with_admitted).await),
            Call::Rotate {} => reply_with(reply, self.rotate().await),
            Call::Own { path, peer } => reply_with(reply, self.own(&path, peer).await),
            Call::Trust {} => reply_with(reply, Ok(self.trust())),
            Call::Forget { peer } => reply_with(reply, self.forget(&peer).await),
            Call::Join { token } => reply_with(reply, self.join(&token).await),
            Call::Leave {} => reply_with(reply, self.leave_cluster().await),
            other => unanswered(&other, reply),
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

/// Reports a call that reached the wrong group of calls.
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
    fn a_time_beyond_any_calendar_is_shown_as_its_end() {
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
