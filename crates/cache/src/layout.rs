//! Cache directory: file names, lock, format, and the survey at start.
//!
//! Files without a name of the cache are never deleted.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::disk::{Disk, ReplaceDurability, map_attribute, replacement};
use super::map::{self, Boot, LoadedMap};
use super::pages::{PageMap, bytes_of, page_count};
use super::summary::FileSummary;
use super::{CacheError, PROBLEMS_MAX, UNVERIFIED_DIR};
use p2pfs_types::digest::{ContentHash, Grain};
use p2pfs_types::extent::PAGE_BYTES;
use p2pfs_types::files::{
    HeldLock, locked, make_private_dir, open_own, open_own_writable, read_own,
};

/// Format number of the directory; a directory with another one is left alone.
const FORMAT: u64 = 1;
const VERSION_WORD: &str = "p2pfs-cache";
/// Number of the 256 subdirectories that one thread surveys at start. Four threads hide most of the
/// latency of a cold disk.
const SHARDS_PER_THREAD: usize = 64;
/// Names of the cache in the directory itself, in addition to the 256 subdirectories.
const OUR_FILES: [&str; 8] = [
    "version",
    "version.new",
    "lock",
    "pins",
    "pins.new",
    "clean",
    "trial",
    UNVERIFIED_DIR,
];

/// Prefix of the names of damaged pins files that were moved aside.
const PINS_ASIDE: &str = "pins.aside-";

/// Paths of the files of one content. A small content has only the data file.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) data: PathBuf,
    pub(super) outboard: PathBuf,
    pub(super) map: PathBuf,
}

/// Paths within a cache directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
}

/// Time of the last change of a file in seconds and nanoseconds (`st_ctime`, which no program can
/// set back).
pub(super) type Changed = (i64, i64);

fn changed_at(path: &Path) -> io::Result<Changed> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.ctime(), metadata.ctime_nsec()))
}

/// Reference points of a start, against which the survey compares the files.
#[derive(Clone, Copy, Debug)]
pub(super) struct SurveyStart {
    pub(super) boot: Boot,
    /// Time of the last clean stop; changes after it are from other programs. `None` after an
    /// unclean stop.
    pub(super) stopped_at: Option<Changed>,
}

/// A file found at start.
#[derive(Debug)]
pub(super) struct FoundFile {
    pub(super) hash: ContentHash,
    pub(super) summary: FileSummary,
    pub(super) last_use: SystemTime,
}

/// Result of the survey at start.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) files: Vec<FoundFile>,
    /// Files that were removed because their map was broken or their data was missing.
    pub(super) broken: Vec<ContentHash>,
    pub(super) problems: Vec<String>,
}

impl Survey {
    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }
}

impl Layout {
    pub(super) fn paths(&self, hash: &ContentHash) -> Paths {
        let hex = hash.to_string();
        let stem = self.dir.join(&hex[..2]).join(&hex);
        Paths {
            data: stem.with_extension("data"),
            outboard: stem.with_extension("outboard"),
            map: stem.with_extension("map"),
        }
    }

    pub(super) fn pins(&self) -> PathBuf {
        self.dir.join("pins")
    }

    pub(super) fn clean(&self) -> PathBuf {
        self.dir.join("clean")
    }

    /// Path of the file that is written to test whether the disk accepts writes.
    pub(super) fn trial(&self) -> PathBuf {
        self.dir.join("trial")
    }

    /// Returns the time of the last stop if it was a clean one.
    pub(super) fn stopped_at(&self) -> Option<Changed> {
        changed_at(&self.clean()).ok()
    }

    /// Creates the directory, locks it and checks its format.
    pub(super) fn claim(&self, disk: &Disk) -> Result<HeldLock, CacheError> {
        let dir = &self.dir;
        make_private_dir(dir)
            .map_err(|error| CacheError::io("make the cache directory", dir, error))?;
        // The format is checked before any write, including the lock file.
        let known = self.check_format()?;
        let lock = self.lock()?;
        if !known {
            let text = format!("{VERSION_WORD} {FORMAT}\n");
            let path = dir.join("version");
            disk.replace(&path, text.as_bytes(), ReplaceDurability::Name)
                .map_err(|error| CacheError::io("write", path, error))?;
        }
        Ok(lock)
    }

