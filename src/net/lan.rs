//! Finding nodes on the local network by multicast DNS (RFC 6762, RFC 6763).
//!
//! Announces an address under a name that is random at each start, with no text beside it: who
//! listens learns that some p2pfs node is there, not which. What it hears are hints by anyone on
//! the network: addresses worth a sealed datagram, nothing more. They are rated and remembered so
//! that nobody can make us send much. Where there is no multicast, that is one warning, and the
//! search begins when there is.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use mdns_sd::{DaemonEvent, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant, timeout};

use crate::bucket::TokenBucket;
use crate::id::to_hex;

const SERVICE: &str = "_p2pfs._udp.local.";
/// RFC 6762, section 3.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// Hints that wait for the node; more are dropped, and come again.
const QUEUE: usize = 64;
/// Addresses that are taken of one announcement; more is no host that we want.
const ADDRESSES_PER_SERVICE: usize = 8;
/// Hints a second in the long run, and at once after a quiet time.
const HINTS_PER_S: u32 = 8;
const BURST: u32 = 32;
/// How many hints are remembered, and for how long the same one is not given again.
const REMEMBERED: usize = 256;
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// How long the farewell to the network may take.
const FAREWELL: Duration = Duration::from_millis(500);
/// How often it is tried again where no interface has multicast yet: at boot a network may come
/// after the daemon.
const RETRY_PERIOD: Duration = Duration::from_secs(5);

/// What the search yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LanEvent {
    /// Some node may be there.
    Hint(SocketAddr),
    /// Nodes on the local network will not be found by themselves, and why. Comes at most once
    /// before the search begins, and once after.
    NoMulticast(String),
}

/// The announcement and the search; both end when it is dropped.
pub struct Lan {
    /// None while no interface has multicast.
    search: Arc<Mutex<Option<Search>>>,
    /// What begins the search later, where it cannot begin now.
    waiting: Option<AbortHandle>,
}

impl Lan {
    /// Announces `address` (all of the machine's where it is "any") and searches for others. Needs
    /// a running tokio runtime. Where it cannot begin, the reason is in the receiver, and it begins
    /// when it can.
    pub fn start(address: SocketAddr) -> (Self, mpsc::Receiver<LanEvent>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        let search = Arc::new(Mutex::new(None));
        let waiting = match Search::open(address, events.clone()) {
            Ok(open) => {
                *search.lock() = Some(open);
                None
            }
            Err(why) => {
                let _ = events.try_send(LanEvent::NoMulticast(why));
                let later = begin_later(address, events, search.clone());
                Some(tokio::spawn(later).abort_handle())
            }
        };
        (Self { search, waiting }, receiver)
    }

    /// Takes the announcement back, so that others forget it at once, and ends the search.
    pub async fn shutdown(self) {
        let search = self.search.lock().take();
        if let Some(search) = search {
            search.shutdown().await;
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.waiting.take().inspect(AbortHandle::abort);
    }
}

async fn begin_later(
    address: SocketAddr,
    events: mpsc::Sender<LanEvent>,
    search: Arc<Mutex<Option<Search>>>,
) {
    loop {
        tokio::time::sleep(RETRY_PERIOD).await;
        if let Ok(open) = Search::open(address, events.clone()) {
            *search.lock() = Some(open);
            return;
        }
    }
}

/// A search that goes on.
struct Search {
    daemon: ServiceDaemon,
    own_name: String,
    listening: AbortHandle,
}

impl Search {
    fn open(address: SocketAddr, events: mpsc::Sender<LanEvent>) -> Result<Self, String> {
        probe_multicast()
            .map_err(|error| format!("no network interface has multicast: {error}"))?;
        let text = |error: mdns_sd::Error| error.to_string();
        let daemon = ServiceDaemon::new().map_err(text)?;
        let started = announce(&daemon, address).and_then(|own_name| {
            let found = daemon.browse(SERVICE)?;
            let troubles = daemon.monitor()?;
            Ok((own_name, found, troubles))
        });
        let (own_name, found, troubles) = match started {
            Ok(started) => started,
            Err(error) => {
                let _ = daemon.shutdown();
                return Err(text(error));
            }
        };
        let filter = HintFilter::new(address, Instant::now());
        let listen = listen(found, troubles, own_name.clone(), filter, events);
        let listening = tokio::spawn(listen).abort_handle();
        Ok(Self {
            daemon,
            own_name,
            listening,
        })
    }

