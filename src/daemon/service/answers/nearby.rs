//! The check for nodes of other clusters on the local network.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use super::membership::{self, SAME_SECRET};
use super::{Services, network};
use crate::daemon::control::{Check, Failure};
use crate::daemon::service::seeds;
use p2pfs_node::Probed;

/// Maximum announced addresses that one check dials. Any host on the network can announce any
/// number of them.
const DIALLED_MAX: usize = 8;

/// Reports nodes that announce themselves by multicast DNS, answer, and are not in this cluster.
/// An announced address without a p2pfs node is left out, because it shows nothing about this node.
/// One that takes longer than `patience` to answer is left out too.
pub(super) async fn check_nearby(
    services: &Services,
    patience: Duration,
) -> Result<Vec<Check>, Failure> {
    let members = network::members(services).await?;
    let mut announced = services.node.peers().announced().await;
    announced.retain(|at| members.iter().all(|it| it.status.member.address != *at));
    let seeds = seeds::addresses(&services.settings.in_force.load().config.seeds);
    announced.retain(|at| !seeds.contains(at));
    let mut dialled = JoinSet::new();
    for address in announced.into_iter().take(DIALLED_MAX) {
        let node = services.node.clone();
        dialled.spawn(async move { (address, node.peers().probe(address, patience).await) });
    }
    let mut strangers = Vec::new();
    while let Some(Ok((address, probed))) = dialled.join_next().await {
        if let Probed::Stranger(node) = probed
            && !membership::refuses(services, &node)
        {
            strangers.push((node, address));
        }
    }
    strangers.sort();
    // A node with several addresses announces each on its link.
    strangers.dedup_by_key(|(node, _)| *node);
    let has_certificates = services.node.membership().view().has_ledger();
    let addresses = strangers.into_iter().map(|(_, address)| address);
    let report = |address| unjoined(address, has_certificates);
    Ok(addresses.map(report).collect())
}

fn unjoined(address: SocketAddr, has_certificates: bool) -> Check {
    let way = if has_certificates {
        "p2pfs invite there and p2pfs join - here"
    } else {
        SAME_SECRET
    };
    let found = format!(
        "a p2pfs node of another cluster announces itself at this address of the local network \
         (unverified: any machine there can do so); if it is yours: {way}"
    );
    Check::note(format!("nearby {address}"), found)
}