    pub(super) fn lock_file(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn lock(&self) -> Result<HeldLock, CacheError> {
        let path = self.lock_file();
        let lock = locked(&path).map_err(|error| CacheError::io("lock", &path, error))?;
        lock.ok_or_else(|| CacheError::Locked {
            dir: self.dir.clone(),
        })
    }

    /// Checks the version file. Returns `false` if it does not exist.
    fn check_format(&self) -> Result<bool, CacheError> {
        let path = self.dir.join("version");
        let text = match read_own(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(CacheError::io("read", path, error)),
        };
        let dir = self.dir.clone();
        let Some(("", found)) = text.split_once(VERSION_WORD) else {
            return Err(CacheError::NotACache { dir });
        };
        let found = found.trim().to_owned();
        if found.parse() == Ok(FORMAT) {
            Ok(true)
        } else {
            Err(CacheError::NewerVersion { dir, found })
        }
    }

    /// Surveys the whole directory and removes partial work of a crash.
    pub(super) fn survey(&self, disk: &Disk, start: SurveyStart) -> Result<Survey, CacheError> {
        let mut survey = Survey::default();
        let mut shards = Vec::new();
        for entry in list(&self.dir)? {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                survey.problem(strange(&entry.path()));
                continue;
            };
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && is_shard(&name) {
                shards.push(entry.path());
            } else if !OUR_FILES.contains(&name.as_str()) && !name.starts_with(PINS_ASIDE) {
                survey.problem(strange(&entry.path()));
            }
        }
        let parts: Vec<_> = std::thread::scope(|scope| {
            let survey = |shards| scope.spawn(move || self.survey_shards(disk, start, shards));
            let threads: Vec<_> = shards.chunks(SHARDS_PER_THREAD).map(survey).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for part in parts {
            let part = part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            survey.files.extend(part.files);
            survey.broken.extend(part.broken);
            part.problems
                .into_iter()
                .for_each(|problem| survey.problem(problem));
        }
        Ok(survey)
    }

    fn survey_shards(
        &self,
        disk: &Disk,
        start: SurveyStart,
        shards: &[PathBuf],
    ) -> Result<Survey, CacheError> {
        let mut survey = Survey::default();
        for shard in shards {
            self.survey_shard(disk, start, shard, &mut survey)?;
        }
        Ok(survey)
    }

    fn survey_shard(
        &self,
        disk: &Disk,
        start: SurveyStart,
        shard: &Path,
        survey: &mut Survey,
    ) -> Result<(), CacheError> {
        let mut names = Vec::new();
        for entry in list(shard)? {
            let path = entry.path();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            match own_name(&path, shard) {
                Some((hash, extension)) if is_file => names.push((hash, extension)),
                _ => survey.problem(strange(&path)),
            }
        }
        names.sort_unstable();
        for hash in names.chunk_by(|a, b| a.0 == b.0).map(|files| files[0].0) {
            match self.survey_file(disk, start, &hash) {
                Ok(Some(found)) => survey.files.push(found),
                Ok(None) if names.contains(&(hash, "map")) => survey.broken.push(hash),
                Ok(None) => {}
                Err(error) => survey.problem(format!("{hash}: {error}")),
            }
        }
        Ok(())
    }

    fn survey_file(
        &self,
        disk: &Disk,
        start: SurveyStart,
        hash: &ContentHash,
    ) -> io::Result<Option<FoundFile>> {
        let paths = self.paths(hash);
        disk.remove(&replacement(&paths.map))?;
        let Some(mut map) = load(&paths, hash, start.boot)? else {
            remove(disk, &paths)?;
            return Ok(None);
        };
        if is_altered(&paths, &map, start.stopped_at)? {
            map = map.in_doubt();
            if map.doubt.is_empty() && map.size_bytes > 0 {
                remove(disk, &paths)?;
                return Ok(None);
            }
            write_doubt(disk, &paths, hash, &map)?;
        }
        trim(disk, &paths, &map)?;
        let dated = if map.in_attribute {
            &paths.data
        } else {
            &paths.map
        };
        let last_use = fs::metadata(dated)?.modified()?;
        Ok(Some(FoundFile {
            hash: *hash,
            summary: map.summary(),
            last_use,
        }))
    }
}

/// Returns whether another program changed the data after the clean stop. After an unclean stop
/// this can be told only for a complete file with a map file: its data changed after the map was
/// written.
fn is_altered(paths: &Paths, map: &LoadedMap, stopped_at: Option<Changed>) -> io::Result<bool> {
    let data = changed_at(&paths.data)?;
    Ok(match stopped_at {
        Some(stopped_at) => data > stopped_at,
        None if map.in_attribute || !map.summary().is_complete() => false,
        None => data > changed_at(&paths.map)?,
    })
}

/// Records that all pages of a file are in doubt, so that later starts know it too.
fn write_doubt(disk: &Disk, paths: &Paths, hash: &ContentHash, map: &LoadedMap) -> io::Result<()> {
    if map.in_attribute {
        let bytes = map::small(hash, map.size_bytes, Boot::PAST, &map.present, &map.doubt);
        return disk.set_map_attribute(&open_own_writable(&paths.data)?, &bytes);
    }
    let bytes = map::whole(hash, map.size_bytes, Boot::PAST, &map.present, &map.doubt);
    disk.replace(&paths.map, &bytes, ReplaceDurability::Memory)
}

/// Reads the map of a content. Returns `None` if the map is missing, broken or empty, or if the
/// data or the outboard is missing or has the wrong length.
pub(super) fn load(paths: &Paths, hash: &ContentHash, now: Boot) -> io::Result<Option<LoadedMap>> {
    // A map file takes precedence over an attribute of the data file.
    let map = match read_map(&paths.map, hash)? {
        Some(bytes) => map::parse(hash, &bytes, now),
        None => map_attribute(&paths.data)?.and_then(|map| map::parse_small(hash, &map, now)),
    };
    let Some(map) = map else {
        return Ok(None);
    };
    let lengths = [
        (&paths.data, map.size_bytes),
        (&paths.outboard, Grain::CHUNK.outboard_bytes(map.size_bytes)),
    ];
    // A file of one chunk has no outboard. Older versions created an empty one.
    let needed = if lengths[1].1 == 0 { 1 } else { 2 };
    for (path, length_bytes) in &lengths[..needed] {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() && metadata.len() == *length_bytes => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let nothing = map.present.is_empty() && map.doubt.is_empty() && map.size_bytes > 0;
    Ok((!nothing).then_some(map))
}

/// Reads a map file. Returns `None` if it is missing, broken or too long.
fn read_map(path: &Path, hash: &ContentHash) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let mut file = match open_own(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.by_ref()
        .take(map::HEADER_BYTES as u64)
        .read_to_end(&mut bytes)?;
    let Some(size_bytes) = map::stated_size(hash, &bytes) else {
        return Ok(None);
    };
    let longest = map::max_bytes(size_bytes);
    file.take(longest).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= longest).then_some(bytes))
}

/// Frees the disk space of pages that were written but never claimed, so that the budget stays
/// accurate. A file system without hole punching keeps the space.
fn trim(disk: &Disk, paths: &Paths, map: &LoadedMap) -> io::Result<()> {
    let pages = page_count(map.size_bytes);
    let counts = map.present.counts() + map.doubt.counts();
    let taken_bytes = fs::metadata(&paths.data)?.blocks().saturating_mul(512);
    if taken_bytes <= counts.pages * PAGE_BYTES {
        return Ok(());
    }
    let mut claimed = map.present.clone();
    map.doubt.runs(0..pages).for_each(|run| claimed.insert(run));
    let data = open_own_writable(&paths.data)?;
    let mut from = 0;
    while let Some(gap) = claimed.first_missing(from..pages) {
        let gap_bytes = bytes_of(&gap, gap.end * PAGE_BYTES);
        match disk.punch(&data, gap_bytes.start, gap_bytes.len()) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
            result => result?,
        }
        from = gap.end;
    }
    Ok(())
}

