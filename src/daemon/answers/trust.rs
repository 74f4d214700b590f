//! Answers about who belongs to the cluster.

use std::time::Duration;

use jiff::Timestamp;

use super::{Service, failed, node_failure};
use crate::daemon::control::{Failure, FailureKind, Invitation, Joined, Nothing};
use crate::trust::InviteToken;

/// The longest that an invitation may serve: a week.
const INVITE_MAX_S: u64 = 7 * 24 * 3600;

impl Service {
    pub(super) fn invite(&self, lifetime_s: u64) -> Result<Invitation, Failure> {
        if !(1..=INVITE_MAX_S).contains(&lifetime_s) {
            let message = format!("an invitation serves 1 s to a week, not {lifetime_s} s");
            return Err(Failure::new(FailureKind::Invalid, message));
        }
        let lifetime = Duration::from_secs(lifetime_s);
        let token = self
            .node
            .invite(lifetime)
            .map_err(|error| node_failure(&error))?;
        let expires = i64::try_from(token.expires_unix_s).unwrap_or(i64::MAX);
        let expires = Timestamp::from_second(expires).unwrap_or(Timestamp::MAX);
        Ok(Invitation {
            token: token.encode(),
            expires,
        })
    }

    pub(super) async fn join(&self, token: &str) -> Result<Joined, Failure> {
        let token = InviteToken::parse(token)
            .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        self.node
            .join(&token)
            .await
            .map_err(|error| node_failure(&error))?;
        Ok(Joined {
            epoch: self.node.keyring().current().id().to_string(),
            issuer: token.issuer.to_string(),
        })
    }

    pub(super) async fn leave_cluster(&self) -> Result<Nothing, Failure> {
        self.leave
            .send(())
            .await
            .map_err(|_| failed("the daemon is stopping already"))?;
        Ok(Nothing {})
    }
}
