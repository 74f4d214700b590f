//! The answer that transfers content to a caller: a whole file, through a descriptor.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::paths::{nothing_hidden, refuse_mount_file, shared_path, trimmed};
use super::{Asked, Services, Viewer, failed, legacy, names};
use crate::daemon::control::{
    Answer, Failure, FailureKind, GetDone, GetStarted, Named, PIPE_BYTES, ReplySink, SourceShare,
    is_one_user, parameters,
};
use p2pfs_node::FileError;
use p2pfs_node::api::{FileVersion, FsError, Hidden};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::{SharedPath, escape};

impl Answer<Asked> for parameters::Get {
    async fn answer(self, asked: &mut Asked) -> Result<GetDone, Failure> {
        get(&asked.services, &self.path, &asked.viewer, &asked.reply).await
    }
}

/// Gives the caller a descriptor to read a whole file from: a pipe, to which this node writes
/// verified bytes in order as they arrive. If the file is complete on this machine, in a share or
/// in the cache, root and the owner of that local file receive it itself, because they could open
/// it anyway. A name that no node lists is requested from the legacy peers, whose bytes are not
/// verified.
async fn get(
    services: &Arc<Services>,
    named: &Named,
    viewer: &Viewer,
    reply: &ReplySink,
) -> Result<GetDone, Failure> {
    viewer.check_read(named)?;
    let caller_uid = viewer.uid;
    let file = match file_version(services, named, viewer) {
        Ok(file) => file,
        Err(absent) => {
            let copied = legacy::copy_from_legacy_peers(services, named, caller_uid, absent, reply);
            return copied.await;
        }
    };
    if let Some(uid) = viewer.one_user() {
        services.activity.gets.lock().record(uid, file.hash);
    }
    let started = GetStarted {
        hash: file.hash.to_string(),
        size_bytes: file.size_bytes,
        cached_bytes: services
            .node
            .cache()
            .here_bytes(&file.hash, file.size_bytes),
        executable: file.executable,
    };
    if let Some(local) = local_descriptor(services, &file, caller_uid) {
        reply.more_with(&started, local).await?;
        return Ok(GetDone::default());
    }
    let (sender, receiver) = pipe_to_caller()?;
    let before = received_by_peer(services);
    reply.more_with(&started, receiver).await?;
    let copied = copy_all(services, file, sender, reply).await;
    copied.map_err(|error| fs_failure(error, named))?;
    Ok(GetDone {
        sources: sources_since(services, &before),
    })
}