/// Removes the three files of a content, the map first. The other files are meaningless without it.
pub(super) fn remove(disk: &Disk, paths: &Paths) -> io::Result<()> {
    disk.remove(&paths.map)?;
    disk.remove(&paths.data)?;
    disk.remove(&paths.outboard)
}

/// Returns an empty map for a file of this size.
pub(super) fn empty_map(size_bytes: u64) -> LoadedMap {
    let (present, doubt) = (PageMap::default(), PageMap::default());
    LoadedMap {
        size_bytes,
        in_attribute: map::is_small(size_bytes),
        present,
        doubt,
        records: 0,
        sound: true,
        unsynced: false,
    }
}

fn list(dir: &Path) -> Result<Vec<fs::DirEntry>, CacheError> {
    fs::read_dir(dir)
        .and_then(Iterator::collect)
        .map_err(|error| CacheError::io("list", dir, error))
}

fn is_shard(name: &str) -> bool {
    name.len() == 2
        && name
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Returns the hash and kind of a file that has a valid name in the right directory.
fn own_name(path: &Path, shard: &Path) -> Option<(ContentHash, &'static str)> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    let (hex, extension) = name.split_once('.')?;
    let hash: ContentHash = hex.parse().ok()?;
    let kinds = ["data", "outboard", "map", "map.new"];
    let kind = *kinds.iter().find(|kind| **kind == extension)?;
    let in_place = shard.file_name()?.to_str()? == &hex[..2] && hash.to_string() == hex;
    in_place.then_some((hash, kind))
}

fn strange(path: &Path) -> String {
    format!("{} is not of the cache and was left alone", path.display())
}

/// Returns the current boot. If the kernel does not provide an identifier, returns a value that no
/// later process can have, so that unsynced data is not trusted after a restart.
pub(super) fn this_boot() -> Boot {
    match fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) if id.len() >= 32 => Boot::named(&id),
        _ => Boot::named(format!("{} {:?}", std::process::id(), SystemTime::now()).as_bytes()),
    }
}
