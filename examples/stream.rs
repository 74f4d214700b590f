//! Reads a file of the cluster while it arrives, and writes it to standard output.
//!
//!     cargo run --example stream -- DIR SECRET_FILE SEED PATH >film.mkv
//!
//! `DIR` keeps the node's key and cache, `SECRET_FILE` the cluster's secret; `SEED` is any other
//! node, as `192.0.2.7:1378`; `PATH` is as in the mount.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use p2pfs::node::{Leave, Node};
use p2pfs::path::SharedPath;
use tokio::io::{AsyncWrite, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(30);

/// Copies the file from its first byte on; gives how many bytes that were.
pub async fn stream(
    node: &Node,
    path: &str,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<u64, Box<dyn Error>> {
    let path = SharedPath::new(path.as_bytes())?;
    // a node that has just begun does not know yet what the others have
    tokio::time::timeout(PATIENCE, node.wait_for(&path)).await?;
    let mut file = node.open(&path).await?;
    let copied = tokio::io::copy(&mut file, to).await?;
    to.flush().await?;
    Ok(copied)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, secret, seed, path] = arguments.as_slice() else {
        return Err("give a directory, a secret file, the address of a node, and a path".into());
    };
    let node = Node::builder("stream".parse()?, Path::new(dir))
        .secret_file(secret)
        .seed(seed.parse()?)
        .start()
        .await?;
    stream(&node, path, &mut tokio::io::stdout()).await?;
    node.stop(Leave::Away).await;
    Ok(())
}
