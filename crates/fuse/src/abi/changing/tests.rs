use super::super::request;
use super::*;

const PARENT: u64 = 5;

fn message(operation: u32, parts: &[&[u8]]) -> Vec<u8> {
    let head = request(operation, 6, PARENT);
    [&head[..], &parts.concat()].concat()
}

fn parse(message: &[u8]) -> Result<ChangeRequest<'_>, FsError> {
    let header = RequestHeader::parse(message).unwrap();
    ChangeRequest::parse(&header, message)
}

fn u32s<const N: usize>(values: [u32; N]) -> Vec<u8> {
    values.iter().flat_map(|it| it.to_ne_bytes()).collect()
}

fn u64s<const N: usize>(values: [u64; N]) -> Vec<u8> {
    values.iter().flat_map(|it| it.to_ne_bytes()).collect()
}

fn set_attributes(asked: u32) -> Vec<u8> {
    let words = u64s([7, 4096, 0, 11, (-5i64).cast_unsigned(), 13]);
    let rest = u32s([14, 15, 16, 0o755, 0, 1000, 1001, 0]);
    message(opcode::SETATTR, &[&u32s([asked, 0]), &words, &rest])
}

/// Returns a complete message of each operation.
fn complete() -> Vec<Vec<u8>> {
    let three_words = u64s([7, 8192, 4096]);
    let write = [u64s([7, 8192]), u32s([5, 0]), u64s([0]), u32s([0, 0])].concat();
    vec![
        set_attributes(u32::MAX),
        message(opcode::SYMLINK, &[b"name\0target\0"]),
        message(opcode::MKNOD, &[&u32s([0o644, 0, 0, 0]), b"name\0"]),
        message(opcode::MKDIR, &[&u32s([0o755, 0]), b"name\0"]),
        message(opcode::UNLINK, &[b"name\0"]),
        message(opcode::RMDIR, &[b"name\0"]),
        message(opcode::RENAME, &[&u64s([9]), b"name\0new\0"]),
        message(
            opcode::RENAME2,
            &[&u64s([9]), &u32s([1, 0]), b"name\0new\0"],
        ),
        message(opcode::CREATE, &[&u32s([0, 0o644, 0, 0]), b"name\0"]),
        message(opcode::WRITE, &[&write, b"bytes"]),
        message(opcode::FALLOCATE, &[&three_words, &u32s([0])]),
        message(opcode::FSYNC, &[&u64s([7]), &u32s([0])]),
    ]
}

#[test]
fn a_message_that_is_cut_anywhere_is_an_error_and_no_panic() {
    for message in complete() {
        assert!(parse(&message).is_ok(), "{message:?}");
        for length in IN_HEADER_BYTES..message.len() {
            // The last fields of SETATTR and WRITE have no meaning.
            if message[4] == opcode::SETATTR as u8 && length >= message.len() - 4 {
                continue;
            }
            let cut = parse(&message[..length]);
            assert!(
                matches!(cut, Err(FsError::Fault)),
                "{length} of {message:?}"
            );
        }
    }
}

#[test]
fn names_and_modes_of_new_objects_are_decoded() {
    let made = message(opcode::MKDIR, &[&u32s([0o750, 0o027]), b"dir\0"]);
    assert!(matches!(
        parse(&made),
        Ok(ChangeRequest::MakeDirectory {
            name: b"dir",
            mode: 0o750
        })
    ));
    let made = message(
        opcode::MKNOD,
        &[&u32s([libc::S_IFREG | 0o640, 0, 0, 0]), b"node\0"],
    );
    let Ok(ChangeRequest::MakeNode { name, mode }) = parse(&made) else {
        panic!("{:?}", parse(&made))
    };
    assert_eq!((name, mode), (&b"node"[..], libc::S_IFREG | 0o640));
    let made = message(opcode::SYMLINK, &[b"link\0../target\0"]);
    assert!(matches!(
        parse(&made),
        Ok(ChangeRequest::Symlink {
            name: b"link",
            target: b"../target"
        })
    ));
    let flags = libc::O_RDWR | libc::O_EXCL;
    let made = message(
        opcode::CREATE,
        &[&u32s([flags.cast_unsigned(), 0o600, 0, 0]), b"file\0"],
    );
    let Ok(ChangeRequest::Create {
        name,
        mode,
        flags: given,
    }) = parse(&made)
    else {
        panic!("{:?}", parse(&made))
    };
    assert_eq!((name, mode, given), (&b"file"[..], 0o600, flags));
}

#[test]
fn both_kinds_of_rename_name_the_old_and_the_new_entry() {
    let plain = message(opcode::RENAME, &[&u64s([9]), b"old\0new\0"]);
    let flagged = message(
        opcode::RENAME2,
        &[
            &u64s([9]),
            &u32s([libc::RENAME_NOREPLACE, 0]),
            b"old\0new\0",
        ],
    );
    for (message, wanted) in [(plain, 0), (flagged, libc::RENAME_NOREPLACE)] {
        let request = parse(&message).unwrap();
        let ChangeRequest::Rename { flags, .. } = request else {
            panic!("{request:?}")
        };
        assert_eq!(flags, wanted);
        let names = request.names(PARENT);
        assert_eq!(names, [(PARENT, &b"old"[..]), (9, b"new")]);
    }
}

