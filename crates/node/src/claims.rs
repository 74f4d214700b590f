//! Holders of a content with their addresses, for the fetcher; and which nodes may fetch a content
//! from this node.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::published::{OwnReaders, Published};
use p2pfs_catalogue::{Claim, View};
use p2pfs_fetch::Holder;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_share::{ShareSet, SharedFor};
use p2pfs_transfer::{Admits, HoldersOf};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Returns the check that decides whether another node may fetch a content from this one. It looks
/// at the shares of this node first, then at the published namespace. Other nodes may learn of a
/// name before the namespace published here lists it. In this time, that namespace alone would give
/// the content of a share with readers to every node.
pub(super) fn admission(published: &Published, shares: ShareSet) -> Admits {
    let published = published.clone();
    Arc::new(move |asker: &NodeId, hash: &ContentHash| {
        let (readers, view) = (published.readers.load(), published.view.load());
        match shares.shared_for(hash) {
            SharedFor::All => true,
            SharedFor::ReadersOf(shares) => {
                is_reader_of(&shares, &readers, asker)
                    || (view.contents().is_private(hash) && view.contents().admits(asker, hash))
                    || is_still_open(&shares, &readers, hash, &view)
            }
            SharedFor::Nobody => view.contents().admits(asker, hash),
        }
    })
}

fn is_reader_of(shares: &BTreeSet<ShareIndex>, readers: &OwnReaders, asker: &NodeId) -> bool {
    let mut of_each = shares.iter().filter_map(|share| readers.get(share));
    of_each.any(|readers| readers.contains(asker))
}

/// Returns whether the readers of one of the shares are still unknown while the published namespace
/// lists the content as open.
fn is_still_open(
    shares: &BTreeSet<ShareIndex>,
    readers: &OwnReaders,
    hash: &ContentHash,
    view: &View,
) -> bool {
    shares.iter().any(|share| !readers.contains_key(share)) && view.contents().is_open_here(hash)
}

/// Returns a function that lists the holders of a content. Each call uses the namespace and the
/// addresses that were published last. Leaves out `me` and holders without a known address.
pub(super) fn holders_of(published: &Published, me: NodeId) -> HoldersOf {
    let published = published.clone();
    Arc::new(move |hash: &ContentHash| {
        let addresses = published.addresses.load();
        let claims = published.view.load().contents().claims(hash).into_iter();
        let others = claims.filter(|claim| claim.node != me);
        let at = |claim: Claim| {
            Some(Holder {
                node: claim.node,
                address: *addresses.get(&claim.node)?,
                size_bytes: claim.size_bytes,
                sequence: claim.sequence,
            })
        };
        others.filter_map(at).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use p2pfs_catalogue::Catalogue;
    use p2pfs_proto::wire::native::record::{Entry, Kind, Timestamp};
    use p2pfs_share::{ShareConfig, ShareSpec};
    use p2pfs_types::id::NodeName;
    use p2pfs_types::path::SharedPath;

    const LONG: Duration = Duration::from_secs(30);

    /// The shares, with one file `it` each, and a publication that lists nothing yet.
    fn shared(home: &Path, readers: &[Option<&str>]) -> (Published, ShareSet) {
        let (shares, mut events) = ShareSet::open(ShareConfig::new(home.join("state"))).unwrap();
        std::thread::spawn(move || while events.blocking_recv().is_some() {});
        for (index, readers) in readers.iter().enumerate() {
            let dir = home.join(index.to_string());
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("it"), index.to_string()).unwrap();
            shares
                .add(ShareSpec {
                    readers: readers.map(|reader| vec![reader.to_owned()]),
                    ..ShareSpec::new(dir)
                })
                .unwrap();
        }
        assert!(shares.wait_settled(LONG));
        let me = NodeId::new([1; 32]);
        let view = Catalogue::new(me, NodeName::from_host("me")).view();
        let address = "192.0.2.7:1378".parse().unwrap();
        (Published::new(view, address, Vec::new()), shares)
    }

    #[test]
    fn a_restricted_shares_files_are_served_to_readers_before_the_namespace_lists_them() {
        let home = tempfile::tempdir().unwrap();
        let (published, shares) = shared(home.path(), &[Some("alice"), None]);
        let admits = admission(&published, shares);
        let [alice, bob] = [2, 3].map(|it| NodeId::new([it; 32]));
        let [restricted, open] = ["0", "1"].map(|it| ContentHash::of(it.as_bytes()));
        let given = |hash| [alice, bob].map(|asker| admits(&asker, &hash));
        assert_eq!(given(open), [true, true]);
        // the key that the reader's name means is not known yet
        assert_eq!(given(restricted), [false, false]);
        let readers = [(ShareIndex(0), BTreeSet::from([alice]))];
        published.readers.store(Arc::new(readers.into()));
        assert_eq!(given(restricted), [true, false]);
        let readers = [(ShareIndex(0), BTreeSet::from([bob]))];
        published.readers.store(Arc::new(readers.into()));
        assert_eq!(given(restricted), [false, true]);
    }

    #[test]
    fn a_file_announced_to_all_stays_open_until_its_readers_are_known() {
        let home = tempfile::tempdir().unwrap();
        let (published, shares) = shared(home.path(), &[Some("alice")]);
        let hash = ContentHash::of(b"0");
        let mut catalogue = Catalogue::new(NodeId::new([1; 32]), NodeName::from_host("me"));
        let at = Timestamp {
            seconds: 1,
            nanoseconds: 0,
        };
        let entry = Entry {
            kind: Kind::File {
                hash,
                size_bytes: 1,
                executable: false,
            },
            mtime: at,
            version_time: at,
            sent_by: None,
        };
        let path = SharedPath::new(b"it".to_vec()).unwrap();
        assert!(
            catalogue
                .own_mut()
                .put(ShareIndex(0), &path, entry)
                .unwrap()
        );
        published.view.store(catalogue.view());
        let admits = admission(&published, shares);
        let [alice, bob] = [2, 3].map(|it| NodeId::new([it; 32]));
        let given = || [alice, bob].map(|asker| admits(&asker, &hash));
        assert_eq!(given(), [true, true]);
        let readers = [(ShareIndex(0), BTreeSet::from([alice]))];
        published.readers.store(Arc::new(readers.into()));
        assert_eq!(given(), [true, false]);
    }
}
