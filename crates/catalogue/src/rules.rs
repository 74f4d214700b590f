//! The rules by which a version of a path gets its name, and the conflict names of the other
//! versions.
//!
//! One comparison decides which version has a name, and which rule was the reason: [`compare`]
//! orders two versions and names the rule. The merge uses the order alone, and [`decide`] returns
//! the rules as well. No reason is stored. [`Rule`] lists the rules in their order.
//!
//! A rule is one entry of a table. [`UNLISTING`] has the rules that leave a version without any
//! name, and [`DEMOTING`] those that put a version behind others. The versions that neither table
//! orders are ordered by time and content. Two rules are in neither table. The rule about
//! directories is in `settle`, because a directory can be listed without a record. The rule about
//! replaced versions compares the versions that no other rule unlists ([`Replacements`]).
//!
//! Candidates of the same content are one version, with the attributes of the first. Between them,
//! the smaller NodeId precedes, then the lower share number. Two shares of one node follow the same
//! rules as two nodes.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use super::merged::Merged;
use super::row::{NodeIndex, Row};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::NAME_MAX_BYTES;

/// A rule about the versions of a name. The rules apply in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// At and below an owned path, only the owner's versions are listed. At a path above it, no
    /// link of another node is listed.
    Owner,
    /// A version whose time is more than
    /// [`EARLY_TOLERANCE_SECONDS`](super::EARLY_TOLERANCE_SECONDS) ahead of this node's clock is
    /// not listed.
    Clock,
    /// A version that no live node can give, from a share or a cache, is not listed.
    Givable,
    /// A listed directory keeps the name.
    Directory,
    /// A version that another node deleted is not listed.
    Deleted,
    /// A version is not listed beside a version that replaces it.
    Replaced,
    /// A version precedes those that proved unserved. Their holders left a reader without them, or
    /// their author left several other versions unserved, or left readers without its former
    /// versions of the name.
    Served,
    /// A version that a live node shares under this name precedes those without such a node.
    AuthorLives,
    /// The version with the newest version time precedes.
    Newest,
    /// Of versions with one time, a file precedes a link. Then the smaller hash precedes, and of two
    /// links the smaller target.
    SmallestHash,
    /// No rule was needed: live nodes can give no other version.
    Only,
}

/// Returns whether a rule counts against a candidate.
type Fault = fn(&Merged, &Row) -> bool;

/// The rules that leave a version without any name, whatever the other versions are.
const UNLISTING: [(Rule, Fault); 4] = [
    (Rule::Owner, |state, row| !state.may_have(row, row.name())),
    (Rule::Clock, Merged::is_early),
    (Rule::Givable, |state, row| !state.is_givable(row)),
    (Rule::Deleted, |state, row| state.deletion_of(row).is_some()),
];

/// The rules that put a version behind all versions without the fault.
const DEMOTING: [(Rule, Fault); 2] = [
    (Rule::Served, Merged::is_unserved),
    (Rule::AuthorLives, |state, row| !state.is_live(row)),
];

/// Returns the rule that leaves a file or link without any name, if there is one.
pub(super) fn unlisting_rule(state: &Merged, row: &Row) -> Option<Rule> {
    let broken = UNLISTING.iter().find(|(_, fault)| fault(state, row));
    broken.map(|(rule, _)| *rule)
}

/// Versions of one name that replace others, by the contents that they replace.
///
/// A version replaces another if it names its content and is newer. A version that can be replaced
/// by one in a closed share is of the same author, and a sealed version is replaced by a sealed one
/// only. Of two versions with the same version time, both of which name contents, the one that
/// ranks behind replaces nothing of the other. Otherwise versions that replace each other would all
/// be unlisted.
///
/// A version that proved unserved replaces nothing, so that readers get what it replaced.
#[derive(Default)]
pub(super) struct Replacements<'a> {
    /// The first version by rank that names a content, among all versions, those of one author,
    /// and the sealed ones of either.
    first: HashMap<([u8; 32], ReplacementScope), &'a Row>,
    /// Number of examined contents.
    pub looks: usize,
    state: Option<&'a Merged>,
}

/// The versions that are searched for a replacement.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct ReplacementScope {
    /// The only author. `None` stands for all.
    author: Option<NodeIndex>,
    is_sealed: bool,
}

