//! What is answered without the event loop: every question about content, and what is pushed.

use std::sync::Arc;

use super::inbox::Pushes;
use super::traffic::PeerBytes;
use p2pfs_proto::wire::native::tcp::Request;
use p2pfs_transfer::net::peer::{AnswerBeside, Incoming};
use p2pfs_transfer::{OnSent, Server};

/// Sees to questions about content and to pushes beside the loop, and counts what is sent.
pub(super) fn answer_beside(server: &Server, sent: &PeerBytes, pushes: Pushes) -> AnswerBeside {
    let (server, sent) = (server.clone(), sent.clone());
    let sent: OnSent = Arc::new(move |to, bytes| sent.add(to, bytes));
    Arc::new(move |incoming: Incoming| {
        let Request::Push(push) = incoming.request else {
            return server.serve(incoming, &sent);
        };
        let (pushes, from, reply) = (pushes.clone(), incoming.from, incoming.reply);
        tokio::spawn(async move {
            reply.send(pushes.answer(from, push).await);
        });
        None
    })
}
