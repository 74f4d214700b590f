//! The operations that would change something. The mount is read-only in the VFS, so they do not
//! come; should one come all the same (a remount), it gets EROFS.

/// Handlers of the session that answer EROFS, in the words that it has imported.
macro_rules! read_only_handlers {
    () => {
        fn setattr(
            &self,
            _: &Request,
            _: INodeNo,
            _: Option<u32>,
            _: Option<u32>,
            _: Option<u32>,
            _: Option<u64>,
            _: Option<TimeOrNow>,
            _: Option<TimeOrNow>,
            _: Option<SystemTime>,
            _: Option<FileHandle>,
            _: Option<SystemTime>,
            _: Option<SystemTime>,
            _: Option<SystemTime>,
            _: Option<BsdFileFlags>,
            reply: ReplyAttr,
        ) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn mknod(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: u32,
            _: u32,
            _: u32,
            reply: ReplyEntry,
        ) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn symlink(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: &std::path::Path,
            reply: ReplyEntry,
        ) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn rename(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: INodeNo,
            _: &OsStr,
            _: RenameFlags,
            reply: ReplyEmpty,
        ) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn create(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: u32,
            _: u32,
            _: i32,
            reply: ReplyCreate,
        ) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn setxattr(
            &self,
            _: &Request,
            _: INodeNo,
            _: &OsStr,
            _: &[u8],
            _: i32,
            _: u32,
            reply: ReplyEmpty,
        ) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
            reply.error(errno(FsError::ReadOnly));
        }

        fn fallocate(
            &self,
            _: &Request,
            _: INodeNo,
            _: FileHandle,
            _: u64,
            _: u64,
            _: i32,
            reply: ReplyEmpty,
        ) {
            reply.error(errno(FsError::ReadOnly));
        }
    };
}

pub(super) use read_only_handlers;
