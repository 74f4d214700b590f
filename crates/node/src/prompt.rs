//! Requests answered without the event loop: all requests for content, and pushes.

use std::sync::Arc;

use super::floods::{Flood, FloodMeter};
use super::inbox::Pushes;
use super::traffic::PeerBytes;
use p2pfs_proto::wire::native::tcp::{Request, Response};
use p2pfs_transfer::net::peer::{AnswerBeside, Incoming};
use p2pfs_transfer::{OnSent, Server};

/// Returns the handler that answers requests for content and pushes beside the loop, and returns
/// all other requests for the loop. It counts the bytes sent, and for [`FloodMeter`] the requests
/// left to the loop and the refused pushes of each host.
pub(super) fn answer_beside(
    server: &Server,
    sent: &PeerBytes,
    pushes: Pushes,
    floods: FloodMeter,
) -> AnswerBeside {
    let (server, sent) = (server.clone(), sent.clone());
    let sent: OnSent = Arc::new(move |to, bytes| sent.add(to, bytes));
    Arc::new(move |incoming: Incoming| {
        let Request::Push(push) = incoming.request else {
            let left = server.serve(incoming, &sent)?;
            floods.count(&left.from, left.addr, Flood::Questions);
            return Some(left);
        };
        let (pushes, floods) = (pushes.clone(), floods.clone());
        let (from, addr, reply) = (incoming.from, incoming.addr, incoming.reply);
        tokio::spawn(async move {
            let answer = pushes.answer(from, addr, push).await;
            if matches!(answer, Response::Refused { .. }) {
                floods.count(&from, addr, Flood::Refused);
            }
            reply.send(answer);
        });
        None
    })
}
