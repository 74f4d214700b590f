//! Contents that proved unserved: no holder gave all of it, and a holder left a reader without an
//! answer or sent wrong bytes.
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
//! several marks. If it replaces the version before a read of it fails, the name is marked instead
//! of the content (`withheld`).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use imbl::{OrdMap, OrdSet};

use super::NODES_MAX;
use super::logs::NodeLogs;
use super::row::{Class, NodeIndex, Row};
use super::withheld::{NameVerdict, Portion, WithheldNames, WithheldVersion};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Maximum number of contents marked as unserved. Above it, a mark of the author with the most
/// marks ends: the one that expires first.
pub const UNSERVED_MAX: usize = 256;
/// An author with this many marked contents and names ranks behind other authors with all its
/// versions. A name is marked after this many undelivered versions.
pub const UNSERVED_PER_AUTHOR: usize = 3;

/// Contents, authors and names with versions that rank behind all others.
#[derive(Clone, Default)]
pub(super) struct Unserved {
    pub contents: OrdSet<ContentKey>,
    pub authors: OrdSet<NodeIndex>,
    /// Names of which reads of an author's versions failed, by author.
    pub names: OrdMap<NodeIndex, OrdMap<SharedPath, NameVerdict>>,
}

impl Unserved {
    /// Returns whether a row ranks behind all versions that did not prove unserved. `path` returns
    /// the path of the row.
    pub(crate) fn covers(&self, row: &Row, path: impl FnOnce() -> SharedPath) -> bool {
        match row.class {
            Class::File if self.contents.contains(&key_of(row)) => true,
            Class::File | Class::Symlink => {
                self.authors.contains(&row.author) || self.covers_name(row.author, path)
            }
            _ => false,
        }
    }

    fn covers_name(&self, author: NodeIndex, path: impl FnOnce() -> SharedPath) -> bool {
        let names = self.names.get(&author);
        let verdict = names.and_then(|names| names.get(&path()));
        verdict.is_some_and(|verdict| verdict.ranks_behind())
    }

    /// Returns whether reads of versions of a name failed lately.
    pub(crate) fn is_suspect(&self, path: &SharedPath) -> bool {
        self.names.values().any(|names| names.contains_key(path))
    }

    /// Forgets an author.
    pub(crate) fn forget(&mut self, author: NodeIndex) {
        self.authors.remove(&author);
        self.names.remove(&author);
    }

    fn set_name(&mut self, author: NodeIndex, path: SharedPath, verdict: Option<NameVerdict>) {
        let names = self.names.entry(author).or_default();
        match verdict {
            Some(verdict) => drop(names.insert(path, verdict)),
            None => drop(names.remove(&path)),
        }
        if names.is_empty() {
            self.names.remove(&author);
        }
    }
}

/// Returns the content of a file row, with the size that its author states.
fn key_of(row: &Row) -> ContentKey {
    ContentKey::new(row.hash(), row.size_bytes())
}

/// The marks of contents, with what ends them.
#[derive(Default)]
pub(super) struct UnservedMarks {
    marks: BTreeMap<ContentKey, UnservedMark>,
    withheld: WithheldNames,
    /// Nodes that sent wrong bytes, until when this node asks them for nothing.
    liars: BTreeMap<NodeId, Instant>,
}

struct UnservedMark {
    expires_at: Instant,
    /// Live authors that listed the content when it was marked.
    authors: Vec<NodeId>,
}

impl UnservedMarks {
    /// Returns whether all versions of an author rank behind those of others.
    fn are_many_of(&self, author: &NodeId) -> bool {
        self.liars.contains_key(author) || self.count_of(author) >= UNSERVED_PER_AUTHOR
    }

    fn count_of(&self, author: &NodeId) -> usize {
        let of_author = |mark: &&UnservedMark| mark.authors.contains(author);
        let contents = self.marks.values().filter(of_author).count();
        contents + self.withheld.count_withheld(author)
    }

    /// Returns the number of names for which failed reads are counted.
    #[cfg(test)]
    pub(super) fn withheld_names(&self) -> usize {
        self.withheld.len()
    }

    /// Returns the mark to end if there are too many: the first to expire of the author with the
    /// most marks. So an author with many marks ends no mark of another author.
    fn mark_to_drop(&self) -> Option<ContentKey> {
        if self.marks.len() <= UNSERVED_MAX {
            return None;
        }
        let mut counts: BTreeMap<&NodeId, usize> = BTreeMap::new();
        for author in self.marks.values().flat_map(|mark| &mark.authors) {
            *counts.entry(author).or_default() += 1;
        }
        let rank = |mark: &UnservedMark| {
            let most = mark.authors.iter().map(|author| counts[author]).max();
            (Reverse(most), mark.expires_at)
        };
        let marks = self.marks.iter();
        marks.min_by_key(|(_, mark)| rank(mark)).map(|it| *it.0)
    }

