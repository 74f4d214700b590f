//! The contents on this machine: the one place that answers "is it here, all of it, and may this
//! node have it?".
//!
//! A content has a hash and a size. Its bytes can be in the cache, in full or in part, and in a
//! shared folder. [`ContentStore`] owns both, and no other crate names them together. The server of
//! other nodes, the peers of older protocols, and the commands ask it. A reader of this machine
//! opens a content with [`ContentOpener`]; bytes that are not here come from [`RemoteBytes`].
//!
//! ```text
//!   mount, get      fetcher     server, offers      pin, ls, why
//!      │ open          │           │ may_have, prove    │ here, is_whole
//!   ContentOpener ─────┤ place     │                    │
//!      │     └─────────┴─── ContentStore ───────────────┘
//!      ▼                      │        │
//!   RemoteBytes             cache    share
//! ```
//!
//! Promises:
//!
//! - A range leaves [`ContentStore::prove`] only with its proof, so that a file that changed is never
//!   given as the old one. A [`ContentHandle`] returns verified bytes of the cache, and bytes of own
//!   files that are as they were when they were hashed or that are checked against the hash.
//! - [`ContentStore::may_have`], [`ContentStore::here`] and [`ContentStore::is_whole`] read memory
//!   only. [`ContentStore::prove_at_once`] never waits for a disk.
//! - A failing disk is a [`ProofError`] of one content.
//!
//! | subject | file |
//! |---|---|
//! | the store: what is here, and the order of the sources | `store` |
//! | which node may have a content | `admission` |
//! | open contents, and reads that wait for other nodes | `open` |
//! | counts of opens and waiting reads | `counters` |
//! | files kept open between the requests of other nodes | `kept` |
//! | room for the bytes of peers whose protocol has no hashes | `unverified` |

mod admission;
mod counters;
mod error;
mod kept;
mod open;
#[cfg(any(test, feature = "test-support"))]
pub mod sample;
mod store;
#[cfg(test)]
mod tests;
mod unverified;

pub use admission::{Asker, OwnReaders, PublishedNames};
pub use counters::{CacheOpens, OPEN_VERSIONS_MAX, OpenSlot, OpenVersions};
pub use error::ProofError;
pub use open::{ContentHandle, ContentOpener, OpenWatch, ReadWatch, RemoteBytes, SupplyReply};
pub use p2pfs_cache::{CacheFile, ReadOutcome, Reservation, Stored};
pub use p2pfs_share::WritableFolder;
pub use store::{ContentStore, Here, Origin, Provable, StoreStart};
pub use unverified::UnverifiedRoom;

/// The administration of the cache: its size, pins, verification and events.
pub mod cache {
    pub use p2pfs_cache::{
        Cache, CacheConfig, CacheError, CacheEvent, CacheUsage, CachedFile, Cleared, Lack, Room,
        VerifyProgress, cost_bytes,
    };
}

/// The administration of the shared folders: their list, scans and events.
pub mod shares {
    pub use p2pfs_share::{
        DefaultOfferRule, FormerNumbers, Known, LeftOut, LeftOutWhy, MissingShare, PlaceError,
        ShareConfig, ShareError, ShareEvent, ShareLedger, SharePlace, ShareProgress, ShareSet,
        ShareSpec, ShareStatus, ShareTotals, check_patterns, open_sound,
    };
}
