//! The answer about current activity: transfers and readers.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::{Asked, Services, Viewer, status, transfers};
use crate::daemon::control::{
    Answer, Failure, Named, PeerInfo, TRANSFERS_TOLD_MAX, Top, TransferInfo, TransferSource,
    parameters,
};
use crate::daemon::service::rates::{Counter, CurrentRates};
use p2pfs_node::api::FetchReport;
use p2pfs_types::digest::ContentHash;

impl Answer<Asked> for parameters::Top {
    async fn answer(self, asked: &mut Asked) -> Result<Top, Failure> {
        let (peers, rates) = status::peers_and_rates(&asked.services).await?;
        let viewer = asked.viewer;
        asked
            .blocking(move |services| Ok(top_beside(services, peers.peers, &rates, &viewer)))
            .await
    }
}

/// Adds the current activity to the given peers. All rates are those of the same seconds.
fn top_beside(
    services: &Services,
    peers: Vec<PeerInfo>,
    rates: &CurrentRates,
    viewer: &Viewer,
) -> Top {
    let (mut readers, other_readers) = services
        .activity
        .served
        .readers(|uid| viewer.sees_user(uid));
    for reader in &mut readers {
        let (pid, uid) = (reader.pid, reader.uid);
        let bytes = reader.given.from_cache_bytes + reader.given.from_peers_bytes;
        let counter = Counter::Reader { pid, uid };
        reader.read_bytes_per_s = rates.per_second(counter, bytes);
    }
    let (transfers, other_transfers) = transfers(services, rates, viewer);
    Top {
        time: Timestamp::now(),
        name: services.node.peers().name_of(&services.node.id()),
        cache: status::cache_usage(services),
        traffic: status::traffic(services, rates),
        transfers,
        other_transfers,
        peers,
        readers,
        other_readers,
    }
}

/// Returns the transfers that a caller may see, and the number of further transfers of other
/// users.
fn transfers(
    services: &Services,
    rates: &CurrentRates,
    viewer: &Viewer,
) -> (Vec<TransferInfo>, u64) {
    let fetches = services.node.files().fetches().into_iter();
    let speed =
        |fetch: &FetchReport| rates.per_second(Counter::File(fetch.hash), fetch.received_bytes());
    let with_speed = fetches.map(|fetch| (speed(&fetch), fetch));
    // A fetch that no reader or fill needs stays open for a while. It counts as a transfer only
    // while bytes arrive.
    let mut moving: Vec<_> = with_speed
        .filter(|(speed, fetch)| *speed > 0 || fetch.is_wanted())
        .collect();
    let all = moving.len();
    if !viewer.sees_transfers() {
        let own = transfers::read_by(services, viewer);
        moving.retain(|(_, fetch)| own.contains(&fetch.hash));
    }
    let others = (all - moving.len()) as u64;
    moving.sort_by_key(|(speed, fetch)| (Reverse(*speed), fetch.hash));
    moving.truncate(TRANSFERS_TOLD_MAX);
    let told = moving.into_iter();
    let told = told.map(|(speed, fetch)| transfer_info(services, &fetch, speed));
    (told.collect(), others)
}

fn transfer_info(
    services: &Services,
    fetch: &FetchReport,
    receive_bytes_per_s: u64,
) -> TransferInfo {
    let sources = fetch.sources.iter();
    let mut sources: Vec<_> = sources
        .map(|(node, source)| TransferSource {
            name: services.node.peers().name_of(node),
            received_bytes: source.received_bytes,
            asked_bytes: source.asked_bytes,
        })
        .collect();
    sources.sort_by_key(|source| (Reverse(source.received_bytes), source.name.clone()));
    TransferInfo {
        path: any_name_of(services, &fetch.hash),
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

fn any_name_of(services: &Services, hash: &ContentHash) -> Named {
    let names = services.node.names().names_of(hash, 1);
    match names.first() {
        Some(path) => Named::new(path.as_bytes()),
        None => Named::new(format!(".p2pfs/by-hash/{hash}")),
    }
}
