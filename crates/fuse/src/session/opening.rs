//! OPEN of files that foreign peers may have; the answer depends on the requesting program.

use fuser::{FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyOpen, Request};

use super::{Handlers, errno};
use p2pfs_fs::{FsError, OpenReply, Reach};

impl Handlers {
    pub(super) fn open_file(
        &self,
        request: &Request,
        ino: INodeNo,
        flags: OpenFlags,
        reply: ReplyOpen,
    ) {
        let opener = self.readers.opener(request.pid(), request.uid());
        if opener.reach() == Reach::Cached {
            // Opening the file means a transfer.
            return reply.error(errno(FsError::Denied));
        }
        let (readers, path) = (self.readers.clone(), self.fs.inodes.path_of(ino.0));
        let answer = move |opened: Result<OpenReply, FsError>| match opened {
            Ok(opened) => {
                let path = path.unwrap_or_default();
                readers.opened(&opener, opened.handle, ino.0, &path, false);
                reply.opened(FileHandle(opened.handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(errno(error)),
        };
        self.fs.foreign.open(ino.0, flags.0, Box::new(answer));
    }
}
