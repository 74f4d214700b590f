//! Names of which one author gave no version.
//!
//! A dishonest author can replace a version that it never gives by the next one, faster than a
//! reader's wait ends. The mark of one content (`unserved`) does not help then: when the read has
//! failed, the content is no longer listed. So the failed reads are counted for each author and
//! name, over all versions. An honest node whose file changes all the time differs in that it gives
//! bytes of some version, and the first of them ends the count.
//!
//! A node that refuses to send a version, because the file has changed or the node is busy, is
//! probably honest. Refusals count only after a longer time, and name no author.

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
    /// They answered no request.
    Silent,
    /// They refused: the version is gone, or the node is too busy.
    Refused,
}

/// A version that a reader did not get, and the authors that gave no byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldVersion {
    /// The name of the version among the files of its authors.
    pub path: SharedPath,
    /// The content of the version.
    pub hash: ContentHash,
    /// Nodes that were asked for the content, gave no byte of it, and had a version of this name
    /// when the reader opened it.
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
    /// The author gives none of its versions. They rank behind others, and the author is named.
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
}

/// The failed reads of one author's versions of one name, the first one first.
struct FailedReads {
    versions: Vec<FailedVersion>,
    expires_at: Instant,
}

impl FailedReads {
    fn record(&mut self, failed: FailedVersion) {
        let mut known = self.versions.iter_mut();
        if let Some(known) = known.find(|it| it.hash == failed.hash) {
            if failed.how == Withholding::Silent {
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

    fn verdict(&self) -> NameVerdict {
        let is_silent = |it: &&FailedVersion| it.how == Withholding::Silent;
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
        let reads = self.names.entry(name).or_insert_with(|| FailedReads {
            versions: Vec::new(),
            expires_at,
        });
        reads.record(FailedVersion { hash, how, at });
        reads.expires_at = expires_at;
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
        names.sort_by_key(|(_, reads)| (reads.verdict(), reads.expires_at));
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

    /// Ends the count of a name. Returns whether there was one.
    pub(super) fn remove(&mut self, name: &NameOfAuthor) -> bool {
        self.names.remove(name).is_some()
    }

    /// Returns the count that ends first, and when.
    pub(super) fn first_to_expire(&self) -> Option<(Instant, &NameOfAuthor)> {
        let names = self.names.iter();
        names.map(|(name, reads)| (reads.expires_at, name)).min()
    }
}
