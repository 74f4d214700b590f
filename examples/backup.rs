//! A backup job: shares a folder, waits for a path that another node offers, and keeps a copy of
//! it.
//!
//!     cargo run --example backup -- DIR TOKEN FOLDER WANTED
//!
//! `DIR` keeps the node's key and cache. `TOKEN` is the output of `p2pfs invite` on another node,
//! or `-` once this node is in the cluster. `FOLDER` is shared, and `WANTED`, a path as in the
//! mount, is kept here. If two machines run this for each other's folder, each has the other's in
//! its cache in the end. It can be read from there even if the other machine never returns.

use std::error::Error;
use std::path::Path;

use p2pfs_node::{Leave, News, Node, Who};
use p2pfs_proto::trust::InviteToken;
use p2pfs_types::path::SharedPath;

/// Shares `folder`, waits until `wanted` is listed, and returns when all below it is kept here.
/// Returns the number of bytes that were not here before.
pub async fn back_up(node: &Node, folder: &Path, wanted: &str) -> Result<u64, Box<dyn Error>> {
    node.shares().share(folder).await?;
    let wanted = SharedPath::new(wanted.as_bytes())?;
    if node.names().wait_for(&wanted).await.is_none() {
        return Err("the node ended".into());
    }
    let mut copies = node.pins().pin(&wanted).await?;
    let bytes = copies.bytes();
    while let Some(copy) = copies.next().await {
        copy.outcome?;
        eprintln!("{} is kept", copy.path);
    }
    Ok(bytes)
}

/// Prints warnings, arrivals and departures of nodes while the node runs.
async fn tell(node: &Node) {
    let mut events = node.events().follow();
    while let Some(event) = events.next().await {
        match event.news {
            News::Warning(text, _) => eprintln!("warning: {text}"),
            News::PeerUp(who) => eprintln!("{} is here", name_of(&who)),
            News::PeerDown(who, _) => eprintln!("{} is gone", name_of(&who)),
            _ => {}
        }
    }
}

/// Returns a node's name, or its key while the name is unknown.
fn name_of(who: &Who) -> String {
    who.name.clone().unwrap_or_else(|| who.node.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, token, folder, wanted] = arguments.as_slice() else {
        return Err(
            "usage: backup DIR TOKEN FOLDER WANTED (TOKEN: of `p2pfs invite`, or -)".into(),
        );
    };
    let node = Node::builder("backup".parse()?, Path::new(dir));
    let node = node.start().await?;
    let work = async {
        if token != "-" {
            node.membership().join(&InviteToken::parse(token)?).await?;
        }
        let bytes = back_up(&node, Path::new(folder), wanted).await?;
        println!("{bytes} bytes were fetched, and all is kept; Ctrl-C ends the sharing");
        // Other nodes may still be reading files that this one shares.
        Ok(tokio::signal::ctrl_c().await?)
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = tell(&node) => Ok(()),
    };
    // This runs after an error too. The other nodes then know at once that this node is away.
    for problem in node.stop(Leave::Away).await {
        eprintln!("{problem}");
    }
    outcome
}
