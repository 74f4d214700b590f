//! Offers: what this node has of the files that others want, found out beside the event loop, since
//! to look opens files.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::own_thread::Beside;
use p2pfs_fetch::Offer;
use p2pfs_proto::wire::native::udp::OfferSummary;
use p2pfs_transfer::Server;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::NodeId;

/// Offers that wait for the loop to send them.
const OFFERS_MAX: usize = 1024;
/// Questions of others that are looked into at one time; a further one is not heard, and comes
/// again.
const LOOKS_MAX: usize = 16;
/// A look that takes longer takes the place of no other any more, as over a disk that hangs.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// For whom, and what.
type Found = (NodeId, OfferSummary);

/// What is found for others.
pub(super) struct Offers {
    found: (mpsc::Sender<Found>, mpsc::Receiver<Found>),
    looks: Arc<Semaphore>,
}

impl Offers {
    pub(crate) fn new() -> Self {
        Self {
            found: mpsc::channel(OFFERS_MAX),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
        }
    }

    /// Looks what is here of some contents, for a node that wants them.
    pub(crate) fn look(
        &self,
        server: Server,
        tasks: &mut Beside,
        from: NodeId,
        hashes: Vec<ContentHash>,
    ) {
        let Ok(permit) = Arc::clone(&self.looks).try_acquire_owned() else {
            return;
        };
        let found = self.found.0.clone();
        let look = move || {
            for hash in &hashes {
                if let Some(offer) = server.offer_for(from, hash) {
                    // where too many wait, this one is not missed: who wants it asks again
                    let _full = found.try_send((from, offer));
                }
            }
        };
        tasks.spawn(async move {
            let _permit = permit;
            let _late = timeout(LOOK_PATIENCE, tokio::task::spawn_blocking(look)).await;
        });
    }

    /// The next offer, and for whom.
    pub(crate) async fn next(&mut self) -> Option<Found> {
        self.found.1.recv().await
    }
}

pub(super) fn offer_of(node: NodeId, summary: &OfferSummary) -> Offer {
    Offer {
        node,
        content: ContentKey::new(summary.hash, summary.size_bytes),
        all: summary.all,
        ranges: summary.ranges.iter().copied().collect(),
        load: summary.load,
    }
}
