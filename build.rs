//! Passes the name of the build profile to the program, which shows it beside its version.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Cargo names a profile to a build script only by its base, `release` or `debug`. The output
    // directory is TARGET/PROFILE/build/PACKAGE/out.
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let profile = Path::new(&out).ancestors().nth(3);
    let name = profile
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    // `cargo run` passes this variable on to the program, which would take `P2PFS_…` for a setting.
    println!(
        "cargo:rustc-env=BUILD_PROFILE={}",
        name.unwrap_or("unknown")
    );
}
