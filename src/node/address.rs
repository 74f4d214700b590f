//! The address under which a node can be reached.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::mpsc;

use super::run::Command;

/// How often it is looked whether the machine still has the advertised address: at boot a network
/// may come after the daemon, and a laptop goes from one to another.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// Where others reach this node: as configured, else where it listens, with the address of the
/// route that leads out where it listens on all, or of an interface where no route leads out.
pub(super) fn advertised(configured: Option<SocketAddr>, bound: SocketAddr) -> SocketAddr {
    let named = configured.unwrap_or(bound);
    let ip = if named.ip().is_unspecified() {
        outgoing_ip(named).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
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

/// Tells the loop when this machine lost the advertised address and has another, until the node
/// ends. Has nothing to do where the address is named, by what is advertised or listened on.
pub(super) fn follow(
    configured: Option<SocketAddr>,
    bound: SocketAddr,
    advertised: SocketAddr,
    commands: &mpsc::Sender<Command>,
) {
    let named = configured.unwrap_or(bound);
    if !named.ip().is_unspecified() {
        return;
    }
    // the loop ends when nobody else holds it
    let commands = commands.downgrade();
    tokio::spawn(async move {
        let mut advertised = advertised;
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let Some(commands) = commands.upgrade() else {
                return;
            };
            if let Some(ip) = successor(advertised.ip(), &own_ips(), outgoing_ip(named)) {
                advertised.set_ip(ip);
                let _gone = commands.send(Command::Moved(advertised)).await;
            }
        }
    });
}

/// What to advertise from now on, where it is another than before. An address that is still there
/// stays, whatever route was added since: the others reach it, and may not reach a tunnel's. Where
/// there is none the network is away for a while, and may come back as it was.
fn successor(before: IpAddr, own: &[IpAddr], outgoing: Option<IpAddr>) -> Option<IpAddr> {
    let is_kept = own.contains(&before) && !before.is_loopback();
    outgoing.filter(|ip| !is_kept && *ip != before)
}

fn own_ips() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
    interfaces.map(|it| it.ip()).collect()
}

/// The address that the kernel would send from; no packet is sent for it. 192.0.2.1 and 2001:db8::1
/// are addresses for documentation (RFC 5737, RFC 3849), reached by the default route.
fn outgoing_ip(bound: SocketAddr) -> Option<IpAddr> {
    let v4 = || route_source("0.0.0.0:0", "192.0.2.1:9");
    let v6 = || route_source("[::]:0", "[2001:db8::1]:9");
    let found = if bound.is_ipv4() {
        v4()
    } else {
        v4().or_else(v6)
    };
    found.or_else(|| interface_ip(bound.is_ipv4()))
}

/// An address of this machine that its neighbours can reach: a LAN may have no way out.
fn interface_ip(only_v4: bool) -> Option<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().ok()?.into_iter();
    let mut reachable: Vec<IpAddr> = interfaces
        .filter(|it| it.is_oper_up() && !it.is_loopback() && !it.is_link_local())
        .map(|it| it.ip())
        .filter(|ip| ip.is_ipv4() || !only_v4)
        .collect();
    // IPv4 first, as with routes
    reachable.sort_by_key(IpAddr::is_ipv6);
    reachable.first().copied()
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

    #[test]
    fn an_address_that_came_after_the_start_is_taken_over() {
        let (nowhere, lan) = (ip("127.0.0.1"), ip("192.0.2.7"));
        assert_eq!(successor(nowhere, &[nowhere], None), None);
        let came = successor(nowhere, &[nowhere, lan], Some(lan));
        assert_eq!(came, Some(lan));
    }

    #[test]
    fn an_address_is_kept_for_as_long_as_the_machine_has_it() {
        let (old, tunnel, new) = (ip("192.0.2.7"), ip("198.51.100.9"), ip("203.0.113.5"));
        assert_eq!(successor(old, &[old, tunnel], Some(tunnel)), None);
        assert_eq!(successor(old, &[old], Some(old)), None);
        assert_eq!(successor(old, &[], None), None, "it may come back");
        assert_eq!(successor(old, &[new], Some(new)), Some(new));
    }
}
