//! The address under which a node can be reached.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Where others reach this node: as configured, else where it listens, with the address of the
/// route that leads out where it listens on all, or of an interface where no route leads out.
pub(super) fn advertised(configured: Option<SocketAddr>, bound: SocketAddr) -> SocketAddr {
    let named = configured.unwrap_or(bound);
    let ip = if named.ip().is_unspecified() {
        outgoing_ip(named)
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

/// The address that the kernel would send from; no packet is sent for it. 192.0.2.1 and 2001:db8::1
/// are addresses for documentation (RFC 5737, RFC 3849), reached by the default route.
fn outgoing_ip(bound: SocketAddr) -> IpAddr {
    let v4 = || route_source("0.0.0.0:0", "192.0.2.1:9");
    let v6 = || route_source("[::]:0", "[2001:db8::1]:9");
    let found = if bound.is_ipv4() {
        v4()
    } else {
        v4().or_else(v6)
    };
    let found = found.or_else(|| interface_ip(bound.is_ipv4()));
    found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
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
