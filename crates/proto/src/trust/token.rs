//! The text of an invitation: `p2pfs1-` and base32.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE32_NOPAD_NOCASE as BASE32;
use zeroize::Zeroizing;

use super::TrustError;
use p2pfs_types::id::NodeId;

/// Prefix of a token of this version. Base32 (RFC 4648, section 6) in lower case follows. It has no
/// digits 0 and 1, which look like letters, and no character with a meaning in a shell.
const PREFIX: &str = "p2pfs1-";
/// Prefix of a token of any version.
const ANY_VERSION: &str = "p2pfs";
/// Maximum number of seed addresses in one token.
pub const TOKEN_SEEDS_MAX: usize = 8;
/// Maximum length of a token text that is parsed. Eight IPv6 seeds make 374 characters.
pub const TOKEN_MAX_BYTES: usize = 512;
/// Length of the checksum in bytes. It detects mistyped letters; the security rests on the key.
const CHECKSUM_BYTES: usize = 4;

/// An invitation for one node and one use.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteToken {
    /// The node that made the invitation, and the only one that admits a node by it.
    pub issuer: NodeId,
    /// Addresses of the issuer, from 1 to [`TOKEN_SEEDS_MAX`].
    pub seeds: Vec<SocketAddr>,
    /// The one-use key that proves the invitation.
    pub key: Zeroizing<[u8; 32]>,
    /// Expiry time in seconds since 1970 by the issuer's clock.
    pub expires_unix_s: u64,
}

