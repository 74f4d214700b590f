//! Tests of shares below directories that the daemon's user may not pass.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::*;

/// A guard that removes the right to pass closed directories from this thread and the threads that
/// it starts, because the service does not have it. Dropping it restores the right.
struct WithoutOverride(CapabilitySets);

impl WithoutOverride {
    fn begin() -> Self {
        let before = capabilities(None).unwrap();
        let override_access = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let effective = before.effective.difference(override_access);
        set_capabilities(
            None,
            CapabilitySets {
                effective,
                ..before
            },
        )
        .unwrap();
        Self(before)
    }
}

impl Drop for WithoutOverride {
    fn drop(&mut self) {
        set_capabilities(None, self.0).unwrap();
    }
}

/// Returns a running share in `home/above/share` with the file `f`.
fn share_below(rescan: Duration) -> (ShareBench, PathBuf) {
    let mut bench = ShareBench::bare();
    bench.config.rescan = rescan;
    let above = bench.home.path().join("above");
    let dir = above.join("share");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("f"), b"f").unwrap();
    bench.open();
    bench.set().add(ShareSpec::new(dir)).unwrap();
    bench.settle();
    assert!(bench.has("f", b"f"));
    (bench, above)
}

fn assert_names_closed_directory(bench: &ShareBench, above: &Path) {
    let warning = bench.status().warning.unwrap();
    let user = uzers::get_user_by_uid(rustix::process::geteuid().as_raw()).unwrap();
    let (above_shown, user) = (above.display(), user.name().to_str().unwrap());
    let remedy = format!("chmod o+x {above_shown}, or setfacl -m u:{user}:x {above_shown}");
    assert!(warning.starts_with(above.to_str().unwrap()), "{warning}");
    assert!(warning.contains(&remedy), "{warning}");
    let standing = bench.standing_warnings();
    assert!(standing.iter().any(|(_, why)| *why == warning));
}

#[test]
fn share_below_closed_directory_is_withdrawn_at_the_rescan_and_returns() {
    let _rights = WithoutOverride::begin();
    let (mut bench, above) = share_below(QUIET);
    chmod(&above, 0o600);
    bench.wait_for("withdrawn", |b| b.listing.is_empty());
    bench.settle();
    assert_names_closed_directory(&bench, &above);
    assert_eq!(bench.status().state, ShareProgress::Vanished);
    chmod(&above, 0o700);
    bench.wait_for("listed again", |b| b.has("f", b"f"));
    bench.settle();
    assert_eq!(bench.status().warning, None);
    assert!(bench.standing_warnings().is_empty());
}

#[test]
fn share_below_closed_or_renamed_directory_is_withdrawn_without_a_rescan() {
    let _rights = WithoutOverride::begin();
    let (mut bench, above) = share_below(Duration::from_secs(3600));
    chmod(&above, 0o600);
    // A reader may have found the file unreadable before.
    bench.wait_for("withdrawn", |b| b.status().warning.is_some());
    bench.settle();
    assert!(bench.listing.is_empty());
    assert_names_closed_directory(&bench, &above);
    chmod(&above, 0o700);
    bench.wait_for("listed again", |b| b.has("f", b"f"));
    let moved = above.with_file_name("moved");
    fs::rename(&above, &moved).unwrap();
    bench.wait_for("withdrawn again", |b| b.listing.is_empty());
    fs::create_dir_all(above.join("share")).unwrap();
    fs::write(above.join("share/g"), b"g").unwrap();
    bench.wait_for("the new directory", |b| b.has("g", b"g"));
    fs::rename(&above, above.with_file_name("new")).unwrap();
    fs::rename(&moved, &above).unwrap();
    bench.wait_for("the first directory", |b| b.has("f", b"f"));
}

#[test]
fn request_finds_that_directory_above_share_was_closed() {
    let _rights = WithoutOverride::begin();
    let (mut bench, above) = share_below(Duration::from_secs(3600));
    chmod(&above, 0o600);
    let refused = bench.set().source(&ContentHash::of(b"f"));
    assert!(matches!(refused, Err(ShareError::NotHere)));
    bench.wait_for("withdrawn", |b| b.listing.is_empty());
    bench.settle();
    assert_names_closed_directory(&bench, &above);
    chmod(&above, 0o700);
    bench.wait_for("listed again", |b| b.has("f", b"f"));
}
