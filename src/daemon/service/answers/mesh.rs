//! Answers about the mesh.

use jiff::Timestamp;

use super::Services;
use crate::daemon::control::{
    Failure, FailureKind, MeshInfo, MeshPeerSeen, PeerInfo, PeerState, Plane,
};
use p2pfs_legacy::LegacyPeers;
use p2pfs_legacy::mesh::{MemberName, Mesh, MeshReport};

/// Digits of a node's key that form its ID in the mesh.
const MESH_ID_DIGITS: usize = 32;

pub(super) async fn mesh(
    services: &Services,
    connect: Option<&str>,
    discover: bool,
) -> Result<MeshInfo, Failure> {
    let mesh = mesh_plane(services).ok_or_else(|| {
        Failure::new(FailureKind::Failed, "the mesh is off")
            .with_remedy("say mesh.listen in the configuration and restart the daemon")
    })?;
    if let Some(text) = connect {
        let address = MemberName::parse(text.as_bytes()).ok_or_else(|| {
            let message = format!("{text:?} is not an address of a mesh peer");
            Failure::new(FailureKind::Invalid, message)
                .with_remedy("write HOST:PORT, such as 192.0.2.1:18001")
        })?;
        mesh.connect(address);
    }
    if discover {
        mesh.discover();
    }
    let known = mesh.known();
    let peers = mesh.peers();
    Ok(MeshInfo {
        address: mesh.address().to_string(),
        max_peers: services.settings.at_start.mesh.max_peers,
        peers: peers.iter().filter_map(seen).collect(),
        known: known.iter().map(ToString::to_string).collect(),
    })
}

/// Returns the peers of the mesh for `p2pfs peers`, except those that are native nodes.
pub(super) async fn mesh_peers(services: &Services, native: &[PeerInfo]) -> Vec<PeerInfo> {
    let Some(mesh) = mesh_plane(services) else {
        return Vec::new();
    };
    let is_native = |report: &MeshReport| {
        let id = &report.peer.id;
        id.len() == MESH_ID_DIGITS && native.iter().any(|peer| peer.node.starts_with(&**id))
    };
    let reports = mesh.peers().into_iter();
    reports
        .filter(|report| !is_native(report))
        .map(mesh_peer)
        .collect()
}

/// Returns the address to which peers of the mesh connect, if it is on.
pub(super) fn mesh_address(services: &Services) -> Option<String> {
    mesh_plane(services).map(|mesh| mesh.address().to_string())
}

fn mesh_plane(services: &Services) -> Option<&Mesh> {
    LegacyPeers::of_node(&services.node)?.mesh()
}

fn seen(report: &MeshReport) -> Option<MeshPeerSeen> {
    let peer = &report.peer;
    let ago = jiff::SignedDuration::try_from(peer.heard_at?.elapsed()).unwrap_or_default();
    Some(MeshPeerSeen {
        name: peer.name.clone(),
        id: peer.id.clone(),
        address: peer.address.clone(),
        last_heard: Timestamp::now()
            .saturating_sub(ago)
            .unwrap_or(Timestamp::MIN),
    })
}

fn mesh_peer(report: MeshReport) -> PeerInfo {
    let peer = report.peer;
    PeerInfo {
        name: peer.name,
        address: peer.address,
        state: if peer.is_up {
            PeerState::Alive
        } else {
            PeerState::Down
        },
        plane: Plane::Mesh,
        round_trip_ms: peer.round_trip.map(|time| time.as_secs_f64() * 1e3),
        receive_bytes_per_s: None,
        rate_bytes_per_s: report.rate_bytes_per_s.map(|rate| rate as u64),
        received_bytes: report.received_bytes,
        sent_bytes: report.sent_bytes,
        offences: peer.offences,
        last_offence: peer.last_offence.map(|last| last.to_string()),
        ..PeerInfo::default()
    }
}
