//! `p2pfs get`: fetches a file without the mount, at full speed.
//!
//! The daemon passes a descriptor, from which the bytes are copied. The result appears under its
//! final name only when it is complete. Until then it has no name, or a hidden name if the
//! filesystem does not support unnamed files.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use clap_complete::ArgValueCompleter;
use indicatif::ProgressBar;
use rustix::fs::OFlags;
use tempfile::TempPath;

use super::complete;
use super::connect::Reporting;
use super::error::CliError;
use super::names::shared_name;
use super::output::Output;
use super::progress;
use super::remark;
use super::text::{escape, human_bytes};
use crate::daemon::control::{
    Breaks, Call, Client, ClientError, GetDone, GetStarted, NO_HASH, Named, PIPE_BYTES,
};
use p2pfs_types::files::trusted_way::{ReachedDir, open, reach};
use p2pfs_types::files::{self, link, path_of};

/// Bytes copied between two updates of the progress bar.
const STROKE_BYTES: u64 = 4 << 20;

/// The arguments of `p2pfs get`.
#[derive(Debug, Clone, Args)]
pub struct GetOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The file, by its name in the shared folder
    #[arg(add = ArgValueCompleter::new(complete::shared_names))]
    path: OsString,
    /// Where to put it: a file, a directory, or - for standard output [default: its own name, here]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
}

pub(super) fn run(options: &GetOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open_patiently()?;
    let path = shared_name(&mut client, &options.path)?;
    let begun = Instant::now();
    let mut breaks = Breaks::default();
    let (started, mut source) = begin(&mut client, &path, &mut breaks)?;
    let target = Target::choose(options.output.as_deref(), &path, &started)?;
    widen(target.file(), &source);
    let bar = progress::of_copied(started.size_bytes);
    let mut copied_bytes = 0;
    let done = loop {
        let before = dated(&source);
        let copied = copy(&path, &source, &target, &mut copied_bytes, &started, &bar)
            .and_then(|()| check_same(&path, before, &source));
        // `source` is closed before the last reply is awaited: a daemon that still writes into the
        // pipe must learn that this command reads no more.
        drop(source);
        copied?;
        let done = client.next_reply().and_then(|last| last.decode());
        match done {
            Ok(done) => break done,
            Err(error) => client.recover(&mut breaks, error)?,
        }
        source = go_on(&mut client, &path, &started, copied_bytes, &mut breaks)?;
    };
    let whole = check_whole(&path, copied_bytes, &started).and_then(|()| target.publish());
    bar.finish_and_clear();
    whole?;
    report(options, &path, &started, &done, begun.elapsed(), output)
}

/// Requests the file, again if the daemon restarts meanwhile.
fn begin(
    client: &mut Client,
    path: &Named,
    breaks: &mut Breaks,
) -> Result<(GetStarted, File), ClientError> {
    loop {
        let asked = client.start(&Call::Get { path: path.clone() });
        match asked.and_then(|()| client.next_reply()) {
            Err(error) => client.recover(breaks, error)?,
            Ok(mut first) => {
                let source = first.descriptor.take().ok_or_else(no_descriptor)?;
                return Ok((first.decode()?, File::from(source)));
            }
        }
    }
}

/// Requests the file again after a restart of the daemon, and skips the bytes that were copied
/// before. Fails unless the hash proves that the content is the same.
fn go_on(
    client: &mut Client,
    path: &Named,
    before: &GetStarted,
    copied_bytes: u64,
    breaks: &mut Breaks,
) -> Result<File, CliError> {
    let (now, source) = begin(client, path, breaks)?;
    if now.hash == NO_HASH {
        let name = escape(path.as_bytes());
        let message = format!(
            "the daemon restarted, and nothing proves that {name}, which a legacy peer gives, is \
             still the same"
        );
        return Err(CliError::new(message, "try again"));
    }
    if now.hash != before.hash {
        let name = escape(path.as_bytes());
        let message = format!("{name} became another file while the daemon restarted");
        return Err(CliError::new(message, "try again"));
    }
    io::copy(&mut (&source).take(copied_bytes), &mut io::sink())
        .map_err(CliError::cannot("read the file again"))?;
    Ok(source)
}

fn no_descriptor() -> ClientError {
    ClientError::Malformed {
        why: "no descriptor came with it".to_owned(),
    }
}

