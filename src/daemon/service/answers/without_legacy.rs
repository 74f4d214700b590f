//! Answers about legacy and mesh peers of a program that was built without the older protocols.

use std::convert::Infallible;

use super::Services;
use crate::daemon::control::{Failure, FailureKind, GetDone, MeshInfo, Named, PeerInfo, ReplySink};

/// Returns `absent`, because no legacy peer can be asked for the file.
pub(super) async fn copy_from_legacy_peers(
    _services: &Services,
    _named: &Named,
    _caller_uid: u32,
    absent: Failure,
    _reply: &ReplySink,
) -> Result<GetDone, Failure> {
    Err(absent)
}

/// Waits forever, because no legacy peer can be asked for the file.
pub(super) async fn keep_asking(
    _services: &Services,
    _file: Option<&Named>,
    _caller_uid: u32,
) -> Infallible {
    std::future::pending().await
}

/// Returns no peers.
pub(super) async fn legacy_peers(_services: &Services, _native: &[PeerInfo]) -> Vec<PeerInfo> {
    Vec::new()
}

/// Refuses the call, because there is no mesh.
pub(super) async fn mesh(
    _services: &Services,
    _connect: Option<&str>,
    _discover: bool,
) -> Result<MeshInfo, Failure> {
    let message = format!("there is no mesh: {}", crate::daemon::config::NO_LEGACY);
    Err(Failure::new(FailureKind::Failed, message))
}

/// Returns no peers.
pub(super) async fn mesh_peers(_services: &Services, _native: &[PeerInfo]) -> Vec<PeerInfo> {
    Vec::new()
}

/// Returns no address, because nothing listens for the mesh.
pub(super) fn mesh_address(_services: &Services) -> Option<String> {
    None
}
