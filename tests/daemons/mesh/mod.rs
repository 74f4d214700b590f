//! The legacy peers' mesh, and pushes between nodes: handshake, messages, files, and the handling
//! of peers that misbehave.

mod cluster;
mod edges;
mod embedded;
mod foreign;
mod hostile;
mod limits;
mod peers;
mod shell;

use std::path::{Path, PathBuf};

use crate::support::daemon::{Cluster, Node, NodeOptions};
use crate::support::mesh_peer::MeshPeer;
use crate::support::process::{HANG_LIMIT, eventually};

const BOB: &str = "b7cbe67df26a36f9590988371ceac9e0";
const EVE: &str = "e90335afdd919dea261a3ff5bb27d3a5";

/// A node of the mesh without a folder, and the address where its peers connect.
struct MeshNode {
    node: Node,
    mesh: String,
    inbox: PathBuf,
}

impl MeshNode {
    /// Connects two peers to this node and waits until it knows both.
    fn with_bob_and_eve(&self) -> (MeshPeer, MeshPeer) {
        let both = (
            MeshPeer::dial(&self.mesh, BOB, "bob", 18002),
            MeshPeer::dial(&self.mesh, EVE, "eve", 18003),
        );
        eventually("both are peers", HANG_LIMIT, || self.peers().len() == 2);
        both
    }

    fn start(cluster: &mut Cluster, name: &str, peers: &[&str], more: &str) -> Self {
        Self::start_as(cluster, name, peers, more, false)
    }

    fn start_as(
        cluster: &mut Cluster,
        name: &str,
        peers: &[&str],
        more: &str,
        mounted: bool,
    ) -> Self {
        let inbox = cluster.folder.path().join(name).join("inbox");
        let mount = if mounted {
            ""
        } else {
            "[mount]\nenabled = false\n"
        };
        let config = format!(
            "{mount}[mesh]\nlisten = '127.0.0.1:0'\npeers = {peers:?}\n{more}\n\
             [inbox]\ndir = {inbox:?}\nfloor = '0B'\nbudget = '1GiB'\n"
        );
        let node = cluster.start_with(NodeOptions {
            mounted,
            config,
            ..NodeOptions::new(name)
        });
        Self {
            mesh: mesh_address(&node),
            node,
            inbox,
        }
    }

    /// Returns the names of its connected mesh peers.
    fn peers(&self) -> Vec<String> {
        let peers = self.node.cli(&["peers", "--json"]).expect_json();
        let peers = peers["peers"].as_array().unwrap().clone();
        let of_mesh =
            |peer: &&serde_json::Value| peer["plane"] == "mesh" && peer["state"] == "alive";
        let mut names: Vec<String> = peers
            .iter()
            .filter(of_mesh)
            .map(|peer| peer["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Returns how often a peer broke the rules, and its last offence.
    fn offence(&self, name: &str) -> Option<(u64, String)> {
        let peers = self.node.cli(&["peers", "--json"]).expect_json();
        let peers = peers["peers"].as_array().unwrap().clone();
        let culprit = peers
            .iter()
            .find(|peer| peer["name"] == name && peer["offences"].as_u64() > Some(0))?;
        let last = culprit["last_offence"].as_str()?.to_owned();
        Some((culprit["offences"].as_u64()?, last))
    }

    #[track_caller]
    fn await_offence(&self, name: &str, words: &str) {
        eventually(&format!("{name} {words}"), HANG_LIMIT, || {
            self.offence(name)
                .is_some_and(|(_, last)| last.contains(words))
        });
    }

    /// Returns the events of one kind so far.
    fn events(&self, kind: &str) -> Vec<serde_json::Value> {
        let told = self.node.cli(&["events", "--json"]).expect_ok();
        let all = told.lines().map(|line| serde_json::from_str(line).unwrap());
        all.filter(|event: &serde_json::Value| event["event"] == kind)
            .collect()
    }

    fn received(&self) -> Vec<String> {
        names_in(&self.inbox)
    }
}

fn mesh_address(node: &Node) -> String {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["mesh"].as_str().unwrap().to_owned()
}

/// Folder in which an inbox keeps incomplete files.
const ARRIVING: &str = ".p2pfs-arriving";

/// Returns the sorted names in a folder, without incomplete files.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != ARRIVING)
        .collect();
    names.sort();
    names
}

/// Returns a port without a listener.
fn free_port() -> String {
    crate::support::ports::free_port().to_string()
}