    async fn shutdown(self) {
        self.listening.abort();
        if let Ok(farewell) = self.daemon.unregister(&self.own_name) {
            let _ = timeout(FAREWELL, farewell.recv_async()).await;
        }
        if let Ok(ended) = self.daemon.shutdown() {
            let _ = timeout(FAREWELL, ended.recv_async()).await;
        }
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.listening.abort();
        // Fails where `shutdown` came before; the thread is gone then.
        let _ = self.daemon.shutdown();
    }
}

/// Whether any interface of either family takes part in multicast.
fn probe_multicast() -> io::Result<()> {
    let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.join_multicast_v4(&GROUP_V4, &Ipv4Addr::UNSPECIFIED));
    v4.or_else(|error| {
        let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .and_then(|socket| socket.join_multicast_v6(&GROUP_V6, 0));
        v6.map_err(|_| error)
    })
}

/// Gives the name that was announced.
fn announce(daemon: &ServiceDaemon, address: SocketAddr) -> mdns_sd::Result<String> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| mdns_sd::Error::Msg("the system gives no random bytes".into()))?;
    let name = to_hex(&random);
    let host = format!("{name}.local.");
    let ip = if address.ip().is_unspecified() {
        String::new()
    } else {
        address.ip().to_string()
    };
    let none: &[(&str, &str)] = &[];
    let mut service = ServiceInfo::new(SERVICE, &name, &host, ip.as_str(), address.port(), none)?;
    if address.ip().is_unspecified() {
        service = service.enable_addr_auto();
    }
    // Nobody else draws the same 64 bits, so there is nothing to probe for.
    service.set_requires_probe(false);
    let own_name = service.get_fullname().to_owned();
    daemon.register(service)?;
    Ok(own_name)
}

