//! Stateless challenges: each is a keyed hash of its receiver and its time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use p2pfs_proto::wire::native::udp::{Salt, Token};

/// Minimum lifetime of a challenge if [`Cookies::renew`] is not called. The maximum is twice that.
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

    /// Returns a time before which `token` was not made, if it is a challenge that was recently
    /// issued to this salt at this address.
    pub(super) fn made_at(
        &self,
        now: Instant,
        from: SocketAddr,
        salt: &Salt,
        token: &Token,
    ) -> Option<Instant> {
        let period = self.period(now);
        let recent = [Some(period), period.checked_sub(1)];
        let mut recent = recent.into_iter().flatten();
        let made = recent.find(|period| self.token_of(*period, from, salt) == *token)?;
        let since_start = Duration::from_secs(made * COOKIE_LIFE.as_secs());
        Some(self.start + since_start)
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
        let made_at = |now, from, salt| cookies.made_at(now, from, salt, &token);
        assert_eq!(made_at(start + COOKIE_LIFE, here, &[1; 16]), Some(start));
        assert_eq!(made_at(start + 2 * COOKIE_LIFE, here, &[1; 16]), None);
        assert_eq!(made_at(start, there, &[1; 16]), None);
        assert_eq!(made_at(start, here, &[2; 16]), None);
        let other = Cookies::new([2; 32], start);
        assert_eq!(other.made_at(start, here, &[1; 16], &token), None);
        // a later one is never dated after it was made
        let then = start + 3 * COOKIE_LIFE / 2;
        let token = cookies.token(then, here, &[1; 16]);
        let made = cookies.made_at(then, here, &[1; 16], &token);
        assert_eq!(made, Some(start + COOKIE_LIFE));
    }
}
