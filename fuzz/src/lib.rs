//! The fuzz targets. `fuzz_targets` has one program for each target, which calls it here.

pub mod targets;

/// Runs one target.
///
/// # Panics
/// If the target finds a fault, or if no target has that name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = targets::TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target of that name").1(bytes);
}
