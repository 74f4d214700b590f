//! Of two `[[share]]` sections with one folder the later one applies, in any spelling of the
//! folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use p2pfs::daemon::config::{Environment, Loaded, inspect, load};

use super::cli_alone::run;
use super::config_layers::Files;

/// A folder `D` with several other paths.
struct Folder {
    scratch: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("real/D")).unwrap();
        symlink("real/D", scratch.path().join("link")).unwrap();
        symlink("real", scratch.path().join("above")).unwrap();
        Self { scratch }
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("real/D")
    }

    fn spellings(&self) -> Vec<PathBuf> {
        let names = ["real/D", "real/D/", "real/../real/./D", "link", "above/D"];
        names.map(|name| self.scratch.path().join(name)).to_vec()
    }
}

fn for_everybody(dir: &Path) -> String {
    format!("[[share]]\ndir = '{}'\n", dir.display())
}

fn for_nobody(dir: &Path) -> String {
    for_everybody(dir) + "readers = []\n"
}

/// Asserts that one share remains, with the given spelling. Returns whether it is restricted.
fn is_for_nobody(loaded: &Loaded, dir: &Path) -> bool {
    let [share] = &loaded.config.share[..] else {
        panic!("one stands of {:?}", loaded.config.share);
    };
    let shown = loaded.shown.iter().filter(|it| it.key == "share");
    assert_eq!(shown.count(), 1);
    assert_eq!(share.dir.as_os_str(), dir.as_os_str());
    share.readers.is_some()
}

#[test]
fn of_two_shares_with_one_folder_the_later_one_counts_in_any_spelling() {
    let folder = Folder::new();
    let dir = folder.dir();
    for other in folder.spellings() {
        let within = Files::new(&(for_everybody(&dir) + &for_nobody(&other)));
        let between = Files::new(&for_everybody(&dir)).drop_in("a.toml", &for_nobody(&other));
        for files in [within, between] {
            assert!(is_for_nobody(&files.load().unwrap(), &other), "{other:?}");
        }
        let opened = Files::new(&(for_nobody(&other) + &for_everybody(&dir)));
        assert!(!is_for_nobody(&opened.load().unwrap(), &dir), "{other:?}");

        let mut sources = Files::new("").sources();
        sources.config_file = None;
        let named = format!("{}:{}", dir.display(), other.display());
        sources.environment = Environment::from([("P2PFS_SHARE_DIR", &*named)]);
        assert_eq!(load(&sources).unwrap().config.share.len(), 1, "{other:?}");
        let files = Files::new(&for_nobody(&other));
        let mut sources = files.sources();
        sources.overrides.shares = vec![dir.clone()];
        assert!(!is_for_nobody(&load(&sources).unwrap(), &dir), "{other:?}");
    }
}

#[test]
fn a_missing_folder_is_one_folder_in_any_spelling() {
    let folder = Folder::new();
    let spelled = |name: &str| folder.scratch.path().join(name);
    let missing = spelled("real/missing");
    for other in ["real/missing/.", "real/none/../missing", "above/missing"] {
        let other = spelled(other);
        let files = Files::new(&(for_everybody(&missing) + &for_nobody(&other)));
        assert!(is_for_nobody(&files.load().unwrap(), &other), "{other:?}");
    }
}

#[test]
fn two_folders_linked_to_each_other_are_both_shared() {
    let folder = Folder::new();
    let other = folder.scratch.path().join("link/..");
    let files = Files::new(&(for_everybody(&folder.dir()) + &for_nobody(&other)));
    assert_eq!(files.load().unwrap().config.share.len(), 2);
}

#[test]
fn a_check_reports_a_duplicate_folder_and_prints_the_effective_share() {
    let folder = Folder::new();
    let (dir, link) = (folder.dir(), folder.scratch.path().join("link"));
    let files = Files::new(&(for_everybody(&dir) + &for_nobody(&link)));
    assert_eq!(inspect(&files.load().unwrap()).warnings, [""; 0]);
    let config = files.dir.path().join("p2pfs.toml");
    let arguments = [
        "daemon",
        "--check-config",
        "--config",
        config.to_str().unwrap(),
    ];
    let checked = run(files.dir.path(), &arguments);
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success(), "{told}");
    let warning = format!(
        "# warning: share.dir: {} is there twice, also named {}: the later one stands; take the \
         earlier out",
        dir.display(),
        link.display()
    );
    assert!(told.lines().any(|line| line == warning), "{told}");
    assert_eq!(told.matches("[[share]]").count(), 1, "{told}");
    assert!(told.contains("readers = []"), "{told}");
}

#[test]
fn each_share_is_shown_and_blamed_with_its_own_line() {
    let text = "[[share]]\ndir = '/srv/a'\n[[share]]\nlegacy = true\ndir = '/srv/b'\n";
    let files = Files::new(text);
    let place = format!("set in {}/p2pfs.toml line", files.dir.path().display());
    let loaded = files.load().unwrap();
    let shown = loaded.shown.iter().filter(|it| it.key == "share");
    let origins: Vec<&str> = shown.map(|it| &*it.origin).collect();
    assert_eq!(origins, [format!("{place} 2"), format!("{place} 5")]);
    let wrong = Files::new(&text.replace("/srv/a", "/mnt/p2p/a")).error();
    let expected = "share.dir: /mnt/p2p/a and the mount /mnt/p2p overlap (set in p2pfs.toml line \
                    2; mount.dir: the default)";
    assert_eq!(wrong, expected);
}
