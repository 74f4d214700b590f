//! Contents that proved unserved: each holder left every request unanswered, or sent wrong bytes.
//!
//! A dishonest author can date a version ahead of all others and then serve no byte of it. Without
//! this module that version would keep the name, and every read of the name would fail. An unserved
//! version ranks behind each version that did not prove unserved. A name without another version
//! is unaffected.
//!
//! A mark ends when verified bytes of the content arrive, when this node gets the content itself,
//! or at its expiry. Above [`UNSERVED_MAX`] marks it may end before. A new head or an offer does
//! not end it, because these cost a dishonest author nothing. A mark outlives the name of its
//! content. Otherwise an author could replace one unserved version by the next and never have
//! several marks.

use std::collections::BTreeMap;
use std::time::Instant;

use imbl::OrdSet;

use super::logs::NodeLogs;
use super::row::{Class, NodeIndex, Row};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Maximum number of contents marked as unserved. Above it, the mark that expires first ends.
pub const UNSERVED_MAX: usize = 256;
/// Number of marked contents of one author from which on all its versions rank behind those of
/// other authors.
pub const UNSERVED_PER_AUTHOR: usize = 3;

/// Contents and authors with versions that rank behind all others.
#[derive(Clone, Default)]
pub(super) struct Unserved {
    pub contents: OrdSet<ContentHash>,
    pub authors: OrdSet<NodeIndex>,
}

impl Unserved {
    /// Returns whether a row ranks behind all versions that did not prove unserved.
    pub(crate) fn covers(&self, row: &Row) -> bool {
        match row.class {
            Class::File if self.contents.contains(&row.hash()) => true,
            Class::File | Class::Symlink => self.authors.contains(&row.author),
            _ => false,
        }
    }
}

/// The marks of contents, with what ends them.
#[derive(Default)]
pub(super) struct UnservedMarks {
    marks: BTreeMap<ContentHash, UnservedMark>,
}

struct UnservedMark {
    expires_at: Instant,
    /// Live authors that listed the content when it was marked.
    authors: Vec<NodeId>,
}

impl UnservedMarks {
    fn count_of(&self, author: &NodeId) -> usize {
        let of_author = |mark: &&UnservedMark| mark.authors.contains(author);
        self.marks.values().filter(of_author).count()
    }

    /// Returns when the next mark expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.first_to_expire().map(|(at, _)| at)
    }

    fn first_to_expire(&self) -> Option<(Instant, ContentHash)> {
        let expiries = self
            .marks
            .iter()
            .map(|(hash, mark)| (mark.expires_at, *hash));
        expiries.min()
    }
}

/// Ranks contents that proved unserved behind others.
/// [`Catalogue::unserved`](super::Catalogue::unserved) returns it.
pub struct UnservedContents<'a> {
    pub(super) marks: &'a mut UnservedMarks,
    pub(super) logs: &'a mut NodeLogs,
}

