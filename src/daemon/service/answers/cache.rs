//! Answers about the local cache.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Asked, Services, Viewer, status};
use crate::daemon::config::units::write_size;
use crate::daemon::control::{
    Answer, CacheCleared, CacheEntry, CacheListing, CacheUsage, CacheVerified, Failure,
    FailureKind, LS_PAGE_MAX_ENTRIES, Named, Progress, ReplySink, parameters,
};
use p2pfs_node::api::{CachedFile, VerifyProgress};
use p2pfs_types::digest::ContentHash;

/// Maximum names listed for one content, which may have any number.
const NAMES_MAX: usize = 16;
/// Maximum progress reports that wait for a slow caller. While this many wait, new reports are
/// dropped.
const PROGRESS_WAITING_MAX: usize = 8;

impl Answer<Asked> for parameters::CacheLs {
    async fn answer(self, asked: &mut Asked) -> Result<CacheListing, Failure> {
        let viewer = asked.viewer;
        asked
            .blocking(move |services| list_cache(services, self.after.as_deref(), &viewer))
            .await
    }
}

impl Answer<Asked> for parameters::CacheClear {
    async fn answer(self, asked: &mut Asked) -> Result<CacheCleared, Failure> {
        asked.blocking(clear_cache).await
    }
}

impl Answer<Asked> for parameters::CacheVerify {
    async fn answer(self, asked: &mut Asked) -> Result<CacheVerified, Failure> {
        verify_cache(&asked.services, &asked.reply).await
    }
}

impl Answer<Asked> for parameters::CacheResize {
    async fn answer(self, asked: &mut Asked) -> Result<CacheUsage, Failure> {
        asked
            .blocking(move |services| resize_cache(services, self.budget_bytes))
            .await
    }
}

/// Lists one page of the contents in the cache and of the pinned contents that are still to be
/// fetched. Includes names of files only if the mount lets the caller list directories.
pub(super) fn list_cache(
    services: &Services,
    after: Option<&str>,
    viewer: &Viewer,
) -> Result<CacheListing, Failure> {
    let after: Option<ContentHash> = after
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| Failure::new(FailureKind::Invalid, "not a content hash"))?;
    let mut files = services.node.cache().list();
    let here: BTreeSet<ContentHash> = files.iter().map(|file| file.hash).collect();
    let to_come = services.node.pins().to_come().into_iter();
    files.extend(to_come.filter(|file| !here.contains(&file.hash)));
    files.retain(|file| after.is_none_or(|after| file.hash > after));
    files.sort_by_key(|file| file.hash);
    let more = files.len() > LS_PAGE_MAX_ENTRIES;
    files.truncate(LS_PAGE_MAX_ENTRIES);
    let entries = files.iter().map(|file| cache_entry(services, file));
    let shown = entries.map(|entry| {
        if viewer.access.list {
            entry
        } else {
            CacheEntry {
                names: Vec::new(),
                pinned_as: None,
                ..entry
            }
        }
    });
    Ok(CacheListing {
        entries: shown.collect(),
        more,
    })
}

fn cache_entry(services: &Services, file: &CachedFile) -> CacheEntry {
    let names = services.node.names().names_of(&file.hash, NAMES_MAX);
    let is_begun = file.last_use != SystemTime::UNIX_EPOCH;
    let is_unlisted = file.pinned && names.is_empty();
    let pinned_as = is_unlisted.then(|| services.node.pins().name_of(&file.hash));
    CacheEntry {
        hash: file.hash.to_string(),
        size_bytes: file.size_bytes,
        cached_bytes: file.cached_bytes,
        pinned: file.pinned,
        open: file.open,
        last_used: is_begun
            .then(|| Timestamp::try_from(file.last_use).ok())
            .flatten(),
        names: names
            .iter()
            .map(|path| Named::new(path.as_bytes()))
            .collect(),
        pinned_as: pinned_as.flatten().map(|path| Named::new(path.as_bytes())),
    }
}

pub(super) fn clear_cache(services: &Services) -> Result<CacheCleared, Failure> {
    let cleared = services.node.cache().clear();
    Ok(CacheCleared {
        removed_files: cleared.removed_files as u64,
        removed_bytes: cleared.removed_bytes,
        kept_files: (cleared.open_files + cleared.pinned_files) as u64,
    })
}

pub(super) fn resize_cache(services: &Services, budget_bytes: u64) -> Result<CacheUsage, Failure> {
    if budget_bytes == 0 {
        return Err(Failure::new(
            FailureKind::Invalid,
            "the cache cannot have 0 bytes",
        ));
    }
    let cost_bytes = services.node.pins().cost_bytes();
    if budget_bytes < cost_bytes {
        let message = format!(
            "{} are pinned, which take {} with their proofs",
            write_size(services.node.pins().bytes()),
            write_size(cost_bytes)
        );
        return Err(Failure::new(FailureKind::Invalid, message)
            .with_remedy("unpin some of it first (p2pfs cache ls shows what)"));
    }
    services.node.cache().resize(budget_bytes);
    Ok(status::cache_usage(services))
}

/// Reads and verifies the cached bytes of complete chunks, with progress reports to the caller.
/// Stops if the caller disconnects.
async fn verify_cache(
    services: &Arc<Services>,
    reply: &ReplySink,
) -> Result<CacheVerified, Failure> {
    let (reports, mut report_queue) = mpsc::channel(PROGRESS_WAITING_MAX);
    let work = super::blocking(services, move |services| {
        let verified = services.node.cache().verify(|progress| {
            match reports.try_send(progress_of(progress)) {
                Err(mpsc::error::TrySendError::Closed(_)) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        Ok(verified)
    });
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            Some(progress) = report_queue.recv() => {
                reply.more(&progress).await?;
            }
        }
    };
    let verified = outcome?;
    Ok(CacheVerified {
        files: verified.files as u64,
        bytes: verified.checked_bytes,
        dropped_bytes: verified.dropped_bytes,
        unopened_files: verified.unopened_files as u64,
    })
}

fn progress_of(progress: &VerifyProgress) -> Progress {
    Progress {
        done_files: progress.files as u64,
        total_files: progress.files_total as u64,
        done_bytes: progress.bytes,
        total_bytes: progress.bytes_total,
    }
}
