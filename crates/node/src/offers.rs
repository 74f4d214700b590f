//! Offers of contents that other nodes want. They are looked up beside the event loop, because a
//! lookup opens files.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::own_thread::LoopTasks;
use p2pfs_fetch::Offer;
use p2pfs_proto::wire::native::udp::OfferSummary;
use p2pfs_transfer::Server;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::NodeId;

/// Maximum number of offers queued to be sent by the loop.
const OFFERS_MAX: usize = 1024;
/// Maximum number of requests whose lookups run at once. Further requests are dropped, and the
/// asking node repeats them.
const LOOKUPS_MAX: usize = 16;
/// Time after which a slow lookup, for example on a hung disk, gives back its slot.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(1);

/// The receiver of an offer, and the offer.
type FoundOffer = (NodeId, OfferSummary);

/// The lookups and their results.
pub(super) struct OfferLookups {
    found: (mpsc::Sender<FoundOffer>, mpsc::Receiver<FoundOffer>),
    slots: Arc<Semaphore>,
}

impl OfferLookups {
    pub(crate) fn new() -> Self {
        Self {
            found: mpsc::channel(OFFERS_MAX),
            slots: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    /// Starts to look up which of these contents are here, for a node that wants them.
    pub(crate) fn start_lookup(
        &self,
        server: Server,
        tasks: &mut LoopTasks,
        from: NodeId,
        hashes: Vec<ContentHash>,
    ) {
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else {
            return;
        };
        let found = self.found.0.clone();
        let look_up = move || {
            for hash in &hashes {
                if let Some(offer) = server.offer_for(from, hash) {
                    // If the queue is full, the offer is dropped: the asking node repeats its
                    // request.
                    let _full = found.try_send((from, offer));
                }
            }
        };
        tasks.spawn(async move {
            let _permit = permit;
            let _late = timeout(LOOKUP_PATIENCE, tokio::task::spawn_blocking(look_up)).await;
        });
    }

    /// Returns the next offer and its receiver.
    pub(crate) async fn next(&mut self) -> Option<FoundOffer> {
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