/// Copies until the end of the source or the full length, and counts the bytes.
fn copy(
    path: &Named,
    source: &File,
    target: &Target,
    copied_bytes: &mut u64,
    started: &GetStarted,
    bar: &ProgressBar,
) -> Result<(), CliError> {
    while *copied_bytes < started.size_bytes {
        let stroke = STROKE_BYTES.min(started.size_bytes - *copied_bytes);
        // Between files and pipes the standard library lets the kernel copy.
        let copied = io::copy(&mut source.take(stroke), &mut target.file());
        let stroke_bytes = copied.map_err(|error| match read_error(source) {
            Some(error) => not_read(path, &error),
            None if is_standard_output(&target.place) => match error.kind() {
                io::ErrorKind::BrokenPipe => CliError::NotReadToEnd,
                _ => CliError::Output(error),
            },
            None => not_written(&target.place, &error),
        })?;
        if stroke_bytes == 0 {
            break;
        }
        target.begin_to_sync(*copied_bytes, stroke_bytes);
        *copied_bytes += stroke_bytes;
        bar.set_position(*copied_bytes);
    }
    Ok(())
}

/// Returns the error of a read of the source after a failed copy. `None` means that the write
/// failed. The kernel may copy by itself, and then does not report which of the two failed. A pipe
/// is not read here, because that could block and does not fail.
fn read_error(mut source: &File) -> Option<io::Error> {
    let is_file = source.metadata().is_ok_and(|found| found.is_file());
    is_file.then(|| source.read(&mut [0]).err())?
}

fn not_read(path: &Named, error: &io::Error) -> CliError {
    let name = escape(path.as_bytes());
    CliError::new(format!("cannot read {name}: {error}"), "try again")
}

fn not_written(place: &Path, error: &io::Error) -> CliError {
    let message = format!("cannot write {}: {error}", place.display());
    CliError::new(message, "choose another place with -o")
}

fn check_whole(path: &Named, copied_bytes: u64, started: &GetStarted) -> Result<(), CliError> {
    if copied_bytes == started.size_bytes {
        return Ok(());
    }
    let (name, size_bytes) = (escape(path.as_bytes()), started.size_bytes);
    let message = format!("{name} ended after {copied_bytes} of {size_bytes} bytes");
    Err(CliError::new(message, "try again"))
}

/// Returns the modification time and the length of a file, or `None` for a pipe.
fn dated(source: &File) -> Option<(i64, i64, u64)> {
    let found = source.metadata().ok().filter(Metadata::is_file)?;
    Some((found.mtime(), found.mtime_nsec(), found.len()))
}

/// Checks that the source was not changed during the copy, if it is a regular file of this node.
fn check_same(
    path: &Named,
    before: Option<(i64, i64, u64)>,
    source: &File,
) -> Result<(), CliError> {
    if dated(source) == before {
        return Ok(());
    }
    let message = format!(
        "{} was changed while it was copied",
        escape(path.as_bytes())
    );
    Err(CliError::new(message, "try again"))
}

/// Destination of the bytes, and the name under which they appear.
struct Target {
    file: File,
    /// Path that is shown.
    place: PathBuf,
    /// Path through the descriptor of the folder, which another user may replace meanwhile.
    at: PathBuf,
    unfinished: Unfinished,
    _folder: Option<ReachedDir>,
}

enum Unfinished {
    /// Standard output, a device or a pipe, which needs no completion.
    Nothing,
    /// A file without a name, of which a crash leaves no trace.
    Unnamed,
    /// A file with a hidden name beside the final one, removed when dropped.
    Hidden(TempPath),
}

impl Target {
    fn choose(output: Option<&Path>, path: &Named, started: &GetStarted) -> Result<Self, CliError> {
        let last = path
            .as_bytes()
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        let own_name = Path::new(OsStr::from_bytes(last));
        let place = match output {
            None => own_name.to_path_buf(),
            Some(dir) if dir.is_dir() => dir.join(own_name),
            Some(file) => file.to_path_buf(),
        };
        let (mut at, mut folder) = (place.clone(), None);
        let opened = match output {
            Some(file) if is_standard_output(file) => standard_output(),
            // A path with a slash at its end can only be a directory. Without this check, a missing
            // directory would be reported only after the transfer.
            Some(dir) if dir.as_os_str().as_bytes().ends_with(b"/") && !dir.is_dir() => {
                Err(io::Error::other("no such directory"))
            }
            _ if place.metadata().is_ok_and(|found| !found.is_file()) => {
                let opened = open(&place, OFlags::WRONLY).map_err(io::Error::from);
                opened.map(|file| (file, Unfinished::Nothing))
            }
            _ => reach(folder_of(&place))
                .map_err(io::Error::from)
                .and_then(|dir| {
                    at = Path::new(&path_of(dir.dir())).join(place.file_name().unwrap_or_default());
                    folder = Some(dir);
                    Self::create(&at, started.executable)
                }),
        };
        let (file, unfinished) = opened.map_err(|e| not_written(&place, &e))?;
        Ok(Self {
            file,
            place,
            at,
            unfinished,
            _folder: folder,
        })
    }

