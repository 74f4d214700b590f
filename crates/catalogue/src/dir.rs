//! One directory of the merged namespace.
//!
//! Every candidate for a name lies in exactly one of two sets: `listed`, where it is what the name
//! shows, or `rest`. So a namespace without conflicts pays for one pointer a file, and a listing
//! never walks over what is not listed.

use imbl::OrdSet;

use super::orders::{Alias, Before, ByName, DirRef, Listed, Named};
use super::row::{DirId, NodeIndex, Row};
use super::sorted::SortedSet;
use p2pfs_proto::wire::native::record::Timestamp;

/// The time of a directory in which nothing is listed: before all others.
pub(super) const NEVER: Timestamp = Timestamp {
    seconds: i64::MIN,
    nanoseconds: 0,
};

/// A directory: listed or not, of live nodes or not.
#[derive(Clone)]
pub(super) struct Dir {
    pub parent: DirId,
    /// Its number and its name in the parent.
    pub place: DirRef,
    /// Whether something in it is listed.
    pub occupied: bool,
    /// The newest version time of the listed files and the live directory records in it: a file
    /// that is dated in the future hides no change that comes after it.
    pub newest: Timestamp,
    /// The candidates that show under their own names.
    pub listed: SortedSet<Listed>,
    /// All other candidates: directories' records, tombstones, what lost, what nobody can give.
    pub rest: OrdSet<ByName>,
    /// What lost, under conflict names.
    pub aliases: OrdSet<Alias>,
    /// The directories in it that are listed.
    pub dirs: OrdSet<DirRef>,
    /// The directories in it that are not.
    pub absent_dirs: OrdSet<DirRef>,
    /// For each node with anything here or below, by its number.
    presence: Vec<Presence>,
}

impl Dir {
    pub(crate) fn new(parent: DirId, place: DirRef) -> Self {
        Self {
            parent,
            place,
            occupied: false,
            newest: NEVER,
            listed: SortedSet::new(),
            rest: OrdSet::new(),
            aliases: OrdSet::new(),
            dirs: OrdSet::new(),
            absent_dirs: OrdSet::new(),
            presence: Vec::new(),
        }
    }

    /// The directory of a name, listed or not.
    pub(crate) fn child(&self, name: &[u8]) -> Option<DirId> {
        let listed = self.dirs.get(&Named(name));
        listed
            .or_else(|| self.absent_dirs.get(&Named(name)))
            .map(DirRef::id)
    }

    /// All rows of a name, the listed one first.
    pub(crate) fn candidates<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a Row> {
        let others = self.rest.range(Before(name)..).map(|row| &row.0);
        let others = others.take_while(move |row| row.name() == name);
        self.listed
            .get(&Named(name))
            .map(|row| &row.0)
            .into_iter()
            .chain(others)
    }

    /// All candidates in it.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        let listed = self.listed.iter().map(|row| &row.0);
        listed.chain(self.rest.iter().map(|row| &row.0))
    }

    /// The directories in it, listed or not.
    pub(crate) fn all_dirs(&self) -> impl Iterator<Item = &DirRef> {
        self.dirs.iter().chain(&self.absent_dirs)
    }

    /// Whether no log says anything about it or what is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
            && self.rest.is_empty()
            && self.dirs.is_empty()
            && self.absent_dirs.is_empty()
    }

    /// Whether an author has names here or below.
    pub(crate) fn has_of(&self, author: NodeIndex) -> bool {
        let place = self.place_of(author);
        place.is_ok_and(|at| self.presence[at].names > 0)
    }

    /// Counts one more (or less) of what an author has here or below; whether there was none
    /// before, or is none any more.
    pub(crate) fn count(&mut self, author: NodeIndex, what: Counted, more: bool) -> bool {
        let at = match self.place_of(author) {
            Ok(at) => at,
            Err(at) => {
                let presence = Presence {
                    author,
                    names: 0,
                    rows: 0,
                };
                self.presence.insert(at, presence);
                at
            }
        };
        let presence = &mut self.presence[at];
        let counter = match what {
            Counted::Names => &mut presence.names,
            Counted::Rows => &mut presence.rows,
        };
        let before = *counter;
        *counter = if more {
            before + 1
        } else {
            before
                .checked_sub(1)
                .expect("what is counted out was counted in")
        };
        let has_turned = before == u32::from(!more);
        if presence.names == 0 && presence.rows == 0 {
            self.presence.remove(at);
        }
        has_turned
    }

    fn place_of(&self, author: NodeIndex) -> Result<usize, usize> {
        self.presence
            .binary_search_by_key(&author, |presence| presence.author)
    }
}

/// What of an author is counted in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    /// What it shares: its names here, and its directories with any.
    Names,
    /// What it makes this node keep: tombstones and the record of the directory itself too.
    Rows,
}

/// How much an author has in a directory.
#[derive(Clone)]
pub(super) struct Presence {
    author: NodeIndex,
    names: u32,
    rows: u32,
}
