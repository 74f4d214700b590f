//! Answers that concern the older peers: who they are, and a file of theirs for a caller.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use super::content::{STEP_BYTES, caller_gone, pipe_to_caller};
use super::names::shared_path;
use super::{Service, failed};
use crate::daemon::control::{
    Failure, FailureKind, GetDone, GetStarted, Named, PeerInfo, PeerState, Plane, ReplySink,
    SourceShare,
};
use crate::legacy::{LegacyMember, Patience};
use crate::node::legacy::{Legacy, LegacyAbsence, RemoteCopy, RemoteFile};
use crate::wire::legacy::Name;

/// In the place of a hash: what older peers give has none.
const NO_HASH: &str = "none";

impl Service {
    /// A name of the root that no native node shares is asked of the older peers, where their plane
    /// is on; where it is not, `absent` stands.
    pub(super) async fn copy_from_older_peers(
        &self,
        named: &Named,
        absent: Failure,
        reply: &ReplySink,
    ) -> Result<GetDone, Failure> {
        let Some(legacy) = self.node.legacy() else {
            return Err(absent);
        };
        if absent.kind != FailureKind::NotFound {
            return Err(absent);
        }
        let path = shared_path(named)?;
        if path.components().count() != 1 {
            return Err(absent);
        }
        let name = Name::new(path.as_bytes()).map_err(|why| {
            let shown = path.as_bytes().escape_ascii();
            tracing::warn!("{shown} was not asked of older peers: {why}");
            Failure::new(FailureKind::NotFound, format!("{shown}: {why}"))
        })?;
        let file = tokio::select! {
            found = legacy.find(name, Patience::Whole) => match found {
                Ok(file) => file,
                Err(LegacyAbsence::Stopping) => return Err(failed("the node is stopping")),
                Err(_) => return Err(absent),
            },
            () = reply.closed() => return Err(caller_gone()),
        };
        copy(legacy, &file, reply).await
    }

    /// The older peers, as `p2pfs peers` shows them; those that are native nodes too are left out.
    pub(super) async fn older_peers(&self, native: &[PeerInfo]) -> Vec<PeerInfo> {
        let Some(legacy) = self.node.legacy() else {
            return Vec::new();
        };
        let members = legacy.members().await;
        let files = legacy.files().all();
        let entries = |member: &LegacyMember| {
            let of_it = files.iter().filter(|file| file.peer == member.address);
            of_it.count() as u64
        };
        members
            .iter()
            .map(|member| older_peer(member, entries(member)))
            .filter(|older| native.iter().all(|peer| peer.address != older.address))
            .collect()
    }
}

fn older_peer(member: &LegacyMember, entries: u64) -> PeerInfo {
    let state = if member.heard {
        PeerState::Alive
    } else {
        PeerState::Suspect
    };
    PeerInfo {
        name: member.address.to_string(),
        node: String::new(),
        address: member.address.to_string(),
        state,
        plane: Plane::Legacy,
        round_trip_ms: None,
        rate_bytes_per_s: None,
        priority: member.priority.then_some(0),
        received_bytes: 0,
        sent_bytes: 0,
        entries,
        shunned: None,
    }
}

async fn copy(
    legacy: &Legacy,
    file: &Arc<RemoteFile>,
    reply: &ReplySink,
) -> Result<GetDone, Failure> {
    let copy = legacy.files().copy(file).await;
    let copy = copy.map_err(|error| copy_failure(file, &error.to_string()))?;
    let started = GetStarted {
        hash: NO_HASH.to_owned(),
        size_bytes: file.size_bytes,
        cached_bytes: file.cached_bytes(),
        executable: false,
    };
    let (sender, receiver) = pipe_to_caller()?;
    if reply.more_with(&started, receiver).await.is_err() {
        return Err(caller_gone());
    }
    tokio::select! {
        copied = copy_all(&copy, sender) => copied.map_err(|why| copy_failure(file, &why))?,
        () = reply.closed() => return Err(caller_gone()),
    }
    Ok(GetDone {
        sources: vec![SourceShare {
            name: file.peer.to_string(),
            received_bytes: file.size_bytes,
        }],
    })
}

async fn copy_all(copy: &RemoteCopy, mut to: tokio::net::unix::pipe::Sender) -> Result<(), String> {
    let mut offset = 0;
    while offset < copy.size_bytes {
        let length = STEP_BYTES.min(copy.size_bytes - offset) as usize;
        let bytes = copy.read(offset, length).await;
        let bytes = bytes.map_err(|error| error.to_string())?;
        to.write_all(&bytes)
            .await
            .map_err(|_| "the caller is gone".to_owned())?;
        offset += bytes.len() as u64;
    }
    // surplus bytes make the whole of it wrong
    copy.whole().await.map_err(|error| error.to_string())
}

fn copy_failure(file: &RemoteFile, why: &str) -> Failure {
    let message = format!("{} from the older peer {}: {why}", file.name, file.peer);
    tracing::warn!("{message}");
    failed(message).with_remedy("try again: another older peer may have it")
}
