//! The address at which other nodes reach this node. [`advertised`] chooses it at the start.
//! [`follow`] reports another one when the addresses of the machine change.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::mpsc;

use super::run::LoopCommand;

/// Interval between checks of the machine's addresses. At boot a network may come up after the
/// daemon, and a laptop moves between networks.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// Returns the address to advertise: the configured address, else the address that this node
/// listens on. An unspecified IP (`0.0.0.0` or `::`) is replaced by [`MachineAddresses::best_ip`].
/// Port 0 is replaced by the port that this node listens on.
pub(super) fn advertised(configured: Option<SocketAddr>, bound: SocketAddr) -> SocketAddr {
    let named = configured.unwrap_or(bound);
    let ip = if named.ip().is_unspecified() {
        MachineAddresses::read(named).best_ip()
    } else {
        named.ip()
    };
    let port = if named.port() == 0 {
        bound.port()
    } else {
        named.port()
    };
    SocketAddr::new(ip, port)
}

/// Starts a task that sends [`LoopCommand::Moved`] to the event loop when another address is to be
/// advertised, as [`AdvertisedAddress::successor`] decides. Starts nothing if the configured
/// address, or without one the listening address, has a specific IP.
pub(super) fn follow(
    configured: Option<SocketAddr>,
    bound: SocketAddr,
    advertised: SocketAddr,
    commands: &mpsc::Sender<LoopCommand>,
) {
    let named = configured.unwrap_or(bound);
    if !named.ip().is_unspecified() {
        return;
    }
    // A weak sender, so that this task does not keep the event loop alive.
    let commands = commands.downgrade();
    tokio::spawn(async move {
        let mut held = AdvertisedAddress::of(advertised.ip(), &MachineAddresses::read(named));
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let Some(commands) = commands.upgrade() else {
                return;
            };
            let next = held.successor(&MachineAddresses::read(named));
            let has_moved = next.ip != held.ip;
            held = next;
            if has_moved {
                let address = SocketAddr::new(held.ip, advertised.port());
                let _gone = commands.send(LoopCommand::Moved(address)).await;
            }
        }
    });
}

/// The advertised address and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AdvertisedAddress {
    ip: IpAddr,
    /// Whether the default route has used this address as its source. Otherwise the address is a
    /// guess among those of the interfaces.
    is_routed: bool,
    /// All addresses of the machine when a check last found `ip` among them. Empty for a guess.
    beside: Vec<IpAddr>,
}

impl AdvertisedAddress {
    fn of(ip: IpAddr, there: &MachineAddresses) -> Self {
        let guess = Self {
            ip,
            is_routed: false,
            beside: Vec::new(),
        };
        guess.noting(there)
    }

    /// Returns the address to advertise from now on. An address that the default route has used
    /// stays while the machine has it, even if the route now uses another one: other nodes reach
    /// the old address, and they may not reach that of a new tunnel. A guess stays while the
    /// machine has it and the default route uses no other address. A loopback address counts as
    /// lost.
    ///
    /// A lost address is replaced by the source of the default route, else by a `reachable` address
    /// that is not in `beside`. The addresses in `beside`, such as that of a bridge for containers,
    /// may not be reachable from other nodes. Without a replacement the lost address stays: the
    /// network is probably down for a while and may come back unchanged.
    fn successor(&self, there: &MachineAddresses) -> Self {
        let is_there = there.all.contains(&self.ip) && !self.ip.is_loopback();
        let is_kept = is_there && (self.is_routed || there.routed.is_none());
        if is_kept {
            return self.clone().noting(there);
        }
        let is_news = |ip: &&IpAddr| !self.beside.contains(ip);
        let guess = there.reachable.iter().find(is_news).copied();
        match there.routed.or(guess) {
            Some(ip) if ip != self.ip => Self::of(ip, there),
            _ => self.clone().noting(there),
        }
    }

    fn noting(mut self, there: &MachineAddresses) -> Self {
        self.is_routed |= there.routed == Some(self.ip);
        if self.is_routed && there.all.contains(&self.ip) {
            self.beside = there.all.clone();
        }
        self
    }
}

/// The addresses of this machine.
struct MachineAddresses {
    all: Vec<IpAddr>,
    /// The source address that the kernel uses for the default route.
    routed: Option<IpAddr>,
    /// Addresses of interfaces that are up, without loopback and link-local ones, IPv4 first. No
    /// IPv6 ones if this node listens on IPv4. They serve in a LAN without a default route.
    reachable: Vec<IpAddr>,
}

