//! What the daemon answers on its control socket.
//!
//! Owns the translation between the node's own types and the plain ones of the interface. Each
//! call runs as a task of its own; what blocks on a disk runs on a blocking thread.

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

use super::config::{Config, ShareSettings};
use super::control::{
    Call, CallerGone, Check, ControlRequest, Failure, FailureKind, MountStatus, Policy, ReplySink,
    ServiceState,
};
use super::in_force::InForce;
use super::missing::Missing;
use super::mount_rights::MountRights;
use super::rates::{FetchRates, Rates};
use super::served::Served;
use p2pfs_node::door::Timestamp as FileTime;
use p2pfs_node::{Node, NodeError};
use p2pfs_proto::trust::Grant;

use gets::Gets;
pub(super) use pace::ProbePace;
use viewer::{Sight, Viewer};

/// What every answer can draw on.
pub(super) struct Service {
    pub node: Arc<Node>,
    /// The settings of the start.
    pub config: Config,
    /// Those that are in force.
    pub in_force: ArcSwap<InForce>,
    /// What is wrong with those that were read last, where they are not in force.
    pub refused_config: ArcSwapOption<String>,
    /// What cuts this node off from the others now.
    pub isolation: ArcSwap<Vec<Check>>,
    /// Held by whoever has everything looked at.
    pub checking: tokio::sync::Mutex<()>,
    /// When the daemon started.
    pub started: Timestamp,
    /// What the daemon is at.
    pub state: watch::Receiver<ServiceState>,
    /// The mount as it is now.
    pub mount: watch::Receiver<MountStatus>,
    /// What it does.
    pub served: Served,
    /// Ends the daemon, as SIGTERM does, but for good.
    pub leave: mpsc::Sender<()>,
    /// How fast bytes move.
    pub rates: Rates,
    /// How fast each file comes.
    pub fetch_rates: FetchRates,
    /// Who may do and see what.
    pub policy: Policy,
    /// What the mount lets users do.
    pub mount_rights: MountRights,
    /// Which users got which files lately.
    pub gets: Mutex<Gets>,
    /// How often each user may cost other nodes work.
    pub probes: ProbePace,
    /// The shares added by command, as they are kept.
    pub saved_shares: Mutex<Vec<ShareSettings>>,
    /// Those that could not be shared yet.
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

    /// After a restart the names of others are here again when the folder is mounted, and not
    /// before.
    async fn await_names(&self, call: &Call) {
        let mut state = self.state.clone();
        if call.is_about_names() {
            // ends otherwise only with the daemon
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

    /// The calls that name files of the folder.
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

    /// The calls that look at the cache or change what is in it.
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

    async fn answer_about_trust(&self, call: Call, reply: super::control::ReplySink) {
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

    /// Computes an answer and its JSON on a thread that may block, since both take milliseconds of
    /// a processor where there are many names.
    async fn compute<T: serde::Serialize>(
        self: &Arc<Self>,
        reply: ReplySink,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) {
        let service = self.clone();
        let computing = tokio::task::spawn_blocking(move || reply_with(reply, work(&service)));
        // a sink that a panic drops tells its caller
        let _panicked = computing.await;
    }

    /// Runs what waits for a disk where it holds up nobody.
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

/// The same for what may take long, and is of use to its caller alone.
async fn reply_while_heard<T: serde::Serialize>(
    reply: ReplySink,
    work: impl Future<Output = Result<T, Failure>>,
) {
    if let Some(outcome) = reply.while_heard(work).await {
        reply_with(reply, outcome);
    }
}

/// What a group of calls does with one that is not of it.
fn unanswered(call: &Call, reply: ReplySink) {
    let (method, _) = call.encode();
    reply.fail(failed(format!("a fault of p2pfs: nobody answers {method}")));
}

/// A sentence that says what is wrong and, behind a semicolon, what helps.
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

/// A file's time for people; one that no calendar has becomes the nearest that it has.
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