    /// Returns when the next mark expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let content = self.first_to_expire().map(|(at, _)| at);
        let name = self.withheld.first_to_expire().map(|(at, _)| at);
        let liar = self.liars.values().min().copied();
        content.into_iter().chain(name).chain(liar).min()
    }

    fn first_to_expire(&self) -> Option<(Instant, ContentKey)> {
        let expiries = self
            .marks
            .iter()
            .map(|(content, mark)| (mark.expires_at, *content));
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
    ///
    /// A content is a hash and a size. A node that states a wrong size of a hash has no part in the
    /// ranking of the versions with the right one.
    pub fn mark(&mut self, content: ContentKey, expires_at: Instant) -> Vec<NodeId> {
        let holders = self.holders_of(&content);
        if holders.is_empty() || holders.contains(&self.logs.me) {
            return Vec::new();
        }
        let state = self.logs.merge.state();
        let is_author = |it: &NodeIndex| state.contents.is_listed_by(content.hash, *it);
        let authors: Vec<NodeIndex> = holders.into_iter().filter(is_author).collect();
        let id_of = |index: &NodeIndex| self.logs.merge.state().node(*index).id;
        let mark = UnservedMark {
            expires_at,
            authors: authors.iter().map(id_of).collect(),
        };
        self.marks.marks.insert(content, mark);
        self.set_unserved(content, true);
        if let Some(excess) = self.marks.mark_to_drop() {
            self.drop_mark(&excess);
        }
        authors.iter().for_each(|it| self.blame_if_many(*it));
        let at_fault = authors.iter();
        let at_fault = at_fault.filter(|author| self.has_served_alternative(&content, **author));
        let merge = &self.logs.merge;
        at_fault
            .map(|author| merge.state().node(*author).id)
            .collect()
    }

    /// Counts a version that a reader did not get against the live authors that kept it back, until
    /// `expires_at`. From [`UNSERVED_PER_AUTHOR`] versions on, over some time, the author's
    /// versions of the name rank behind those of other authors. Returns the authors at fault: those
    /// that were silent, if the name has another version that did not prove unserved.
    pub fn withhold(
        &mut self,
        version: &WithheldVersion,
        now: Instant,
        expires_at: Instant,
    ) -> Vec<NodeId> {
        let mut at_fault = Vec::new();
        for author in &version.authors {
            let index = self.logs.index_of(author);
            let is_live = |it: &NodeIndex| self.logs.merge.state().node(*it).live;
            let Some(index) = index.filter(|it| *it != self.logs.me && is_live(it)) else {
                continue;
            };
            let name = (*author, version.path.clone());
            let failed = (version.hash, version.how);
            let (verdict, forgotten) = self.marks.withheld.record(name, failed, now, expires_at);
            if let Some((author, path)) = forgotten {
                self.set_name(&author, &path, None);
            }
            self.set_name(author, &version.path, Some(verdict));
            self.blame_if_many(index);
            if verdict == NameVerdict::Withheld && self.is_served_by_others(&version.path, index) {
                at_fault.push(*author);
            }
        }
        at_fault
    }

    /// Ends the counts of a name for the nodes that gave verified bytes of a version of it. If
    /// these are a part of the version, ends only what is due to refusals.
    pub fn clear_name(&mut self, path: &SharedPath, givers: &[NodeId], given: Portion) {
        for giver in givers {
            let name = (*giver, path.clone());
            let (has_changed, verdict) = self.marks.withheld.clear(&name, given);
            if has_changed {
                self.set_name(giver, path, verdict);
                self.pardon_if_few(giver);
            }
        }
    }

    /// Ranks all versions of a node behind those of others until `expires_at`, because it sent
    /// wrong bytes and is asked for nothing until then. Its log need not be known yet.
    pub fn shun(&mut self, node: NodeId, expires_at: Instant) {
        let index = self.logs.index_of(&node);
        let has_room = index.is_some() || self.marks.liars.len() < NODES_MAX;
        if index == Some(self.logs.me) || !has_room {
            return;
        }
        self.marks.liars.insert(node, expires_at);
        self.blame_returned(&node);
    }

    /// Ranks the versions of a node that is known again behind those of others if it is shunned or
    /// has many marks.
    pub(super) fn blame_returned(&mut self, node: &NodeId) {
        if let Some(index) = self.logs.index_of(node).filter(|it| *it != self.logs.me) {
            self.blame_if_many(index);
        }
    }

    /// Ends the mark of a content after verified bytes of it arrived from these nodes. If this node
    /// then has the whole content, the versions of the nodes rank by the usual rules, except those
    /// with marks of their own. A part of a content pardons no node: it could give the beginning of
    /// each and keep the rest. Nodes that sent wrong bytes are not pardoned either: they gave the
    /// right bytes before, and are asked for none now.
    pub fn clear(&mut self, content: &ContentKey, givers: &[NodeId], given: Portion) {
        self.drop_mark(content);
        if given == Portion::Part {
            return;
        }
        let honest = |giver: &&NodeId| !self.marks.liars.contains_key(*giver);
        let honest: Vec<NodeId> = givers.iter().filter(honest).copied().collect();
        for giver in honest {
            if let Some(index) = self.logs.index_of(&giver) {
                self.pardon(index);
            }
        }
    }

    /// Ends the marks that expire up to `now`.
    pub fn expire(&mut self, now: Instant) {
        while let Some((at, content)) = self.marks.first_to_expire()
            && at <= now
        {
            self.drop_mark(&content);
        }
        let liars = self.marks.liars.extract_if(.., |_, at| *at <= now);
        let over: Vec<NodeId> = liars.map(|(liar, _)| liar).collect();
        over.iter().for_each(|liar| self.pardon_if_few(liar));
        while let Some((at, name)) = self.marks.withheld.first_to_expire()
            && at <= now
        {
            let (author, path) = name.clone();
            self.clear_name(&path, &[author], Portion::Whole);
        }
    }

    /// Ends the mark of a content. The versions of an author with fewer than
    /// [`UNSERVED_PER_AUTHOR`] marks left then rank by the usual rules.
    pub(super) fn drop_mark(&mut self, content: &ContentKey) {
        let Some(mark) = self.marks.marks.remove(content) else {
            return;
        };
        self.set_unserved(*content, false);
        mark.authors.iter().for_each(|it| self.pardon_if_few(it));
    }

    fn blame_if_many(&mut self, author: NodeIndex) {
        let state = &mut self.logs.merge.tracked.state;
        let has_many = self.marks.are_many_of(&state.node(author).id);
        if has_many && state.unserved.authors.insert(author).is_none() {
            self.settle_contested(author);
        }
    }

    fn pardon_if_few(&mut self, author: &NodeId) {
        let index = self.logs.index_of(author);
        let has_few = !self.marks.are_many_of(author);
        if let Some(index) = index.filter(|_| has_few) {
            self.pardon(index);
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

    /// Sets what the failed reads of an author's versions of a name prove, and settles the name if
    /// its ranking changes.
    fn set_name(&mut self, author: &NodeId, path: &SharedPath, verdict: Option<NameVerdict>) {
        let Some(index) = self.logs.index_of(author) else {
            return;
        };
        let merge = &mut self.logs.merge;
        let unserved = &mut merge.tracked.state.unserved;
        let was_behind = unserved.covers_name(index, || path.clone());
        unserved.set_name(index, path.clone(), verdict);
        merge.tracked.dirty = true;
        if was_behind != verdict.is_some_and(NameVerdict::ranks_behind) {
            let rows = self.versions_of(path).into_iter();
            let rows = rows.filter(|row| row.author == index);
            let rows: Vec<Row> = rows.collect();
            self.logs.merge.settler().settle_rows(rows);
        }
    }

    /// Returns the rows of the files and links of a name.
    fn versions_of(&self, path: &SharedPath) -> Vec<Row> {
        let state = self.logs.merge.state();
        let dir = path.parent().and_then(|parent| state.find_dir(&parent));
        let Some(dir) = dir else {
            return Vec::new();
        };
        let rows = state.dir(dir).candidates(path.file_name());
        let rows = rows.filter(|row| matches!(row.class, Class::File | Class::Symlink));
        rows.cloned().collect()
    }

    /// Returns whether a name has a version of another author that can be given and did not prove
    /// unserved.
    fn is_served_by_others(&self, path: &SharedPath, author: NodeIndex) -> bool {
        let state = self.logs.merge.state();
        let mut others = self.versions_of(path).into_iter();
        others
            .any(|row| row.author != author && state.is_listable(&row) && !state.is_unserved(&row))
    }

    fn set_unserved(&mut self, content: ContentKey, is_unserved: bool) {
        let contents = &mut self.logs.merge.tracked.state.unserved.contents;
        let before = if is_unserved {
            contents.insert(content).is_some()
        } else {
            contents.remove(&content).is_none()
        };
        if !before {
            self.logs.merge.tracked.dirty = true;
            self.logs.merge.settler().settle_content(content.hash);
        }
    }

    /// Returns the live nodes that state that they have all of a content, with this size.
    fn holders_of(&self, content: &ContentKey) -> Vec<NodeIndex> {
        let state = self.logs.merge.state();
        let mut holders = state.holders(content.hash);
        holders.retain(|holder| state.states_size(*holder, content));
        holders
    }

    /// Returns whether a name of one of the author's files of this content has another version that
    /// can be given and did not prove unserved. Examines a limited number of files.
    fn has_served_alternative(&self, content: &ContentKey, author: NodeIndex) -> bool {
        let merge = &self.logs.merge;
        let state = merge.state();
        let files = state
            .contents
            .files_of(content.hash)
            .take(merge.settling.step_records);
        let mut files = files.filter(|row| row.author == author && key_of(row) == *content);
        files.any(|row| {
            let mut others = state.dir(row.dir).candidates(row.name());
            others.any(|other| {
                !other.same_content(row) && state.is_listable(other) && !state.is_unserved(other)
            })
        })
    }
}
