//! `[readers]`: the programs that read in the mount.

use super::super::program_budget::ProgramBudget;
use super::super::setting::{Setting, SettingKind, settings};

/// Programs of common desktops that read all files they find: thumbnailers, indexers, `updatedb`.
const SCANNERS: [&str; 31] = [
    "tumblerd",
    "evince-thumbnailer",
    "papers-thumbnailer",
    "atril-thumbnailer",
    "xreader-thumbnailer",
    "totem-video-thumbnailer",
    "gst-video-thumbnailer",
    "gst-audio-thumbnailer",
    "ffmpegthumbnailer",
    "gdk-pixbuf-thumbnailer",
    "glycin-thumbnailer",
    "gsf-office-thumbnailer",
    "gnome-thumbnail-font",
    "mate-thumbnail-font",
    "thumbnail.so",
    "localsearch-3",
    "localsearch-extractor-3",
    "tracker-miner-fs-3",
    "tracker-extract-3",
    "baloo_file",
    "baloo_file_extractor",
    "recollindex",
    "updatedb",
    "updatedb.plocate",
    "updatedb.mlocate",
    "tumblerd.service",
    "localsearch-3.service",
    "tracker-miner-fs-3.service",
    "kde-baloo.service",
    "plocate-updatedb.service",
    "mlocate-updatedb.service",
];

settings! {
    /// `[readers]`: the programs that read in the mount.
    #[serde(default, deny_unknown_fields)]
    pub struct ReaderSettings in "readers" {
        /// Programs that receive cached bytes only, and EACCES for all other bytes: thumbnailers,
        /// indexers, `updatedb(8)`. They are named by their process or by their unit.
        ///
        /// Such programs read every file that they find, and would fetch all files of the cluster.
        /// With this setting their reads fetch nothing. They see names and attributes like all
        /// other programs. Of the name of a process the first 15 bytes count. A unit
        /// (`tracker-miner-fs-3.service`) is searched for in the path of the program's control
        /// group. The rule that applies to a program when it opens a file applies until it closes
        /// the file.
        pub cached_only: Vec<String> = SCANNERS.map(str::to_owned).to_vec(),
            Setting::new("readers.cached_only", SettingKind::List, "tumblerd, a.service").live();

        /// Limits on the bytes that some programs may fetch from other nodes, a list of
        /// `"PROGRAM=RATE"`, such as `"rsync=10MiB/s"` or `"nightly-backup.service=50MB/s"`.
        /// Cached bytes are never slowed.
        ///
        /// A program is named as in `cached_only`. All its processes share its budget; if several
        /// entries match, the first one applies. A rate is a size and /s, at least 64KiB/s. Other
        /// programs are never slowed, even if they read the same file. A program may use at once
        /// what it has left unused in the last second. A read that is over the budget waits, and
        /// this is not an error: `read_deadline` begins when the read may be fetched. A read waits
        /// at most 20 s for its budget, so a program with very many concurrent reads gets more
        /// than its rate. For such a program there is no read-ahead, and the kernel does not cache
        /// a file that is not complete. It therefore reads more slowly than its rate if other
        /// nodes are far away. Files of legacy peers and `p2pfs get` have no budget. `p2pfs top`
        /// shows the programs with a budget and those that wait for it.
        pub budgets: Vec<ProgramBudget> = Vec::new(),
            Setting::new("readers.budgets", SettingKind::List, "rsync=1MiB/s, a.service=64KiB/s")
                .refuses("rsync=1KiB/s")
                .live();
    }
}
