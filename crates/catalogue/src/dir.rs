//! One directory of the merged namespace.
//!
//! Every candidate for a name is in exactly one of two sets: `listed` if the name shows it,
//! otherwise `rest`. A listed file therefore costs one pointer here, and a listing never iterates
//! over unlisted rows.

use imbl::OrdSet;

use super::orders::{Alias, Before, ByName, DirRef, ListedRow, Named, OwnName};
use super::row::{DirId, NO_SHARE, NodeIndex, Row};
use super::sorted::SortedSet;
use p2pfs_proto::wire::native::record::{ShareIndex, Timestamp};

/// Value of [`Dir::newest`] if nothing in a directory has a time that counts. It is before all
/// other times.
pub(super) const NEVER: Timestamp = Timestamp {
    seconds: i64::MIN,
    nanoseconds: 0,
};

/// A directory, whether it is listed or not and whether its authors are live or not.
#[derive(Clone)]
pub(super) struct Dir {
    pub parent: DirId,
    /// Its number, and its name in the parent.
    pub place: DirRef,
    /// Whether it has listed entries.
    pub occupied: bool,
    /// The newest version time of its listed files and of the live directory records in it. Entries
    /// dated ahead of the clock do not count.
    pub newest: Timestamp,
    /// The candidates that are shown under their own names.
    pub listed: SortedSet<ListedRow>,
    /// All other candidates, such as directory records, tombstones, losing versions, and versions
    /// that no live node can give.
    pub rest: OrdSet<ByName>,
    /// Deletions of versions of names.
    pub gone: OrdSet<ByName>,
    /// The losing versions that have conflict names.
    pub aliases: OrdSet<Alias>,
    /// Its listed subdirectories.
    pub dirs: OrdSet<DirRef>,
    /// Its unlisted subdirectories.
    pub absent_dirs: OrdSet<DirRef>,
    /// Row counts of each node with rows here or below, sorted by node number.
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
            gone: OrdSet::new(),
            aliases: OrdSet::new(),
            dirs: OrdSet::new(),
            absent_dirs: OrdSet::new(),
            presence: Vec::new(),
        }
    }

    /// Returns the subdirectory of a name, listed or not.
    pub(crate) fn child(&self, name: &[u8]) -> Option<DirId> {
        let listed = self.dirs.get(&Named(name));
        listed
            .or_else(|| self.absent_dirs.get(&Named(name)))
            .map(DirRef::id)
    }

    /// Returns all rows of a name, the listed one first.
    pub(crate) fn candidates<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a Row> {
        let others = self.rest.range(Before(name)..).map(|row| &row.0);
        let others = others.take_while(move |row| row.name() == name);
        self.listed
            .get(&Named(name))
            .map(|row| &row.0)
            .into_iter()
            .chain(others)
    }

    /// Returns the deletions of versions of a name.
    pub(crate) fn gone_at<'a>(&'a self, name: &[u8]) -> impl Iterator<Item = &'a Row> {
        let rows = self.gone.range(Before(name)..).map(|row| &row.0);
        rows.take_while(move |row| row.name() == name)
    }

    /// Returns one author's row of a name, including tombstones and deletions.
    pub(crate) fn row_of(&self, name: &[u8], author: NodeIndex, share: ShareIndex) -> Option<&Row> {
        let listed = self.listed.get(&Named(name)).map(|row| &row.0);
        listed
            .filter(|row| (row.author, row.share) == (author, share))
            .or_else(|| {
                let name = OwnName {
                    name,
                    author,
                    share,
                };
                let rows = if share == NO_SHARE {
                    &self.gone
                } else {
                    &self.rest
                };
                rows.get(&name).map(|row| &row.0)
            })
    }

    /// Returns all candidates in the directory.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        let listed = self.listed.iter().map(|row| &row.0);
        listed.chain(self.rest.iter().map(|row| &row.0))
    }

    /// Returns all subdirectories, listed or not.
    pub(crate) fn all_dirs(&self) -> impl Iterator<Item = &DirRef> {
        self.dirs.iter().chain(&self.absent_dirs)
    }

    /// Returns whether no log has a row in this directory or below it.
    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
            && self.rest.is_empty()
            && self.gone.is_empty()
            && self.dirs.is_empty()
            && self.absent_dirs.is_empty()
    }

    /// Returns whether an author has names, without tombstones, here or below.
    pub(crate) fn has_of(&self, author: NodeIndex) -> bool {
        let place = self.place_of(author);
        place.is_ok_and(|at| self.presence[at].names > 0)
    }

    /// Adds or subtracts one row of an author here or below. Returns whether the count left zero or
    /// returned to it.
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

/// The counter of an author in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    /// The author's names here that are not tombstones, and the subdirectories that contain such
    /// names at any depth.
    Names,
    /// The author's rows here, including tombstones and its record of the directory itself, and the
    /// subdirectories that contain any at any depth.
    Rows,
}

/// Row counts of one author in a directory.
#[derive(Clone)]
pub(super) struct Presence {
    author: NodeIndex,
    names: u32,
    rows: u32,
}
