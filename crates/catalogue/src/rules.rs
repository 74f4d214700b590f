//! The rules by which a version of a path gets its name, and the conflict names of the other
//! versions.
//!
//! The functions are pure and keep no state.
//!
//! The rules, in their order:
//!
//! 1. At and below an owned path, versions of other nodes are not listed. At the paths above it,
//!    links of other nodes are not listed (`owners`).
//! 2. A version more than a minute ahead of the clock is not listed (`early`).
//! 3. A version that no live node can give, from a share or a cache, is not listed (`merged`,
//!    `is_givable`).
//! 4. If a directory of the name is listed, it has the name (`settle`). Files of that name get
//!    conflict names: `~` and their node's label.
//! 5. The version that [`rank`] puts first has the name.
//!
//! `Merged::order` and [`precedence`] rank candidates. A version precedes one that proved unserved
//! (`unserved`): holders left a reader without it, or its author left several others unserved.
//! Then a candidate of a live author precedes one of an author that is gone. Then the newest
//! version time wins. At equal times, a file precedes a link. Of two files the hash that is smaller
//! as hex wins, and of two links the smaller target. Then the smaller NodeId wins, then the lower
//! share number. Candidates of the same content are one version, with the attributes of the first.
//! Two shares of one node follow the same rule as two nodes.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::row::Row;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::NAME_MAX_BYTES;

/// Orders two candidates of a name by version time, content, author and share.
pub(super) fn precedence(a: (&Row, &NodeId), b: (&Row, &NodeId)) -> Ordering {
    let ((a, a_author), (b, b_author)) = (a, b);
    (b.version_time().cmp(&a.version_time()))
        .then_with(|| content_order(a, b))
        .then_with(|| a_author.cmp(b_author))
        .then_with(|| a.share.cmp(&b.share))
}

/// Orders two contents with the same version time. The winning content comes first.
pub(super) fn content_order(a: &Row, b: &Row) -> Ordering {
    (a.class.cmp(&b.class))
        .then_with(|| a.hash.cmp(&b.hash))
        .then_with(|| a.size_bytes().cmp(&b.size_bytes()))
        .then_with(|| a.target().cmp(b.target()))
}

/// Returns one candidate for each content, the winner first.
pub(super) fn rank(mut rows: Vec<Row>, order: impl Fn(&Row, &Row) -> Ordering) -> Vec<Row> {
    if rows.len() < 2 {
        return rows;
    }
    rows.sort_by(order);
    let mut seen = BTreeSet::new();
    rows.retain(|row| {
        let content = (row.class, row.hash, row.size_bytes(), row.target().to_vec());
        seen.insert(content)
    });
    rows
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
