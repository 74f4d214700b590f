//! Real daemons with real mounts on loopback, used as people use them: by commands, by files, by
//! signals, by the programs that they have. One promise at a time.

mod commands;
mod embedded;
mod legacy;
mod mesh;
mod model;
mod nodes;
mod pointers;
mod readers;
mod refusals;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod trust;

fn main() {
    let conclusion = support::promise::run(Some(1), vec![]);
    readers::end();
    tools::end();
    conclusion.exit();
}
