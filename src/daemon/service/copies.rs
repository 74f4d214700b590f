//! The method of large memory copies: vector instructions instead of REP MOVSB, on processors on
//! which REP MOVSB is slow.
//!
//! Up to 2.39, glibc copies more than some KiB by REP MOVSB if the processor reports REP MOVSB as
//! fast. On AMD's Zen 3 and 4, REP MOVSB is slow if source and destination have nearly the same
//! offset within a page: it copies 2 to 3 GiB a second instead of 60 (sourceware.org, bug 30994).
//! Every TLS record is such a case, which cost 7% of the time that both ends spent on a large file.
//! A tunable selects the other method (The GNU C Library Reference Manual, Hardware Capability
//! Tunables). A program reads it once, at its start.
//!
//! Owns the restart of the daemon with this tunable where it helps. Never changes the tunable if
//! the user has set it.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

#[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
pub use gnu::start_again_for_faster;

/// Does nothing: other C libraries are not known to have the problem.
#[cfg(not(all(target_env = "gnu", target_arch = "x86_64")))]
pub fn start_again_for_faster() {
    // No tunable to set.
}

#[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
mod gnu {
    use std::arch::x86_64::__cpuid;
    use std::ffi::{CStr, OsStr, OsString};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const VARIABLE: &str = "GLIBC_TUNABLES";
    const TUNABLE: &str = "glibc.cpu.x86_rep_movsb_threshold";
    /// Threshold in bytes that no copy reaches.
    const NEVER: &str = "0x40000000";
    /// The first release of glibc with the tunable, and the first that handles these processors.
    const TOLD_FROM: (u32, u32) = (2, 32);
    const MENDED_IN: (u32, u32) = (2, 40);
    /// CPU family of Zen 3 and 4 in AMD's numbering.
    const SLOW_FAMILY: u32 = 0x19;

    /// Executes this program again in this process, with the same arguments, if that makes its
    /// copies faster; otherwise returns. Call it before there are threads or open files.
    pub fn start_again_for_faster() {
        let tunables = std::env::var_os(VARIABLE);
        let Some(wanted) = wanted(&libc_version(), &vendor(), family(), tunables.as_deref()) else {
            return;
        };
        if !is_started_as_usual() {
            return;
        }
        let Ok(program) = std::env::current_exe() else {
            return;
        };
        let mut arguments = std::env::args_os();
        let mut again = Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        // If the restart fails, for instance because the file was replaced, the daemon runs with
        // slower copies.
        let _refused = again.args(arguments).env(VARIABLE, wanted).exec();
        // The failed attempt reset SIGPIPE, so that a broken pipe would end the process, as for
        // other programs.
        // SAFETY: it restores the earlier handler before any thread is started.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    }

    /// Returns whether the kernel started this program with the loader that the program's file
    /// names, and without more rights than its caller. If a user calls the loader directly, a
    /// restart would execute the loader, which would take `daemon` for a program. In a program with
    /// more rights than its caller, the loader removes the variable, and the restart would repeat
    /// forever.
    fn is_started_as_usual() -> bool {
        // SAFETY: it only reads the values that the kernel passed to the program.
        let of_kernel = |kind| unsafe { libc::getauxval(kind) };
        of_kernel(libc::AT_SECURE) == 0 && of_kernel(libc::AT_BASE) != 0
    }

    /// Returns the new value of the variable. Returns `None` if the tunable brings no gain or the
    /// user has set it.
    fn wanted(
        version: &str,
        vendor: &[u8],
        family: u32,
        tunables: Option<&OsStr>,
    ) -> Option<OsString> {
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        let version = (numbers.next()??, numbers.next()??);
        let is_slow = vendor == b"AuthenticAMD"
            && family == SLOW_FAMILY
            && (TOLD_FROM..MENDED_IN).contains(&version);
        let set = tunables.unwrap_or_default();
        let is_chosen = set.to_string_lossy().contains(TUNABLE);
        if !is_slow || is_chosen {
            return None;
        }
        // The tunable is placed first, because a loader may cut off the end of the variable. If the
        // restarted program did not see the tunable, it would restart forever.
        let mut wanted = OsString::from(format!("{TUNABLE}={NEVER}"));
        if !set.is_empty() {
            wanted.push(":");
            wanted.push(set);
        }
        Some(wanted)
    }

    fn libc_version() -> String {
        // SAFETY: it is a constant text of the library.
        let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
        version.to_string_lossy().into_owned()
    }

    fn vendor() -> Vec<u8> {
        let leaf = __cpuid(0);
        [leaf.ebx, leaf.edx, leaf.ecx]
            .map(u32::to_le_bytes)
            .concat()
    }

    /// Returns the family as AMD numbers it (AMD64 Architecture Programmer's Manual, volume 3,
    /// CPUID Fn0000_0001).
    fn family() -> u32 {
        let signature = __cpuid(1).eax;
        let (base, extended) = (signature >> 8 & 0xf, signature >> 20 & 0xff);
        match base {
            0xf => base + extended,
            _ => base,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const SET: &str = "glibc.cpu.x86_rep_movsb_threshold=0x40000000";

        fn of_zen_4(version: &str, tunables: Option<&str>) -> Option<String> {
            let wanted = wanted(version, b"AuthenticAMD", 0x19, tunables.map(OsStr::new));
            wanted.map(|it| it.into_string().unwrap())
        }

        #[test]
        fn only_slow_processors_with_an_old_library_are_reported() {
            assert_eq!(of_zen_4("2.36", None).as_deref(), Some(SET));
            assert_eq!(of_zen_4("2.39.9000", None).as_deref(), Some(SET));
            for version in ["2.31", "2.40", "2.41", "3.0", "", "2", "x.y"] {
                assert_eq!(of_zen_4(version, None), None, "{version}");
            }
            assert_eq!(wanted("2.36", b"AuthenticAMD", 0x17, None), None);
            assert_eq!(wanted("2.36", b"GenuineIntel", 0x19, None), None);
        }

        #[test]
        fn configured_values_stay_and_existing_ones_are_seen_first() {
            let other = "glibc.malloc.check=3";
            let both = format!("{SET}:{other}");
            assert_eq!(of_zen_4("2.36", Some(other)), Some(both.clone()));
            assert_eq!(of_zen_4("2.36", Some("")).as_deref(), Some(SET));
            for chosen in [
                SET,
                both.as_str(),
                "glibc.cpu.x86_rep_movsb_threshold=0x2000",
            ] {
                assert_eq!(of_zen_4("2.36", Some(chosen)), None, "{chosen}");
            }
        }

        #[test]
        fn this_machine_can_be_identified() {
            assert_eq!(vendor().len(), 12);
            assert!(family() > 0);
            assert!(libc_version().starts_with("2."), "{}", libc_version());
        }
    }
}
