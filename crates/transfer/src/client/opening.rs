//! Opening of cache files for reads and fills.
//!
//! A read or fill is started only after the fetch of its content began. In between, nothing waits
//! for the content, so [`Fetcher::close_idle`](super::Fetcher::close_idle) may end the fetch. The
//! functions here then begin it again.

use std::sync::Arc;

use super::ReadReply;
use super::fill::FillSender;
use super::inner::FetcherInner;
use p2pfs_content::CacheFile;
use p2pfs_fetch::TransferError;
use p2pfs_fetch::plan::DemandId;
use p2pfs_fetch::session::{Cached, FillId, OpenOutcome, Read, Shortfall, StartOutcome};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ExtentSet;

/// Begins a fetch unless it has begun. Returns the cache's file, or `None` if it goes on
/// uncached.
fn open(
    inner: &Arc<FetcherInner>,
    content: ContentKey,
) -> Result<Option<CacheFile>, TransferError> {
    match inner.with(|session, now| session.open(now, content))? {
        OpenOutcome::NotBegun => begin_fetch(inner, content),
        OpenOutcome::Cached(file) => Ok(Some(file)),
        OpenOutcome::Uncached => Ok(None),
    }
}

/// Begins a fetch. Returns the cache's file, or `None` if the cache gives none.
fn begin_fetch(
    inner: &Arc<FetcherInner>,
    content: ContentKey,
) -> Result<Option<CacheFile>, TransferError> {
    // an error of the cache does not fail the read: it goes on uncached
    let file = open_cached(inner, content);
    let cached = Cached {
        file: file.clone(),
        on_disk: file
            .as_ref()
            .map_or_else(ExtentSet::new, CacheFile::on_disk),
        is_complete: file.as_ref().is_some_and(CacheFile::is_complete),
    };
    inner.with(|session, now| session.begin(now, content, cached))?;
    Ok(file)
}

/// Opens the cache's file of a content whose fetch began without one, if the cache accepts it
/// now. Blocking.
pub(super) fn reopen(inner: &Arc<FetcherInner>, content: ContentKey) -> Option<CacheFile> {
    let file = open_cached(inner, content)?;
    let (own, is_complete) = (file.clone(), file.is_complete());
    inner.with(|session, _| session.reopened(&content, own, is_complete));
    Some(file)
}

/// Opens the file of a content in the cache. An answer with a turn may wait here for the disk.
fn open_cached(inner: &FetcherInner, content: ContentKey) -> Option<CacheFile> {
    let _call = inner.storing.call_disk();
    inner.contents.place(&content)
}

/// Starts a read, and begins the fetch of its content unless it has begun. Returns `None` if
/// the read ended at once.
pub(super) fn start(inner: &Arc<FetcherInner>, mut read: Read<ReadReply>) -> Option<DemandId> {
    loop {
        let content = read.content;
        match inner.with(|session, now| session.start(now, read)) {
            StartOutcome::Started(id) => return id,
            StartOutcome::NotBegun(back) => {
                read = back;
                if let Err(why) = begin_fetch(inner, content) {
                    (read.handle)(Err(why));
                    return None;
                }
            }
            // the session wants the holders looked up before the read; `with` has done that,
            // because the lookup was one of the actions of `start`
            StartOutcome::HoldersFirst(back) => {
                return inner.with(|session, now| session.read(now, back));
            }
        }
    }
}

/// Restarts a read after its bytes were gone at the time of delivery.
pub(super) fn restart_read(inner: &Arc<FetcherInner>, mut read: Read<ReadReply>, gap: Shortfall) {
    loop {
        let (content, why) = (read.content, gap.clone());
        let told = inner.with(|session, now| {
            if session.plan.files().is_open(&content) {
                session.fell_short(now, read, why);
                Ok(())
            } else {
                Err(read)
            }
        });
        let Err(back) = told else { return };
        read = back;
        if let Err(why) = open(inner, content) {
            return (read.handle)(Err(why));
        }
    }
}

/// Begins a fill. Opens the cache's file and first checks the ranges whose presence is in doubt
/// ([`CacheFile::settle`]). So the fill requests nothing that is here. Blocking.
pub(super) fn begin_fill(
    inner: &Arc<FetcherInner>,
    content: ContentKey,
    id: FillId,
    mut sender: FillSender,
) {
    loop {
        let file = match open(inner, content) {
            Ok(file) => file,
            Err(error) => {
                // the receiver may be gone
                let _ = sender.outcome.send(Err(error));
                return;
            }
        };
        // the cache may accept a file by now that it refused when the fetch began
        let file = file.or_else(|| reopen(inner, content));
        if let Some(file) = &file {
            file.settle(|| !sender.outcome.is_closed());
        }
        // called under the session's lock, so bytes that are not stored at that time are in
        // memory
        let present = || {
            file.as_ref()
                .map_or_else(ExtentSet::new, CacheFile::present)
        };
        let begun = inner.with(|session, now| {
            if !session.plan.files().is_open(&content) {
                return Err(sender);
            }
            // a closed channel means that the fill was dropped
            if !sender.outcome.is_closed() {
                let (fill, patience) = ((id, sender), inner.settings.fill_patience);
                session.fill(now, content, fill, patience, present);
            }
            Ok(())
        });
        match begun {
            Ok(()) => return,
            // the file was closed meanwhile
            Err(back) => sender = back,
        }
    }
}
