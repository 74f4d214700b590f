//! A directory's names in the order of their cookies, each with what was found of it.
//!
//! A cookie is a hash of the name and the listing is sorted by it, as in ext4's htree. So a cookie
//! means the same to every handle, in every version of the directory, and after a restart: a
//! name that is there all the while is listed once, whatever comes and goes beside it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lru::LruCache;
use parking_lot::Mutex;

use super::own_attributes::{InOrder, LooksAhead};
use p2pfs_catalogue::{HeldName, View};

/// The cookie of `.`; that of `..` is the next.
pub const DOT_COOKIE: u64 = 1;
/// The cookie of `..`.
pub const DOT_DOT_COOKIE: u64 = 2;
const FIRST_NAME_COOKIE: u64 = 3;
/// How many directories are remembered while they are listed in parts. One that is pushed out is
/// listed anew from where its reader stands.
pub const LISTINGS_MAX: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Where a listing goes on after this name. Below 2^63, since the kernel's offsets are signed.
pub fn cookie(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 1).max(FIRST_NAME_COOKIE)
}

/// The names of a directory at one moment.
#[derive(Default)]
pub struct Listing {
    places: Vec<Place>,
    /// The number of the view that they were taken from.
    view: u64,
    shows_live: AtomicBool,
    /// Of its own files, which a reader of it takes while it needs them.
    ahead: Mutex<Option<LooksAhead>>,
}

/// Kept small, since there may be a million in a directory.
struct Place {
    cookie: u64,
    name: HeldName,
}

impl Listing {
    /// Sorts the names, which are taken from this view.
    pub fn new(view: &View, names: Vec<HeldName>) -> Self {
        let mut places: Vec<Place> = (names.into_iter())
            .map(|name| Place {
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

    /// The names whose cookies are above this one, with their cookies, in order.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &HeldName)> {
        self.places[self.place_after(cookie)..]
            .iter()
            .map(|place| (place.cookie, &place.name))
    }

    /// The place of the first of these names.
    pub fn place_after(&self, cookie: u64) -> usize {
        self.places.partition_point(|place| place.cookie <= cookie)
    }

    /// Whether what is held of the names is what they stand for in this view.
    pub fn is_of(&self, view: &View) -> bool {
        self.view == view.number()
    }

    /// Attributes were given with it that hold for a moment only.
    pub fn note_live(&self) {
        self.shows_live.store(true, Relaxed);
    }

    /// Whether [`Listing::note_live`] was said.
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

/// The directories that are being listed in parts, by number.
pub struct Listings(Mutex<LruCache<u64, Arc<Listing>>>);

impl Default for Listings {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(LISTINGS_MAX)))
    }
}

impl Listings {
    pub fn get(&self, ino: u64) -> Option<Arc<Listing>> {
        self.0.lock().get(&ino).cloned()
    }

    pub fn put(&self, ino: u64, listing: Arc<Listing>) {
        self.0.lock().put(ino, listing);
    }

    /// A reader came to the end. Another that is under way has it taken anew.
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

    /// Of a namespace that is empty.
    fn listing<N: AsRef<[u8]>>(names: impl IntoIterator<Item = N>) -> Listing {
        let name = NodeName::new("near").unwrap();
        let view = Catalogue::new(NodeId::new([7; 32]), name).view();
        let names = names.into_iter();
        let names = names.map(|name| HeldName::Other(name.as_ref().into()));
        Listing::new(&view, names.collect())
    }

    #[test]
    fn a_name_of_a_listing_is_a_few_words() {
        assert!(size_of::<Place>() <= 24, "{}", size_of::<Place>());
    }

    #[test]
    fn a_cookie_is_above_those_of_the_dots_and_fits_a_signed_offset() {
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
        fn what_stays_is_listed_once_while_others_come_and_go(
            stays in proptest::collection::btree_set("[a-z]{1,6}", 1..60),
            changes in proptest::collection::vec(
                proptest::collection::btree_set("[A-Z]{1,3}", 0..20), 1..20),
            step in 1usize..7,
        ) {
            // A reader takes `step` names at a time; before each, the directory has changed.
            let mut seen = Vec::new();
            let mut cookie = DOT_DOT_COOKIE;
            for others in changes.iter().cycle() {
                let listing = listing(stays.iter().chain(others));
                let part: Vec<_> = listing.after(cookie).take(step).collect();
                let Some((last, _)) = part.last() else { break };
                cookie = *last;
                let text = |name: &HeldName| String::from_utf8_lossy(name.as_bytes()).into_owned();
                seen.extend(part.iter().map(|(_, name)| text(name)));
            }
            for name in &stays {
                prop_assert_eq!(seen.iter().filter(|s| *s == name).count(), 1, "{}", name);
            }
        }
    }
}
