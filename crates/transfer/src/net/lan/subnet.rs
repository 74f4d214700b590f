//! Links and the addresses on them. Pure.

use std::net::IpAddr;

/// One address family of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId {
    /// The kernel's number of the interface.
    pub interface: u32,
    /// Whether the family is IPv6 rather than IPv4.
    pub is_v6: bool,
}

/// An address of an interface, and the length of the prefix that its neighbours have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Address of this machine.
    pub ip: IpAddr,
    /// Length of the common prefix in bits.
    pub prefix_bits: u8,
}

impl Subnet {
    /// Returns whether an address is within the subnet.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let bits = u32::from(self.prefix_bits);
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differing = own.to_bits() ^ ip.to_bits();
                differing.checked_shr(32 - bits.min(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differing = own.to_bits() ^ ip.to_bits();
                differing.checked_shr(128 - bits.min(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Returns the addresses to announce on a link: those of its interface at which other nodes reach a
/// node that listens on `listen`. Link-local IPv6 addresses are left out, because they are useless
/// without their link.
pub(super) fn announced(subnets: &[Subnet], listen: IpAddr) -> Vec<IpAddr> {
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let is_heard = |ip: &IpAddr| match listen {
        IpAddr::V4(any) if any.is_unspecified() => ip.is_ipv4(),
        IpAddr::V6(any) if any.is_unspecified() => true,
        one => *ip == one,
    };
    let addresses = subnets.iter().map(|subnet| subnet.ip);
    let reachable = addresses.filter(|ip| is_heard(ip) && !is_link_local(ip));
    reachable.collect()
}