    fn create(place: &Path, executable: bool) -> io::Result<(File, Unfinished)> {
        let mode = if executable { 0o777 } else { 0o666 };
        if let Ok(file) = files::unnamed(folder_of(place), mode) {
            return Ok((file, Unfinished::Unnamed));
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let hidden = hidden_name().make_in(folder_of(place), |hidden| options.open(hidden))?;
        let (file, path) = hidden.into_parts();
        Ok((file, Unfinished::Hidden(path)))
    }

    fn file(&self) -> &File {
        &self.file
    }

    /// Gives the complete file its name, and replaces an existing file of that name.
    fn publish(self) -> Result<(), CliError> {
        let place = self.place.clone();
        self.sync().map_err(|e| not_written(&place, &e))?;
        self.rename().map_err(|e| {
            let place = place.display();
            CliError::new(
                format!("cannot name the file {place}: {e}"),
                "choose another with -o",
            )
        })
    }

    /// Starts writing to the disk while the rest still arrives.
    fn begin_to_sync(&self, start: u64, length_bytes: u64) {
        if !matches!(self.unfinished, Unfinished::Nothing) {
            files::begin_to_write_out(&self.file, start, length_bytes);
        }
    }

    /// Syncs the file, so that a named file is complete even after a power cut.
    fn sync(&self) -> io::Result<()> {
        match self.unfinished {
            Unfinished::Nothing => Ok(()),
            Unfinished::Unnamed | Unfinished::Hidden(_) => self.file.sync_data(),
        }
    }

    fn rename(self) -> io::Result<()> {
        let hidden = match self.unfinished {
            Unfinished::Nothing => return Ok(()),
            Unfinished::Hidden(hidden) => hidden,
            Unfinished::Unnamed => hidden_name()
                .make_in(folder_of(&self.at), |hidden| link(&self.file, hidden))?
                .into_temp_path(),
        };
        Ok(hidden.persist(&self.at)?)
    }
}

/// Returns whether `place` is a dash or a name of standard output, such as `/dev/stdout`. Replacing
/// that name by a file would remove it for all programs.
fn is_standard_output(place: &Path) -> bool {
    if place == Path::new("-") {
        return true;
    }
    let Ok((output, _)) = standard_output() else {
        return false;
    };
    match (place.metadata(), output.metadata()) {
        (Ok(named), Ok(output)) => (named.dev(), named.ino()) == (output.dev(), output.ino()),
        _ => false,
    }
}

fn standard_output() -> io::Result<(File, Unfinished)> {
    let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
    Ok((File::from(descriptor), Unfinished::Nothing))
}

/// Enlarges the pipe `target` if `source` is a pipe, too. With the default size, both ends wake
/// each other every 64 KiB. If `source` is a file, the pipe keeps its size, so that it holds few
/// pages: the pages are those of the file (splice(2)), and a write to the file also changes the
/// bytes in the pipe.
fn widen(target: &File, source: &File) {
    use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

    let is_small = fcntl_getpipe_size(target).is_ok_and(|bytes| bytes < PIPE_BYTES);
    if is_small && fcntl_getpipe_size(source).is_ok() {
        let _as_it_is = fcntl_setpipe_size(target, PIPE_BYTES);
    }
}

fn folder_of(place: &Path) -> &Path {
    place
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Returns the builder of a hidden name in the folder of the final name. The hidden name does not
/// contain the final name, because that name may have the maximum length.
fn hidden_name() -> tempfile::Builder<'static, 'static> {
    let mut name = tempfile::Builder::new();
    name.prefix(".p2pfs-get-");
    name
}

fn report(
    options: &GetOptions,
    path: &Named,
    started: &GetStarted,
    done: &GetDone,
    elapsed: Duration,
    output: &mut Output,
) -> Result<(), CliError> {
    let to_stdout = options.output.as_deref().is_some_and(is_standard_output);
    if options.reporting.json && !to_stdout {
        let report = serde_json::json!({
            "file": path,
            "hash": started.hash,
            "size_bytes": started.size_bytes,
            "elapsed_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            "sources": done.sources,
        });
        return output.json(&report);
    }
    if io::stderr().is_terminal() {
        let rate = started.size_bytes as f64 / elapsed.as_secs_f64().max(1e-6);
        let names: Vec<_> = done
            .sources
            .iter()
            .map(|source| source.name.as_str())
            .collect();
        let from = if names.is_empty() {
            "local".to_owned()
        } else {
            names.join(", ")
        };
        remark(format_args!(
            "{}: {} in {:.1} s ({}/s) from {from}",
            escape(path.as_bytes()),
            human_bytes(started.size_bytes),
            elapsed.as_secs_f64(),
            human_bytes(rate as u64)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Copies one byte from `source` into the pipe or file `target`, and returns the error.
    fn failed_copy(source: &File, target: File) -> String {
        let target = Target {
            file: target,
            place: PathBuf::from("place"),
            at: PathBuf::from("place"),
            unfinished: Unfinished::Nothing,
            _folder: None,
        };
        let started = GetStarted {
            hash: NO_HASH.to_owned(),
            size_bytes: 1,
            cached_bytes: 0,
            executable: false,
        };
        let (name, bar) = (Named::new(b"name".as_slice()), ProgressBar::hidden());
        let copied = copy(&name, source, &target, &mut 0, &started, &bar);
        copied.unwrap_err().to_string()
    }

    #[test]
    fn a_failed_copy_names_the_side_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let unreadable = OpenOptions::new().write(true).open(&path).unwrap();
        let error = failed_copy(&unreadable, tempfile::tempfile().unwrap());
        assert!(error.starts_with("cannot read name: "), "{error}");
        let closed_pipe = File::from(std::os::fd::OwnedFd::from(io::pipe().unwrap().1));
        let error = failed_copy(&File::open(&path).unwrap(), closed_pipe);
        assert!(error.starts_with("cannot write place: "), "{error}");
    }

    #[test]
    fn a_file_gets_its_name_only_once_it_is_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("file");
        let hidden = || hidden_name().tempfile_in(folder.path()).unwrap();
        let target = |file, unfinished| Target {
            file,
            place: place.clone(),
            at: place.clone(),
            unfinished,
            _folder: None,
        };
        // A pipe in place of the file, which cannot be synced.
        let pipe = || File::from(std::os::fd::OwnedFd::from(io::pipe().unwrap().1));
        let refused = target(pipe(), Unfinished::Hidden(hidden().into_temp_path()));
        assert!(refused.publish().is_err());
        assert!(!place.exists());
        let (file, path) = hidden().into_parts();
        assert!(target(file, Unfinished::Hidden(path)).publish().is_ok());
        assert!(place.exists());
        assert!(target(pipe(), Unfinished::Nothing).publish().is_ok());
    }

    #[test]
    fn folder_that_becomes_a_link_while_a_file_is_fetched_gets_the_file_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let started = GetStarted {
            hash: NO_HASH.to_owned(),
            size_bytes: 0,
            cached_bytes: 0,
            executable: false,
        };
        let choose = |name: &str| {
            let shared = Named::new(b"d/own-name".as_slice());
            Target::choose(Some(&at(name)), &shared, &started)
        };
        std::fs::create_dir(at("out")).unwrap();
        std::fs::create_dir(at("other")).unwrap();
        let (named, own) = (choose("out/file").unwrap(), choose("out").unwrap());
        std::fs::rename(at("out"), at("moved")).unwrap();
        std::os::unix::fs::symlink("other", at("out")).unwrap();
        named.publish().unwrap();
        own.publish().unwrap();
        assert_eq!(std::fs::read_dir(at("other")).unwrap().count(), 0);
        assert!(at("moved/file").exists() && at("moved/own-name").exists());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(folder.path(), Some(1234), None).unwrap();
            for name in ["out", "out/file"] {
                let refused = choose(name).err().unwrap().to_string();
                assert!(refused.contains("user 1234 owns"), "{refused}");
            }
            assert_eq!(std::fs::read_dir(at("other")).unwrap().count(), 0);
        }
    }
}
