//! Resolves links in paths. A link that leads out of the namespace, such as one with an absolute
//! target, counts as dangling.

use std::collections::VecDeque;

use super::FileError;
use p2pfs_proto::wire::native::record::Kind;
use p2pfs_types::path::SharedPath;

/// Maximum number of links followed on the way to one file, as on Linux (path_resolution(7)).
const LINKS_MAX: usize = 40;

pub(super) fn through(
    path: &SharedPath,
    kind_of: impl Fn(&SharedPath) -> Option<Kind>,
) -> SharedPath {
    let dir = match path.parent() {
        Some(parent) if kind_of(path).is_none() => follow(&parent, kind_of),
        _ => return path.clone(),
    };
    let meant = dir.ok().and_then(|dir| dir.join(path.file_name()).ok());
    meant.unwrap_or_else(|| path.clone())
}

pub(super) fn follow(
    path: &SharedPath,
    kind_of: impl Fn(&SharedPath) -> Option<Kind>,
) -> Result<SharedPath, FileError> {
    if !matches!(kind_of(path), None | Some(Kind::Symlink { .. })) {
        return Ok(path.clone());
    }
    let nowhere = |link: Option<&FollowedLink>| match link {
        Some(link) => FileError::LinkToNothing {
            path: path.clone(),
            target: link.target.clone(),
        },
        None => FileError::NotFound { path: path.clone() },
    };
    let mut ahead: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
    let (mut here, mut links, mut within) = (SharedPath::root(), 0, Vec::<FollowedLink>::new());
    while let Some(name) = ahead.pop_front() {
        while within.pop_if(|link| ahead.len() < link.behind).is_some() {}
        match &name[..] {
            b"" | b"." => continue,
            b".." => {
                here = here.parent().ok_or_else(|| nowhere(within.last()))?;
                continue;
            }
            _ => {}
        }
        let next = here.join(&name).map_err(|_| nowhere(within.last()))?;
        match kind_of(&next).ok_or_else(|| nowhere(within.last()))? {
            Kind::Symlink { .. } if links == LINKS_MAX => {
                return Err(FileError::TooManyLinks { path: path.clone() });
            }
            Kind::Symlink { target } => {
                links += 1;
                let behind = ahead.len();
                let names = target.split(|byte| *byte == b'/');
                names.rev().for_each(|name| ahead.push_front(name.to_vec()));
                let is_absolute = target.starts_with(b"/");
                let target = target.to_vec().into();
                let followed = FollowedLink { target, behind };
                if is_absolute {
                    return Err(nowhere(Some(&followed)));
                }
                within.push(followed);
            }
            Kind::File { .. } | Kind::Directory => here = next,
        }
    }
    Ok(here)
}

/// A link whose target is being followed.
struct FollowedLink {
    target: Box<[u8]>,
    /// Number of names of the path that remain after the names of the target.
    behind: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_types::digest::ContentHash;

    fn kind(target: Option<&str>) -> Kind {
        match target {
            None => Kind::File {
                hash: ContentHash::of(b""),
                size_bytes: 0,
                executable: false,
            },
            Some("/") => Kind::Directory,
            Some(target) => Kind::Symlink {
                target: target.as_bytes().to_vec().into(),
            },
        }
    }

    fn kind_of(path: &SharedPath) -> Option<Kind> {
        let tree = [
            ("", Some("/")),
            ("d", Some("/")),
            ("d/file", None),
            ("d/beside", Some("file")),
            ("d/up", Some("./../d//file")),
            ("to-d", Some("d")),
            ("to-link", Some("to-d/beside")),
            ("out", Some("../file")),
            ("absolute", Some("/d/file")),
            ("nowhere", Some("d/none")),
            ("over", Some("to-d/none")),
            ("to-nowhere", Some("to-d/../nowhere")),
            ("loop", Some("loop")),
            ("beyond", Some("d/file/x")),
        ];
        let of = |at: &&(&str, Option<&str>)| at.0.as_bytes() == path.as_bytes();
        tree.iter().find(of).map(|(_, target)| kind(*target))
    }

    /// Returns where a path leads in a small tree, or the error if it leads nowhere.
    fn leads(path: &str) -> String {
        match follow(&SharedPath::new(path.as_bytes()).unwrap(), kind_of) {
            Ok(path) => path.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_path_over_links_resolves_as_in_the_mount() {
        for path in [
            "d/file",
            "d/beside",
            "d/up",
            "to-d/file",
            "to-d/up",
            "to-link",
        ] {
            assert_eq!(leads(path), "d/file", "{path}");
        }
        assert_eq!(leads("to-d"), "d");
        for path in ["none", "to-d/none", "d/file/x", "none/to-d"] {
            assert_eq!(leads(path), format!("{path}: no node shares such a name"));
        }
        assert_eq!(leads("loop"), "loop: too many links one after another");
    }

    #[test]
    fn a_dangling_link_is_distinguished_from_an_unshared_name() {
        for (path, target) in [
            ("out", "../file"),
            ("absolute", "/d/file"),
            ("nowhere", "d/none"),
            ("nowhere/x", "d/none"),
            ("to-nowhere", "d/none"),
            ("beyond", "d/file/x"),
            ("over", "to-d/none"),
        ] {
            let told = format!("{path} is a link to nothing: no node shares {target}");
            assert_eq!(leads(path), told);
        }
    }

    #[test]
    fn a_path_through_a_linked_directory_means_the_same_as_in_the_mount() {
        for (path, meant) in [
            ("to-d/file", "d/file"),
            ("to-d/beside", "d/beside"),
            ("to-d/yet-to-come", "d/yet-to-come"),
            ("to-d", "to-d"),
            ("d/none", "d/none"),
            ("none/file", "none/file"),
            ("loop/file", "loop/file"),
            ("", ""),
        ] {
            let path = SharedPath::new(path.as_bytes()).unwrap();
            assert_eq!(through(&path, kind_of).to_string(), meant, "{path}");
        }
    }
}
