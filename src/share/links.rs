//! Where a symbolic link leads, and how it is listed.
//!
//! A link is followed name by name, by reading links and nothing else: no directory is entered, so
//! no mount is waited for. One that leads out of its share at any step is left out. An absolute
//! target within the share is listed as a relative one, which means the same on every mount.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::readlinkat;
use rustix::io::Errno;

use super::beneath::Beneath;
use crate::path::{HIDDEN_ROOT, SharedPath};
use crate::wire::native::record::{LINK_TARGET_MAX_BYTES, link_stays_inside};

/// Links that are followed one after the other; the kernel's own limit (MAXSYMLINKS).
const FOLLOWED_MAX: usize = 40;

/// Where a symbolic link leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// Inside; the target to list.
    Inside(Box<[u8]>),
    Out,
    Loop,
}

/// Where the link `path` of the share `dir` leads whose target is `target`. What is not there (yet)
/// is inside where its text stays inside.
pub(super) fn follow(
    beneath: &Beneath,
    dir: &Path,
    share: BorrowedFd<'_>,
    path: &SharedPath,
    target: &[u8],
) -> Leads {
    let Some(listed) = as_listed(dir, path, target) else {
        return Leads::Out;
    };
    if listed.len() > LINK_TARGET_MAX_BYTES || !link_stays_inside(path, &listed) {
        return Leads::Out;
    }
    let mut at: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
    at.pop();
    let mut left = names_of(&listed);
    let mut followed = 0;
    while let Some(name) = left.pop_front() {
        if name == b".." {
            if at.pop().is_none() {
                return Leads::Out;
            }
            continue;
        }
        at.push(name);
        let here = at.join(&b'/');
        let local = Path::new(OsStr::from_bytes(&here));
        if at[0] == HIDDEN_ROOT {
            return Leads::Out;
        }
        // what is never entered is not listed either, so nobody gets further
        if beneath.refusal(&dir.join(local)).is_some() {
            continue;
        }
        let next = match readlinkat(share, local, Vec::new()) {
            Ok(next) => next.into_bytes(),
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => continue,
            Err(_) => return Leads::Out,
        };
        followed += 1;
        if followed > FOLLOWED_MAX {
            return Leads::Loop;
        }
        at.pop();
        let beneath_share = next.starts_with(b"/").then(|| within(dir, &next));
        let names = match beneath_share {
            None => names_of(&next),
            Some(None) => return Leads::Out,
            Some(Some(rest)) => {
                at.clear();
                names_of(rest)
            }
        };
        names
            .into_iter()
            .rev()
            .for_each(|name| left.push_front(name));
    }
    Leads::Inside(listed.into())
}

/// The target as others are told of it: as it stands, or relative where it was absolute and lies
/// within the share; through no directory above both, so that it leads there also for who has the
/// one below for its root.
fn as_listed(dir: &Path, link: &SharedPath, target: &[u8]) -> Option<Vec<u8>> {
    if !target.starts_with(b"/") {
        return Some(target.to_vec());
    }
    let rest = within(dir, target)?;
    let mut there = names_of(rest);
    let mut up = link.components().count() - 1;
    for here in link.components().take(up) {
        if there.front().is_none_or(|name| name != here) {
            break;
        }
        there.pop_front();
        up -= 1;
    }
    let mut names = vec![b"..".to_vec(); up];
    names.extend(there);
    match names.is_empty() {
        true => Some(b".".to_vec()),
        false => Some(names.join(&b'/')),
    }
}

/// What of an absolute path lies within the share.
fn within<'a>(dir: &Path, target: &'a [u8]) -> Option<&'a [u8]> {
    let rest = Path::new(OsStr::from_bytes(target))
        .strip_prefix(dir)
        .ok()?;
    Some(rest.as_os_str().as_bytes())
}

fn names_of(target: &[u8]) -> VecDeque<Vec<u8>> {
    let names = target.split(|b| *b == b'/');
    let named = names.filter(|name| !matches!(*name, b"" | b"."));
    named.map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_is_judged_by_where_it_really_leads_and_an_absolute_one_is_listed_as_relative() {
        let home = tempfile::tempdir().unwrap();
        let home = std::fs::canonicalize(home.path()).unwrap();
        let share = home.join("share");
        std::fs::create_dir_all(share.join("d/e")).unwrap();
        let own = share.to_str().unwrap();
        let absolute = |rest: &str| format!("{own}{rest}");
        let links = [
            ("inside", "d".to_owned(), Some("d")),
            (
                "dangling",
                "not-there-yet".to_owned(),
                Some("not-there-yet"),
            ),
            ("d/up", "..".to_owned(), Some("..")),
            ("root", "/".to_owned(), None),
            ("by-way-of-root", "root/etc".to_owned(), None),
            ("beside", format!("{own}-other/x"), None),
            ("current", absolute("/d/e"), Some("d/e")),
            ("d/e/deep", absolute("/d//e/./f"), Some("f")),
            ("d/e/across", absolute("/d/f/e"), Some("../f/e")),
            ("d/e/up-and-down", absolute("/e/d"), Some("../../e/d")),
            ("d/e/here", absolute("/d/e"), Some(".")),
            ("whole", absolute(""), Some(".")),
            ("out-and-in", absolute("/../share/d"), None),
            (
                "by-way-of-current",
                "current/app".to_owned(),
                Some("current/app"),
            ),
            ("hidden", absolute("/.p2pfs/peers"), None),
        ];
        for (name, target, _) in &links {
            symlink(target, share.join(name)).unwrap();
        }
        symlink("self", share.join("self")).unwrap();
        let beneath = Beneath::new(vec![]);
        let fd = beneath.open_share(&share).unwrap();
        let judged = |name: &str, target: &str| {
            let path = SharedPath::new(name.as_bytes()).unwrap();
            follow(&beneath, &share, fd.as_fd(), &path, target.as_bytes())
        };
        for (name, target, listed) in &links {
            let expected = match listed {
                Some(listed) => Leads::Inside(listed.as_bytes().into()),
                None => Leads::Out,
            };
            assert_eq!(judged(name, target), expected, "{name} -> {target}");
        }
        assert_eq!(judged("self", "self"), Leads::Loop);
    }

    #[test]
    fn what_is_refused_is_not_looked_at_to_follow_a_link() {
        let home = tempfile::tempdir().unwrap();
        let share = std::fs::canonicalize(home.path()).unwrap();
        symlink("/", share.join("mnt")).unwrap();
        let beneath = Beneath::new(vec![share.join("mnt")]);
        let fd = beneath.open_share(&share).unwrap();
        let path = SharedPath::new(&b"link"[..]).unwrap();
        let led = follow(&beneath, &share, fd.as_fd(), &path, b"mnt/x");
        assert_eq!(led, Leads::Inside(b"mnt/x"[..].into()));
    }
}
