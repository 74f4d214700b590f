//! Starting without stored state that cannot be read.
//!
//! Most contents of `catalogue.redb` and `shares.redb` can be rebuilt from the shares and from
//! other nodes. Owns the decisions when each file is moved aside, what is carried over, and which
//! losses are reported. Never deletes a file, and never touches keys and certificates.

use std::net::SocketAddr;
use std::path::Path;

use super::NodeError;
use super::store::{Responders, Store, StoreError};
use p2pfs_catalogue::Catalogue;
use p2pfs_content::shares::ShareLedger;
use p2pfs_types::id::Generation;

/// The state of an earlier run.
pub(super) struct StoredState {
    pub(super) store: Store,
    pub(super) catalogue: Catalogue,
    pub(super) generation: Generation,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) responders: Responders,
    /// Warnings about unreadable state and the consequences.
    pub(super) warnings: Vec<String>,
}

/// Opens the state. A damaged file is moved aside and replaced by an empty one, and the other file
/// stays. Without `shares.redb` no share has the number under which the stored log lists its files.
/// No other share gets such a number, so these entries are removed like those of a share that is no
/// longer offered.
///
/// # Errors
/// If the disk fails, if another process uses the directory, or if a newer p2pfs wrote the files.
pub(super) fn open(
    dir: &Path,
    empty: impl Fn() -> Catalogue,
    unix_s: u64,
) -> Result<(StoredState, ShareLedger), NodeError> {
    let mut kept = match read(dir, &empty, unix_s) {
        Err(StoreError::Damaged { why, .. }) => {
            let aside = Store::set_aside(dir)?;
            let mut kept = begin_anew(dir, &empty, unix_s)?;
            kept.warnings.push(lost_catalogue(&aside, &why));
            kept
        }
        read => read?,
    };
    let (ledger, damaged) = p2pfs_content::shares::open_sound(dir)?;
    if let Some((aside, why)) = damaged {
        kept.warnings.push(lost_shares(&aside, &why));
    }
    Ok((kept, ledger))
}

fn begin_anew(
    dir: &Path,
    empty: &impl Fn() -> Catalogue,
    unix_s: u64,
) -> Result<StoredState, StoreError> {
    Store::open(dir)?.record_lost_marks()?;
    read(dir, empty, unix_s)
}

fn read(
    dir: &Path,
    empty: &impl Fn() -> Catalogue,
    unix_s: u64,
) -> Result<StoredState, StoreError> {
    let mut store = Store::open(dir)?;
    let mut catalogue = store.load_catalogue(empty())?;
    catalogue.own_mut().withdraw_unsound_links();
    for node in store.departed(unix_s)? {
        catalogue.forget(&node);
    }
    Ok(StoredState {
        catalogue,
        generation: store.generation()?,
        addresses: store.addresses()?,
        responders: Responders::load(&mut store, unix_s)?,
        store,
        warnings: Vec::new(),
    })
}

fn lost_catalogue(aside: &Path, why: &str) -> String {
    format!(
        "what was stored of the namespace was damaged ({why}), so it is made anew from the shares \
         and from the other nodes; the file is now {}. Only it knew where the others were last \
         (name a seed if they are not found), how they did, and which cached contents without a \
         name were for some nodes alone (none without a name is given to anybody from now on)",
        aside.display()
    )
}

