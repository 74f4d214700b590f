//! A backup job: shares a folder, waits for what another node offers, and keeps a copy of that.
//!
//!     cargo run --example backup -- DIR SECRET_FILE SEED FOLDER WANTED
//!
//! Each of two machines that runs this with the other's address has, in the end, the other's
//! folder in its cache, from where it is read even if the other never returns.

use std::error::Error;
use std::path::Path;

use p2pfs::node::{Leave, News, Node};
use p2pfs::path::SharedPath;

/// Shares `folder`, waits until `wanted` is listed, and returns when all beneath it is kept here.
/// Gives how many bytes were fetched for that.
pub async fn back_up(node: &Node, folder: &Path, wanted: &str) -> Result<u64, Box<dyn Error>> {
    node.share(folder).await?;
    let wanted = SharedPath::new(wanted.as_bytes())?;
    if node.wait_for(&wanted).await.is_none() {
        return Err("the node ended".into());
    }
    let mut copies = node.pin(&wanted).await?;
    let bytes = copies.bytes();
    while let Some(copy) = copies.next().await {
        copy.outcome?;
        eprintln!("{} is kept", copy.path);
    }
    Ok(bytes)
}

/// Tells of warnings and of nodes that come and go, for as long as the node runs.
async fn tell(node: &Node) {
    let mut events = node.follow();
    while let Some(event) = events.next().await {
        match event.news {
            News::Warning(text, _) => eprintln!("warning: {text}"),
            News::PeerUp(who) => eprintln!("{} is here", who.name.unwrap_or_default()),
            News::PeerDown(who, _) => eprintln!("{} is gone", who.name.unwrap_or_default()),
            _ => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, secret, seed, folder, wanted] = arguments.as_slice() else {
        return Err("give a directory, a secret file, a node, a folder, and what to keep".into());
    };
    let node = Node::builder("backup".parse()?, Path::new(dir))
        .secret_file(secret)
        .seed(seed.parse()?)
        .start()
        .await?;
    tokio::select! {
        kept = back_up(&node, Path::new(folder), wanted) => println!("{} bytes fetched", kept?),
        () = tell(&node) => {}
    }
    // others may still be reading what this one shares
    tokio::signal::ctrl_c().await?;
    node.stop(Leave::Away).await;
    Ok(())
}
