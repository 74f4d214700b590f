//! Answers about the legacy peers, and copies of their files for a caller.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::io::AsyncWriteExt;

use super::handing::{may_have, pipe_to_caller, pour};
use super::paths::shared_path;
use super::{Service, failed};
use crate::daemon::control::{
    CallerGone, EntryKind, Failure, FailureKind, GetDone, GetStarted, LsEntry, NO_HASH, Named,
    PeerInfo, PeerState, Plane, Provenance, ReplySink, SourceShare, VersionInfo,
};
use p2pfs_node::NodeError;
use p2pfs_node::legacy::{
    CopyError, Legacy, LegacyAbsence, LegacyMember, Name, Patience, RemoteCopy, RemoteFile,
    printable,
};
use p2pfs_types::path::SharedPath;

/// Maximum responders tried for one call.
const RESPONDERS_MAX: usize = 4;

impl Service {
    /// Requests a name of the root that no native node shares from the legacy peers. Returns
    /// `absent` if legacy mode is off.
    pub(super) async fn copy_from_legacy_peers(
        &self,
        named: &Named,
        caller_uid: u32,
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
        let fetched = tokio::select! {
            fetched = fetch(legacy, &name) => fetched?.ok_or(absent)?,
            () = reply.closed() => return Err(CallerGone.into()),
        };
        match fetched {
            LegacyFetch::Whole(file, copy) => give(&file, &copy, caller_uid, reply).await,
            LegacyFetch::TooLarge(file) => pass_on(legacy, &file, reply).await,
        }
    }

    /// Returns a file in the root that only a legacy peer is known to have.
    pub(super) fn legacy_file(&self, path: &SharedPath) -> Option<Arc<RemoteFile>> {
        let legacy = self.node.legacy()?;
        if path.components().count() != 1 {
            return None;
        }
        legacy.files().get(&Name::new(path.as_bytes()).ok()?)
    }

    /// Returns the names in the root that only legacy peers are known to have.
    pub(super) fn legacy_entries(&self) -> Vec<LsEntry> {
        let files = self.node.legacy().map(|legacy| legacy.files().all());
        let is_native = |file: &RemoteFile| {
            let path = SharedPath::new(file.name.as_bytes());
            path.is_ok_and(|path| self.node.find(&path).is_ok())
        };
        let files = files.iter().flatten();
        let legacy = files.filter(|file| !is_native(file));
        legacy.map(|file| legacy_entry(file)).collect()
    }

    /// Explains the content of a legacy peer's name.
    pub(super) fn legacy_provenance(&self, file: &RemoteFile) -> Provenance {
        let entry = legacy_entry(file);
        let peer = file.peer.to_string();
        Provenance {
            path: entry.path.clone(),
            listed: true,
            rule: format!(
                "no p2pfs node shares it: the legacy peer {peer} said first that it has it, and \
                 nothing verifies its bytes"
            ),
            next_read: self.next_legacy_read(file),
            sent_by: None,
            left_out: None,
            owner: None,
            versions: vec![VersionInfo {
                shown_as: Some(entry.path),
                won: true,
                waits: false,
                author: peer,
                author_node: String::new(),
                kind: entry.kind,
                hash: None,
                size_bytes: file.size_bytes,
                modified: entry.modified,
                version_time: entry.modified,
                holders: entry.holders,
                cached_bytes: entry.cached_bytes,
                verified: NO_HASH.to_owned(),
            }],
        }
    }

    fn next_legacy_read(&self, file: &RemoteFile) -> String {
        let (here, size_bytes, peer) = (file.cached_bytes(), file.size_bytes, file.peer);
        if here == size_bytes && here > 0 {
            return "read from the copy of a moment ago".to_owned();
        }
        if here > 0 {
            return format!("join its transfer: {here} of {size_bytes} bytes have come");
        }
        if !self.node.has_room_for(size_bytes) {
            return format!(
                "fetch its {size_bytes} bytes from the legacy peer {peer} as they are read: the \
                 cache has no room for them"
            );
        }
        format!(
            "fetch all of its {size_bytes} bytes from the legacy peer {peer}, from the first on"
        )
    }

    /// Returns the legacy peers for `p2pfs peers`, except those that are native nodes.
    pub(super) async fn legacy_peers(&self, native: &[PeerInfo]) -> Vec<PeerInfo> {
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
            .map(|member| legacy_peer(member, entries(member)))
            .filter(|legacy| native.iter().all(|peer| peer.address != legacy.address))
            .collect()
    }
}

/// Describes a legacy peer's file. Its mtime is the time when this node first learned of it.
pub(super) fn legacy_entry(file: &RemoteFile) -> LsEntry {
    LsEntry {
        path: Named::new(file.name.as_bytes()),
        kind: EntryKind::File,
        size_bytes: file.size_bytes,
        modified: Timestamp::try_from(file.first_seen).unwrap_or(Timestamp::UNIX_EPOCH),
        executable: false,
        hash: None,
        holders: vec![file.peer.to_string()],
        cached_bytes: file.cached_bytes(),
        pinned: false,
        plane: Plane::Legacy,
    }
}

