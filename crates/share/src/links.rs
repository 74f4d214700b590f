//! Resolves symbolic links and decides how they are listed.
//!
//! A link is followed name by name with `readlinkat`, as the kernel would follow it. No link is
//! read at or below a path that must not be entered ([`Beneath::refusal`]), because a mount of
//! p2pfs could block. A link that leaves its share at any step is left out. An absolute target
//! within the share is listed as a relative one, which means the same on every mount. No node
//! accepts a target with `..` after a name, such as `a/../b` ([`link_stays_inside`]). In such a
//! target, the path up to the last `..` is replaced by the directory that the kernel reaches there.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, StatxFlags, readlinkat, statx};
use rustix::io::Errno;

use super::beneath::Beneath;
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_types::path::{HIDDEN_ROOT, SharedPath};

/// Maximum links followed to resolve one link; the kernel's own limit (MAXSYMLINKS).
const FOLLOWED_MAX: usize = 40;

/// Where a symbolic link leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkOutcome {
    /// To a name inside the share. Contains the target to list.
    Inside(Box<[u8]>),
    Out,
    Loop,
    /// Up by `..` from a name that is not a directory; the kernel resolves that to nothing.
    UpFromNothing,
}

/// Resolves the link `path` of the share `dir` with the target `target`. The target need not exist,
/// except where `..` follows a name.
pub(super) fn follow(
    beneath: &Beneath,
    dir: &Path,
    share: BorrowedFd<'_>,
    path: &SharedPath,
    target: &[u8],
) -> LinkOutcome {
    let Some(relative) = as_relative(dir, path, target) else {
        return LinkOutcome::Out;
    };
    let mut way = LinkResolver {
        beneath,
        dir,
        share,
        at: names_of(path.parent().unwrap_or_default().as_bytes()).into(),
        followed: 0,
    };
    match way.listed(path, relative) {
        Ok(listed) => LinkOutcome::Inside(listed.into()),
        Err(leads) => leads,
    }
}

/// The path that the kernel takes through a share.
struct LinkResolver<'a> {
    beneath: &'a Beneath,
    dir: &'a Path,
    share: BorrowedFd<'a>,
    /// Names from the share's folder to the current position. Links on the way are already
    /// replaced by their targets.
    at: Vec<Vec<u8>>,
    followed: usize,
}

impl LinkResolver<'_> {
    /// Follows a relative target to its end. Returns the target in the form that is listed.
    fn listed(&mut self, link: &SharedPath, target: Vec<u8>) -> Result<Vec<u8>, LinkOutcome> {
        let mut names = names_of(&target);
        let after_ups = names.iter().take_while(|name| *name == b"..").count();
        let last_up = names.iter().rposition(|name| name == b"..");
        let listed = match last_up.filter(|last| *last > after_ups) {
            None => target,
            Some(last) => {
                let rest = names.split_off(last + 1);
                self.walk(names, true)?;
                names = rest.clone();
                relative_to(link, self.at.iter().cloned().chain(rest))
            }
        };
        if !link_stays_inside(link, &listed) {
            return Err(LinkOutcome::Out);
        }
        self.walk(names, false)?;
        Ok(listed)
    }

    /// Moves the current position along the names in `left`. With `must_exist`, a `..` after a name
    /// that is not a directory is an error, as it is for the kernel.
    fn walk(&mut self, mut left: VecDeque<Vec<u8>>, must_exist: bool) -> Result<(), LinkOutcome> {
        let mut is_directory = true;
        while let Some(name) = left.pop_front() {
            if name == b".." {
                if must_exist && !is_directory {
                    return Err(LinkOutcome::UpFromNothing);
                }
                self.at.pop().ok_or(LinkOutcome::Out)?;
                is_directory = true;
                continue;
            }
            self.at.push(name);
            match self.next_link()? {
                Some(names) => {
                    is_directory = true;
                    names
                        .into_iter()
                        .rev()
                        .for_each(|name| left.push_front(name));
                }
                None => is_directory = !must_exist || self.is_directory(),
            }
        }
        Ok(())
    }

    /// If the current position is a link, returns the names of its target and moves to the
    /// directory where the target starts. Otherwise returns `None`.
    fn next_link(&mut self) -> Result<Option<VecDeque<Vec<u8>>>, LinkOutcome> {
        if self.at[0] == HIDDEN_ROOT {
            return Err(LinkOutcome::Out);
        }
        // a refused path is not listed either, so no reader follows the link any further
        if self.is_refused() {
            return Ok(None);
        }
        let next = match readlinkat(self.share, local(&self.here()), Vec::new()) {
            Ok(next) => next.into_bytes(),
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(_) => return Err(LinkOutcome::Out),
        };
        self.followed += 1;
        if self.followed > FOLLOWED_MAX {
            return Err(LinkOutcome::Loop);
        }
        self.at.pop();
        if !next.starts_with(b"/") {
            return Ok(Some(names_of(&next)));
        }
        let rest = within(self.dir, &next).ok_or(LinkOutcome::Out)?;
        self.at.clear();
        Ok(Some(names_of(rest)))
    }

    /// Returns whether the current position is a directory. If the kernel has cached its
    /// attributes, a network filesystem sends no request for them (`AT_STATX_DONT_SYNC`).
    fn is_directory(&self) -> bool {
        // a mount of this program, which may hang, is not even looked up
        if self.is_refused() {
            return false;
        }
        let as_known = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let here = self.here();
        let found = statx(self.share, local(&here), as_known, StatxFlags::TYPE);
        let mode = found.map(|found| u32::from(found.stx_mode));
        mode.is_ok_and(|mode| FileType::from_raw_mode(mode).is_dir())
    }

    fn is_refused(&self) -> bool {
        let here = self.dir.join(local(&self.here()));
        self.beneath.refusal(&here).is_some()
    }

    fn here(&self) -> Vec<u8> {
        self.at.join(&b'/')
    }
}

