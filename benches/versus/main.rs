//! The speed of the mount beside its rivals, in one run: `cargo bench --bench versus`.
//!
//! Rivals that are not installed are named and left out (`apt install sshfs openssh-server
//! rclone`). All programs run on loopback. Files are in the page cache of the serving side, and
//! each cold read is of a file that the reader has not read before. The contestants take turns,
//! another one first in each round, so that a change of the machine's speed affects all of them.
//! Before each turn all of them are at rest, and dirty pages are written out. Only the trial `far`
//! has the two ends on separate hosts, 20 ms and 100 MB/s apart. It needs root and the programs
//! that `tests/lab/netlab` needs.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `P2PFS_BENCH_MIB` | size of the files that are read sequentially | 1024 |
//! | `P2PFS_BENCH_ROUNDS` | measurements of each contestant | 3 |
//! | `P2PFS_BENCH_FILES` | small files to copy | 5000 |
//! | `P2PFS_BENCH_SIZES` | sizes in MiB of the files of the trial `reads`, separated by commas | 16,64,256,1024 |
//! | `P2PFS_BENCH_BEFORE` | another `p2pfs` as a contestant, such as one from before a change | none |
//! | `P2PFS_BENCH_ONLY` | trials of `trials::ALL` to run, separated by commas | all |

mod before;
mod calls;
mod far;
mod figures;
mod machine;
mod reads;
mod rivals;
mod sshd;
#[path = "../../tests/support/mod.rs"]
mod support;
mod trials;
mod waste;

use rivals::Rival;
use support::daemon::{Cluster, Node};
use support::process::{program, run};

/// All contestants.
struct Field {
    nodes: Vec<Node>,
    rivals: Vec<Rival>,
    rounds: usize,
    _cluster: Cluster,
}

fn main() {
    if let Some(obstacle) = support::promise::mount() {
        println!("SKIPPED, nothing measured: {obstacle}");
        return;
    }
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["server", "reader"]);
    let folder = cluster.folder.path().to_owned();
    let (mut rivals, mut missing) = (vec![], vec![]);
    for started in [rivals::sshfs, rivals::rclone].map(|start| start(&folder, &nodes[0].share)) {
        match started {
            Ok(rival) => rivals.push(rival),
            Err(why) => missing.push(why),
        }
    }
    if let Some(program) = std::env::var_os("P2PFS_BENCH_BEFORE") {
        rivals.push(before::before(program.as_ref(), &folder, &nodes[0].share));
    }
    let field = Field {
        nodes,
        rivals,
        rounds: setting("P2PFS_BENCH_ROUNDS", 3).max(1),
        _cluster: cluster,
    };
    let only = std::env::var("P2PFS_BENCH_ONLY").unwrap_or_default();
    print!("{}", run(program().arg("--version")).expect_ok());
    println!(
        "TCP congestion control: {} (sysctl net.ipv4.tcp_congestion_control)",
        machine::congestion_control()
    );
    for (name, trial) in trials::ALL {
        if only.is_empty() || only.split(',').any(|wanted| wanted == *name) {
            trial(&field);
        }
    }
    for missing in missing {
        println!("not measured: {missing}");
    }
}

/// Reads a number from the environment.
fn setting(name: &str, otherwise: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
