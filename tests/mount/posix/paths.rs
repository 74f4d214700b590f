//! Paths that do not exist: each call fails with the same errno as on a disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;

use super::calls::{CALLS, Call, Numbers};
use super::place::{CHAIN, Place, bytes_of, c_path, odd_names};
use super::{Case, PJD, XFS};
use crate::support::mounted::errno;

/// A wrong path: the number of its case, the promise, the path, the errno.
struct Wrong {
    number: fn(&Numbers) -> &'static str,
    promise: &'static str,
    path: fn(&Place) -> String,
    errno: i32,
}

const WRONG: [Wrong; 5] = [
    Wrong {
        number: |numbers| numbers.not_a_directory,
        promise: "a_component_that_is_no_directory_is_enotdir",
        path: |_| "words/name".to_owned(),
        errno: libc::ENOTDIR,
    },
    Wrong {
        number: |numbers| numbers.component_too_long,
        promise: "a_component_of_256_bytes_is_enametoolong",
        path: |_| format!("{}/name", "x".repeat(256)),
        errno: libc::ENAMETOOLONG,
    },
    Wrong {
        number: |numbers| numbers.path_too_long,
        promise: "a_path_of_4096_bytes_is_enametoolong",
        path: |place| {
            let before = place.root.as_os_str().len() + 1;
            let left = libc::PATH_MAX as usize - before;
            format!("{}{}", "./".repeat(left / 2), &"xx"[left % 2..])
        },
        errno: libc::ENAMETOOLONG,
    },
    Wrong {
        number: |numbers| numbers.missing,
        promise: "a_component_that_is_missing_is_enoent",
        path: |_| "missing/name".to_owned(),
        errno: libc::ENOENT,
    },
    Wrong {
        number: |numbers| numbers.looping,
        promise: "links_that_lead_in_a_circle_are_eloop",
        path: |_| "loop-a/name".to_owned(),
        errno: libc::ELOOP,
    },
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases: BTreeMap<String, Vec<(&'static Call, &'static Wrong)>> = BTreeMap::new();
    for call in CALLS {
        for wrong in &WRONG {
            let number = (wrong.number)(&call.numbers);
            let name = format!("{}/{number}_{}", call.group, wrong.promise);
            cases.entry(name).or_default().push((call, wrong));
        }
    }
    let mut cases: Vec<Case> = cases
        .into_iter()
        .map(|(name, attempts)| {
            Case::new(PJD, &name, move |place| {
                for (call, wrong) in &attempts {
                    let path = c_path(&place.at(&(wrong.path)(place)));
                    let said = (call.attempt)(place, path.as_ptr());
                    assert_eq!(said, wrong.errno, "{}", call.group);
                }
            })
        })
        .collect();
    cases.extend(outside_memory());
    cases.extend([
        Case::new(
            PJD,
            "open/16_a_link_that_must_not_be_followed_is_eloop",
            open_16,
        ),
        Case::new(XFS, "generic/005_too_many_links_are_eloop", generic_005),
        Case::new(XFS, "generic/453_names_are_bytes", generic_453),
    ]);
    cases
}

/// Returns the cases with EFAULT: the path is at an invalid address.
fn outside_memory() -> Vec<Case> {
    let mut names = BTreeMap::new();
    for call in CALLS {
        let number = call.numbers.outside_memory;
        let name = format!("{}/{number}_a_path_outside_of_memory_is_efault", call.group);
        names.entry(name).or_insert_with(Vec::new).push(call);
    }
    let case = |(name, calls): (String, Vec<&'static Call>)| {
        Case::new(PJD, &name, move |place| {
            for call in &calls {
                for address in [8, usize::MAX / 2 + 1] {
                    let path = std::ptr::without_provenance(address);
                    let said = (call.attempt)(place, path);
                    assert_eq!(said, libc::EFAULT, "{}", call.group);
                }
            }
        })
    };
    names.into_iter().map(case).collect()
}

fn open_16(place: &Place) {
    let open = |name: &str, flags| {
        let mut options = File::options();
        options.read(true).custom_flags(flags);
        options.open(place.at(name))
    };
    for link in ["link", "to-dir", "dangling", "loop-self"] {
        assert_eq!(errno(open(link, libc::O_NOFOLLOW)), libc::ELOOP, "{link}");
    }
    assert!(open("words", libc::O_NOFOLLOW).is_ok());
    assert!(open("link", 0).is_ok());
    assert_eq!(errno(open("dangling", 0)), libc::ENOENT);
}

fn generic_005(place: &Place) {
    let read = |name: String| fs::read(place.at(&name));
    for length in [0, 1, 39] {
        assert!(
            read(format!("chain-{length}")).unwrap() == bytes_of("file"),
            "{length}"
        );
    }
    for name in [format!("chain-{}", CHAIN - 1), "loop-self".to_owned()] {
        assert_eq!(errno(read(name)), libc::ELOOP);
    }
    let last = format!("chain-{}", CHAIN - 1);
    let shown = fs::read_link(place.at(&last)).unwrap();
    assert_eq!(shown.to_str().unwrap(), format!("chain-{}", CHAIN - 2));
    assert!(
        fs::symlink_metadata(place.at("loop-self"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(
        errno(fs::read_link(place.at("words"))),
        libc::EINVAL,
        "no link"
    );
}

fn generic_453(place: &Place) {
    use std::os::unix::ffi::OsStrExt;
    let entries = fs::read_dir(place.at("names")).unwrap();
    let mut listed: Vec<Vec<u8>> = entries
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    let mut wanted = odd_names();
    listed.sort();
    wanted.sort();
    assert_eq!(listed, wanted);
    for name in wanted {
        let path = place.named(&[b"names/", &name[..]].concat());
        assert_eq!(fs::read(path).unwrap(), name, "it is the name's own file");
    }
    let other = place.at("names/Case");
    assert_eq!(fs::metadata(other).unwrap_err().kind(), ErrorKind::NotFound);
}