fn lost_shares(aside: &Path, why: &str) -> String {
    format!(
        "the stored hashes of the shares were damaged ({why}), so all shares are hashed again; the \
         damaged file is now {}. Files dated in the future count as new, because only that file \
         had the time at which this node first saw them",
        aside.display()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::STORE_FILE;
    use p2pfs_catalogue::sample::directory;
    use p2pfs_proto::wire::native::record::{Entry, ShareIndex, Timestamp};
    use p2pfs_types::id::{NodeId, NodeName};
    use p2pfs_types::path::SharedPath;

    fn empty() -> Catalogue {
        Catalogue::new(NodeId::new([1; 32]), NodeName::from_host("one"))
    }

    fn address() -> SocketAddr {
        "192.0.2.7:1378".parse().unwrap()
    }

    fn entry() -> (ShareIndex, SharedPath, Entry) {
        let path = SharedPath::new(&b"docs"[..]).unwrap();
        (ShareIndex(0), path, directory(Timestamp::default()))
    }

    /// A state directory with some state, and an entry in the own log.
    fn state() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = open(dir.path(), empty, 1).unwrap().0;
        assert_eq!(kept.warnings, Vec::<String>::new());
        let (share, path, entry) = entry();
        kept.catalogue.own_mut().put(share, &path, entry).unwrap();
        let writes = kept.catalogue.storage().take_writes(usize::MAX);
        kept.store.write_logs(&writes).unwrap();
        kept.store.set_generation(Generation(7)).unwrap();
        kept.store.set_addresses(&[address()]).unwrap();
        dir
    }

    fn set_aside(dir: &Path) -> usize {
        let names = fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().contains(".aside-"))
            .count()
    }

    #[test]
    fn a_damaged_or_truncated_catalogue_is_moved_aside_reported_and_recreated() {
        let good = state();
        let bytes = fs::read(good.path().join(STORE_FILE)).unwrap();
        let cuts = [1, 100, 4096, bytes.len() / 2];
        let cut = cuts.map(|length| bytes[..length].to_vec());
        let garbage = [vec![0; bytes.len()], vec![0xa5; bytes.len()]];
        for damaged in cut.into_iter().chain(garbage) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(STORE_FILE), &damaged).unwrap();
            let kept = open(dir.path(), empty, 1).unwrap().0;
            let told = kept.warnings.join(" ");
            assert!(told.contains("catalogue.redb.aside-1"), "{told}");
            assert!(told.contains("name a seed"), "{told}");
            let aside = dir.path().join("catalogue.redb.aside-1");
            assert_eq!(fs::read(aside).unwrap().len(), damaged.len());
            drop(kept);
            let again = open(dir.path(), empty, 1).unwrap().0;
            assert_eq!(again.warnings, Vec::<String>::new(), "told once");
            assert_eq!(set_aside(dir.path()), 1);
        }
    }

    #[test]
    fn after_losing_the_private_state_unnamed_contents_are_not_served() {
        let dir = state();
        let hash = p2pfs_types::digest::ContentHash::of(b"without a name");
        let asker = NodeId::new([9; 32]);
        let mut kept = open(dir.path(), empty, 1).unwrap().0;
        assert!(kept.catalogue.view().contents().admits(&asker, &hash));
        drop(kept);
        fs::write(dir.path().join(STORE_FILE), "no store").unwrap();
        for _ in 0..2 {
            let mut kept = open(dir.path(), empty, 1).unwrap().0;
            assert!(!kept.catalogue.view().contents().admits(&asker, &hash));
        }
    }

    #[test]
    fn damaged_share_numbers_leave_the_catalogue_intact() {
        let dir = state();
        fs::write(dir.path().join("shares.redb"), "no ledger".repeat(999)).unwrap();
        let kept = open(dir.path(), empty, 1).unwrap().0;
        assert!(
            kept.warnings[0].contains("shares.redb.aside-1"),
            "{:?}",
            kept.warnings
        );
        assert_eq!(
            (kept.generation, kept.addresses),
            (Generation(7), vec![address()])
        );
        let entries: Vec<_> = kept.catalogue.own().all_entries().collect();
        assert_eq!(entries, [entry()]);
        assert_eq!(set_aside(dir.path()), 1);
    }

    #[test]
    fn state_of_a_newer_version_stops_the_start_and_is_preserved() {
        let dir = state();
        let mut store = Store::open(dir.path()).unwrap();
        store.set_value("version", &[99]).unwrap();
        drop(store);
        let refused = open(dir.path(), empty, 1).err().unwrap().to_string();
        assert!(refused.contains("install the newer p2pfs"), "{refused}");
        assert_eq!(set_aside(dir.path()), 0);
    }
}