async fn copy_all(
    services: &Services,
    file: FileVersion,
    mut to: pipe::Sender,
    reply: &ReplySink,
) -> Result<(), FsError> {
    let mut open = services.node.files().open_version(file).await?.to_the_end();
    loop {
        let bytes = tokio::select! {
            bytes = open.next_bytes() => bytes?,
            () = reply.closed() => return Err(FsError::Interrupted),
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let written = to.write_all(&bytes).await;
        written.map_err(|_| FsError::Interrupted)?;
    }
}

pub(super) fn file_version(
    services: &Services,
    named: &Named,
    viewer: &Viewer,
) -> Result<FileVersion, Failure> {
    let bytes = trimmed(named);
    let shown = escape(bytes);
    match services.node.names().hidden(bytes) {
        None => {}
        Some(Hidden::File(file)) => return Ok(file),
        Some(Hidden::Directory) => {
            let message = format!("{shown} is a directory, not a file");
            return Err(Failure::new(FailureKind::Invalid, message)
                .with_remedy("name a file in it; ls shows it in the mount"));
        }
        Some(Hidden::Other) => return Err(refuse_mount_file(bytes)),
        Some(Hidden::Nothing) => return Err(nothing_hidden(bytes)),
    }
    let path = shared_path(named)?;
    services
        .node
        .names()
        .version(&path)
        .map_err(|error| match error {
            FileError::NotFound { path } => names::not_listed(services, &path, viewer),
            FileError::LinkToNothing { path, target } => link_to_nothing(&path, &target),
            FileError::WrongKind { path, what } => {
                let name = match path.as_bytes() {
                    b"" => "/".to_owned(),
                    name => escape(name),
                };
                Failure::new(
                    FailureKind::Invalid,
                    format!("{name} is {what}, not a file"),
                )
                .with_remedy("name a file in it; cp -r takes a directory from the mount")
            }
            error => failed(error.to_string()),
        })
}

fn local_descriptor(services: &Services, file: &FileVersion, caller_uid: u32) -> Option<OwnedFd> {
    let local = services.node.files().local_file(file)?;
    may_have(caller_uid, &local).then(|| OwnedFd::from(local))
}

fn received_by_peer(services: &Services) -> BTreeMap<NodeId, u64> {
    let rates = services.node.traffic().rates();
    rates
        .iter()
        .map(|rate| (rate.node, rate.delivered_bytes))
        .collect()
}

fn sources_since(services: &Services, before: &BTreeMap<NodeId, u64>) -> Vec<SourceShare> {
    let gained = |(node, bytes): (NodeId, u64)| {
        let received_bytes = bytes - before.get(&node).copied().unwrap_or(0).min(bytes);
        (received_bytes > 0).then(|| SourceShare {
            name: services.node.peers().name_of(&node),
            received_bytes,
        })
    };
    received_by_peer(services)
        .into_iter()
        .filter_map(gained)
        .collect()
}

fn link_to_nothing(path: &SharedPath, target: &[u8]) -> Failure {
    let (path, target) = (escape(path.as_bytes()), escape(target));
    let message = format!("{path} is a link to nothing: no node shares {target}");
    Failure::new(FailureKind::NotFound, message)
        .with_remedy("ask its owner to share the target as well, or to remove the link")
}

fn fs_failure(error: FsError, named: &Named) -> Failure {
    let message = format!("{}: {error}", escape(named.as_bytes()));
    if error == FsError::Stopping {
        return Failure::new(FailureKind::Stopping, message);
    }
    match remedy_of(error) {
        Some(remedy) => failed(message).with_remedy(remedy),
        None => failed(message),
    }
}

fn remedy_of(error: FsError) -> Option<&'static str> {
    match error {
        FsError::Unreachable | FsError::DeadlinePassed => {
            Some("p2pfs why says who has it, p2pfs peers whether they answer; try again")
        }
        FsError::Unverified => {
            Some("p2pfs peers names who sent them; try again once another has it")
        }
        FsError::Gone => {
            Some("it was replaced or removed, or its holder left the cluster: get it again")
        }
        FsError::TooManyHandles => Some("try again when fewer files are open or read"),
        FsError::NoRoom => Some("p2pfs cache resize gives it more, p2pfs cache clear empties it"),
        FsError::Disk => Some("p2pfs doctor says which disk, and what helps"),
        _ => None,
    }
}

/// Returns whether a caller may receive a descriptor of the file itself: root, or the owner of the
/// file if that user ID stands for one user ([`is_one_user`]). Any other caller could reopen the
/// file through the descriptor, even if the modes of a directory above the file deny that caller
/// access. If the mode of the file allows it, the caller could reopen the file for writing.
pub(super) fn may_have(caller_uid: u32, file: &File) -> bool {
    let owner = rustix::fs::fstat(file).map(|found| found.st_uid);
    let is_owner = owner.is_ok_and(|owner| owner == caller_uid);
    caller_uid == 0 || (is_owner && is_one_user(caller_uid))
}

/// Returns the ends of a pipe: the sender for this process, and the receiver for the caller.
pub(super) fn pipe_to_caller() -> Result<(pipe::Sender, OwnedFd), Failure> {
    let made = pipe::pipe().and_then(|(sender, receiver)| {
        // A smaller pipe only makes the copy slower.
        let _as_it_is = rustix::pipe::fcntl_setpipe_size(&sender, PIPE_BYTES);
        Ok((sender, receiver.into_blocking_fd()?))
    });
    made.map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_that_ends_early_says_what_to_do() {
        let named = Named::new(*b"a file");
        for error in [
            FsError::Unreachable,
            FsError::DeadlinePassed,
            FsError::Unverified,
            FsError::Gone,
            FsError::TooManyHandles,
            FsError::NoRoom,
            FsError::Disk,
        ] {
            let failure = fs_failure(error, &named);
            assert!(failure.remedy.is_some(), "{failure:?}");
        }
    }
}
