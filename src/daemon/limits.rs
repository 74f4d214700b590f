//! What the system lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Secrets are in memory: a crash writes none of them to a disk. Who looks for the crash itself
/// can set the limit of the running process again (prlimit(1)).
pub(super) fn leave_no_core() {
    let maximum = getrlimit(Resource::Core).maximum;
    let current = Some(0);
    // less is always allowed
    let _set = setrlimit(Resource::Core, Rlimit { current, maximum });
}

/// As many open files as may be had. A shell and systemd begin with few, for the sake of programs
/// that use select(2), and each file that somebody reads takes two or three here.
pub(super) fn open_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    // where that is refused, what there is has to do
    let _set = setrlimit(Resource::Nofile, Rlimit { current, maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let current = maximum.map(|most| most - 1);
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
        open_many_files();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
