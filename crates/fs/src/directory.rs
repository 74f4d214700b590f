//! A directory's names in the order of their cookies, each with its catalogue record.
//!
//! A cookie is a hash of the name and the listing is sorted by it, as in ext4's htree. A cookie
//! therefore has the same meaning in every handle, in every version of the directory, and after a
//! restart. A name that stays in the directory is listed once, whatever names appear or vanish
//! beside it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lru::LruCache;
use parking_lot::Mutex;

use super::own_attributes::{InOrder, LooksAhead};
use p2pfs_catalogue::{NameHandle, View};

/// The cookie of `.`. The cookie of `..` is the next.
pub const DOT_COOKIE: u64 = 1;
/// The cookie of `..`.
pub const DOT_DOT_COOKIE: u64 = 2;
const FIRST_NAME_COOKIE: u64 = 3;
/// Maximum listings that are kept while they are read in parts. If a listing is evicted, its reader
/// continues in a new listing after the same cookie.
pub const LISTINGS_MAX: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Returns the cookie after which a listing continues behind this name. It is below 2^63, because
/// the kernel's offsets are signed.
pub fn cookie(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 1).max(FIRST_NAME_COOKIE)
}

/// A snapshot of the names of a directory.
#[derive(Default)]
pub struct Listing {
    places: Vec<ListingEntry>,
    /// Number of the view from which the names were taken.
    view: u64,
    shows_live: AtomicBool,
    /// Prefetched attributes of the own files. A reader of the listing takes them while it uses
    /// them.
    ahead: Mutex<Option<LooksAhead>>,
}

/// One name. It is kept small, because a directory may have a million.
struct ListingEntry {
    cookie: u64,
    name: NameHandle,
}

impl Listing {
    /// Creates a listing of names from this view, sorted by cookie.
    pub fn new(view: &View, names: Vec<NameHandle>) -> Self {
        let mut places: Vec<ListingEntry> = (names.into_iter())
            .map(|name| ListingEntry {
                cookie: cookie(name.as_bytes()),
                name,
            })
            .collect();
        places.sort_unstable_by(|a, b| {
            let by_name = || a.name.as_bytes().cmp(b.name.as_bytes());
            a.cookie.cmp(&b.cookie).then_with(by_name)
        });
        Self {
            places,
            view: view.number(),
            shows_live: AtomicBool::default(),
            ahead: Mutex::new(Some(LooksAhead::default())),
        }
    }

    /// Returns the names with cookies above this one, with their cookies, in order.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &NameHandle)> {
        self.places[self.place_after(cookie)..]
            .iter()
            .map(|place| (place.cookie, &place.name))
    }

    /// Returns the index of the first name with a cookie above this one.
    pub fn place_after(&self, cookie: u64) -> usize {
        self.places.partition_point(|place| place.cookie <= cookie)
    }

    /// Returns whether the records of the names are from this view.
    pub fn is_of(&self, view: &View) -> bool {
        self.view == view.number()
    }

    /// Records that the listing returned attributes with a short lifetime.
    pub fn record_live(&self) {
        self.shows_live.store(true, Relaxed);
    }

    /// Returns whether [`Listing::record_live`] was called.
    pub fn shows_live(&self) -> bool {
        self.shows_live.load(Relaxed)
    }
}

impl InOrder for Listing {
    fn count(&self) -> usize {
        self.places.len()
    }

    fn name(&self, place: usize) -> Option<&[u8]> {
        Some(self.places.get(place)?.name.as_bytes())
    }

    fn ahead(&self) -> &Mutex<Option<LooksAhead>> {
        &self.ahead
    }
}

/// The listings that are being read in parts, by inode number of the directory.
pub struct Listings(Mutex<LruCache<u64, Arc<Listing>>>);

impl Default for Listings {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(LISTINGS_MAX)))
    }
}

impl Listings {
    /// Returns the listing of a directory, if one is kept.
    pub fn get(&self, ino: u64) -> Option<Arc<Listing>> {
        self.0.lock().get(&ino).cloned()
    }

    /// Stores the listing of a directory. At [`LISTINGS_MAX`] it evicts the least recently used
    /// one.
    pub fn put(&self, ino: u64, listing: Arc<Listing>) {
        self.0.lock().put(ino, listing);
    }

    /// Forgets a listing after a reader reached its end. Another reader in the middle of it
    /// continues in a new listing.
    pub fn forget(&self, ino: u64) {
        self.0.lock().pop(&ino);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use p2pfs_catalogue::Catalogue;
    use p2pfs_types::id::{NodeId, NodeName};

    /// Creates a listing of an empty namespace.
    fn listing<N: AsRef<[u8]>>(names: impl IntoIterator<Item = N>) -> Listing {
        let name = NodeName::new("near").unwrap();
        let view = Catalogue::new(NodeId::new([7; 32]), name).view();
        let names = names.into_iter();
        let names = names.map(|name| NameHandle::Other(name.as_ref().into()));
        Listing::new(&view, names.collect())
    }

    #[test]
    fn a_listed_name_takes_a_few_words_of_memory() {
        assert!(
            size_of::<ListingEntry>() <= 24,
            "{}",
            size_of::<ListingEntry>()
        );
    }

    #[test]
    fn a_cookie_follows_those_of_the_dots_and_fits_a_signed_offset() {
        for number in 0..10_000 {
            let cookie = cookie(format!("name-{number}").as_bytes());
            assert!(cookie > DOT_DOT_COOKIE && i64::try_from(cookie).is_ok());
        }
    }

    #[test]
    fn all_names_are_listed_once_from_the_start() {
        let names: BTreeSet<String> = (0..100_000).map(|n| format!("f{n}")).collect();
        let listing = listing(&names);
        let listed: BTreeSet<String> = listing
            .after(DOT_DOT_COOKIE)
            .map(|(_, name)| String::from_utf8(name.as_bytes().to_vec()).unwrap())
            .collect();
        assert_eq!((listing.places.len(), listed), (100_000, names));
    }

    proptest! {
        #[test]
        fn names_that_remain_are_listed_once_while_others_change(
            stays in proptest::collection::btree_set("[a-z]{1,6}", 1..60),
            changes in proptest::collection::vec(
                proptest::collection::btree_set("[A-Z]{1,3}", 0..20), 1..20),
            step in 1usize..7,
        ) {
            // A reader takes `step` names at a time. The directory has changed before each.
            let mut seen = Vec::new();
            let mut cookie = DOT_DOT_COOKIE;
            for others in changes.iter().cycle() {
                let listing = listing(stays.iter().chain(others));
                let part: Vec<_> = listing.after(cookie).take(step).collect();
                let Some((last, _)) = part.last() else { break };
                cookie = *last;
                let text = |name: &NameHandle| {
                    String::from_utf8_lossy(name.as_bytes()).into_owned()
                };
                seen.extend(part.iter().map(|(_, name)| text(name)));
            }
            for name in &stays {
                prop_assert_eq!(seen.iter().filter(|s| *s == name).count(), 1, "{}", name);
            }
        }
    }
}
