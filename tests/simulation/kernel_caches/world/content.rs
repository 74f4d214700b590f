//! The filesystem's requests to the world: its view, its files and their bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use p2pfs_catalogue::View;
use p2pfs_fs::{
    Content, FileVersion, FsError, LiveAttributes, LiveLook, OpenContent, Opened, ReadNow,
    ReadReply, ReadWait, Space,
};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::path::SharedPath;

use super::{Told, World, own_name, stored};

struct Open {
    world: Arc<World>,
    number: u64,
    hash: ContentHash,
    live: Option<Arc<File>>,
}

impl Content for World {
    fn view(&self) -> Arc<View> {
        self.lock().view.clone()
    }

    fn open(self: Arc<Self>, file: &FileVersion) -> Result<Opened, FsError> {
        let own = file.own.as_ref().map(|(_, path)| self.own_file(path));
        let live = own.and_then(|own| File::open(own).ok()).map(Arc::new);
        let is_live = live.is_some();
        let (number, hash) = {
            let mut state = self.lock();
            state.last_handle += 1;
            let number = state.last_handle;
            state.last_opened = live.clone();
            state.open.insert(number, file.hash);
            (number, file.hash)
        };
        let open = Open {
            world: self,
            number,
            hash,
            live,
        };
        Ok(Opened {
            content: Arc::new(open),
            live: is_live,
        })
    }

    fn cached_bytes(&self, file: &FileVersion) -> u64 {
        match file.own {
            Some(_) => file.size_bytes,
            None => self.lock().cached.get(&file.hash).copied().unwrap_or(0),
        }
    }

    fn live(&self, file: &FileVersion) -> Option<LiveAttributes> {
        let (_, path) = file.own.as_ref()?;
        LiveAttributes::of(&File::open(self.own_file(path)).ok()?).ok()
    }

    fn live_in(&self, _: ShareIndex, directory: &SharedPath) -> Option<LiveLook> {
        let (directory, folder) = (directory.clone(), self.own_folder.path().to_owned());
        Some(Box::new(move |name| {
            let file = folder.join(own_name(&directory.join(name).ok()?));
            LiveAttributes::of(&File::open(file).ok()?).ok()
        }))
    }

    fn space(&self) -> Space {
        Space::default()
    }

    fn status_json(&self) -> Vec<u8> {
        Vec::new()
    }
}

impl OpenContent for Open {
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        if let Some(file) = &self.live {
            return ReadNow::Done(file.read_at(buffer, offset).unwrap());
        }
        let state = self.world.lock();
        let bytes = &stored(&self.hash).bytes;
        let end = offset + buffer.len() as u64;
        if end > state.cached.get(&self.hash).copied().unwrap_or(0) {
            return ReadNow::Wait;
        }
        buffer.copy_from_slice(&bytes[offset as usize..end as usize]);
        ReadNow::Done(buffer.len())
    }

    fn read(&self, range: ByteRange, _: bool, reply: ReadReply) -> ReadWait {
        {
            let mut state = self.world.lock();
            // The model takes all bytes before the range as fetched too.
            let cached = state.cached.entry(self.hash).or_default();
            *cached = range.end.max(*cached);
        }
        let bytes = &stored(&self.hash).bytes[range.start as usize..range.end as usize];
        reply(Ok(Bytes::from_static(bytes)));
        ReadWait::ended()
    }

    fn backing(&self) -> Option<Arc<File>> {
        let stored = stored(&self.hash);
        let cached = self.world.lock().cached.get(&self.hash).copied();
        let is_complete = cached == Some(stored.bytes.len() as u64);
        let complete = || is_complete.then(|| stored.file.clone());
        self.live.clone().or_else(complete)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        state.open.remove(&self.number);
        state.told.push_back(Told::CachedBytes(self.hash));
    }
}