async fn listen(
    found: mdns_sd::Receiver<ServiceEvent>,
    troubles: mdns_sd::Receiver<DaemonEvent>,
    own_name: String,
    mut filter: HintFilter,
    events: mpsc::Sender<LanEvent>,
) {
    let mut warned = false;
    loop {
        tokio::select! {
            event = found.recv_async() => match event {
                Ok(ServiceEvent::ServiceResolved(service)) if service.fullname != own_name => {
                    for hint in filter.hints(&service, Instant::now()) {
                        let _ = events.try_send(LanEvent::Hint(hint));
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            },
            trouble = troubles.recv_async() => match trouble {
                Ok(DaemonEvent::Error(error)) if !warned => {
                    warned = true;
                    let _ = events.try_send(LanEvent::NoMulticast(error.to_string()));
                }
                Ok(_) => {}
                Err(_) => return,
            },
        }
    }
}

/// Which announced addresses are worth trying, and how many of them.
#[derive(Debug)]
struct HintFilter {
    own: SocketAddr,
    recent: VecDeque<(SocketAddr, Instant)>,
    rate: TokenBucket,
}

impl HintFilter {
    fn new(own: SocketAddr, now: Instant) -> Self {
        Self {
            own,
            recent: VecDeque::new(),
            rate: TokenBucket::per_second(HINTS_PER_S, BURST, now.into_std()),
        }
    }

    fn hints(&mut self, service: &ResolvedService, now: Instant) -> Vec<SocketAddr> {
        let addresses = service.addresses.iter().take(ADDRESSES_PER_SERVICE);
        let addresses: Vec<IpAddr> = addresses.map(|ip| ip.to_ip_addr().to_canonical()).collect();
        let hint = |ip| SocketAddr::new(ip, service.port);
        addresses
            .into_iter()
            .map(hint)
            .filter(|hint| self.takes(*hint, now))
            .collect()
    }

    fn takes(&mut self, hint: SocketAddr, now: Instant) -> bool {
        let old = |(_, given): &(SocketAddr, Instant)| now.duration_since(*given) >= REPEAT_AFTER;
        while self.recent.front().is_some_and(old) {
            self.recent.pop_front();
        }
        let known = self.recent.iter().any(|(given, _)| *given == hint);
        if known || hint == self.own || !is_reachable(hint, self.own) {
            return false;
        }
        if self.recent.len() >= REMEMBERED || !self.rate.take(1, now.into_std()) {
            return false;
        }
        self.recent.push_back((hint, now));
        true
    }
}

/// Whether the address can be another node's: of one host, and this machine's inside only where we
/// are there too. An IPv6 link-local address says nothing without its link.
fn is_reachable(hint: SocketAddr, own: SocketAddr) -> bool {
    let link_local = matches!(hint.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let broadcast = matches!(hint.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    let ip = hint.ip();
    let nowhere = ip.is_unspecified() || ip.is_multicast() || broadcast || link_local;
    hint.port() != 0 && !nowhere && (!ip.is_loopback() || own.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn filter(own: &str) -> (HintFilter, Instant) {
        let now = Instant::now();
        (HintFilter::new(address(own), now), now)
    }

    #[test]
    fn only_addresses_of_other_hosts_are_hints() {
        let (mut filter, now) = filter("0.0.0.0:1378");
        for good in ["192.0.2.1:1378", "[2001:db8::1]:1378", "10.0.0.1:9"] {
            assert!(filter.takes(address(good), now), "{good}");
        }
        for bad in [
            "127.0.0.1:1378",
            "0.0.0.0:1",
            "224.0.0.251:1378",
            "255.255.255.255:1",
            "[fe80::1]:1378",
            "[::1]:1378",
            "192.0.2.2:0",
        ] {
            assert!(!filter.takes(address(bad), now), "{bad}");
        }
    }

    #[test]
    fn a_node_on_loopback_takes_hints_on_loopback_but_not_its_own() {
        let (mut filter, now) = filter("127.0.0.1:1378");
        assert!(filter.takes(address("127.0.0.1:1379"), now));
        assert!(!filter.takes(address("127.0.0.1:1378"), now));
    }

    #[test]
    fn the_same_hint_comes_again_only_after_a_while() {
        let (mut filter, now) = filter("0.0.0.0:1378");
        let hint = address("192.0.2.1:1378");
        assert!(filter.takes(hint, now));
        assert!(!filter.takes(hint, now + REPEAT_AFTER / 2));
        assert!(filter.takes(hint, now + REPEAT_AFTER));
    }

    #[test]
    fn a_flood_of_announcements_gives_few_hints_and_bounded_memory() {
        let (mut filter, start) = filter("0.0.0.0:1378");
        let mut taken = 0;
        for i in 0..100_000u32 {
            let now = start + Duration::from_millis(u64::from(i) / 10);
            let [_, b, c, d] = i.to_be_bytes();
            taken += usize::from(filter.takes(SocketAddr::from(([10, b, c, d], 7)), now));
        }
        assert!(taken <= (BURST + 10 * HINTS_PER_S) as usize + 1, "{taken}");
        assert!(filter.recent.len() <= REMEMBERED);
    }

    #[tokio::test]
    async fn the_search_starts_and_ends_cleanly_with_or_without_multicast() {
        let (lan, mut events) = Lan::start(address("127.0.0.1:1378"));
        let own_name = lan.search.lock().as_ref().map(|it| it.own_name.clone());
        match own_name {
            Some(name) => assert!(!name.contains("127"), "{name}"),
            None => assert!(matches!(
                events.recv().await,
                Some(LanEvent::NoMulticast(_))
            )),
        }
        lan.shutdown().await;
        // The search is over: the channel closes once what was in it is read.
        while events.recv().await.is_some() {}
    }
}
