//! The border between a call and its answer: each call has parameters, the type of its last reply,
//! and one implementation of [`Answer`].
//!
//! [`Call::answer`](super::Call::answer) calls that implementation. The macro that declares the
//! calls generates `Call::answer`, so that a call without an answer does not compile.

use serde::Serialize;

use super::failure::Failure;
use super::request::ReplySink;

/// The parameters of one call.
pub trait Parameters {
    /// The type of the last reply.
    type ReplyBody: Serialize + Send + 'static;
}

/// The answer to a call, computed from its parameters and the context `C` of the caller.
pub trait Answer<C>: Parameters {
    /// Answers the call. Sends all replies but the last one through the context.
    ///
    /// # Errors
    /// The failure that the caller receives instead of the last reply.
    fn answer(
        self,
        context: &mut C,
    ) -> impl Future<Output = Result<Self::ReplyBody, Failure>> + Send;
}

/// The last reply of any call.
pub struct LastReply(Box<dyn FnOnce(ReplySink) + Send>);

impl LastReply {
    pub(super) fn new(reply: impl Serialize + Send + 'static) -> Self {
        Self(Box::new(move |sink: ReplySink| sink.done(&reply)))
    }

    /// Encodes and sends the reply. The encoding takes milliseconds of a processor if it has many
    /// names.
    pub fn send(self, sink: ReplySink) {
        (self.0)(sink);
    }
}
