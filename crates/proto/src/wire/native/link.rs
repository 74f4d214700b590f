//! Valid targets of symbolic links in the namespace.
//!
//! A target is relative. It has `..` only at its beginning, at most once for each directory above
//! the link. Then no link leads out of the namespace, whatever other links there are:
//!
//! * The kernel expands a link in the directory that holds it. That is a real directory, even if
//!   links led to it. A `..` at the beginning of the target goes up from there. In
//!   `.p2pfs/peers/NAME`, which shows the files of one node, the target stays in that node's files.
//! * After a name the target only goes down, or through another link, to which the same rule
//!   applies.
//!
//! A `..` after a name is refused, because the name may be a link. By its text, `z/../x` is `x`. If
//! `z` is a link to `.`, the kernel goes to `../x` instead. Merged directories and conflict names
//! (`name~node`) keep each link at its depth.

use p2pfs_types::path::{HIDDEN_ROOT, SharedPath};

/// Maximum length in bytes of a symbolic link's target, as for a path (`PATH_MAX`, limits.h).
pub const LINK_TARGET_MAX_BYTES: usize = 4095;

/// Returns whether the link at this path may have this target. If all links have such targets, none
/// leads out of the namespace or into [`HIDDEN_ROOT`].
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
