//! Shell completions from the daemon: names of files, shares and nodes. On any error, nothing is
//! offered.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use clap_complete::CompletionCandidate;
use serde::de::DeserializeOwned;

use super::connect::sockets;
use super::names::PathArguments;
use crate::daemon::config::Environment;
use crate::daemon::control::{Call, Client, EntryKind, Listing, Peers, Shares};

/// How long a completion waits for each answer of the daemon.
const PATIENCE: Duration = Duration::from_millis(500);

fn connect() -> Option<Client> {
    let environment = Environment::of_this_process();
    let sockets = sockets(environment.path("P2PFS_SOCKET"));
    let mut client = Client::connect(&sockets).ok()?;
    client.set_patience(Some(PATIENCE)).ok()?;
    Some(client)
}

fn ask<T: DeserializeOwned>(call: &Call) -> Option<T> {
    connect()?.call(call).ok()
}

fn offers(names: impl Iterator<Item = Vec<u8>>, typed: &OsStr) -> Vec<CompletionCandidate> {
    let fitting = names.filter(|name| name.starts_with(typed.as_bytes()));
    fitting
        .map(|name| CompletionCandidate::new(OsString::from_vec(name)))
        .collect()
}

/// Completes names of the shared folder, one directory at a time.
pub(super) fn shared_names(typed: &OsStr) -> Vec<CompletionCandidate> {
    names_beside(typed).unwrap_or_default()
}

fn names_beside(typed: &OsStr) -> Option<Vec<CompletionCandidate>> {
    let bytes = typed.as_bytes();
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    let directory = &bytes[..end];
    let mut client = connect()?;
    let asked = match directory {
        b"" => OsStr::new("."),
        some => OsStr::from_bytes(some),
    };
    let path = PathArguments::ask(&mut client).ok()?.of(asked).ok()?;
    let listing: Listing = client.call(&Call::Ls { path, after: None }).ok()?;
    let names = listing.entries.iter().map(|entry| {
        let last = entry.path.as_bytes().rsplit(|byte| *byte == b'/').next();
        let last = last.unwrap_or_default();
        // A name that begins with a dash gets the prefix ./, so that it is not taken for a flag.
        let is_like_flag = directory.is_empty() && last.starts_with(b"-");
        let before = if is_like_flag { b"./" } else { directory };
        let mut name = [before, last].concat();
        if entry.kind == EntryKind::Directory {
            name.push(b'/');
        }
        name
    });
    Some(offers(names, typed))
}

/// Completes the folders that this node shares.
pub(super) fn shares(typed: &OsStr) -> Vec<CompletionCandidate> {
    let shares: Shares = ask(&Call::Shares {}).unwrap_or_default();
    let dirs = shares
        .shares
        .iter()
        .map(|share| share.dir.as_bytes().to_vec());
    offers(dirs, typed)
}

/// Completes the names of the other nodes.
pub(super) fn peers(typed: &OsStr) -> Vec<CompletionCandidate> {
    let peers: Peers = ask(&Call::Peers {}).unwrap_or_default();
    let names = peers.peers.into_iter().map(|peer| peer.name.into_bytes());
    offers(names, typed)
}
