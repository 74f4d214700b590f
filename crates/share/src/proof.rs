//! The one rule about reading: whether a file still has the bytes of a known hash.
//!
//! A file is read unless something proves that its bytes are those of a hash that is known. There
//! are two proofs.
//!
//! **The times.** Each write changes the mtime and the ctime, and no program can set the ctime. So
//! a file with the same (filesystem, inode, size, mtime, ctime) as at a read has the bytes of that
//! read, if both times were older than [`ShareConfig::quiet`](super::ShareConfig::quiet) when the
//! read began. Otherwise another write may have got the same times (git's rule for racily clean
//! files), up to 2 s later on a filesystem with coarse times.
//!
//! **The reports.** In a watched directory of a local disk, inotify reports each write, and the
//! close of each descriptor that may write. The close is also reported after writes through a
//! mapping, because the mapping keeps the descriptor. So the bytes are the same if none of this was
//! reported since the hash was made. This holds whatever the times are, so a rename, a link and a
//! new mode cost no read. It holds if every name of the file is *witnessed*: the name is listed,
//! and since then no report said that its file was written or that the name became one of another
//! file ([`Told`]). A walk that finds new times without a report proves nothing. A change is reported
//! under one name alone, so the others are checked once that one is listed ([`Told::Linked`]).
//!
//! A store through a mapping is not reported before the close, and changes the mtime. A new mtime
//! without a report of a write is therefore a `touch` only if no process has the file open for
//! writing. Finding that out needs an open descriptor, so a hasher does it, and reads nothing
//! (`reading::open_job`). `touch(1)` itself opens the file for writing. The kernel reports its
//! close as that of a writer, so the file is read.
//!
//! A file that was written through the mount has a mark, which changes the ctime and no byte. In a
//! writable share, a new ctime therefore also has a hasher open the file, and read the mark alone.
//!
//! A hash that no proof holds for yet is *doubted* ([`HashProof::Missing`]). If its names stay
//! witnessed for the quiet period, the reports prove it. Otherwise the file is read again. A file
//! with a doubted hash is listed, because each byte is checked against the hash before it is sent.

use std::time::Duration;

use super::identity::{FileIdentity, FileTimestamp, NameStat, is_recent};
use super::ledger::LedgerRow;
use super::listing::ShareListing;
use super::tree::{FileBody, Slot};
use super::watch::Cause;
use p2pfs_types::digest::ContentHash;

/// Proof that a file has the bytes of its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HashProof {
    /// The times of the file. A write would have changed them.
    Times,
    /// The kernel's reports until some time after the read, and the times since. A process may
    /// have stored through a mapping all the while, so the proof ends when a writer closes the
    /// file.
    Reports,
    /// None. The hash may be used while the state has the reports since the read. After a restart
    /// the file is read again.
    Missing,
}

/// The bytes that a file is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownFile {
    pub(super) identity: FileIdentity,
    pub(super) hash: ContentHash,
}

/// Evidence about the bytes of a name, from the reports since its last check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing. The name was found by a walk, or is checked because of another name.
    #[default]
    Nothing,
    /// Another name of the file was listed with new times. All reports until then have been read.
    Linked,
    /// The attributes changed.
    Attributes,
    /// The name is new. It may be another name of a file that is listed.
    Created,
    /// This file was moved here, and was not written since.
    Moved(KnownFile),
    /// The name was removed. Its file was not written before.
    Removed,
    /// The file may have been written, or the name may be that of an unknown file.
    Written,
}

impl Told {
    /// Combines this with what a later report says.
    pub(super) fn then(self, later: Self) -> Self {
        match (self, later) {
            (_, Self::Nothing)
            | (Self::Attributes, Self::Linked)
            | (
                Self::Created | Self::Moved(_) | Self::Removed | Self::Written,
                Self::Linked | Self::Attributes,
            ) => self,
            _ => later,
        }
    }

    /// Returns whether the name still leads to the file that it led to before, and that file was
    /// not written.
    pub(super) fn keeps_file(self) -> bool {
        matches!(self, Self::Nothing | Self::Linked | Self::Attributes)
    }
}

