//! Holders of a content with their addresses, for the fetcher.

use std::sync::Arc;

use super::published::Published;
use p2pfs_catalogue::Claim;
use p2pfs_fetch::Holder;
use p2pfs_transfer::HoldersOf;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

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
