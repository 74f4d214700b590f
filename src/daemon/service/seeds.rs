//! Seeds with host names. They are resolved in the background, so that a name that does not resolve
//! delays nothing.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::journal::{self, message};
use crate::daemon::config::Seed;
use p2pfs_node::{Node, resolve_host};

/// Interval between resolutions. Addresses change, and an unresolved name may resolve later.
const PERIOD: Duration = Duration::from_secs(30);

/// Returns the seeds that are addresses, which need no resolution.
pub(super) fn addresses(seeds: &[Seed]) -> Vec<SocketAddr> {
    let plain = seeds.iter();
    plain
        .filter_map(|seed| Some(SocketAddr::new(seed.ip()?, seed.port())))
        .collect()
}

/// Resolves a seed to all its addresses; returns none if its name does not resolve. Adds both
/// loopback addresses for `localhost`, because a resolver may know only one of them (RFC 6761,
/// section 6.3).
pub(super) async fn resolve(seed: &Seed) -> Vec<SocketAddr> {
    if let Some(ip) = seed.ip() {
        return vec![SocketAddr::new(ip, seed.port())];
    }
    let found = resolve_host(seed.host(), seed.port()).await;
    let mut found = found.unwrap_or_default();
    if seed.host().eq_ignore_ascii_case("localhost") {
        let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        found.extend(both.map(|ip: IpAddr| SocketAddr::new(ip, seed.port())));
    }
    found.sort();
    found.dedup();
    found
}

/// The seeds with host names, and those that do not resolve.
pub(super) struct NamedSeeds {
    seeds: Mutex<Vec<Seed>>,
    unresolved: Mutex<HashSet<String>>,
}

impl NamedSeeds {
    /// Takes the seeds of a configuration.
    pub(super) fn new(seeds: &[Seed]) -> Arc<Self> {
        let this = Self {
            seeds: Mutex::default(),
            unresolved: Mutex::default(),
        };
        this.replace(seeds);
        Arc::new(this)
    }

    /// Replaces the seeds by those of another configuration.
    pub(super) fn replace(&self, seeds: &[Seed]) {
        let named = seeds.iter().filter(|seed| seed.ip().is_none()).cloned();
        *self.seeds.lock() = named.collect();
    }

    /// Resolves all names now and every half minute, concurrently, and passes the addresses to the
    /// node.
    pub(super) async fn follow(self: Arc<Self>, node: Arc<Node>) {
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tick.tick().await;
            self.clone().greet(&node).await;
        }
    }

    /// Resolves all names once and passes the addresses to the node.
    pub(super) async fn greet(self: Arc<Self>, node: &Arc<Node>) {
        let mut asked = JoinSet::new();
        for seed in self.seeds.lock().clone() {
            let (this, node) = (self.clone(), node.clone());
            asked.spawn(async move {
                for address in this.resolve(&seed).await {
                    let _stopping = node.peers().add_seed(address).await;
                }
            });
        }
        while asked.join_next().await.is_some() {}
    }

    /// Resolves a name. Logs a failure once, until the name resolves again.
    async fn resolve(&self, seed: &Seed) -> Vec<SocketAddr> {
        let found = resolve(seed).await;
        let name = seed.to_string();
        if !found.is_empty() {
            self.unresolved.lock().remove(&name);
        } else if self.unresolved.lock().insert(name) {
            journal::warn(
                message::SEED_UNKNOWN,
                &format!("the seed {seed} does not resolve; it is asked for every 30 seconds"),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(text: &str) -> Seed {
        text.parse().unwrap()
    }

    #[test]
    fn a_seed_given_as_an_address_is_never_resolved() {
        let seeds = [seed("10.0.0.1:1378"), seed("lab.example:1378")];
        assert_eq!(addresses(&seeds), ["10.0.0.1:1378".parse().unwrap()]);
        let named = NamedSeeds::new(&seeds);
        assert_eq!(*named.seeds.lock(), [seed("lab.example:1378")]);
        named.replace(&[]);
        assert!(named.seeds.lock().is_empty());
    }

    #[tokio::test]
    async fn localhost_has_an_address_of_each_family() {
        let found = resolve(&seed("localhost:1378")).await;
        for address in ["127.0.0.1:1378", "[::1]:1378"] {
            let address = address.parse().unwrap();
            let times = found.iter().filter(|it| **it == address).count();
            assert_eq!(times, 1, "{found:?}");
        }
    }

    #[tokio::test]
    async fn a_failed_resolution_is_remembered_until_it_succeeds() {
        let named = NamedSeeds::new(&[]);
        let unknown = seed("no-such-host.invalid:1378");
        assert!(named.resolve(&unknown).await.is_empty());
        assert!(named.unresolved.lock().contains(&unknown.to_string()));
        let known = seed("localhost:1378");
        assert!(!named.resolve(&known).await.is_empty());
        assert!(!named.unresolved.lock().contains(&known.to_string()));
    }
}
