//! Dialling back whoever asks whether it can be reached.
//!
//! A node is dialled at the address that the cluster knows of it and no other, so that nobody can
//! have strangers dialled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::own_thread::Beside;
use super::published::Published;
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_transfer::net::peer::{PeerNet, Probed, ReplyTo};
use p2pfs_types::id::NodeId;

/// Nodes that are dialled back at one time since they asked for it; others are told to ask again.
const REACHES_AT_ONCE: usize = 4;

/// What a member is told that is not known to be anywhere: one whose datagrams do not arrive, or
/// whose clock is so far ahead that its start is refused, which the time in the answer shows it.
const UNHEARD: &str = "no datagram of it is taken";

/// How many are dialled back.
pub(super) struct Reaching(Arc<Semaphore>);

impl Default for Reaching {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(REACHES_AT_ONCE)))
    }
}

impl Reaching {
    /// Answers who asks to be dialled, beside the loop.
    pub(super) fn answer(
        &self,
        net: &PeerNet,
        published: &Published,
        tasks: &mut Beside,
        from: NodeId,
        reply: ReplyTo,
    ) {
        let Some(address) = published.addresses.load().get(&from).copied() else {
            return reply.send(unheard());
        };
        let Ok(permit) = self.0.clone().try_acquire_owned() else {
            return reply.send(Response::Busy);
        };
        let dialling = dial_back(net.clone(), from, address, permit);
        tasks.spawn(async move { reply.send(dialling.await) });
    }
}

/// What is answered who was not heard: what time it is here may say why.
fn unheard() -> Response {
    reached(UNHEARD.to_owned())
}

/// Dials the asker and says how it went.
async fn dial_back(
    net: PeerNet,
    asker: NodeId,
    address: SocketAddr,
    _permit: OwnedSemaphorePermit,
) -> Response {
    let trouble = match net.probe(address).await {
        Probed::Member(node) if node == asker => String::new(),
        Probed::Closed => format!("{address} refuses connections"),
        Probed::Silent => format!("{address} does not answer"),
        Probed::Stalled => format!("{address} takes connections and does not answer"),
        Probed::Unreachable(why) => format!("{address}: {why}"),
        Probed::Member(_) | Probed::Stranger(_) | Probed::Ourselves | Probed::Other => {
            format!("another node answers on {address}")
        }
    };
    reached(trouble)
}

/// How it went, and what time it is here.
fn reached(trouble: String) -> Response {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_ms = now.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    });
    Response::Reached { unix_ms, trouble }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_heard_is_told_so_and_what_time_it_is_here() {
        let Response::Reached { unix_ms, trouble } = unheard() else {
            panic!("it is no answer to the question");
        };
        assert!(unix_ms > 1_700_000_000_000, "{unix_ms}");
        assert_eq!(trouble, UNHEARD);
    }
}
