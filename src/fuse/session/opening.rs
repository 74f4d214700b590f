//! Opening files: who asks decides how far they may reach, and is noted.

use std::sync::Arc;

use fuser::{FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyOpen, Request};

use super::{Handlers, ask, errno};
use crate::fs::{Caching, FsError, OpenReply, Reach};
use crate::fuse::readers::{Opener, Readers};

impl Handlers {
    pub(super) fn open_file(
        &self,
        request: &Request,
        ino: INodeNo,
        flags: OpenFlags,
        reply: ReplyOpen,
    ) {
        let opener = self.readers.opener(request.pid(), request.uid());
        let reach = opener.reach();
        let path = self.fs.path_of(ino.0).unwrap_or_default();
        if self.fs.is_older(ino.0) {
            if reach == Reach::Cached {
                // its open is a transfer
                return reply.error(errno(FsError::Denied));
            }
            let readers = self.readers.clone();
            let answer = move |opened: Result<OpenReply, FsError>| match opened {
                Ok(opened) => note_and_answer(&readers, &opener, ino, &path, opened, reply),
                Err(error) => reply.error(errno(error)),
            };
            return self.fs.open_older(ino.0, flags.0, Box::new(answer));
        }
        match ask(|| self.fs.open(ino.0, flags.0, reach)) {
            Ok(opened) => note_and_answer(&self.readers, &opener, ino, &path, opened, reply),
            Err(errno) => reply.error(errno),
        }
    }
}

fn note_and_answer(
    readers: &Arc<Readers>,
    opener: &Opener,
    ino: INodeNo,
    path: &[u8],
    opened: OpenReply,
    reply: ReplyOpen,
) {
    let by_kernel = matches!(opened.caching, Caching::Backed(_));
    readers.opened(opener, opened.handle, ino.0, path, by_kernel);
    answer(reply, opened);
}

fn answer(reply: ReplyOpen, opened: OpenReply) {
    let handle = FileHandle(opened.handle);
    match opened.caching {
        // Without KEEP_CACHE an open waits, unkillable, for the reads that are under way.
        Caching::Keep => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
        Caching::Direct => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO),
        Caching::Backed(file) => {
            // SAFETY: the number is registered on this connection and stays so until the last
            // release of the inode. It is taken back below, so fuser closes nothing.
            let backing = unsafe { reply.wrap_backing(file.0) };
            reply.opened_passthrough(handle, FopenFlags::empty(), &backing);
            let _ = backing.into_raw();
        }
    }
}
