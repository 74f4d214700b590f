//! Resource limits of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Disables core dumps, so that a crash writes no secrets from memory to a disk. To debug a crash,
/// an administrator can raise the limit of the running process again (prlimit(1)).
pub(super) fn leave_no_core() {
    let maximum = getrlimit(Resource::Core).maximum;
    let current = Some(0);
    // Lowering a limit is always allowed.
    let _set = setrlimit(Resource::Core, Rlimit { current, maximum });
}

/// Raises the limit of open files to its maximum. Shells and systemd set a low limit for programs
/// that use select(2), but each file with a reader takes two or three descriptors here.
pub(super) fn open_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    // If the system refuses, the current limit stays.
    let _set = setrlimit(Resource::Nofile, Rlimit { current, maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_as_far_as_allowed() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let current = maximum.map(|most| most - 1);
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
        open_many_files();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
