//! A prompt like that of the older mesh program, with its own node: messages, bytes and files, to
//! and from peers of the mesh and nodes of the cluster alike.
//!
//!     cargo run --example chat -- DIR NAME ADDRESS:PORT [PEER:PORT]...
//!
//! `DIR` keeps the node's key and, in `DIR/inbox`, the files that others send. `NAME` is the name
//! that others see. The other arguments are the listening address for the mesh and the peers to
//! connect to. A typed line is said to all peers. `/send FILE` sends a file to all, `/bytes TEXT`
//! sends bytes that are not a message, `/peers` lists the peers, and `/quit` ends the program.

use std::error::Error;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;

use p2pfs_legacy::LegacyPeers;
use p2pfs_node::{Delivery, Leave, News, Node, NodeBuilder, PushStage};
use tokio::io::{AsyncBufReadExt, BufReader};

/// Returns the builder for the node of one prompt.
pub fn builder(
    dir: &Path,
    name: &str,
    listen: SocketAddrV4,
    peers: &[SocketAddrV4],
) -> Result<NodeBuilder, Box<dyn Error>> {
    let node = Node::builder(name.parse()?, dir)
        .listen("127.0.0.1:0".parse()?)
        .lan(false)
        .inbox(dir.join("inbox"))
        .foreign(Arc::new(LegacyPeers::of_mesh(listen, peers)));
    Ok(node)
}

/// Carries out one line. Returns false if the program is to end. `tell` shows a line.
pub async fn obey(node: &Node, line: &str, tell: &impl Fn(String)) -> Result<bool, Box<dyn Error>> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "" => {}
        "/quit" => return Ok(false),
        "/send" => deliver(node.messenger().send_file(rest, &[]).await?, tell).await,
        "/bytes" => {
            deliver(
                node.messenger()
                    .send_bytes(rest.to_owned().into(), &[])
                    .await?,
                tell,
            )
            .await
        }
        "/peers" => {
            if let Some(mesh) = LegacyPeers::of_node(node).and_then(LegacyPeers::mesh) {
                let here = mesh.peers().into_iter().filter(|it| it.peer.is_up);
                here.for_each(|it| tell(format!("{} at {}", it.peer.name, it.peer.address)));
            }
        }
        _ => {
            let heard = node.messenger().broadcast(line).await;
            tell(format!("heard by {} of the others", heard.len()));
        }
    }
    Ok(true)
}

/// Shows each receiver of a delivery once its result is known.
async fn deliver(mut delivery: Delivery, tell: &impl Fn(String)) {
    let bytes = delivery.size_bytes();
    while let Some(delivered) = delivery.next().await {
        let peer = delivered.peer;
        match delivered.outcome {
            Ok(()) if delivered.confirmed => tell(format!("{peer} has its {bytes} bytes")),
            Ok(()) => tell(format!("{peer} was sent its {bytes} bytes")),
            Err(why) => tell(format!("{peer} did not take it: {why}")),
        }
    }
}

/// Shows the actions of other peers until the node ends.
pub async fn show(node: &Node, tell: &impl Fn(String)) {
    let (mut events, mut messages) = (node.events().follow(), node.messenger().messages());
    loop {
        tokio::select! {
            Some(event) = events.next() => {
                if let Some(line) = words(event.news) {
                    tell(line);
                }
            }
            Some(message) = messages.next() => {
                tell(format!("{} sends {:?}", message.from, message.bytes));
            }
            else => return,
        }
    }
}

/// Formats an event. Text from others is not trusted, so it is escaped and no control character
/// reaches a terminal.
fn words(news: News) -> Option<String> {
    Some(match news {
        News::ForeignUp { who, .. } => format!("{:?} is here", who.name),
        News::ForeignDown(who, why) => format!("{:?} is gone: {why}", who.name),
        News::Chat { from, text } => format!("{from:?}: {text:?}"),
        News::Received(push) if push.stage == PushStage::Done => {
            let name = String::from_utf8_lossy(&push.name).into_owned();
            format!("{:?} sent {name:?}, {} bytes", push.peer, push.size_bytes)
        }
        News::Warning(text, _) => format!("warning: {text}"),
        _ => return None,
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, name, listen, peers @ ..] = arguments.as_slice() else {
        return Err("usage: chat DIR NAME ADDRESS:PORT [PEER:PORT]...".into());
    };
    let peers: Vec<SocketAddrV4> = peers.iter().map(|p| p.parse()).collect::<Result<_, _>>()?;
    let node = builder(Path::new(dir), name, listen.parse()?, &peers)?;
    let node = node.start().await?;
    let tell = |line: String| println!("{line}");
    let mut typed = BufReader::new(tokio::io::stdin()).lines();
    let typing = async {
        while let Some(line) = typed.next_line().await? {
            match obey(&node, line.trim(), &tell).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => tell(format!("error: {error}")),
            }
        }
        Ok::<(), Box<dyn Error>>(())
    };
    let outcome = tokio::select! {
        ended = typing => ended,
        () = show(&node, &tell) => Ok(()),
    };
    // This runs after an error too. The other nodes then know at once that this node is away.
    for problem in node.stop(Leave::Away).await {
        eprintln!("{problem}");
    }
    outcome
}
