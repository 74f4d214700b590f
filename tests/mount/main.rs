//! Real mounts of contents in memory. They need root and /dev/fuse, and are in a mount namespace
//! that ends with this process.

mod attributes;
mod changes;
mod handles;
mod life;
mod names;
mod posix;
mod read_only;
mod reads;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod traps;
mod waits;
mod writing;

fn main() {
    if posix::is_server() {
        return posix::serve();
    }
    if life::is_child_that_mounts() {
        return life::mount_until_killed();
    }
    if writing::is_child_that_maps() {
        return writing::store_into_mapping();
    }
    let own_namespace = posix::enter_own_namespace();
    let conclusion = support::promise::run(None, posix::trials(own_namespace));
    posix::end();
    conclusion.exit();
}