fn local(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Returns a relative target unchanged, and an absolute target within the share as a relative one.
/// Returns `None` for an absolute target outside of the share.
fn as_relative(dir: &Path, link: &SharedPath, target: &[u8]) -> Option<Vec<u8>> {
    if !target.starts_with(b"/") {
        return Some(target.to_vec());
    }
    Some(relative_to(link, names_of(within(dir, target)?)))
}

/// Returns the relative target by which `link` leads to `names`, a path from the share's folder.
/// The target goes up no further than the deepest directory that contains both. So it also works
/// where only that directory is mounted.
fn relative_to(link: &SharedPath, names: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut there: VecDeque<Vec<u8>> = names.into_iter().collect();
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
    if names.is_empty() {
        b".".to_vec()
    } else {
        names.join(&b'/')
    }
}

/// Returns the part of an absolute path that lies within the share.
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

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_link_is_judged_by_its_real_target_and_an_absolute_one_is_listed_as_relative() {
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
                Some(listed) => LinkOutcome::Inside(listed.as_bytes().into()),
                None => LinkOutcome::Out,
            };
            assert_eq!(judged(name, target), expected, "{name} -> {target}");
        }
        assert_eq!(judged("self", "self"), LinkOutcome::Loop);
    }

    /// A share in a new folder, with functions that resolve its links.
    struct Judge {
        _home: tempfile::TempDir,
        share: std::path::PathBuf,
        refused: Vec<std::path::PathBuf>,
    }

    impl Judge {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let share = std::fs::canonicalize(home.path()).unwrap().join("share");
            std::fs::create_dir(&share).unwrap();
            Self {
                _home: home,
                share,
                refused: Vec::new(),
            }
        }

        fn directory(&self, path: &str) {
            std::fs::create_dir_all(self.share.join(path)).unwrap();
        }

        fn link(&self, path: &str, target: &str) {
            symlink(target, self.share.join(path)).unwrap();
        }

        fn leads(&self, path: &str, target: &str) -> LinkOutcome {
            let beneath = Beneath::new(self.refused.clone());
            let fd = beneath.open_share(&self.share).unwrap();
            let path = SharedPath::new(path.as_bytes()).unwrap();
            follow(&beneath, &self.share, fd.as_fd(), &path, target.as_bytes())
        }
    }

    #[test]
    fn a_target_with_dot_dot_after_a_name_is_listed_by_its_resolved_directory() {
        let mut judge = Judge::new();
        for path in ["a/b", "d/e", "mnt/x"] {
            judge.directory(path);
        }
        std::fs::write(judge.share.join("file"), "").unwrap();
        judge.link("z", ".");
        judge.link("to-b", "a/b");
        judge.link("out", "..");
        judge.link("itself", "itself/..");
        judge.link("to-itself", judge.share.to_str().unwrap());
        judge.refused.push(judge.share.join("mnt"));
        let inside = |target: &str| LinkOutcome::Inside(target.as_bytes().into());
        for (link, target, leads) in [
            ("l", "a/../d", inside("d")),
            ("l", "./a//.././d/", inside("d")),
            ("l", "to-b/../none", inside("a/none")),
            ("l", "to-b/../../d/to-b/x", inside("d/to-b/x")),
            ("l", "a/..", inside(".")),
            ("d/l", "../a/b/..", inside("../a")),
            ("d/l", "e/../../a", inside("../a")),
            ("d/e/l", "../../d/e/../f", inside("../f")),
            ("l", "to-itself/a/../d", inside("d")),
            ("l", "z/../d", LinkOutcome::Out),
            ("l", "to-itself/../d", LinkOutcome::Out),
            ("d/l", "../z/../share/d", LinkOutcome::Out),
            ("l", "out/../d", LinkOutcome::Out),
            ("l", "itself/../d", LinkOutcome::Loop),
            ("l", "none/../d", LinkOutcome::UpFromNothing),
            ("l", "a/none/../../d", LinkOutcome::UpFromNothing),
            ("l", "file/../d", LinkOutcome::UpFromNothing),
            ("l", "mnt/x/../../d", LinkOutcome::UpFromNothing),
            ("l", "a/../.p2pfs/peers", LinkOutcome::Out),
        ] {
            assert_eq!(judge.leads(link, target), leads, "{link} -> {target}");
        }
    }

    fn any_names(most: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec("[abc]", 1..most).prop_map(|names| names.join("/"))
    }

    fn any_target() -> impl Strategy<Value = String> {
        let part = prop_oneof![4 => "[abc]", 3 => Just("..".to_owned()), 1 => Just(".".to_owned())];
        proptest::collection::vec(part, 1..7).prop_map(|parts| parts.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..Default::default() })]

        #[test]
        fn a_listed_target_resolves_like_its_link_and_every_node_accepts_it(
            directories in proptest::collection::vec(any_names(4), 0..8),
            links in proptest::collection::vec((any_names(4), any_target(), any::<bool>()), 1..10),
        ) {
            let judge = Judge::new();
            directories.iter().for_each(|path| judge.directory(path));
            let own = judge.share.to_str().unwrap();
            let made = links.into_iter().filter_map(|(at, target, is_absolute)| {
                let target = if is_absolute { format!("{own}/{target}") } else { target };
                let link = judge.share.join(&at);
                // a path through another link may lead anywhere
                let above = std::fs::canonicalize(link.parent()?).ok()?;
                symlink(&target, &link).ok().filter(|()| link.parent() == Some(&above))?;
                Some((at, target, link))
            });
            let made: Vec<_> = made.collect();
            for (at, target, link) in made {
                let LinkOutcome::Inside(listed) = judge.leads(&at, &target) else {
                    continue;
                };
                let path = SharedPath::new(at.as_bytes()).unwrap();
                prop_assert!(link_stays_inside(&path, &listed), "{} -> {}", at, target);
                let listed = link.parent().unwrap().join(local(&listed));
                let shown = format!("{at} -> {target} as {listed:?}");
                let (real, listed) = (link.canonicalize().ok(), listed.canonicalize().ok());
                prop_assert!(real == listed, "{}", shown);
                prop_assert!(real.is_none_or(|real| real.starts_with(own)), "{}", shown);
            }
        }
    }

    #[test]
    fn a_refused_directory_is_not_entered_to_follow_a_link() {
        let home = tempfile::tempdir().unwrap();
        let share = std::fs::canonicalize(home.path()).unwrap();
        symlink("/", share.join("mnt")).unwrap();
        let beneath = Beneath::new(vec![share.join("mnt")]);
        let fd = beneath.open_share(&share).unwrap();
        let path = SharedPath::new(&b"link"[..]).unwrap();
        let led = follow(&beneath, &share, fd.as_fd(), &path, b"mnt/x");
        assert_eq!(led, LinkOutcome::Inside(b"mnt/x"[..].into()));
    }
}
