//! The ways to ask another node: a task that waits for the answer, or the calling thread that
//! writes the question at once and has a reply called.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::net::NetError;
use crate::net::peer::{OnAnswer, PeerNet, Progress};
use p2pfs_fetch::plan::Failure;
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_types::id::NodeId;

pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;
/// Asks one peer one thing. Dropping the future takes the question back.
pub(super) type Ask =
    Arc<dyn Fn(NodeId, SocketAddr, Lane, Request, Option<Progress>) -> Answer + Send + Sync>;
/// Takes a question back.
pub(super) type TakeBack = Box<dyn FnOnce() + Send>;
/// The same on the calling thread, where a connection is ready for it; else gives the reply back.
pub(super) type AskAtOnce = Arc<
    dyn Fn(NodeId, Lane, &Request, OnAnswer, Option<Progress>) -> Result<TakeBack, OnAnswer>
        + Send
        + Sync,
>;
/// Told of bytes of an answer that takes its time: from whom, to which request, how many.
pub(super) type OnBytes = Arc<dyn Fn(NodeId, u64, u64) + Send + Sync>;

/// The ways to ask.
#[derive(Clone)]
pub(super) struct Asking {
    pub ask: Ask,
    pub at_once: AskAtOnce,
}

impl Asking {
    /// Over the connections of a network.
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

/// Whose fault it is that an answer did not come.
pub(super) fn failure_of(error: &NetError) -> Failure {
    match error {
        NetError::Request(_) | NetError::TooManyConnections | NetError::Closed => Failure::Ours,
        _ => Failure::Unreachable,
    }
}
