//! The `p2pfs` command: parses the command line and dispatches to daemon, broker, demo or cli.

fn main() {}
