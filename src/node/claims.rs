//! Who has a content and where they are, as fetching asks for it.

use std::sync::Arc;

use super::handle::Published;
use crate::digest::ContentHash;
use crate::id::NodeId;
use crate::transfer::{Holder, HoldersOf};

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