/// Whether a file that a check found must be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It looks as it is listed. `is_closed` says that a writer closed it and that only reports
    /// prove its hash, or nothing does.
    Listed { is_closed: bool },
    /// It has the bytes of this hash.
    Known { hash: ContentHash, is_proven: bool },
    /// It has these bytes and another mtime or mark, if no process has it open for writing.
    Dated(KnownFile),
    /// It must be read.
    Unknown,
}

/// Decides whether a file must be read, which was found under the name `slot` because of `cause`.
pub(super) fn judge(
    listing: &ShareListing,
    slot: Slot,
    seen: &NameStat,
    cause: Cause,
    told: Told,
) -> Verdict {
    let listed = listing.tree.file(slot).filter(|file| file.listed);
    let row = listing.ledger.get(seen.identity.dev, seen.identity.ino);
    let row = row.as_ref();
    let is_written = told == Told::Written;
    if listed.is_some_and(|file| file.identity == seen.identity) {
        let is_doubted = row.is_some_and(|row| row.proof != HashProof::Times);
        let is_closed = is_written && cause == Cause::Closed && is_doubted;
        return Verdict::Listed { is_closed };
    }
    if let Some(row) = row.filter(|row| is_of(row, seen, listed.as_ref())) {
        let (hash, is_proven) = (row.hash, row.proof != HashProof::Missing);
        let holds = match row.proof {
            HashProof::Times => true,
            HashProof::Reports => !is_written,
            // the hash is as doubtful as under the name by which it was read
            HashProof::Missing => {
                cause == Cause::Walk && seen.links > 1 || listing.departed.has(&row.known())
            }
        };
        if holds {
            return Verdict::Known { hash, is_proven };
        }
    }
    let known = match told {
        Told::Attributes => listing.witnessed(slot),
        // if the other name is gone again, it cannot bear witness
        Told::Linked => listing.witnessed(slot).filter(|_| seen.links > 1),
        Told::Moved(known) => Some(known),
        Told::Created => row.and_then(|row| listing.witnesses_of(slot, &row.known()).next()),
        Told::Nothing | Told::Removed | Told::Written => None,
    };
    let may_be_marked = row.is_some_and(|row| row.mark.is_some()) || listing.is_writable(slot);
    match known.filter(|known| is_continued(listing, slot, seen, known)) {
        Some(known) if known.identity.mtime == seen.identity.mtime && !may_be_marked => {
            Verdict::Known {
                hash: known.hash,
                is_proven: false,
            }
        }
        Some(known) => Verdict::Dated(known),
        None => Verdict::Unknown,
    }
}

/// Returns whether a file is the known one with its size, and no report can have been missed under
/// another of its names.
fn is_continued(listing: &ShareListing, slot: Slot, seen: &NameStat, known: &KnownFile) -> bool {
    let is_it = seen.identity.is_inode_of(&known.identity);
    is_it
        && seen.identity.size_bytes == known.identity.size_bytes
        && !seen.made_up
        && listing.sees_writes(slot)
        && (seen.links == 1 || listing.witnesses_of(slot, known).count() as u64 + 1 == seen.links)
}

/// Returns whether a remembered row belongs to this file: the identities must be the same. If the
/// name is listed with this size and mtime, the listed hash must also be that of the row, because
/// another file may have had the same inode number and attributes. On a filesystem that invents
/// inode numbers, a row is used only for a name that is listed in this way.
fn is_of(row: &LedgerRow, seen: &NameStat, listed: Option<&FileBody>) -> bool {
    let dated = |identity: &FileIdentity| (identity.size_bytes, identity.mtime);
    let unchanged = listed.filter(|file| dated(&file.identity) == dated(&seen.identity));
    let agrees = unchanged.map_or(!seen.made_up, |file| file.hash == row.hash);
    agrees && row.identity == seen.identity
}

/// Returns whether a file was changed less than `window` ago. In that case, its times do not prove
/// yet that it was not written again. The ctime counts too, because a program may have set the mtime
/// back after a write.
pub(super) fn is_fresh(identity: &FileIdentity, now: FileTimestamp, window: Duration) -> bool {
    is_recent(identity.mtime, now, window) || is_recent(identity.ctime, now, window)
}
