//! How large copies are made: by vectors, where the processor is slow at the other way.
//!
//! Up to 2.39, glibc copies what is larger than some KiB by REP MOVSB wherever the processor says
//! that it is fast. On AMD's Zen 3 and 4 it is not, 2 to 3 GiB a second and not 60, where both
//! places are nearly the same within a page (sourceware.org, bug 30994), as they are with each
//! record of TLS: 7% of what both ends spent on a large file. A tunable says otherwise (The GNU C
//! Library Reference Manual, Hardware Capability Tunables), which is read as a program starts and
//! never again.
//!
//! Owns that the daemon starts once more with it where it should. Never touches what somebody has
//! set of this tunable.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

#[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
pub use gnu::start_again_for_faster;

/// Returns: it is known of no other library.
#[cfg(not(all(target_env = "gnu", target_arch = "x86_64")))]
pub fn start_again_for_faster() {
    // nothing is to be set
}

#[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
mod gnu {
    use std::arch::x86_64::__cpuid;
    use std::ffi::{CStr, OsStr, OsString};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const VARIABLE: &str = "GLIBC_TUNABLES";
    const TUNABLE: &str = "glibc.cpu.x86_rep_movsb_threshold";
    /// In bytes: no copy is as large.
    const NEVER: &str = "0x40000000";
    /// The first release of glibc with the tunable, and the first that knows these processors.
    const TOLD_FROM: (u32, u32) = (2, 32);
    const MENDED_IN: (u32, u32) = (2, 40);
    /// Zen 3 and 4, in AMD's numbers.
    const SLOW_FAMILY: u32 = 0x19;

    /// Runs this program again in this process, with the same arguments, where its copies become
    /// faster by it; else returns. To be called before there are threads, or anything is open.
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
        // where it cannot, as when its file was replaced, it goes on with slower copies
        let _refused = again.args(arguments).env(VARIABLE, wanted).exec();
        // that attempt let a broken pipe end the process, as it does for programs of others
        // SAFETY: as it was since the start, and there are no threads yet.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    }

    /// Whether the program is run by its own file, and by the loader that this names: a loader that
    /// was called by itself would take `daemon` for a program. From who has more rights than
    /// whoever started it, a loader takes the variable away, and it would be set for ever.
    fn is_started_as_usual() -> bool {
        // SAFETY: it only reads what the kernel gave the program.
        let of_kernel = |kind| unsafe { libc::getauxval(kind) };
        of_kernel(libc::AT_SECURE) == 0 && of_kernel(libc::AT_BASE) != 0
    }

    /// What the variable is to be; none where nothing is to be gained, or somebody chose already.
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
        // first, since a loader may cut the rest off as it reads it: what is not seen again would
        // be set again, for ever
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

    /// As AMD counts them (AMD64 Architecture Programmer's Manual, volume 3, CPUID Fn0000_0001).
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
        fn only_slow_processors_with_an_old_library_are_told() {
            assert_eq!(of_zen_4("2.36", None).as_deref(), Some(SET));
            assert_eq!(of_zen_4("2.39.9000", None).as_deref(), Some(SET));
            for version in ["2.31", "2.40", "2.41", "3.0", "", "2", "x.y"] {
                assert_eq!(of_zen_4(version, None), None, "{version}");
            }
            assert_eq!(wanted("2.36", b"AuthenticAMD", 0x17, None), None);
            assert_eq!(wanted("2.36", b"GenuineIntel", 0x19, None), None);
        }

        #[test]
        fn what_somebody_set_stays_and_what_was_set_is_seen_first() {
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
        fn this_machine_can_be_told_apart() {
            assert_eq!(vendor().len(), 12);
            assert!(family() > 0);
            assert!(libc_version().starts_with("2."), "{}", libc_version());
        }
    }
}
