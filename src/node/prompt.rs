//! What is answered without the event loop: small ranges of files that are being served already.

use std::sync::Arc;

use super::traffic::SentBytes;
use crate::net::peer::AnswerAtOnce;
use crate::transfer::Server;
use crate::wire::native::tcp::Request;

/// Answers on the task of the asker's connection, and counts what it sends.
pub(super) fn answer_at_once(server: &Server, sent: &SentBytes) -> AnswerAtOnce {
    let (server, sent) = (server.clone(), sent.clone());
    Arc::new(move |from, request| {
        let response = server.answer_at_once(from, request)?;
        if let Request::Range { range, .. } = request {
            sent.add(from, range.len());
        }
        Some(response)
    })
}
