//! The answer about current activity: transfers and readers.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::{Counter, Service, Viewer};
use crate::daemon::control::{
    Failure, Named, PeerInfo, TRANSFERS_TOLD_MAX, Top, TransferInfo, TransferSource,
};
use p2pfs_node::api::FetchReport;
use p2pfs_types::digest::ContentHash;

impl Service {
    pub(super) async fn top(self: &Arc<Self>, viewer: Viewer) -> Result<Top, Failure> {
        let peers = self.peers().await?.peers;
        self.blocking(move |service| Ok(service.top_beside(peers, &viewer)))
            .await
    }

    /// Adds the current activity to the given peers.
    fn top_beside(&self, peers: Vec<PeerInfo>, viewer: &Viewer) -> Top {
        let (mut readers, other_readers) = self.served.readers(|uid| viewer.sees_user(uid));
        let now = Instant::now();
        for reader in &mut readers {
            let (pid, uid) = (reader.pid, reader.uid);
            let bytes = reader.given.from_cache_bytes + reader.given.from_peers_bytes;
            let counter = Counter::Reader { pid, uid };
            reader.read_bytes_per_s = self.rates.per_second(now, counter, bytes);
        }
        let (transfers, other_transfers) = self.transfers(viewer);
        Top {
            time: Timestamp::now(),
            name: self.node.name_of(&self.node.id()),
            cache: self.cache_usage(),
            traffic: self.traffic(),
            transfers,
            other_transfers,
            peers,
            readers,
            other_readers,
        }
    }

    /// Returns the transfers that a caller may see, and the number of further transfers of other
    /// users.
    fn transfers(&self, viewer: &Viewer) -> (Vec<TransferInfo>, u64) {
        let fetches = self.node.fetches().into_iter();
        let (rates, now) = (&self.rates, Instant::now());
        let speed = |fetch: &FetchReport| {
            rates.per_second(now, Counter::File(fetch.hash), fetch.received_bytes())
        };
        let with_speed = fetches.map(|fetch| (speed(&fetch), fetch));
        // A fetch that no reader or fill needs stays open for a while, but is not a transfer.
        let mut moving: Vec<_> = with_speed
            .filter(|(speed, fetch)| *speed > 0 || fetch.is_wanted())
            .collect();
        let all = moving.len();
        if !viewer.sees_transfers() {
            let own = self.read_by(viewer);
            moving.retain(|(_, fetch)| own.contains(&fetch.hash));
        }
        let others = (all - moving.len()) as u64;
        moving.sort_by_key(|(speed, fetch)| (Reverse(*speed), fetch.hash));
        moving.truncate(TRANSFERS_TOLD_MAX);
        let told = moving.into_iter();
        let told = told.map(|(speed, fetch)| self.transfer_info(&fetch, speed));
        (told.collect(), others)
    }

    fn transfer_info(&self, fetch: &FetchReport, receive_bytes_per_s: u64) -> TransferInfo {
        let sources = fetch.sources.iter();
        let mut sources: Vec<_> = sources
            .map(|(node, source)| TransferSource {
                name: self.node.name_of(node),
                received_bytes: source.received_bytes,
                asked_bytes: source.asked_bytes,
            })
            .collect();
        sources.sort_by_key(|source| (Reverse(source.received_bytes), source.name.clone()));
        TransferInfo {
            path: self.any_name_of(&fetch.hash),
            hash: fetch.hash.to_string(),
            size_bytes: fetch.size_bytes,
            ready_bytes: fetch.ready_bytes,
            received_bytes: fetch.received_bytes(),
            receive_bytes_per_s,
            waiting_reads: fetch.waiting as u64,
            whole: fetch.is_filling,
            sources,
        }
    }

    fn any_name_of(&self, hash: &ContentHash) -> Named {
        let names = self.node.names_of(hash, 1);
        match names.first() {
            Some(path) => Named::new(path.as_bytes()),
            None => Named::new(format!(".p2pfs/by-hash/{hash}")),
        }
    }
}
