//! The answer about this moment: what is fetched, and who reads what.

use std::cmp::Reverse;
use std::time::Instant;

use jiff::Timestamp;

use super::{Service, Sight};
use crate::daemon::control::{
    Failure, Named, TRANSFERS_TOLD_MAX, Top, TransferInfo, TransferSource, is_one_user,
};
use p2pfs_node::door::FetchReport;
use p2pfs_types::digest::ContentHash;

impl Service {
    pub(super) async fn top(&self, sight: Sight) -> Result<Top, Failure> {
        let peers = self.peers().await?.peers;
        let (readers, other_readers) = self.served.readers(|uid| match sight {
            Sight::All => true,
            Sight::Own(own) => own == uid && is_one_user(own),
        });
        Ok(Top {
            time: Timestamp::now(),
            name: self.node.name().to_string(),
            cache: self.cache_usage(),
            traffic: self.traffic(),
            transfers: self.transfers(),
            peers,
            readers,
            other_readers,
        })
    }

    fn transfers(&self) -> Vec<TransferInfo> {
        let fetches = self.node.fetches().into_iter();
        let (rates, now) = (&self.fetch_rates, Instant::now());
        let speed =
            |fetch: &FetchReport| rates.per_second(now, &fetch.hash, fetch.received_bytes());
        let with_speed = fetches.map(|fetch| (speed(&fetch), fetch));
        // what nobody wants any more stays open for a while, and is not on its way
        let mut moving: Vec<_> = with_speed
            .filter(|(speed, fetch)| *speed > 0 || fetch.is_wanted())
            .collect();
        moving.sort_by_key(|(speed, fetch)| (Reverse(*speed), fetch.hash));
        moving.truncate(TRANSFERS_TOLD_MAX);
        let told = moving.into_iter();
        told.map(|(speed, fetch)| self.transfer_info(&fetch, speed))
            .collect()
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
