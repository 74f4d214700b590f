//! Answers that concern the older peers: who they are, and a file of theirs for a caller.

use std::sync::Arc;

use super::content::caller_gone;
use super::names::shared_path;
use super::{Service, failed};
use crate::daemon::control::{
    Failure, FailureKind, GetDone, GetStarted, Named, PeerInfo, PeerState, Plane, ReplySink,
    SourceShare,
};
use crate::legacy::{LegacyMember, Patience};
use crate::node::legacy::{CopyError, Legacy, LegacyAbsence, RemoteCopy, RemoteFile};
use crate::wire::legacy::{Name, printable};

/// In the place of a hash: what older peers give has none.
const NO_HASH: &str = "none";
/// Responders that are tried for one call.
const RESPONDERS_MAX: usize = 4;

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
            legacy.refuse(path.as_bytes(), why);
            let shown = printable(path.as_bytes());
            Failure::new(FailureKind::NotFound, format!("{shown}: {why}"))
        })?;
        let (file, copy) = tokio::select! {
            fetched = fetch(legacy, &name) => fetched?.ok_or(absent)?,
            () = reply.closed() => return Err(caller_gone()),
        };
        give(&file, &copy, reply).await
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
        priority: member.priority.then_some(1),
        received_bytes: 0,
        sent_bytes: 0,
        entries,
        shunned: None,
        offences: member.offences,
        last_offence: member.last_offence.map(|last| last.to_string()),
    }
}

/// The whole file from the first responder that keeps its word; none where nobody has it.
async fn fetch(
    legacy: &Legacy,
    name: &Name,
) -> Result<Option<(Arc<RemoteFile>, Arc<RemoteCopy>)>, Failure> {
    let mut failed_at = Vec::new();
    let mut failure = None;
    while failed_at.len() < RESPONDERS_MAX {
        // whoever else has it has been asked already: a lookup's time is enough for them
        let patience = match failure {
            None => Patience::Whole,
            Some(_) => Patience::Lookup,
        };
        let file = match legacy.find(name.clone(), patience, &failed_at).await {
            Ok(file) => file,
            Err(LegacyAbsence::Stopping) => return Err(failed("the node is stopping")),
            Err(_) => break,
        };
        match whole(legacy, &file).await {
            Ok(copy) => return Ok(Some((file, copy))),
            Err(why @ CopyError::NoRoom { .. }) => {
                let failure = copy_failure(&file, &why.to_string());
                return Err(failure.with_remedy("p2pfs cache resize gives it more"));
            }
            Err(why) => {
                failure = Some(copy_failure(&file, &why.to_string()));
                failed_at.push(file.at);
            }
        }
    }
    failure.map_or(Ok(None), Err)
}

async fn whole(legacy: &Legacy, file: &Arc<RemoteFile>) -> Result<Arc<RemoteCopy>, CopyError> {
    let copy = legacy.files().copy(file).await?;
    copy.whole().await?;
    Ok(copy)
}

async fn give(file: &RemoteFile, copy: &RemoteCopy, reply: &ReplySink) -> Result<GetDone, Failure> {
    let started = GetStarted {
        hash: NO_HASH.to_owned(),
        size_bytes: file.size_bytes,
        cached_bytes: file.cached_bytes(),
        executable: false,
    };
    let local = copy.reopen();
    let local = local.map_err(|error| copy_failure(file, &error.to_string()))?;
    if reply.more_with(&started, local.into()).await.is_err() {
        return Err(caller_gone());
    }
    Ok(GetDone {
        sources: vec![SourceShare {
            name: file.peer.to_string(),
            received_bytes: file.size_bytes,
        }],
    })
}

fn copy_failure(file: &RemoteFile, why: &str) -> Failure {
    let message = format!("{} from the older peer {}: {why}", file.name, file.peer);
    failed(message).with_remedy("try again: another older peer may have it")
}
