//! The daemon's answers on its control socket.
//!
//! Owns the translation between the node's own types and the plain types of the interface. Each
//! call runs as its own task; work that blocks on a disk runs on a blocking thread. Begin with
//! [`serve`]. The other files implement `control::Answer` for each call.

pub(super) mod cache;
mod content;
pub(super) mod doctor;
mod fills;
mod giving;
#[cfg(feature = "legacy")]
mod legacy;
pub(super) mod limits;
mod lost;
pub(super) mod membership;
#[cfg(feature = "legacy")]
mod mesh;
mod names;
mod nearby;
pub(super) mod network;
pub(super) mod news;
mod pace;
mod paths;
mod presence;
pub(super) mod shares;
pub(super) mod status;
mod top;
mod transfers;
pub(super) mod trust;
mod viewer;
mod wait;
#[cfg(not(feature = "legacy"))]
mod without_legacy;
mod writing;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::services::Services;
use crate::daemon::control::{Call, CallerGone, ControlRequest, Failure, FailureKind, ReplySink};
use p2pfs_node::NodeError;
use p2pfs_node::api::Timestamp as FileTime;

pub(super) use pace::ProbePace;
pub(super) use transfers::Gets;
pub(super) use viewer::{Sight, Viewer};
#[cfg(not(feature = "legacy"))]
use without_legacy::{self as legacy, self as mesh};

/// A caller, and all that the answer to its call depends on besides the parameters.
struct Asked {
    services: Arc<Services>,
    viewer: Viewer,
    /// The descriptor that arrived with the call.
    descriptor: Option<OwnedFd>,
    reply: ReplySink,
}

impl Asked {
    /// Runs work on a blocking thread, because it waits for a disk or takes milliseconds of a
    /// processor.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Services) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        blocking(&self.services, work).await
    }

    /// Runs work that may take long. Drops the work if the caller disconnects.
    async fn while_heard<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = self.reply.while_heard(work).await;
        outcome.unwrap_or_else(|| Err(CallerGone.into()))
    }
}

/// Answers calls until the control socket is closed.
pub(super) async fn serve(services: Arc<Services>, mut requests: mpsc::Receiver<ControlRequest>) {
    while let Some(request) = requests.recv().await {
        let services = services.clone();
        tokio::spawn(async move {
            await_names(&services, &request.call).await;
            answer(services, request).await;
        });
    }
}

/// Delays a call about names until the start is complete.
async fn await_names(services: &Services, call: &Call) {
    if call.info().is_about_names {
        services.lifecycle.wait_for_start().await;
    }
}

async fn answer(services: Arc<Services>, request: ControlRequest) {
    let ControlRequest {
        call,
        caller,
        descriptor,
        turn,
        reply,
    } = request;
    let _at_work = if call.info().is_prompt {
        turn.take().await
    } else {
        None
    };
    let mut asked = Asked {
        viewer: services.rights.viewer(&caller),
        services,
        descriptor,
        reply,
    };
    let outcome = call.answer(&mut asked).await;
    let encoding = tokio::task::spawn_blocking(move || match outcome {
        Ok(last) => last.send(asked.reply),
        Err(failure) => asked.reply.fail(failure),
    });
    // If `send` panics, the reply sink is dropped and reports a failure to the caller.
    let _panicked = encoding.await;
}

/// Runs work that waits for a disk on a blocking thread, where it delays no other task.
async fn blocking<T: Send + 'static>(
    services: &Arc<Services>,
    work: impl FnOnce(&Services) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let services = services.clone();
    let outcome = tokio::task::spawn_blocking(move || work(&services)).await;
    outcome.unwrap_or_else(|ended| {
        // The runtime cancels work that has not begun if the daemon ends.
        Err(if ended.is_cancelled() {
            Failure::new(FailureKind::Stopping, "the daemon is stopping")
        } else {
            failed("a fault of p2pfs: the call ended in a panic")
        })
    })
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
