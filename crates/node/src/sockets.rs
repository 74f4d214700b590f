//! Sockets that are open before a node is, and may stay open after it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::TcpListener;

use super::NodeError;
use p2pfs_legacy::net::mesh;
use p2pfs_transfer::net::PortPair;

/// Sockets to start a node with; those that are not there, it opens itself. Every call needs a
/// running tokio runtime.
#[derive(Debug, Default)]
pub struct Sockets {
    pub(super) peers: Option<PortPair>,
    pub(super) mesh: Option<TcpListener>,
}

impl Sockets {
    /// Takes up what an earlier process had for other nodes at `listen`.
    ///
    /// # Errors
    /// Where they are not for this address.
    pub fn take_up_peers(
        &mut self,
        tcp: OwnedFd,
        udp: OwnedFd,
        listen: SocketAddr,
    ) -> io::Result<()> {
        self.peers = Some(PortPair::take_up(tcp, udp, listen)?);
        Ok(())
    }

    /// Opens them; gives both once more, TCP first, for whoever keeps them.
    ///
    /// # Errors
    /// [`NodeError::Net`] names the address and the remedy.
    pub fn open_peers(
        &mut self,
        listen: SocketAddr,
    ) -> Result<io::Result<[OwnedFd; 2]>, NodeError> {
        let opened = self.peers.insert(PortPair::bind(listen)?);
        Ok(opened.try_clone_fds())
    }

    /// Takes up what an earlier process had for mesh peers.
    ///
    /// # Errors
    /// Where it does not listen at this address.
    pub fn take_up_mesh(&mut self, socket: OwnedFd, listen: SocketAddr) -> io::Result<()> {
        self.mesh = Some(mesh::take_up(socket, listen)?);
        Ok(())
    }

    /// Opens it; gives it once more.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_mesh(&mut self, listen: SocketAddr) -> io::Result<OwnedFd> {
        let opened = self.mesh.insert(mesh::listen(listen)?);
        opened.as_fd().try_clone_to_owned()
    }
}
