//! The contents on this machine: the one place that answers "is it here, all of it, and may this
//! node have it?".
//!
//! A content has a hash and a size. Its bytes can be in the cache, in full or in part, and in a
//! shared folder. [`ContentStore`] owns both, and no other crate names them together. The server of
//! other nodes, the peers of older protocols, and the commands ask it.
//!
//! ```text
//!   fetcher     server, offers      get, pin, ls, why
//!      │ place        │ may_have, prove      │ here, is_whole, local_file
//!      └──────────────┴─── ContentStore ─────┘
//!                       │               │
//!                     cache           share
//! ```
//!
//! Promises:
//!
//! - A range leaves [`ContentStore::prove`] only with its proof, so that a file that changed is never
//!   given as the old one.
//! - [`ContentStore::may_have`], [`ContentStore::here`] and [`ContentStore::is_whole`] read memory
//!   only. [`ContentStore::prove_at_once`] never waits for a disk.
//! - A failing disk is a [`ProofError`] of one content.
//!
//! | subject | file |
//! |---|---|
//! | the store: what is here, and the order of the sources | `store` |
//! | which node may have a content | `admission` |
//! | files kept open between the requests of other nodes | `kept` |
//! | room for the bytes of peers whose protocol has no hashes | `unverified` |

mod admission;
mod error;
mod kept;
#[cfg(any(test, feature = "test-support"))]
pub mod sample;
mod store;
#[cfg(test)]
mod tests;
mod unverified;

pub use admission::{Asker, OwnReaders, PublishedNames};
pub use error::ProofError;
pub use p2pfs_cache::{CacheFile, ReadOutcome, Reservation, Stored};
pub use store::{ContentStore, Here, Provable, StoreStart};
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
        Attributes, DefaultOfferRule, FormerNumbers, Known, LeftOut, LeftOutWhy, MissingShare,
        PlaceError, ShareConfig, ShareError, ShareEvent, ShareLedger, SharePlace, ShareProgress,
        ShareSet, ShareSpec, ShareStatus, ShareTotals, check_patterns, open_sound,
    };
}
