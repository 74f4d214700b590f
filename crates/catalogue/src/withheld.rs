//! Names of which one author left readers without versions.
//!
//! A dishonest author can replace a version that it does not give by the next one, faster than a
//! reader's wait ends. The mark of one content (`unserved`) does not help then: when the read has
//! failed, the content is no longer listed. So the failed reads are counted for each author and
//! name, over all versions.
//!
//! A version counts as soon as one read of it ended without an answer of the author, whatever the
//! author gave of it before. Otherwise an author could give the beginning of each version and keep
//! the rest. For the same reason only a version that is here whole, and of which the author gave
//! bytes, ends the count. An honest node whose file changes while it is read differs in that it
//! answers: it says that the version is gone.
//!
//! A node that refuses to send a version, because the file has changed or the node is busy, is
//! probably honest. Refusals count only if the author gave no byte of the version, only after a
//! longer time, and they name no author. The first byte of a later version ends them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::unserved::UNSERVED_PER_AUTHOR;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Maximum number of names for which failed reads are counted.
pub const WITHHELD_NAMES_MAX: usize = 256;
/// Maximum number of names of one author for which failed reads are counted.
pub const WITHHELD_NAMES_PER_AUTHOR: usize = 32;
/// Maximum number of failed versions that are remembered for one name of one author.
const VERSIONS_KEPT_MAX: usize = 8;
/// Least time between the first and the last failed read of a name. It is the default deadline of
/// a read, so that one stalled connection does not count as several versions.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// Least time between the first and the last failed read of a name if some of them were refused. A
/// node serves a small file for this time after it was replaced.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// How the nodes that were asked for a version kept it from a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withholding {
    /// They left a request unanswered until the wait of the reader ended.
    Silent,
    /// They refused: the version is gone, or the node is too busy.
    Refused,
}

/// How much of a version arrived from the nodes that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// Some bytes.
    Part,
    /// The last missing bytes: this node has the whole version.
    Whole,
}

/// A version that a reader did not get, and the authors that kept it from the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldVersion {
    /// The name of the version among the files of its authors.
    pub path: SharedPath,
    /// The content of the version.
    pub hash: ContentHash,
    /// Nodes that were asked for the content, and had a version of this name when the reader opened
    /// it. They left a request unanswered, or refused and gave no byte of the content.
    pub authors: Vec<NodeId>,
    /// How they kept the version from the reader.
    pub how: Withholding,
}

/// Conclusion from the failed reads of one author's versions of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NameVerdict {
    /// Nothing yet.
    Suspected,
    /// The versions cannot be had. They rank behind others.
    Refused,
    /// The author leaves readers without its versions. They rank behind others, and the author is
    /// named.
    Withheld,
}

impl NameVerdict {
    /// Returns whether the author's versions of the name rank behind others.
    pub(super) fn ranks_behind(self) -> bool {
        self > Self::Suspected
    }
}

struct FailedVersion {
    hash: ContentHash,
    how: Withholding,
    at: Instant,
    expires_at: Instant,
}

impl FailedVersion {
    fn is_silent(&self) -> bool {
        self.how == Withholding::Silent
    }
}

/// The failed reads of one author's versions of one name, the first one first.
#[derive(Default)]
struct FailedReads {
    versions: Vec<FailedVersion>,
}

impl FailedReads {
    /// Returns when the last of the failed reads expires.
    fn expires_at(&self) -> Option<Instant> {
        self.versions.iter().map(|it| it.expires_at).max()
    }

    fn record(&mut self, failed: FailedVersion) {
        self.forget_old_silence(failed.at);
        let mut known = self.versions.iter_mut();
        if let Some(known) = known.find(|it| it.hash == failed.hash) {
            known.expires_at = failed.expires_at;
            if failed.is_silent() {
                known.how = Withholding::Silent;
            }
            return;
        }
        if self.versions.len() >= VERSIONS_KEPT_MAX {
            // The first one stays, because it shows since when reads fail.
            self.versions.remove(1);
        }
        self.versions.push(failed);
    }

    /// Forgets the versions for which the author was silent if all of them expired. Refusals do not
    /// keep them: a node that is rarely silent and often refuses is probably honest.
    fn forget_old_silence(&mut self, now: Instant) {
        let mut silent = self.versions.iter().filter(|it| it.is_silent());
        if silent.all(|it| it.expires_at <= now) {
            self.versions.retain(|it| !it.is_silent());
        }
    }

    /// Forgets the refused versions.
    fn forget_refusals(&mut self) {
        self.versions.retain(FailedVersion::is_silent);
    }

