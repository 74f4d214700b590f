//! Checks of reported names on the disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustix::io::Errno;

use super::beneath::is_want;
use super::checks::{CheckedName, NameCheck};
use super::disk_thread::{DiskAccess, DiskThread};
use super::observe::ObservedName;
use super::shared::SharedState;
use super::tree::Slot;
use super::walk::{OpenShareDirectory, ShareDirectory};

/// Checks these names of one directory, and appends the results to `looks`.
pub(super) fn check_names(
    shared: &SharedState,
    disk: &mut DiskThread,
    slot: Slot,
    names: Vec<(Box<[u8]>, NameCheck)>,
    looks: &mut Vec<CheckedName>,
) {
    let Some(place) = ShareDirectory::of(&shared.lock().listing, slot) else {
        return;
    };
    let asked = place.clone();
    let found = disk.run(place.index, &place.dir, |disk| {
        check_in_directory(disk, asked, names)
    });
    match found {
        Some(Ok(found)) => looks.extend(found),
        Some(Err(error)) if is_want(error) => shared.lock().listing.shares.record_want(place.index),
        Some(Err(_)) => shared.lock().listing.shares.scans.push(place.index),
        // the whole share is walked once its disk answers
        None => {}
    }
}

/// Checks these names of a directory.
///
/// # Errors
/// The share's own directory cannot be opened, or the directory cannot be opened because of a
/// temporary error ([`is_want`]).
fn check_in_directory(
    disk: &DiskAccess<'_>,
    place: ShareDirectory,
    names: Vec<(Box<[u8]>, NameCheck)>,
) -> Result<Vec<CheckedName>, Errno> {
    let share = disk.beneath.open_share(&place.dir)?;
    let open = match OpenShareDirectory::open(disk.beneath, place, share) {
        Ok(open) => open,
        Err(error) if is_want(error) => return Err(error),
        // a directory that cannot be opened is checked through its parent
        Err(_) => return Ok(Vec::new()),
    };
    let place = Arc::new(open.place.clone());
    let look = |(name, check): (Box<[u8]>, NameCheck)| CheckedName {
        found: open.check(disk, &name),
        place: place.clone(),
        name,
        check,
    };
    let mut looks: Vec<CheckedName> = names.into_iter().map(look).collect();
    open.drop_unlisted(disk, doubtful(&mut looks));
    Ok(looks)
}

/// Returns the results of names that were reported as gone but were found, if another of the names
/// has the same inode. On a case-insensitive filesystem, the name that is gone may be a different
/// spelling of the other one.
fn doubtful(looks: &mut [CheckedName]) -> BTreeMap<&[u8], &mut ObservedName> {
    let mut names_of: HashMap<(u64, u64), usize> = HashMap::new();
    for inode in looks.iter().filter_map(|look| look.found.inode()) {
        *names_of.entry(inode).or_default() += 1;
    }
    let is_doubtful = |look: &&mut CheckedName| {
        let names = look.found.inode().and_then(|inode| names_of.get(&inode));
        look.check.is_of_loss() && names.is_some_and(|names| *names > 1)
    };
    let doubtful = looks.iter_mut().filter(is_doubtful);
    doubtful
        .map(|look| (&*look.name, &mut look.found))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::PendingChecks;
    use crate::exclude::Exclude;
    use crate::identity::{FileIdentity, NameStat};
    use crate::order::EventOrder;
    use crate::proof::Told;
    use crate::tree::Tree;
    use crate::watch::Cause;
    use p2pfs_types::path::SharedPath;

    #[test]
    fn a_file_found_under_a_lost_name_and_another_is_doubtful() {
        let (slot, mut checks) = (Tree::new().insert_root(0), PendingChecks::new());
        let place = Arc::new(ShareDirectory {
            index: 0,
            slot,
            number: None,
            dir: std::path::Path::new("/").into(),
            listed_below: Default::default(),
            include_private: false,
            exclude: Arc::new(Exclude::new(&[], false).unwrap()),
            path: SharedPath::root(),
        });
        let mut order = EventOrder::default();
        let reported = [
            ("A", Cause::Unlinked, 1),
            ("a", Cause::Closed, 1),
            // as an editor that renames a file and creates it again at once
            ("next", Cause::Unlinked, 2),
            ("now", Cause::Closed, 3),
        ];
        for (name, cause, _) in reported {
            checks.add_report(
                slot,
                name.as_bytes().into(),
                cause,
                Told::Written,
                order.step(),
            );
        }
        let checks = checks.take();
        let look = |(name, _, ino): (&str, Cause, u64)| {
            let identity = FileIdentity {
                ino,
                ..FileIdentity::default()
            };
            CheckedName {
                place: place.clone(),
                name: name.as_bytes().into(),
                check: checks[&(slot, name.as_bytes().into())],
                found: ObservedName::File(NameStat {
                    identity,
                    mode: 0o100_644,
                    links: 1,
                    made_up: false,
                }),
            }
        };
        let mut looks = reported.map(look);
        let found: Vec<&[u8]> = doubtful(&mut looks).into_keys().collect();
        assert_eq!(found, [b"A"]);
    }
}
