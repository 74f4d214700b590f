//! Reads a file of the cluster while it arrives, and writes it to standard output.
//!
//!     cargo run --example stream -- DIR TOKEN PATH >film.mkv
//!
//! `DIR` keeps the node's key and cache. `TOKEN` is the output of `p2pfs invite` on another node,
//! or `-` once this node is in the cluster. `PATH` is as in the mount. (In a cluster whose secret
//! is a file, build the node with `secret_file` and `seed` instead, as on the front page of the
//! crate's documentation.)

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use p2pfs_node::{Leave, Node};
use p2pfs_proto::trust::InviteToken;
use p2pfs_types::path::SharedPath;
use tokio::io::{AsyncWrite, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(30);

/// Copies the file from its first byte on. Returns the number of bytes.
pub async fn stream(
    node: &Node,
    path: &str,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<u64, Box<dyn Error>> {
    let path = SharedPath::new(path.as_bytes())?;
    // A node that has just started does not know the other nodes' files yet.
    let listed = tokio::time::timeout(PATIENCE, node.names().wait_for(&path)).await;
    if listed
        .map_err(|_| format!("{path} was not listed within {PATIENCE:?}"))?
        .is_none()
    {
        return Err("the node ended".into());
    }
    let mut file = node.files().open(&path).await?;
    let copied = tokio::io::copy(&mut file, to).await?;
    to.flush().await?;
    Ok(copied)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, token, path] = arguments.as_slice() else {
        return Err(
            "usage: stream DIR TOKEN PATH (TOKEN: of `p2pfs invite`, or - for none)".into(),
        );
    };
    let node = Node::builder("stream".parse()?, Path::new(dir));
    let node = node.start().await?;
    let outcome = async {
        if token != "-" {
            node.membership().join(&InviteToken::parse(token)?).await?;
        }
        stream(&node, path, &mut tokio::io::stdout()).await
    };
    let outcome = outcome.await;
    // This runs after an error too. The other nodes then know at once that this node is away.
    for problem in node.stop(Leave::Away).await {
        eprintln!("{problem}");
    }
    outcome.map(|_| ())
}