impl<'a> Replacements<'a> {
    /// Returns the replacements among the versions that the rules of [`UNLISTING`] leave.
    pub(super) fn of(state: &'a Merged, versions: &[&'a Row]) -> Self {
        let mut all = Self::default();
        let replacing = versions.iter().filter(|row| !row.replaces().is_empty());
        for row in replacing.filter(|row| !state.is_unserved(row)) {
            all.state = Some(state);
            all.looks += row.replaces().len();
            for content in row.replaces().iter().filter(|it| **it != row.hash) {
                all.insert(content, row);
            }
        }
        all
    }

    fn insert(&mut self, content: &[u8; 32], row: &'a Row) {
        for author in [None, Some(row.author)] {
            for is_sealed in [false, true] {
                if is_sealed && !row.share.is_sealed() {
                    continue;
                }
                let scope = ReplacementScope { author, is_sealed };
                let first = self.first.entry((*content, scope)).or_insert(row);
                if newest_first(row, first).is_lt() {
                    *first = row;
                }
            }
        }
    }

    /// Returns the version that replaces another, if there is one.
    pub(super) fn of_row(&self, row: &Row) -> Option<&'a Row> {
        let state = self.state?;
        let content = *row.content()?.as_bytes();
        let is_sealed = row.share.is_sealed();
        let first = |author| {
            let scope = ReplacementScope { author, is_sealed };
            let first = self.first.get(&(content, scope)).copied();
            first.filter(|by| match by.version_time().cmp(&row.version_time()) {
                Ordering::Less => false,
                Ordering::Equal => row.replaces().is_empty() || content_order(by, row).is_lt(),
                Ordering::Greater => true,
            })
        };
        let of_any = state.is_open(row).then(|| first(None)).flatten();
        of_any.or_else(|| first(Some(row.author)))
    }
}

/// Orders two versions by time, then by content.
fn newest_first(a: &Row, b: &Row) -> Ordering {
    let by_time = b.version_time().cmp(&a.version_time());
    by_time.then_with(|| content_order(a, b))
}

/// Orders two listable candidates of a name, the preceding one first, and returns the rule that
/// decided. A demoting rule decided only if the rules after it order the two otherwise.
pub(super) fn compare(state: &Merged, a: &Row, b: &Row) -> (Ordering, Rule) {
    let mut decided = match b.version_time().cmp(&a.version_time()) {
        Ordering::Equal => (content_order(a, b), Rule::SmallestHash),
        by_time => (by_time, Rule::Newest),
    };
    for (rule, fault) in DEMOTING.iter().rev() {
        let order = fault(state, a).cmp(&fault(state, b));
        if order.is_ne() && order != decided.0 {
            decided = (order, *rule);
        }
    }
    decided
}

/// Orders two candidates of a name by rank. Only a candidate is equal to itself.
pub(super) fn order(state: &Merged, a: &Row, b: &Row) -> Ordering {
    (compare(state, a, b).0)
        .then_with(|| state.node_of(a).cmp(state.node_of(b)))
        .then_with(|| a.share.cmp(&b.share))
}

/// Orders two contents with the same version time. The winning content comes first.
fn content_order(a: &Row, b: &Row) -> Ordering {
    (a.class.cmp(&b.class))
        .then_with(|| a.hash.cmp(&b.hash))
        .then_with(|| a.size_bytes().cmp(&b.size_bytes()))
        .then_with(|| a.target().cmp(b.target()))
}

/// Returns one candidate for each content, the winner first.
pub(super) fn rank(state: &Merged, mut rows: Vec<Row>) -> Vec<Row> {
    if rows.len() < 2 {
        return rows;
    }
    rows.sort_by(|a, b| order(state, a, b));
    let mut seen = BTreeSet::new();
    rows.retain(|row| {
        let content = (row.class, row.hash, row.size_bytes(), row.target().to_vec());
        seen.insert(content)
    });
    rows
}

/// A version of a name, and the decision about it.
pub(super) struct DecidedVersion {
    /// The first of the candidates with its content.
    pub(super) row: Row,
    pub(super) has_name: bool,
    /// The reason why it has the name or not.
    pub(super) rule: Rule,
    /// The version that replaces it, or the deletion that hides it.
    pub(super) superseded_by: Option<Row>,
}

/// Returns the rule that leaves a candidate without any name, and the row that supersedes it.
fn unlisting_of(
    state: &Merged,
    replacements: &Replacements<'_>,
    row: &Row,
) -> Option<(Rule, Option<Row>)> {
    match unlisting_rule(state, row) {
        Some(Rule::Deleted) => Some((Rule::Deleted, state.deletion_of(row).cloned())),
        Some(rule) => Some((rule, None)),
        None => {
            let by = replacements.of_row(row)?;
            Some((Rule::Replaced, Some(by.clone())))
        }
    }
}

