//! Answers about files and messages sent to other nodes, and about the mesh.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FileType, fstat, fstatfs};

use super::{Asked, Service, failed, reply_with, unanswered};
use crate::daemon::control::{
    Call, CallerGone, Failure, FailureKind, MeshInfo, MeshPeerSeen, Named, NotTakenBy, PeerInfo,
    PeerState, Plane, ReplySink, Said, SendDone, SendProgress, SendingTo, TakenBy,
};
use p2pfs_node::mesh::{MemberName, MeshReport};
use p2pfs_node::{Delivered, Delivery, SendError};

/// Interval between progress reports.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// The type of a FUSE filesystem in statfs(2) (linux/magic.h).
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
/// Digits of a node's key that form its ID in the mesh.
const MESH_ID_DIGITS: usize = 32;

/// Answers the calls that send something to other nodes.
pub(super) async fn answer(service: Arc<Service>, asked: Asked) {
    let Asked {
        call,
        descriptor,
        reply,
        ..
    } = asked;
    match call {
        Call::Send { name, to } => service.send(name, &to, descriptor, reply).await,
        Call::Say { text } => reply_with(reply, service.say(&text).await),
        Call::Mesh { connect, discover } => {
            reply_with(reply, service.mesh(connect.as_deref(), discover).await);
        }
        other => unanswered(&other, reply),
    }
}

impl Service {
    pub(super) async fn send(
        self: Arc<Self>,
        name: Named,
        to: &[String],
        descriptor: Option<OwnedFd>,
        reply: ReplySink,
    ) {
        match self.send_to(name, to, descriptor, &reply).await {
            Ok(done) => reply.done(&done),
            Err(failure) => reply.fail(failure),
        }
    }

    async fn send_to(
        &self,
        name: Named,
        to: &[String],
        descriptor: Option<OwnedFd>,
        reply: &ReplySink,
    ) -> Result<SendDone, Failure> {
        let file = regular_file(descriptor)?;
        let sending = self.node.send_open_file(file, name.as_bytes(), to);
        let sent = tokio::select! {
            sent = sending => sent.map_err(not_sent)?,
            () = reply.closed() => return Err(CallerGone.into()),
        };
        attend(sent, reply).await
    }

    pub(super) async fn say(&self, text: &str) -> Result<Said, Failure> {
        if text.trim().is_empty() {
            let failure = Failure::new(FailureKind::Invalid, "there is nothing to say");
            return Err(failure.with_remedy("say it behind the command: p2pfs say TEXT"));
        }
        let peers = self.node.broadcast(text).await;
        if peers.is_empty() {
            let message = "nobody is there to hear it";
            return Err(Failure::new(FailureKind::NotFound, message)
                .with_remedy("p2pfs peers shows who is there"));
        }
        Ok(Said { peers })
    }

    pub(super) async fn mesh(
        &self,
        connect: Option<&str>,
        discover: bool,
    ) -> Result<MeshInfo, Failure> {
        let mesh = self.node.mesh().ok_or_else(|| {
            Failure::new(FailureKind::Failed, "the mesh is off")
                .with_remedy("say mesh.listen in the configuration and restart the daemon")
        })?;
        if let Some(text) = connect {
            let address = MemberName::parse(text.as_bytes()).ok_or_else(|| {
                let message = format!("{text:?} is no address of a mesh peer");
                Failure::new(FailureKind::Invalid, message)
                    .with_remedy("write HOST:PORT, such as 192.0.2.1:18001")
            })?;
            mesh.connect(address).await;
        }
        if discover {
            mesh.discover().await;
        }
        let known = mesh.known().await;
        let peers = mesh.peers().await;
        Ok(MeshInfo {
            address: mesh.address().to_string(),
            max_peers: self.config.mesh.max_peers,
            peers: peers.iter().filter_map(seen).collect(),
            known: known.iter().map(ToString::to_string).collect(),
        })
    }

    /// Returns the peers of the mesh for `p2pfs peers`, except those that are native nodes.
    pub(super) async fn mesh_peers(&self, native: &[PeerInfo]) -> Vec<PeerInfo> {
        let Some(mesh) = self.node.mesh() else {
            return Vec::new();
        };
        let is_native = |report: &MeshReport| {
            let id = &report.peer.id;
            id.len() == MESH_ID_DIGITS && native.iter().any(|peer| peer.node.starts_with(&**id))
        };
        let reports = mesh.peers().await.into_iter();
        reports
            .filter(|report| !is_native(report))
            .map(mesh_peer)
            .collect()
    }
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
        rate_bytes_per_s: report.rate_bytes_per_s.map(|rate| rate as u64),
        received_bytes: report.received_bytes,
        sent_bytes: report.sent_bytes,
        offences: peer.offences,
        last_offence: peer.last_offence.map(|last| last.to_string()),
        ..PeerInfo::default()
    }
}

/// Returns the caller's own open file. Refuses a file of a FUSE filesystem, because it may belong
/// to this daemon's own mount, which the daemon must not read through the kernel.
fn regular_file(descriptor: Option<OwnedFd>) -> Result<File, Failure> {
    let invalid = |message: &str| Failure::new(FailureKind::Invalid, message);
    let Some(descriptor) = descriptor else {
        return Err(invalid("no descriptor came with the call"));
    };
    let broken = |error: rustix::io::Errno| failed(error.to_string());
    let found = fstat(&descriptor).map_err(broken)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(invalid("only regular files can be sent"));
    }
    let filesystem = fstatfs(&descriptor).map_err(broken)?;
    if u64::try_from(filesystem.f_type) == Ok(FUSE_SUPER_MAGIC) {
        return Err(invalid("a file of a FUSE filesystem is to be copied first"));
    }
    Ok(File::from(descriptor))
}

fn not_sent(error: SendError) -> Failure {
    let text = error.to_string();
    match error {
        SendError::Unknown { .. } | SendError::Ambiguous { .. } | SendError::Nobody => {
            Failure::new(FailureKind::NotFound, text).with_remedy("p2pfs peers shows who is there")
        }
        _ => failed(text),
    }
}

async fn attend(mut delivery: Delivery, reply: &ReplySink) -> Result<SendDone, Failure> {
    let size_bytes = delivery.size_bytes();
    let mut done = SendDone {
        size_bytes,
        ..SendDone::default()
    };
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            delivered = delivery.next() => match delivered {
                Some(delivered) => conclude(delivered, &mut done),
                None => break,
            },
            _ = tick.tick() => {
                let peers = delivery.progress().map(|(peer, sent_bytes)| SendingTo {
                    peer: peer.to_owned(),
                    sent_bytes,
                });
                let peers = peers.collect();
                // A caller that reads slowly misses some reports.
                let _busy = reply.try_more(&SendProgress { size_bytes, peers });
            }
            // Without its caller, the transfer stops.
            () = reply.closed() => return Err(CallerGone.into()),
        }
    }
    done.taken.sort_by(|one, other| one.peer.cmp(&other.peer));
    done.failed.sort_by(|one, other| one.peer.cmp(&other.peer));
    Ok(done)
}

fn conclude(delivered: Delivered, done: &mut SendDone) {
    let Delivered {
        peer,
        confirmed,
        outcome,
    } = delivered;
    match outcome {
        Ok(()) => done.taken.push(TakenBy { peer, confirmed }),
        Err(why) => done.failed.push(NotTakenBy {
            peer,
            why: why.to_string(),
        }),
    }
}
