//! Valid targets of symbolic links in the namespace.
//!
//! The author of a link, the receiver of its log and the mount use this one rule. A target is
//! relative. It has `..` at its beginning only, at most once for each directory above the link.
//! Then the text of a target and the path that the kernel takes agree, whatever other links there
//! are:
//!
//! * The kernel expands a link in the directory that holds it. That is a real directory, even if
//!   links led to it. A `..` at the beginning of the target goes up from there, and the link has at
//!   least that many directories above it. In `.p2pfs/peers/NAME`, which shows the files of one
//!   node, the link has three more directories above it, and the target stays in that node's files.
//! * After a name the target only goes down, or through another link of any author, to which the
//!   same rule applies.
//!
//! By the text alone `z/../x` leads to `x`. If `z` is a link to `.`, the kernel goes to the
//! directory above instead: `..` after a name leads wherever that name's link leads. Merged
//! directories and conflict names (`name~node`) keep each link at its depth.

use p2pfs_types::path::{HIDDEN_ROOT, SharedPath};

/// Maximum length in bytes of a symbolic link's target, as for a path (`PATH_MAX`, limits.h).
pub const LINK_TARGET_MAX_BYTES: usize = 4095;

/// Returns whether a link of the namespace may have this target. No path through such links leads
/// out of the namespace or into the mount's own folder.
pub fn link_stays_inside(link: &SharedPath, target: &[u8]) -> bool {
    let fits = !target.is_empty() && target.len() <= LINK_TARGET_MAX_BYTES;
    if !fits || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    let mut directories_above = link.components().count().saturating_sub(1);
    let mut is_after_name = false;
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if is_after_name || directories_above == 0 => return false,
            b".." => directories_above -= 1,
            HIDDEN_ROOT => return false,
            _ => is_after_name = true,
        }
    }
    true
}

#[cfg(test)]
mod tests;