    fn verdict(&self) -> NameVerdict {
        let is_silent = |it: &&FailedVersion| it.is_silent();
        if is_proof(self.versions.iter().filter(is_silent), SILENT_FOR) {
            NameVerdict::Withheld
        } else if is_proof(self.versions.iter(), REFUSED_FOR) {
            NameVerdict::Refused
        } else {
            NameVerdict::Suspected
        }
    }
}

/// Returns whether enough versions failed over a long enough time.
fn is_proof<'a>(
    mut failed: impl Iterator<Item = &'a FailedVersion> + Clone,
    least: Duration,
) -> bool {
    let has_many = failed.clone().count() >= UNSERVED_PER_AUTHOR;
    let first = failed.next().map(|it| it.at);
    let last = failed.last().map(|it| it.at);
    has_many
        && first
            .zip(last)
            .is_some_and(|(first, last)| last >= first + least)
}

/// An author and a name among its files.
pub(super) type NameOfAuthor = (NodeId, SharedPath);

/// The failed reads of names, by author.
#[derive(Default)]
pub(super) struct WithheldNames {
    names: BTreeMap<NameOfAuthor, FailedReads>,
}

impl WithheldNames {
    /// Records a failed read. Returns what the failed reads of the name prove now, and a name that
    /// is forgotten for it.
    pub(super) fn record(
        &mut self,
        name: NameOfAuthor,
        (hash, how): (ContentHash, Withholding),
        at: Instant,
        expires_at: Instant,
    ) -> (NameVerdict, Option<NameOfAuthor>) {
        let forgotten = self.name_to_forget_for(&name);
        if let Some(forgotten) = &forgotten {
            self.names.remove(forgotten);
        }
        let reads = self.names.entry(name).or_default();
        reads.record(FailedVersion {
            hash,
            how,
            at,
            expires_at,
        });
        (reads.verdict(), forgotten)
    }

    /// Returns the name to forget before another one is added, if there are too many: one of the
    /// same author if that author has too many, otherwise one of the author with the most. So an
    /// author with many names keeps no other author from being counted.
    fn name_to_forget_for(&self, name: &NameOfAuthor) -> Option<NameOfAuthor> {
        if self.names.contains_key(name) {
            return None;
        }
        let most = if self.of_author(&name.0).count() >= WITHHELD_NAMES_PER_AUTHOR {
            name.0
        } else if self.names.len() >= WITHHELD_NAMES_MAX {
            let authors = self.names.keys().map(|(author, _)| *author);
            authors.max_by_key(|author| self.of_author(author).count())?
        } else {
            return None;
        };
        let mut names: Vec<_> = self.of_author(&most).collect();
        names.sort_by_key(|(_, reads)| (reads.verdict(), reads.expires_at()));
        names.first().map(|(name, _)| (*name).clone())
    }

    fn of_author(&self, author: &NodeId) -> impl Iterator<Item = (&NameOfAuthor, &FailedReads)> {
        let from = (*author, SharedPath::root());
        let names = self.names.range(from..);
        let author = *author;
        names.take_while(move |((of, _), _)| *of == author)
    }

    /// Returns how many names of an author rank behind others because it was silent. Refusals do
    /// not count: an author that refuses is probably honest.
    pub(super) fn count_withheld(&self, author: &NodeId) -> usize {
        let names = self.of_author(author);
        names
            .filter(|(_, reads)| reads.verdict() == NameVerdict::Withheld)
            .count()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Ends the count of a name, or only its refusals if the author gave a part of a version.
    /// Returns whether that changed the count, and what the rest of it proves.
    pub(super) fn clear(
        &mut self,
        name: &NameOfAuthor,
        given: Portion,
    ) -> (bool, Option<NameVerdict>) {
        let Some(reads) = self.names.get_mut(name) else {
            return (false, None);
        };
        let before = reads.versions.len();
        match given {
            Portion::Part => reads.forget_refusals(),
            Portion::Whole => reads.versions.clear(),
        }
        let left = reads.versions.len();
        let verdict = (left > 0).then(|| reads.verdict());
        if left == 0 {
            self.names.remove(name);
        }
        (left < before, verdict)
    }

    /// Returns the count that ends first, and when.
    pub(super) fn first_to_expire(&self) -> Option<(Instant, &NameOfAuthor)> {
        let names = self.names.iter();
        let expiries = names.filter_map(|(name, reads)| Some((reads.expires_at()?, name)));
        expiries.min()
    }
}
