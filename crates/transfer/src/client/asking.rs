//! Ways to send a request to another node: in a task that waits for the answer, or at once on the
//! calling thread with a callback for the answer.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::net::NetError;
use crate::net::peer::{OnAnswer, PeerNet, Progress};
use p2pfs_fetch::plan::Failure;
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_types::id::NodeId;

pub(super) type AnswerFuture = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;
/// Sends one request to one peer. Dropping the future cancels the request.
pub(super) type Ask =
    Arc<dyn Fn(NodeId, SocketAddr, Lane, Request, Option<Progress>) -> AnswerFuture + Send + Sync>;
/// Cancels a request.
pub(super) type TakeBack = Box<dyn FnOnce() + Send>;
/// Sends a request on the calling thread if a connection is ready, otherwise returns the callback.
pub(super) type AskAtOnce = Arc<
    dyn Fn(NodeId, Lane, &Request, OnAnswer, Option<Progress>) -> Result<TakeBack, OnAnswer>
        + Send
        + Sync,
>;
/// Receives the progress of a slow answer as it arrives: peer, request id, number of new bytes.
pub(super) type OnBytes = Arc<dyn Fn(NodeId, u64, u64) + Send + Sync>;

/// Ways to send a request.
#[derive(Clone)]
pub(super) struct RequestSender {
    pub ask: Ask,
    pub at_once: AskAtOnce,
}

impl RequestSender {
    /// Returns the ways to send requests over the connections of a network.
    pub(super) fn over(net: PeerNet) -> Self {
        let near = net.clone();
        let ask: Ask = Arc::new(move |node, address, lane, request, progress| {
            let net = net.clone();
            Box::pin(async move {
                net.request_telling(node, address, lane, request, progress)
                    .await
                    .map_err(|error| failure_of(&error))
            })
        });
        let at_once: AskAtOnce = Arc::new(move |node, lane, request, reply, progress| {
            let asked = near.request_at_once(node, lane, request, reply, progress)?;
            Ok(Box::new(move || asked.take_back()))
        });
        Self { ask, at_once }
    }
}

/// Returns the kind of failure for an answer that did not arrive.
pub(super) fn failure_of(error: &NetError) -> Failure {
    match error {
        NetError::Request(_)
        | NetError::TooManyConnections
        | NetError::OpenFiles { .. }
        | NetError::Closed => Failure::Ours,
        _ => Failure::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::peer::DropReason;
    use p2pfs_proto::wire::WireError;

    #[test]
    fn a_peer_is_not_blamed_for_an_answer_that_this_node_prevented() {
        let address = SocketAddr::from(([192, 0, 2, 1], 1378));
        for ours in [
            NetError::Request(WireError::Malformed { what: "it" }),
            NetError::TooManyConnections,
            NetError::OpenFiles {
                address,
                why: "ulimit -n".to_owned(),
            },
            NetError::Closed,
        ] {
            assert_eq!(failure_of(&ours), Failure::Ours, "{ours}");
        }
        for theirs in [
            NetError::NotMember { address },
            NetError::Lost {
                reason: DropReason::Silent,
            },
        ] {
            assert_eq!(failure_of(&theirs), Failure::Unreachable, "{theirs}");
        }
    }
}