/// Decides about the files and links of a name, in the order of their rank. Those that are not
/// listed under any name come last.
pub(super) fn decide(
    state: &Merged,
    candidates: impl Iterator<Item = Row>,
    directory_has_it: bool,
) -> Vec<DecidedVersion> {
    let candidates: Vec<Row> = candidates.collect();
    let left = candidates.iter();
    let left = left.filter(|row| unlisting_rule(state, row).is_none());
    let replacements = Replacements::of(state, &left.collect::<Vec<_>>());
    let unlisting = |row: &Row| unlisting_of(state, &replacements, row);
    let (listable, unlisted): (Vec<Row>, Vec<Row>) =
        (candidates.iter().cloned()).partition(|row| unlisting(row).is_none());
    let (ranked, mut unlisted) = (rank(state, listable), rank(state, unlisted));
    unlisted.retain(|row| !ranked.iter().any(|listed| listed.same_content(row)));
    let unlisted = unlisted.into_iter().map(|row| {
        let (rule, superseded_by) = unlisting(&row).unwrap_or((Rule::Only, None));
        DecidedVersion {
            row,
            has_name: false,
            rule,
            superseded_by,
        }
    });
    let unlisted: Vec<DecidedVersion> = unlisted.collect();
    let rule_of = |at: usize| match at {
        _ if directory_has_it => Rule::Directory,
        0 => rule_of_winner(state, &ranked, &unlisted),
        _ => compare(state, &ranked[0], &ranked[at]).1,
    };
    let rules: Vec<Rule> = (0..ranked.len()).map(rule_of).collect();
    let listed = ranked.into_iter().zip(rules).enumerate();
    let listed = listed.map(|(at, (row, rule))| DecidedVersion {
        row,
        has_name: at == 0 && !directory_has_it,
        rule,
        superseded_by: None,
    });
    listed.chain(unlisted).collect()
}

/// Returns the rule by which the first of the listable versions has the name. A rule that excludes
/// or demotes another version says more than the one that decided against the second.
fn rule_of_winner(state: &Merged, ranked: &[Row], unlisted: &[DecidedVersion]) -> Rule {
    if unlisted.iter().any(|it| it.rule == Rule::Owner) {
        return Rule::Owner;
    }
    let others = ranked.iter().skip(1);
    let mut rules = others.map(|other| compare(state, &ranked[0], other).1);
    let replaces = |it: &DecidedVersion| {
        let by = it
            .superseded_by
            .as_ref()
            .filter(|_| it.rule == Rule::Replaced);
        by.is_some_and(|by| by.same_content(&ranked[0]))
    };
    let replaced = unlisted.iter().any(replaces).then_some(Rule::Replaced);
    let second = rules.next().or(replaced).unwrap_or(Rule::Only);
    rules
        .chain(replaced)
        .filter(|rule| *rule < Rule::Newest)
        .fold(second, Rule::min)
}

/// Inserts `~label` before the last extension of `name`. Returns `None` if the result exceeds 255
/// bytes. A dot at the front does not begin an extension.
pub fn conflict_name(name: &[u8], label: &str) -> Option<Vec<u8>> {
    let dot = name
        .iter()
        .rposition(|b| *b == b'.')
        .filter(|at| *at > 0)
        .unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    let listed = [stem, b"~", label.as_bytes(), extension].concat();
    (listed.len() <= NAME_MAX_BYTES).then_some(listed)
}

/// Returns the label of a node: its name if no other node has that name. Otherwise it is the name
/// with 4, 8, 16 or all digits of its key, as few as differ from those of `namesakes`.
pub(super) fn label(name: &str, id: &NodeId, namesakes: &[NodeId]) -> String {
    if namesakes.is_empty() {
        return name.to_owned();
    }
    for digits in [4, 8, 16] {
        let short = id.short(digits);
        if namesakes.iter().all(|other| other.short(digits) != short) {
            return format!("{name}-{short}");
        }
    }
    format!("{name}-{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict(name: &str) -> String {
        String::from_utf8(conflict_name(name.as_bytes(), "lab").unwrap()).unwrap()
    }

    #[test]
    fn a_conflict_name_keeps_the_extension() {
        assert_eq!(conflict("report.pdf"), "report~lab.pdf");
        assert_eq!(conflict("a.tar.gz"), "a.tar~lab.gz");
        assert_eq!(conflict("README"), "README~lab");
        assert_eq!(conflict(".profile"), ".profile~lab");
        assert_eq!(conflict(".x.conf"), ".x~lab.conf");
        assert_eq!(conflict("end."), "end~lab.");
    }

    #[test]
    fn a_conflict_name_over_255_bytes_is_left_out() {
        assert_eq!(
            conflict_name(&[b'n'; 251], "lab").map(|name| name.len()),
            Some(255)
        );
        assert_eq!(conflict_name(&[b'n'; 252], "lab"), None);
    }

    #[test]
    fn namesakes_are_distinguished_by_their_keys() {
        let (a, b) = (NodeId::new([0x1a; 32]), NodeId::new([0x1b; 32]));
        let mut twin = [0x1a; 32];
        twin[5] = 0;
        assert_eq!(label("lab", &a, &[]), "lab");
        assert_eq!(label("lab", &a, &[b]), "lab-1a1a");
        assert_eq!(
            label("lab", &a, &[b, NodeId::new(twin)]),
            "lab-1a1a1a1a1a1a1a1a"
        );
    }
}