impl MachineAddresses {
    fn read(bound: SocketAddr) -> Self {
        let only_v4 = bound.is_ipv4();
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let all = interfaces.iter().map(|it| it.ip()).collect();
        let mut reachable: Vec<IpAddr> = interfaces
            .iter()
            .filter(|it| it.is_oper_up() && !it.is_loopback() && !it.is_link_local())
            .map(|it| it.ip())
            .filter(|ip| ip.is_ipv4() || !only_v4)
            .collect();
        // IPv4 first, as in `routed_ip`.
        reachable.sort_by_key(IpAddr::is_ipv6);
        Self {
            all,
            routed: routed_ip(only_v4),
            reachable,
        }
    }

    fn best_ip(&self) -> IpAddr {
        let found = self.routed.or(self.reachable.first().copied());
        found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// Returns the source address that the kernel would use for the default route, without sending a
/// packet; IPv4 if there is such a route. 192.0.2.1 and 2001:db8::1 are addresses for documentation
/// (RFC 5737, RFC 3849), which only the default route reaches.
fn routed_ip(only_v4: bool) -> Option<IpAddr> {
    let v4 = || route_source("0.0.0.0:0", "192.0.2.1:9");
    let v6 = || route_source("[::]:0", "[2001:db8::1]:9");
    if only_v4 { v4() } else { v4().or_else(v6) }
}

fn route_source(from: &str, to: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addresses(reachable: &[IpAddr], routed: Option<IpAddr>) -> MachineAddresses {
        let all = [&[ip("127.0.0.1")], reachable].concat();
        MachineAddresses {
            all,
            routed,
            reachable: reachable.to_vec(),
        }
    }

    /// Returns the advertised address after each reading of the machine's addresses; the first is
    /// the start.
    fn advertised(looks: &[(&[IpAddr], Option<IpAddr>)]) -> Vec<IpAddr> {
        let mut held: Option<AdvertisedAddress> = None;
        let next = |(reachable, routed): &(&[IpAddr], Option<IpAddr>)| {
            let there = addresses(reachable, *routed);
            let next = match &held {
                None => AdvertisedAddress::of(there.best_ip(), &there),
                Some(held) => held.successor(&there),
            };
            held.insert(next).ip
        };
        looks.iter().map(next).collect()
    }

    #[test]
    fn an_address_acquired_after_the_start_is_adopted() {
        let (nowhere, lan) = (ip("127.0.0.1"), ip("192.0.2.7"));
        let none: &[IpAddr] = &[];
        for routed in [Some(lan), None] {
            let told = advertised(&[(none, None), (none, None), (&[lan], routed)]);
            assert_eq!(told, [nowhere, nowhere, lan]);
        }
    }

    #[test]
    fn an_address_is_retained_while_the_machine_has_it() {
        let (old, tunnel, new) = (ip("192.0.2.7"), ip("198.51.100.9"), ip("203.0.113.5"));
        let told = advertised(&[
            (&[old], Some(old)),
            (&[old, tunnel], Some(tunnel)),
            (&[old], Some(old)),
            (&[], None),
            (&[new], Some(new)),
        ]);
        assert_eq!(told, [old, old, old, old, new], "it may come back");
    }

    #[test]
    fn a_briefly_absent_network_is_not_replaced_by_a_bridge() {
        let (lan, bridge) = (ip("192.0.2.7"), ip("172.17.0.1"));
        let both: &[IpAddr] = &[bridge, lan];
        let told = advertised(&[(both, Some(lan)), (&[bridge], None), (both, Some(lan))]);
        assert_eq!(told, [lan, lan, lan]);
        // another network without a default route
        let other = ip("203.0.113.5");
        let told = advertised(&[(both, Some(lan)), (&[bridge, other], None)]);
        assert_eq!(told, [lan, other]);
    }

    #[test]
    fn a_guess_is_replaced_by_the_address_of_an_outgoing_route() {
        let (lan, bridge) = (ip("192.0.2.7"), ip("172.17.0.1"));
        let both: &[IpAddr] = &[bridge, lan];
        let told = advertised(&[
            (&[bridge], None),
            (both, None),
            (both, Some(lan)),
            (&[bridge], None),
        ]);
        assert_eq!(told, [bridge, bridge, lan, lan]);
        let told = advertised(&[(&[lan], None), (&[lan], Some(lan)), (&[lan, bridge], None)]);
        assert_eq!(
            told,
            [lan, lan, lan],
            "a route that came to it makes it no guess"
        );
    }
}