impl InviteToken {
    /// Encodes the token as letters and digits after its prefix.
    ///
    /// # Panics
    /// Panics if there are more than [`TOKEN_SEEDS_MAX`] seeds, which `Invites::issue` refuses.
    pub fn encode(&self) -> String {
        assert!(self.seeds.len() <= TOKEN_SEEDS_MAX);
        let mut bytes = Zeroizing::new(Vec::with_capacity(TOKEN_MAX_BYTES));
        bytes.extend_from_slice(self.issuer.as_bytes());
        bytes.extend_from_slice(&self.key[..]);
        bytes.extend_from_slice(&self.expires_unix_s.to_be_bytes());
        bytes.push(self.seeds.len() as u8);
        for seed in &self.seeds {
            push_address(&mut bytes, *seed);
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        format!("{PREFIX}{}", BASE32.encode(&bytes).to_ascii_lowercase())
    }

    /// Parses the text. Ignores white space around it and the case of its letters. Does not check
    /// the expiry time; [`InviteToken::check_time`] does.
    ///
    /// # Errors
    /// [`TrustError::TokenVersion`], [`TrustError::BadToken`].
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let text = text.trim();
        let bad = |why| TrustError::BadToken { why };
        if text.len() > TOKEN_MAX_BYTES {
            return Err(bad("it is too long"));
        }
        let text = text.to_ascii_lowercase();
        let Some(digits) = text.strip_prefix(PREFIX) else {
            let token = text
                .strip_prefix(ANY_VERSION)
                .is_some_and(|rest| rest.contains('-'));
            let why = "it does not begin with p2pfs1-";
            return Err(if token {
                TrustError::TokenVersion
            } else {
                bad(why)
            });
        };
        let digits = Zeroizing::new(digits.to_owned());
        let bytes = BASE32.decode(digits.as_bytes());
        let is_digit = |byte: u8| matches!(byte, b'a'..=b'z' | b'2'..=b'7');
        let bytes = bytes.map_err(|_| {
            if digits.bytes().all(is_digit) {
                bad("its end is missing or wrong")
            } else {
                bad("it holds a foreign character")
            }
        })?;
        let bytes = Zeroizing::new(bytes);
        let (body, sum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or_else(|| bad("it is too short"))?;
        if checksum(body) != *sum {
            return Err(bad("its checksum is wrong"));
        }
        parse_body(body).ok_or_else(|| bad("its checksum is right but its content is not"))
    }

    /// Checks that the token has not expired.
    ///
    /// # Errors
    /// [`TrustError::Expired`].
    pub fn check_time(&self, now_unix_s: u64) -> Result<(), TrustError> {
        if now_unix_s >= self.expires_unix_s {
            Err(TrustError::Expired)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for InviteToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InviteToken")
            .field("issuer", &self.issuer)
            .field("seeds", &self.seeds)
            .field("expires_unix_s", &self.expires_unix_s)
            .finish_non_exhaustive()
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = digest(&SHA256, &[PREFIX.as_bytes(), body].concat());
    *hash.as_ref().first_chunk().expect("SHA-256 gives 32 bytes")
}

fn push_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
}

fn parse_body(body: &[u8]) -> Option<InviteToken> {
    let (issuer, body) = body.split_first_chunk::<32>()?;
    let (key, body) = body.split_first_chunk::<32>()?;
    let (expires, body) = body.split_first_chunk::<8>()?;
    let (count, mut body) = body.split_first()?;
    if !(1..=TOKEN_SEEDS_MAX).contains(&usize::from(*count)) {
        return None;
    }
    let mut seeds = Vec::with_capacity(TOKEN_SEEDS_MAX);
    for _ in 0..*count {
        let (seed, rest) = parse_address(body)?;
        seeds.push(seed);
        body = rest;
    }
    body.is_empty().then(|| InviteToken {
        issuer: NodeId::new(*issuer),
        seeds,
        key: Zeroizing::new(*key),
        expires_unix_s: u64::from_be_bytes(*expires),
    })
}

fn parse_address(body: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (family, body) = body.split_first()?;
    let (ip, body): (IpAddr, &[u8]) = match family {
        4 => {
            let (octets, rest) = body.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*octets).into(), rest)
        }
        6 => {
            let (octets, rest) = body.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*octets).into(), rest)
        }
        _ => return None,
    };
    let (port, body) = body.split_first_chunk::<2>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> InviteToken {
        InviteToken {
            issuer: NodeId::new([1; 32]),
            seeds: vec![
                "192.0.2.7:1378".parse().unwrap(),
                "[2001:db8::1]:9".parse().unwrap(),
            ],
            key: Zeroizing::new([3; 32]),
            expires_unix_s: 1_800_000_000,
        }
    }

    #[test]
    fn a_token_round_trips_in_any_case_and_with_surrounding_space() {
        let text = token().encode();
        assert!(text.starts_with("p2pfs1-"), "{text}");
        assert!(
            text.bytes().skip(7).all(|b| b.is_ascii_alphanumeric()),
            "{text}"
        );
        assert_eq!(InviteToken::parse(&text).unwrap(), token());
        assert_eq!(
            InviteToken::parse(&format!("  {}\n", text.to_uppercase())).unwrap(),
            token()
        );
    }

    #[test]
    fn every_changed_letter_is_detected() {
        let text = token().encode();
        for place in 7..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[place] = if bytes[place] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(bytes).unwrap();
            let error = InviteToken::parse(&changed).unwrap_err();
            assert!(
                matches!(error, TrustError::BadToken { .. }),
                "{place}: {error}"
            );
        }
    }

    #[test]
    fn each_kind_of_bad_token_has_its_own_error() {
        let text = token().encode();
        for (bad, why) in [
            ("", "does not begin"),
            ("hello", "does not begin"),
            ("p2pfs1-", "too short"),
            (&text[..text.len() - 8], "checksum"),
            (&text.replace("p2pfs1-", "p2pfs2-"), "another version"),
            (&format!("{text}!"), "foreign character"),
            (&format!("{text}a"), "its end is"),
            (&"p2pfs1-".repeat(100), "too long"),
        ] {
            let error = InviteToken::parse(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad:?} gave {error:?}");
        }
    }

    #[test]
    fn a_token_expires_at_its_second() {
        assert!(token().check_time(1_799_999_999).is_ok());
        assert!(matches!(
            token().check_time(1_800_000_000),
            Err(TrustError::Expired)
        ));
    }

    #[test]
    fn the_longest_token_is_within_the_limit_of_parsing() {
        let seeds = vec!["[2001:db8::1]:9".parse().unwrap(); TOKEN_SEEDS_MAX];
        let token = InviteToken { seeds, ..token() };
        assert_eq!(InviteToken::parse(&token.encode()).unwrap(), token);
    }

    #[test]
    fn a_text_over_the_limit_is_not_parsed() {
        for (length, is_read) in [
            (TOKEN_MAX_BYTES - 1, true),
            (TOKEN_MAX_BYTES, true),
            (TOKEN_MAX_BYTES + 1, false),
        ] {
            let text = format!("{PREFIX}{}", "a".repeat(length - PREFIX.len()));
            let error = InviteToken::parse(&text).unwrap_err().to_string();
            assert_eq!(!error.contains("too long"), is_read, "{error}");
        }
    }

    #[test]
    fn the_key_never_appears_in_debug_output() {
        assert!(!format!("{:?}", token()).contains("key"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_an_error(text in "(p2pfs1-)?[a-z2-7]{0,200}") {
            let _ = InviteToken::parse(&text);
        }

        #[test]
        fn a_body_of_any_bytes_is_a_token_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some(token) = parse_body(&bytes) {
                prop_assert_eq!(InviteToken::parse(&token.encode()).unwrap(), token);
            }
        }
    }
}