impl UnservedContents<'_> {
    /// Marks a content as unserved until `expires_at`. A content that this node has itself, or that
    /// no other live node claims to have, is not marked. Returns the authors at fault: those with a
    /// name of the content that has another version, which did not prove unserved.
    pub fn mark(&mut self, hash: ContentHash, expires_at: Instant) -> Vec<NodeId> {
        let holders = self.logs.merge.state().holders(hash);
        if holders.is_empty() || holders.contains(&self.logs.me) {
            return Vec::new();
        }
        let authors: Vec<NodeIndex> = self.logs.merge.state().live_authors(hash).collect();
        let id_of = |index: &NodeIndex| self.logs.merge.state().node(*index).id;
        let mark = UnservedMark {
            expires_at,
            authors: authors.iter().map(id_of).collect(),
        };
        self.marks.marks.insert(hash, mark);
        self.set_unserved(hash, true);
        if self.marks.marks.len() > UNSERVED_MAX
            && let Some((_, first)) = self.marks.first_to_expire()
        {
            self.drop_mark(first);
        }
        for author in &authors {
            let state = &mut self.logs.merge.tracked.state;
            let has_many = self.marks.count_of(&state.node(*author).id) >= UNSERVED_PER_AUTHOR;
            if has_many && state.unserved.authors.insert(*author).is_none() {
                self.settle_contested(*author);
            }
        }
        let at_fault = authors.iter();
        let at_fault = at_fault.filter(|author| self.has_served_alternative(hash, **author));
        let merge = &self.logs.merge;
        at_fault
            .map(|author| merge.state().node(*author).id)
            .collect()
    }

    /// Ends the mark of a content after verified bytes of it arrived. Versions of its live authors
    /// then rank by the usual rules, except those with marks of their own.
    pub fn clear(&mut self, hash: ContentHash) {
        self.drop_mark(hash);
        let authors: Vec<NodeIndex> = self.logs.merge.state().live_authors(hash).collect();
        authors.into_iter().for_each(|it| self.pardon(it));
    }

    /// Ends the marks that expire up to `now`.
    pub fn expire(&mut self, now: Instant) {
        while let Some((at, hash)) = self.marks.first_to_expire()
            && at <= now
        {
            self.drop_mark(hash);
        }
    }

    /// Ends the mark of a content. The versions of an author with fewer than
    /// [`UNSERVED_PER_AUTHOR`] marks left then rank by the usual rules.
    pub(super) fn drop_mark(&mut self, hash: ContentHash) {
        let Some(mark) = self.marks.marks.remove(&hash) else {
            return;
        };
        self.set_unserved(hash, false);
        for author in mark.authors {
            let index = self.logs.index_of(&author);
            let has_few = self.marks.count_of(&author) < UNSERVED_PER_AUTHOR;
            if let Some(index) = index.filter(|_| has_few) {
                self.pardon(index);
            }
        }
    }

    fn pardon(&mut self, author: NodeIndex) {
        let authors = &mut self.logs.merge.tracked.state.unserved.authors;
        if authors.remove(&author).is_some() {
            self.settle_contested(author);
        }
    }

    /// Settles the contested names of an author. Other names do not depend on the ranking.
    fn settle_contested(&mut self, author: NodeIndex) {
        let is_version =
            |row: &&Row| row.author == author && matches!(row.class, Class::File | Class::Symlink);
        let merge = &mut self.logs.merge;
        let places = merge.naming.conflicts.iter();
        let places = places.flat_map(|(dir, names)| names.keys().map(|name| (*dir, name)));
        let versions = places.filter_map(|(dir, name)| {
            let mut candidates = merge.state().dir(dir).candidates(name);
            candidates.find(is_version).cloned()
        });
        let versions: Vec<Row> = versions.collect();
        merge.tracked.dirty = true;
        let at_once = versions.len().min(merge.settling.step_records);
        merge.settling.unsettled.extend(versions);
        merge.settler().settle_waiting(at_once);
    }

    fn set_unserved(&mut self, hash: ContentHash, is_unserved: bool) {
        let contents = &mut self.logs.merge.tracked.state.unserved.contents;
        let before = if is_unserved {
            contents.insert(hash).is_some()
        } else {
            contents.remove(&hash).is_none()
        };
        if !before {
            self.logs.merge.tracked.dirty = true;
            self.logs.merge.settler().settle_content(hash);
        }
    }

    /// Returns whether a name of one of the author's files of this content has another version that
    /// can be given and did not prove unserved. Examines a limited number of files.
    fn has_served_alternative(&self, hash: ContentHash, author: NodeIndex) -> bool {
        let merge = &self.logs.merge;
        let state = merge.state();
        let files = state
            .contents
            .files_of(hash)
            .take(merge.settling.step_records);
        let mut files = files.filter(|row| row.author == author);
        files.any(|row| {
            let mut others = state.dir(row.dir).candidates(row.name());
            others.any(|other| {
                !other.same_content(row) && state.is_givable(other) && !state.unserved.covers(other)
            })
        })
    }
}
