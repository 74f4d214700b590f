//! Who has a content and where they are, as fetching asks for it; and who may have it from here.

use std::sync::Arc;

use super::published::Published;
use crate::digest::ContentHash;
use crate::id::NodeId;
use crate::share::ShareSet;
use crate::transfer::{Admits, Holder, HoldersOf};

/// Whom the published namespace lets have a content. What is in a share that has readers is given
/// to nobody before the namespace says so too.
pub(super) fn admission(published: &Published, shares: ShareSet) -> Admits {
    let view = Arc::clone(&published.view);
    Arc::new(move |asker: &NodeId, hash: &ContentHash| {
        let view = view.load();
        view.admits(asker, hash) && (view.is_private(hash) || !shares.is_restricted(hash))
    })
}

/// What the namespace and the members that are published say at each question; never `me`.
pub(super) fn holders_of(published: &Published, me: NodeId) -> HoldersOf {
    let published = published.clone();
    Arc::new(move |hash: &ContentHash| {
        let addresses = published.addresses.load();
        let claims = published.view.load().claims(hash).into_iter();
        let others = claims.filter(|(node, _)| *node != me);
        let at = |(node, size_bytes)| {
            Some(Holder {
                node,
                address: *addresses.get(&node)?,
                size_bytes,
            })
        };
        others.filter_map(at).collect()
    })
}
