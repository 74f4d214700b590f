//! Programs that read while shares change. An open version stays readable, and a directory listing
//! has each permanent name once.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rand::RngExt;
use rand::rngs::StdRng;

use super::STAYING;
use super::namespace::{Namespace, Shown};
use super::share::UNTOUCHED;
use crate::support::process::look_again;

/// A file that a program has open, and its bytes at the open.
pub(super) struct OpenFile {
    pub path: PathBuf,
    file: File,
    bytes: Vec<u8>,
}

impl OpenFile {
    /// Opens the file that a mount shows under a path, and reads a little of it.
    pub(super) fn open(
        mount: &Path,
        path: &Path,
        shown: &Namespace,
        random: &mut StdRng,
    ) -> Option<Self> {
        let Shown::File { bytes, .. } = &shown[path] else {
            return None;
        };
        let path = mount.join(path);
        let mut open = Self {
            file: File::open(&path).unwrap(),
            path,
            bytes: bytes.clone(),
        };
        assert_eq!(open.read_on(random), None);
        Some(open)
    }

    /// Reads at random offsets. The bytes must be of the opened version, or the version is gone.
    /// Returns the fault, if any.
    pub(super) fn read_on(&mut self, random: &mut StdRng) -> Option<String> {
        for _ in 0..4 {
            let start = random.random_range(0..=self.bytes.len());
            let end = random.random_range(start..=self.bytes.len());
            let mut read = vec![0; end - start];
            match self.file.read_exact_at(&mut read, start as u64) {
                Ok(()) if read == self.bytes[start..end] => {}
                Ok(()) => return Some(format!("{:?}: bytes of another version", self.path)),
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
                Err(error) => return Some(format!("{:?}: {error}", self.path)),
            }
        }
        let past = self.file.read_at(&mut [0; 10], self.bytes.len() as u64);
        let at_end = matches!(past, Ok(0));
        (!at_end).then(|| format!("{:?}: {past:?} past the end", self.path))
    }
}

/// A thread that lists one directory again and again.
pub(super) struct Lister {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Lister {
    pub(super) fn start(mount: &Path) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (directory, until) = (mount.join(UNTOUCHED), ended.clone());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                list(&directory)?;
                look_again();
            }
            Ok(())
        });
        Self { ended, thread }
    }

    /// Ends the thread. A wrong listing fails the test.
    pub(super) fn finish(self) {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
    }
}

fn list(directory: &Path) -> Result<(), String> {
    let Ok(stream) = fs::read_dir(directory) else {
        // The mount's daemon has ended.
        return Ok(());
    };
    let mut names = vec![];
    for entry in stream {
        let Ok(entry) = entry else { return Ok(()) };
        names.push(entry.file_name());
    }
    let count = names.len();
    names.sort();
    names.dedup();
    let is_staying = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("stays-");
    let staying = names.iter().filter(is_staying).count();
    if (count, staying) == (names.len(), STAYING) {
        return Ok(());
    }
    Err(format!(
        "{}: {count} names, {} distinct, {staying} that stay",
        directory.display(),
        names.len()
    ))
}
