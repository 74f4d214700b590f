//! Naming, discovery and running of tests that need something from the machine: a mount, a program,
//! a lab. A test that cannot run here is ignored with a reason. It never counts as passed.
//!
//! A test is a function behind `#[apply(promise)]` in a module with a `const NEEDS: &[Need]`. A
//! test that uses programs names them after that: `#[takes("rsync", "diff")]`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};
use parking_lot::Mutex;

/// Returns what this machine lacks, with the remedy. `None` if it lacks nothing.
pub(crate) type Need = fn() -> Option<String>;

/// A promise and its test.
pub(crate) struct Promise {
    pub module: &'static str,
    pub line: u32,
    pub name: &'static str,
    pub needs: &'static [Need],
    pub programs: &'static [&'static str],
    pub attempt: fn(),
}

inventory::collect!(Promise);

/// Makes a function a test of this binary, in whatever module it stands.
macro_rules! promise {
    (
        $(#[doc = $doc:expr])*
        $(#[takes($($program:literal),+ $(,)?)])?
        fn $name:ident() $body:block
    ) => {
        $(#[doc = $doc])*
        fn $name() $body

        ::inventory::submit! {
            $crate::support::promise::Promise {
                module: module_path!(),
                line: line!(),
                name: stringify!($name),
                needs: NEEDS,
                programs: &[$($($program),+)?],
                attempt: $name,
            }
        }
    };
}
pub(crate) use promise;

impl Promise {
    fn trial(&'static self) -> Trial {
        // The first part is the name of the binary.
        let module = self.module.split_once("::").map_or("", |parts| parts.1);
        let name = format!("{module}::{}", self.name);
        trial(name, || self.obstacle(), self.attempt)
    }

    fn obstacle(&self) -> Option<String> {
        let missing = self.programs.iter().find(|program| !is_in_path(program));
        (self.needs.iter().find_map(|need| found(*need)))
            .or_else(|| missing.map(|program| format!("{program} is not installed")))
    }
}

/// Returns the result of a need. It is checked once, because a machine does not change between
/// tests and a check may take as long as a test.
fn found(need: Need) -> Option<String> {
    static FOUND: Mutex<BTreeMap<usize, Option<String>>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock();
    found.entry(need as usize).or_insert_with(need).clone()
}

/// Time that each test took that passed.
static TOOK: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());
/// Number of slowest tests that are named at the end of a whole run.
const SLOWEST: usize = 12;

/// Names the tests that decide how long a whole run takes.
fn tell_slowest() {
    let mut took = TOOK.lock();
    took.sort();
    if took.len() > 4 * SLOWEST {
        println!("\nslowest tests:");
        for (time, name) in took.iter().rev().take(SLOWEST) {
            println!("{:6.1} s  {name}", time.as_secs_f64());
        }
    }
}

/// Returns a test that is ignored if there is an obstacle.
pub(crate) fn trial(
    name: String,
    obstacle: impl FnOnce() -> Option<String> + Send + 'static,
    attempt: impl FnOnce() + Send + 'static,
) -> Trial {
    let own_name = name.clone();
    Trial::ignorable_test(name, || -> Result<Completion, Failed> {
        if let Some(reason) = obstacle() {
            return Ok(Completion::ignored_with(reason));
        }
        let begun = Instant::now();
        attempt();
        TOOK.lock().push((begun.elapsed(), own_name));
        Ok(Completion::Completed)
    })
}

/// Runs every promise of this binary, and `more` after them, on `threads` threads. The command line
/// overrides the number. The default is one for each processor.
pub(crate) fn run(threads: Option<usize>, more: Vec<Trial>) -> Conclusion {
    let arguments = Arguments::from_args();
    let mut promises: Vec<&Promise> = inventory::iter::<Promise>.into_iter().collect();
    promises.sort_by_key(|it| (it.module, it.line));
    if threads != Some(1) {
        mix(&mut promises);
    }
    let trials = promises.into_iter().map(Promise::trial).chain(more);
    let arguments = Arguments {
        test_threads: arguments.test_threads.or(threads),
        ..arguments
    };
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    tell_slowest();
    conclusion
}

/// Spreads the promises of each module, and then of each top-level module, over the whole run.
/// Those of one module often wait for each other, because they share a world.
fn mix(promises: &mut [&Promise]) {
    spread(promises, |it| it.module);
    spread(promises, |it| {
        it.module.split("::").nth(1).unwrap_or_default()
    });
}

/// Spreads those of one kind evenly over the whole, and keeps their order.
fn spread(promises: &mut [&Promise], kind: fn(&Promise) -> &'static str) {
    let mut sizes = BTreeMap::<&str, usize>::new();
    for promise in promises.iter() {
        *sizes.entry(kind(promise)).or_default() += 1;
    }
    let mut seen = BTreeMap::<&str, usize>::new();
    promises.sort_by_cached_key(|it| {
        let before = seen.entry(kind(it)).or_default();
        *before += 1;
        *before * usize::MAX.isqrt() / sizes[kind(it)]
    });
}

/// Returns why no filesystem can be mounted here, if so.
pub(crate) fn mount() -> Option<String> {
    if let Some(reason) = fuse() {
        return Some(reason);
    }
    let helper = ["/usr/bin/fusermount3", "/bin/fusermount3"]
        .iter()
        .any(|program| Path::new(program).exists());
    if is_root() || helper {
        return None;
    }
    Some("neither root nor fusermount3 here; install the package fuse3".to_owned())
}

/// Returns why the process of the tests cannot mount, if so.
pub(crate) fn mount_as_root() -> Option<String> {
    root().or_else(fuse)
}

/// Returns the need for root, if the tests do not run as root.
pub(crate) fn root() -> Option<String> {
    (!is_root()).then(|| "this takes root; run the tests as root".to_owned())
}

fn fuse() -> Option<String> {
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    let error = device.err()?;
    Some(format!(
        "/dev/fuse cannot be opened ({error}); load the module fuse"
    ))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
