//! What happens, told in the log.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;

use super::answers::Service;
use crate::node::{News, Who};

/// Tells every event from now on, and the warnings of before.
pub(super) fn follow(service: &Arc<Service>) {
    let (past, mut live) = service.node.events().follow();
    past.into_iter().for_each(|noted| tell(&noted.news));
    tokio::spawn(async move {
        loop {
            match live.recv().await {
                Ok(noted) => tell(&noted.news),
                Err(RecvError::Lagged(count)) => tracing::info!("{count} events were not told"),
                Err(RecvError::Closed) => return,
            }
        }
    });
}

fn tell(news: &News) {
    match news {
        News::PeerUp(who) => tracing::info!(peer = %who.node, "{} is alive", name(who)),
        News::PeerAway(who) => tracing::info!(peer = %who.node, "{} stopped", name(who)),
        News::PeerDown(who, _) => tracing::info!(peer = %who.node, "{} is gone", name(who)),
        News::PeerShunned(who) => {
            tracing::warn!(
                peer = %who.node,
                "{} sent bytes that do not fit their hash and is not asked any more",
                name(who)
            );
        }
        News::Added(path) => tracing::debug!("added {path:?}"),
        News::Removed(path) => tracing::debug!("removed {path:?}"),
        News::Changed(path) => tracing::debug!("changed {path:?}"),
        News::FetchStarted(hash, _) => tracing::debug!("fetching {hash}"),
        News::FetchDone(hash, _) => tracing::debug!("fetched {hash}"),
        News::FetchFailed(hash, why) => tracing::info!("a read of {hash} failed: {why}"),
        News::Given(given) => tracing::debug!(
            "{} {} to the older peer {}",
            if given.is_done { "gave" } else { "giving" },
            given.name,
            given.peer
        ),
        News::Warning(message) => tracing::warn!("{}", one_line(message)),
    }
}

/// Names are bytes that others chose: none begins a line of the log, or speaks to its terminal.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() {
            true => line.extend(letter.escape_default()),
            false => line.push(letter),
        }
    }
    line
}

fn name(who: &Who) -> String {
    who.name
        .clone()
        .unwrap_or_else(|| format!("node {}", who.node.short(8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_newline_or_an_escape_stays_on_its_line_of_the_log() {
        assert_eq!(one_line("a\nWARN b\x1b[2J"), "a\\nWARN b\\u{1b}[2J");
        assert_eq!(
            one_line("snow \u{2603}: left out"),
            "snow \u{2603}: left out"
        );
    }
}
