//! Answers about the legacy peers, and copies of their files for a caller.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::task::spawn_blocking;

use super::content::{may_have, pipe_to_caller};
use super::paths::shared_path;
use super::{Services, failed};
use crate::daemon::control::{
    CallerGone, Failure, FailureKind, GetDone, GetStarted, NO_HASH, Named, PeerInfo, PeerState,
    Plane, ReplySink, SourceShare,
};
use p2pfs_legacy::LegacyPeers;
use p2pfs_legacy::discovery::Absence;
use p2pfs_legacy::discovery_plane::{
    CopyError, Legacy, LegacyAbsence, LegacyMember, Name, RemoteCopy, RemoteFile, Requester,
    printable,
};
use p2pfs_node::NodeError;

/// Maximum responders tried for one call.
const RESPONDERS_MAX: usize = 4;
/// Bytes per read of a local file.
const STEP_BYTES: u64 = 1 << 20;
/// Interval between calls of [`Legacy::find`] for one `p2pfs wait`. Most calls fail at once,
/// because a name without a holder counts as absent for a while and no query is sent.
const ASK_PERIOD: Duration = Duration::from_secs(1);

/// Copies a file of the root that no native node shares from a legacy peer to the caller. Fails
/// with `absent` if legacy mode is off, if `absent` is not [`FailureKind::NotFound`], if the path
/// has several components, or if no legacy peer has the file.
pub(super) async fn copy_from_legacy_peers(
    services: &Services,
    named: &Named,
    caller_uid: u32,
    absent: Failure,
    reply: &ReplySink,
) -> Result<GetDone, Failure> {
    let Some(legacy) = legacy(services) else {
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
        fetched = fetch(legacy, &name, caller_uid) => fetched?.ok_or(absent)?,
        () = reply.closed() => return Err(CallerGone.into()),
    };
    match fetched {
        LegacyFetch::Whole(file, copy) => give(&file, &copy, caller_uid, reply).await,
        LegacyFetch::TooLarge(file) => pass_on(legacy, &file, reply).await,
    }
}

/// Asks the legacy peers again and again for the file of a `p2pfs wait`, until the future is
/// dropped. If no peer has the file, the name counts as absent for a while, and the next query is
/// sent after that. Asks nothing while a node shares the name, or if the path is not a name in the
/// root.
pub(super) async fn keep_asking(
    services: &Services,
    file: Option<&Named>,
    caller_uid: u32,
) -> Infallible {
    let path = file.and_then(|named| shared_path(named).ok());
    let name = path.filter(|path| path.components().count() == 1);
    let name = name.and_then(|path| Name::new(path.as_bytes()).ok().zip(Some(path)));
    let (Some(legacy), Some((name, path))) = (legacy(services), name) else {
        return std::future::pending().await;
    };
    loop {
        if services.node.names().find(&path).is_err() {
            let requester = Requester::program(caller_uid);
            let _found = legacy.find(name.clone(), requester, &[]).await;
        }
        tokio::time::sleep(ASK_PERIOD).await;
    }
}

fn legacy(services: &Services) -> Option<&Legacy> {
    LegacyPeers::of_node(&services.node)?.discovery()
}

/// Returns the legacy peers for `p2pfs peers`, except those that are native nodes.
pub(super) async fn legacy_peers(services: &Services, native: &[PeerInfo]) -> Vec<PeerInfo> {
    let Some(legacy) = legacy(services) else {
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

/// Fetches the whole file from the first of up to [`RESPONDERS_MAX`] responders that delivers it,
/// unless the cache has no room for it. Returns `None` if no peer has the file, and the last
/// failure if all responders failed.
async fn fetch(
    legacy: &Legacy,
    name: &Name,
    caller_uid: u32,
) -> Result<Option<LegacyFetch>, Failure> {
    let mut failed_at = Vec::new();
    let mut failure = None;
    while failed_at.len() < RESPONDERS_MAX {
        // The first query, of a person, gave all legacy peers the time to answer. The shorter time
        // of a lookup is enough for the answers of further holders.
        let requester = match failure {
            None => Requester::person(caller_uid),
            Some(_) => Requester::program(caller_uid),
        };
        let file = match legacy.find(name.clone(), requester, &failed_at).await {
            Ok(file) => file,
            Err(LegacyAbsence::Stopping) => return Err(NodeError::Stopping.into()),
            // It is unknown whether a peer has the file.
            Err(busy @ LegacyAbsence::NotAsked(Absence::Busy)) if failure.is_none() => {
                return Err(Failure::new(FailureKind::Busy, busy.to_string()));
            }
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

/// Passes the bytes of one responder on to the caller as they arrive, without the cache. If the
/// transfer fails, the call fails, because another responder cannot continue in the middle.
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

/// Gives a local copy to the caller: the file itself if [`may_have`] allows it, otherwise a pipe
/// with its bytes.
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
        (receiver, Some(pour(local, file, to)))
    };
    reply.more_with(&started, given).await?;
    if let Some(poured) = poured {
        poured.await?;
    }
    Ok(given_by(file, file.size_bytes))
}

/// Writes a whole local file into a pipe. Fails if the caller is gone or the file cannot be read.
async fn pour(local: File, file: &RemoteFile, mut to: pipe::Sender) -> Result<(), Failure> {
    let (local, size_bytes) = (Arc::new(local), file.size_bytes);
    for step in 0..size_bytes.div_ceil(STEP_BYTES) {
        let (from, offset) = (local.clone(), step * STEP_BYTES);
        let length = STEP_BYTES.min(size_bytes - offset) as usize;
        let read = spawn_blocking(move || {
            let mut bytes = vec![0; length];
            from.read_exact_at(&mut bytes, offset).map(|()| bytes)
        });
        let read = read.await.map_err(io::Error::other).flatten();
        let bytes = read.map_err(|error| copy_failure(file, &error.to_string()))?;
        to.write_all(&bytes).await.map_err(|_| CallerGone)?;
    }
    Ok(())
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