/// Explains why a file is not fetched into the cache and not pinned.
pub(super) fn not_kept(file: &RemoteFile) -> String {
    let peer = file.peer;
    format!(
        "only the legacy peer {peer} has it, and bytes without a hash are not kept in the cache: \
         p2pfs get copies it"
    )
}

fn legacy_peer(member: &LegacyMember, entries: u64) -> PeerInfo {
    let state = if member.heard {
        PeerState::Alive
    } else {
        PeerState::Suspect
    };
    PeerInfo {
        name: member.address.to_string(),
        address: member.address.to_string(),
        state,
        plane: Plane::Legacy,
        priority: member.priority.then_some(1),
        entries,
        offences: member.offences,
        last_offence: member.last_offence.map(|last| last.to_string()),
        ..PeerInfo::default()
    }
}

/// The result of a fetch from a responder.
enum LegacyFetch {
    Whole(Arc<RemoteFile>, Arc<RemoteCopy>),
    /// The cache has no room for the file; `get` can copy it without the cache.
    TooLarge(Arc<RemoteFile>),
}

/// Fetches the whole file from the first responder that delivers it; returns `None` if no peer has
/// it.
async fn fetch(legacy: &Legacy, name: &Name) -> Result<Option<LegacyFetch>, Failure> {
    let mut failed_at = Vec::new();
    let mut failure = None;
    while failed_at.len() < RESPONDERS_MAX {
        // All holders were asked in the first round, so the time of a lookup is enough for further
        // answers.
        let patience = match failure {
            None => Patience::Whole,
            Some(_) => Patience::Lookup,
        };
        let file = match legacy.find(name.clone(), patience, &failed_at).await {
            Ok(file) => file,
            Err(LegacyAbsence::Stopping) => return Err(NodeError::Stopping.into()),
            Err(_) => break,
        };
        match whole(legacy, &file).await {
            Ok(copy) => return Ok(Some(LegacyFetch::Whole(file, copy))),
            Err(CopyError::NoRoom { .. }) => return Ok(Some(LegacyFetch::TooLarge(file))),
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

/// Passes the bytes on as they arrive, without the cache. If the transfer fails, another responder
/// cannot continue in the middle.
async fn pass_on(
    legacy: &Legacy,
    file: &Arc<RemoteFile>,
    reply: &ReplySink,
) -> Result<GetDone, Failure> {
    let begun = legacy.files().transfer(file).await;
    let mut transfer = begun.map_err(|error| copy_failure(file, &error.to_string()))?;
    let size_bytes = transfer.size_bytes();
    let (mut to, receiver) = pipe_to_caller()?;
    let started = GetStarted {
        hash: NO_HASH.to_owned(),
        size_bytes,
        cached_bytes: 0,
        executable: false,
    };
    reply.more_with(&started, receiver).await?;
    let passed = async {
        loop {
            let part = match transfer.next().await {
                Ok(Some(part)) => part,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let error = CopyError::from(error);
                    legacy.files().failed(file, &error);
                    return Err(copy_failure(file, &error.to_string()));
                }
            };
            to.write_all(&part).await.map_err(|_| CallerGone)?;
        }
    };
    tokio::select! {
        passed = passed => passed?,
        () = reply.closed() => return Err(CallerGone.into()),
    }
    Ok(given_by(file, size_bytes))
}

/// Gives a local copy to the caller: the file itself if the caller could open it, otherwise its
/// bytes.
async fn give(
    file: &RemoteFile,
    copy: &RemoteCopy,
    caller_uid: u32,
    reply: &ReplySink,
) -> Result<GetDone, Failure> {
    let started = GetStarted {
        hash: NO_HASH.to_owned(),
        size_bytes: file.size_bytes,
        cached_bytes: file.cached_bytes(),
        executable: false,
    };
    let local = copy.reopen();
    let local = local.map_err(|error| copy_failure(file, &error.to_string()))?;
    let (given, poured) = if may_have(caller_uid, &local) {
        (local.into(), None)
    } else {
        let (to, receiver) = pipe_to_caller()?;
        (receiver, Some(pour(local, file.size_bytes, to)))
    };
    reply.more_with(&started, given).await?;
    if let Some(poured) = poured {
        poured.await.map_err(|_| CallerGone)?;
    }
    Ok(given_by(file, file.size_bytes))
}

fn given_by(file: &RemoteFile, received_bytes: u64) -> GetDone {
    let name = file.peer.to_string();
    GetDone {
        sources: vec![SourceShare {
            name,
            received_bytes,
        }],
    }
}

fn copy_failure(file: &RemoteFile, why: &str) -> Failure {
    let message = format!("{} from the legacy peer {}: {why}", file.name, file.peer);
    failed(message).with_remedy("try again: another legacy peer may have it")
}
