//! Checks which facts a log may hold, and estimates their size in a part.

use super::CatalogueError;
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_proto::wire::native::record::{
    EntitledReader, Entry, FILE_MAX_BYTES, Fact, Kind, PATH_MAX_DEPTH, READERS_MAX, REPLACES_MAX,
    SEALED_MAX_BYTES, SENDER_MAX_BYTES, SHARES_MAX, Sender, ShareIndex, Timestamp,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Estimated bytes of a record without the parts that [`estimated_bytes`] adds. The estimate is
/// generous.
const RECORD_BASE_BYTES: usize = 40;

fn path_fits(path: &SharedPath) -> bool {
    !path.is_root() && path.components().count() <= PATH_MAX_DEPTH
}

/// Checks that a log may hold a received or stored fact.
pub(super) fn check_fact(fact: &Fact) -> Result<(), CatalogueError> {
    let fits = |sealed: &[u8]| sealed.len() <= SEALED_MAX_BYTES;
    // The number of shares is limited, because each change of a name examines the records about the
    // name in every share.
    let is_share = |share: &ShareIndex| usize::from(share.0) < SHARES_MAX;
    let sound = match fact {
        Fact::Entry { share, .. } | Fact::Removed { share, .. } | Fact::Terms { share, .. } => {
            is_share(share)
        }
        Fact::Have { .. } | Fact::HaveNot { .. } | Fact::Gone { .. } | Fact::Keeps(_) => true,
        Fact::Readers {
            number,
            share,
            readers,
            ..
        } => {
            let ascend = readers.is_sorted_by(|a, b| a.node < b.node);
            // The author is in the list, but does not count as a reader.
            let some = !readers.is_empty() && readers.len() <= READERS_MAX + 1;
            number.is_sealed() && is_share(share) && ascend && some
        }
        Fact::Sealed {
            number,
            path,
            entry,
        } => number.is_sealed() && !path.is_empty() && fits(path) && fits(entry),
        Fact::SealedRemoved { number, path } => number.is_sealed() && fits(path),
    };
    if sound {
        check_in_clear(fact)
    } else {
        Err(CatalogueError::BadFact)
    }
}

/// Checks the cleartext parts of a fact.
pub(super) fn check_in_clear(fact: &Fact) -> Result<(), CatalogueError> {
    let time_is_sound = |time: &Timestamp| time.nanoseconds < 1_000_000_000;
    // The hash of the empty content is the only proof that a file is empty: a reader requests no
    // bytes of it.
    let may_be_of = |hash: &ContentHash, size_bytes: u64| {
        size_bytes <= FILE_MAX_BYTES && (size_bytes > 0 || *hash == ContentHash::of(b""))
    };
    let sound = match fact {
        Fact::Entry {
            path,
            entry:
                Entry {
                    kind,
                    mtime,
                    version_time,
                    sent_by,
                    replaces,
                },
            ..
        } => {
            let is_file = matches!(kind, Kind::File { .. });
            let kind_fits = match kind {
                Kind::Symlink { target } => link_stays_inside(path, target),
                Kind::File {
                    hash, size_bytes, ..
                } => may_be_of(hash, *size_bytes),
                Kind::Directory => true,
            };
            let sender_fits = match sent_by {
                Some(Sender::Peer(name)) => is_file && name.len() <= SENDER_MAX_BYTES,
                Some(Sender::Node(_)) => is_file,
                None => true,
            };
            let times_fit = time_is_sound(mtime) && time_is_sound(version_time);
            let replaces_fit = replaces.is_empty() || is_file && replaces.len() <= REPLACES_MAX;
            path_fits(path) && kind_fits && sender_fits && times_fit && replaces_fit
        }
        Fact::Gone {
            path,
            replaces,
            time,
        } => path_fits(path) && replaces.len() <= REPLACES_MAX && time_is_sound(time),
        Fact::Terms { share, .. } => !share.is_sealed(),
        Fact::Keeps(offer) => offer.fits(),
        Fact::Removed { path, .. } => path_fits(path),
        Fact::Have { hash, size_bytes } => may_be_of(hash, *size_bytes),
        Fact::HaveNot { .. } => true,
        Fact::Readers { .. } | Fact::Sealed { .. } | Fact::SealedRemoved { .. } => true,
    };
    if sound {
        Ok(())
    } else {
        Err(CatalogueError::BadFact)
    }
}

/// Returns the estimated bytes of a fact in a part.
pub(super) fn estimated_bytes(fact: &Fact) -> usize {
    RECORD_BASE_BYTES
        + match fact {
            Fact::Entry { path, entry, .. } => {
                path.as_bytes().len()
                    + match &entry.kind {
                        Kind::File { .. } => 40,
                        Kind::Directory => 0,
                        Kind::Symlink { target } => target.len(),
                    }
                    + match &entry.sent_by {
                        Some(Sender::Node(_)) => 40,
                        Some(Sender::Peer(name)) => name.len(),
                        None => 0,
                    }
                    + size_of_val(&entry.replaces[..])
            }
            Fact::Gone { path, replaces, .. } => path.as_bytes().len() + size_of_val(&replaces[..]),
            Fact::Terms { .. } => 0,
            Fact::Keeps(offer) => offer.paths.iter().map(|it| it.as_bytes().len() + 2).sum(),
            Fact::Removed { path, .. } => path.as_bytes().len(),
            Fact::Have { .. } | Fact::HaveNot { .. } => 32,
            Fact::Readers { readers, .. } => readers.len() * size_of::<EntitledReader>(),
            Fact::Sealed { path, entry, .. } => path.len() + entry.len(),
            Fact::SealedRemoved { path, .. } => path.len(),
        }
}
