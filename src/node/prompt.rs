//! What is answered without the event loop: every question about content.

use std::sync::Arc;

use super::traffic::SentBytes;
use crate::net::peer::AnswerBeside;
use crate::transfer::{OnSent, Server};

/// Sees to questions about content beside the loop, and counts what is sent.
pub(super) fn answer_beside(server: &Server, sent: &SentBytes) -> AnswerBeside {
    let (server, sent) = (server.clone(), sent.clone());
    let sent: OnSent = Arc::new(move |to, bytes| sent.add(to, bytes));
    Arc::new(move |incoming| server.serve(incoming, &sent))
}
