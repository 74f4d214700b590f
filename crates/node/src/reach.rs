//! Dialling back nodes that ask whether they can be reached.
//!
//! A node is dialled only at its address in the membership, never at an address in its request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::own_thread::LoopTasks;
use super::published::Published;
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_transfer::net::peer::{PeerNet, Probed, ReplyTo};
use p2pfs_types::id::NodeId;

/// Maximum number of nodes dialled back at once. Further ones receive [`Response::Busy`].
const REACHES_AT_ONCE: usize = 4;

/// Answer to a member without a known address. Usually its datagrams do not arrive, or its clock is
/// so far ahead that its generation is refused. The time in the answer shows the second case.
const UNHEARD: &str = "no datagram of it is taken";

/// The slots for dialling back.
pub(super) struct DialBackSlots(Arc<Semaphore>);

impl Default for DialBackSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(REACHES_AT_ONCE)))
    }
}

impl DialBackSlots {
    /// Answers a request to be dialled, beside the loop.
    pub(super) fn answer(
        &self,
        net: &PeerNet,
        published: &Published,
        tasks: &mut LoopTasks,
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

/// Returns the answer with [`UNHEARD`].
fn unheard() -> Response {
    reached(UNHEARD.to_owned())
}

/// Dials the asking node and returns the result.
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
        Probed::Broken(_) => format!("connections to {address} break off"),
        Probed::Unreachable(why) => format!("{address}: {why}"),
        Probed::Member(_) | Probed::Stranger(_) | Probed::Ourselves | Probed::Other => {
            format!("another node answers on {address}")
        }
    };
    reached(trouble)
}

/// Returns the answer with the result and the time of this node.
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
    fn an_unheard_node_is_told_so_with_the_local_time() {
        let Response::Reached { unix_ms, trouble } = unheard() else {
            panic!("it is not an answer to the question");
        };
        assert!(unix_ms > 1_700_000_000_000, "{unix_ms}");
        assert_eq!(trouble, UNHEARD);
    }
}
