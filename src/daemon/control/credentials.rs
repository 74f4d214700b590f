//! Identity and rights of a caller, from the kernel's report about the other end of a Unix socket.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::os::fd::{AsFd, AsRawFd};
use std::sync::LazyLock;
use std::{fs, io};

use rustix::process::Uid;

use super::call::Right;
use super::failure::{Failure, FailureKind};

/// Maximum number of groups of one caller, which is the limit of Linux (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// User ID of a user that is not mapped, unless the administrator configured another
/// (`proc_sys_kernel(5)`).
const OVERFLOW_UID: u32 = 65_534;

/// The process at the other end of a Unix socket, as it was when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group and its supplementary groups.
    pub gids: Vec<u32>,
}

impl Credentials {
    /// Reads the credentials from the kernel (`SO_PEERCRED`, `SO_PEERGROUPS`; socket(7), unix(7)).
    ///
    /// # Errors
    /// The error of the kernel; the connection is then unusable.
    pub fn of_peer(socket: &(impl AsFd + AsRawFd)) -> io::Result<Self> {
        let peer = rustix::net::sockopt::socket_peercred(socket)?;
        let mut gids = peer_groups(socket)?;
        gids.push(peer.gid.as_raw());
        Ok(Self {
            uid: peer.uid.as_raw(),
            gids,
        })
    }
}

/// Returns whether a user ID stands for one user only. All users that the user namespace of this
/// process does not map share one ID (user_namespaces(7)).
pub fn is_one_user(uid: u32) -> bool {
    static OF_THE_UNKNOWN: LazyLock<Option<u32>> = LazyLock::new(|| {
        let known = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let number = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        let number = number.trim().parse().unwrap_or(OVERFLOW_UID);
        (!knows_all(&known)).then_some(number)
    });
    *OF_THE_UNKNOWN != Some(uid)
}

/// Returns whether a `uid_map` maps all user IDs. The highest 32-bit ID is not a valid user.
fn knows_all(uid_map: &str) -> bool {
    let counts = uid_map.lines().filter_map(|line| {
        let count = line.split_ascii_whitespace().nth(2)?;
        count.parse::<u64>().ok()
    });
    counts.sum::<u64>() >= u64::from(u32::MAX)
}

/// Returns the supplementary groups of the peer.
fn peer_groups(socket: &impl AsRawFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice()))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the descriptor is open for the length of the call. `length` is the size in bytes
        // of the initialised buffer that `groups` owns, and the kernel writes at most that many
        // bytes.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            groups.truncate(length as usize / size_of::<libc::gid_t>());
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || groups.len() >= GROUPS_MAX {
            return Err(error);
        }
        groups.resize(GROUPS_MAX, 0);
    }
}

/// The rules that give rights to callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The user that the daemon runs as. Root always has the same rights.
    pub owner_uid: u32,
    /// The group [`Policy::GROUP`], if this machine has it.
    pub group_gid: Option<u32>,
}

impl Policy {
    /// The group whose members may use and change the cache.
    pub const GROUP: &str = "p2pfs";

    /// Returns the rules for a daemon that runs as the user of this process.
    pub fn of_this_process() -> Self {
        let owner_uid = rustix::process::geteuid().as_raw();
        Self {
            owner_uid,
            group_gid: group_gid(Self::GROUP),
        }
    }

    /// Returns whether the caller has the right.
    pub fn allows(&self, caller: &Credentials, right: Right) -> bool {
        let owner = caller.uid == Uid::ROOT.as_raw() || caller.uid == self.owner_uid;
        match right {
            Right::Read => true,
            Right::Cache => owner || self.group_gid.is_some_and(|gid| caller.gids.contains(&gid)),
            Right::Own => owner,
        }
    }

    /// Refuses a caller without the right and says how to obtain it.
    ///
    /// # Errors
    /// [`FailureKind::Denied`].
    pub fn check(&self, caller: &Credentials, right: Right) -> Result<(), Failure> {
        if self.allows(caller, right) {
            return Ok(());
        }
        let failure = Failure::new(FailureKind::Denied, "permission denied");
        Err(match right {
            Right::Cache => failure.with_remedy(format!(
                "ask as root or as a member of the group {}: usermod -aG {} USER",
                Self::GROUP,
                Self::GROUP
            )),
            _ => failure.with_remedy("ask as root, or as the user that the daemon runs as"),
        })
    }
}

/// Looks up the ID of a group in the system's database; returns `None` if the group does not exist.
fn group_gid(name: &str) -> Option<u32> {
    uzers::get_group_by_name(name).map(|group| group.gid())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const POLICY: Policy = Policy {
        owner_uid: 100,
        group_gid: Some(500),
    };

    fn caller(uid: u32, gids: &[u32]) -> Credentials {
        Credentials {
            uid,
            gids: gids.to_vec(),
        }
    }

    #[test]
    fn an_ordinary_user_may_read_and_nothing_else() {
        let stranger = caller(1000, &[1000, 24]);
        assert!(POLICY.allows(&stranger, Right::Read));
        assert!(!POLICY.allows(&stranger, Right::Cache));
        assert!(!POLICY.allows(&stranger, Right::Own));
    }

    #[test]
    fn the_group_may_change_the_cache_but_not_trust() {
        let member = caller(1000, &[1000, 500]);
        assert!(POLICY.allows(&member, Right::Cache));
        assert!(!POLICY.allows(&member, Right::Own));
        let no_group = Policy {
            owner_uid: 100,
            group_gid: None,
        };
        assert!(!no_group.allows(&member, Right::Cache));
    }

    #[test]
    fn root_and_the_daemons_user_may_do_everything() {
        for uid in [0, 100] {
            assert!(POLICY.allows(&caller(uid, &[]), Right::Own));
            assert!(POLICY.allows(&caller(uid, &[]), Right::Cache));
        }
    }

    #[test]
    fn a_refusal_names_the_required_right() {
        let failure = POLICY.check(&caller(1, &[]), Right::Cache).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Denied);
        assert!(failure.remedy.unwrap().contains("group p2pfs"));
    }

    #[test]
    fn the_kernel_identifies_the_caller() {
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = Credentials::of_peer(&near).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert!(peer.gids.contains(&rustix::process::getegid().as_raw()));
    }

    #[test]
    fn the_overflow_user_number_is_no_user() {
        assert!(knows_all("         0          0 4294967295\n"));
        assert!(knows_all("0 0 1000\n1000 1000 4294966295\n"));
        // As systemd's `PrivateUsers=yes` maps them.
        assert!(!knows_all("0 0 1\n996 996 1\n"));
        assert!(!knows_all("0 100000 65536\n"));
        assert!(!knows_all(""));
        assert!(is_one_user(0));
    }

    #[test]
    fn a_group_is_found_by_name_and_a_missing_one_is_not() {
        assert_eq!(group_gid("root"), Some(0));
        assert_eq!(group_gid("no-such-group-here"), None);
    }
}
