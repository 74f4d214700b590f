//! Stateless challenges: each is a keyed hash of its receiver and its time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use p2pfs_proto::wire::native::udp::{Salt, Token};

/// Minimum lifetime of a challenge. The maximum is twice that.
const COOKIE_LIFE: Duration = Duration::from_secs(10);

/// Makes challenges and recognizes them.
pub(super) struct Cookies {
    key: hmac::Key,
    start: Instant,
}

impl Cookies {
    /// Creates a generator. `secret` is random and never leaves this process.
    pub(super) fn new(secret: [u8; 32], now: Instant) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            start: now,
        }
    }

    /// Invalidates every earlier challenge.
    pub(super) fn renew(&mut self, secret: [u8; 32]) {
        self.key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    }

    /// Returns the challenge for a salt at this address.
    pub(super) fn token(&self, now: Instant, from: SocketAddr, salt: &Salt) -> Token {
        self.token_of(self.period(now), from, salt)
    }

    /// Returns whether `token` is a challenge that was recently issued to this salt at this
    /// address.
    pub(super) fn accepts(
        &self,
        now: Instant,
        from: SocketAddr,
        salt: &Salt,
        token: &Token,
    ) -> bool {
        let period = self.period(now);
        let mut good = self.token_of(period, from, salt) == *token;
        if let Some(before) = period.checked_sub(1) {
            good |= self.token_of(before, from, salt) == *token;
        }
        good
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / COOKIE_LIFE.as_secs()
    }

    fn token_of(&self, period: u64, from: SocketAddr, salt: &Salt) -> Token {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&period.to_be_bytes());
        context.update(salt);
        context.update(&from.port().to_be_bytes());
        match from.ip() {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        let mut token = Token::default();
        token.copy_from_slice(&context.sign().as_ref()[..16]);
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_valid_for_one_salt_and_address_for_a_short_time() {
        let start = Instant::now();
        let cookies = Cookies::new([1; 32], start);
        let (here, there) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.1:2".parse().unwrap());
        let token = cookies.token(start, here, &[1; 16]);
        assert!(cookies.accepts(start + COOKIE_LIFE, here, &[1; 16], &token));
        assert!(!cookies.accepts(start + 2 * COOKIE_LIFE, here, &[1; 16], &token));
        assert!(!cookies.accepts(start, there, &[1; 16], &token));
        assert!(!cookies.accepts(start, here, &[2; 16], &token));
        assert!(!Cookies::new([2; 32], start).accepts(start, here, &[1; 16], &token));
    }
}