#[test]
fn only_the_marked_attributes_are_new() {
    let new = |asked: u32| match parse(&set_attributes(asked)) {
        Ok(ChangeRequest::SetAttributes(new)) => new,
        other => panic!("{other:?}"),
    };
    let all = new(valid::MODE | valid::UID | valid::GID | valid::SIZE | valid::HANDLE);
    assert_eq!((all.size_bytes, all.mode), (Some(4096), Some(0o755)));
    assert_eq!(
        (all.uid, all.gid, all.handle),
        (Some(1000), Some(1001), Some(7))
    );
    assert!(all.mtime.is_none());
    let none = new(0);
    assert!(none.size_bytes.is_none() && none.mode.is_none() && none.handle.is_none());
    let Some(NewTime::At(time)) = new(valid::MTIME).mtime else {
        panic!("no time")
    };
    assert_eq!((time.seconds, time.nanoseconds), (-5, 15));
    let now = new(valid::MTIME | valid::MTIME_NOW).mtime;
    assert!(matches!(now, Some(NewTime::Now)));
}

fn write(write_flags: u32, flags: i32, size_bytes: u32, bytes: &[u8]) -> Vec<u8> {
    let head = [
        u64s([7, 8192]),
        u32s([size_bytes, write_flags]),
        u64s([0]),
        u32s([flags.cast_unsigned(), 0]),
    ];
    message(opcode::WRITE, &[&head.concat(), bytes])
}

#[test]
fn a_write_has_exactly_its_bytes() {
    let message = write(0, libc::O_APPEND, 5, b"bytes and more");
    let Ok(ChangeRequest::Write {
        handle,
        offset,
        bytes,
        flags,
    }) = parse(&message)
    else {
        panic!("{:?}", parse(&message))
    };
    assert_eq!((handle, offset, bytes), (7, 8192, &b"bytes"[..]));
    assert_eq!(flags, libc::O_APPEND);
    let short = write(0, 0, 6, b"bytes");
    assert!(matches!(parse(&short), Err(FsError::Fault)));
}

#[test]
fn changed_pages_and_repeated_writes_keep_their_offset() {
    let pages = write(FROM_PAGES, libc::O_APPEND, 5, b"bytes");
    let appended = write(0, libc::O_APPEND, 5, b"bytes");
    let repeated = parse(&appended).unwrap().as_repeated();
    for request in [parse(&pages).unwrap(), repeated] {
        assert!(
            matches!(
                request,
                ChangeRequest::Write {
                    offset: 8192,
                    flags: 0,
                    ..
                }
            ),
            "{request:?}"
        );
    }
}

#[test]
fn requests_that_are_always_refused_have_the_errno_that_programs_expect() {
    for (operation, wanted) in [
        (opcode::LINK, libc::EPERM),
        (opcode::SETXATTR, libc::ENOSYS),
        (opcode::REMOVEXATTR, libc::ENOSYS),
        (opcode::TMPFILE, libc::ENOSYS),
        (opcode::COPY_FILE_RANGE, libc::ENOSYS),
        (opcode::COPY_FILE_RANGE_64, libc::ENOSYS),
    ] {
        let refused = parse(&message(operation, &[])).map(drop);
        assert_eq!(refused.map_err(FsError::errno), Err(wanted), "{operation}");
    }
}

#[test]
fn an_open_is_a_change_if_it_writes_or_truncates() {
    for (flags, wanted) in [
        (libc::O_RDONLY, false),
        (libc::O_RDONLY | libc::O_APPEND, false),
        (libc::O_WRONLY, true),
        (libc::O_RDWR | libc::O_APPEND, true),
        (libc::O_RDONLY | libc::O_TRUNC, true),
    ] {
        let open = message(opcode::OPEN, &[&u32s([flags.cast_unsigned(), 0])]);
        assert_eq!(opens_for_writing(&open), wanted, "{flags:o}");
        let is_repeatable = parse(&open).unwrap().is_repeatable();
        assert_eq!(is_repeatable, flags & libc::O_TRUNC == 0, "{flags:o}");
    }
    assert!(!opens_for_writing(&message(opcode::OPEN, &[])));
}

#[test]
fn fallocate_and_sync_name_their_handle() {
    let mode = libc::FALLOC_FL_KEEP_SIZE;
    let body = [u64s([7, 100, 50]), u64s([mode as u64])].concat();
    let message_bytes = message(opcode::FALLOCATE, &[&body]);
    let Ok(ChangeRequest::Allocate {
        handle,
        range,
        mode: given,
    }) = parse(&message_bytes)
    else {
        panic!("{:?}", parse(&message_bytes))
    };
    assert_eq!((handle, range, given), (7, ByteRange::new(100, 150), mode));
    for (flags, wanted) in [(0, false), (ONLY_DATA, true)] {
        let sync = message(opcode::FSYNC, &[&u64s([7]), &u32s([flags, 0])]);
        let Ok(ChangeRequest::Sync { handle, only_data }) = parse(&sync) else {
            panic!("{:?}", parse(&sync))
        };
        assert_eq!((handle, only_data), (7, wanted));
    }
    let directory = message(opcode::FSYNCDIR, &[&u64s([0, 0])]);
    assert!(matches!(
        parse(&directory),
        Ok(ChangeRequest::SyncDirectory)
    ));
}
