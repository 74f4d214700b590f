//! Sockets that are opened before a node starts and may outlive it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::NodeError;
use p2pfs_transfer::net::PortPair;

/// The sockets of a node's start. The node opens the missing ones itself. Every call needs a
/// running tokio runtime.
#[derive(Debug, Default)]
pub struct Sockets {
    pub(super) peers: Option<PortPair>,
}

impl Sockets {
    /// Takes over the sockets that an earlier process opened at `listen` for connections with other
    /// nodes.
    ///
    /// # Errors
    /// If they are not bound to this address.
    pub fn adopt_peers(
        &mut self,
        tcp: OwnedFd,
        udp: OwnedFd,
        listen: SocketAddr,
    ) -> io::Result<()> {
        self.peers = Some(PortPair::adopt(tcp, udp, listen)?);
        Ok(())
    }

    /// Opens the sockets for other nodes and returns duplicates for the caller, TCP first.
    ///
    /// # Errors
    /// [`NodeError::Net`], which names the address and the remedy.
    pub fn open_peers(
        &mut self,
        listen: SocketAddr,
    ) -> Result<io::Result<[OwnedFd; 2]>, NodeError> {
        let opened = self.peers.insert(PortPair::bind(listen)?);
        Ok(opened.try_clone_fds())
    }
}
