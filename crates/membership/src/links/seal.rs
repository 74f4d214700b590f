//! Sealing and opening datagrams: AES-256-GCM under keys derived from the epoch's secret and a
//! salt.
//!
//! No state of a sealer is stored, and each start of a process takes a fresh salt. A restart, or a
//! copied or restored disk, therefore never leads to a nonce that was used before.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::pair::PairKey;
use p2pfs_proto::trust::{EpochSecret, TrustReader};
use p2pfs_proto::wire::native::udp::{Header, MAC_BYTES, Mac, Salt};
use p2pfs_types::id::EpochId;

/// Seals the datagrams of this process, with one counter for all epochs and receivers.
pub(super) struct Sealer {
    trust: TrustReader,
    salt: Salt,
    next_counter: u64,
    secret: Arc<EpochSecret>,
    key: SealKey,
}

/// Key of one salt in one epoch.
pub(super) struct SealKey {
    pub(super) epoch: EpochId,
    key: LessSafeKey,
}

impl SealKey {
    fn new(secret: &EpochSecret, salt: &Salt) -> Self {
        let bytes = secret.udp_key(salt);
        let key = UnboundKey::new(&AES_256_GCM, &bytes[..]).expect("the key has 32 bytes");
        Self {
            epoch: secret.id(),
            key: LessSafeKey::new(key),
        }
    }

    /// Returns the key for datagrams from a process with this salt, or none if the epoch's secret
    /// is unknown.
    pub(super) fn of(trust: &TrustReader, header: &Header) -> Option<Self> {
        let trust = trust.load();
        let secret = trust.epochs().by_id(header.epoch)?;
        Some(Self::new(secret, &header.salt))
    }

    /// Opens a datagram. Returns the body and the code behind it, or `None` if its seal is invalid.
    /// Every holder of the epoch's secret can seal; only the code shows which one did.
    pub(super) fn open(&self, header: &Header, sealed: &[u8]) -> Option<(Vec<u8>, Mac)> {
        let mut body = sealed.to_vec();
        let aad = Aad::from(header.encode());
        let length = self
            .key
            .open_in_place(nonce(header.counter), aad, &mut body)
            .ok()?
            .len();
        let at = length.checked_sub(MAC_BYTES)?;
        let mac = body[at..length].try_into().ok()?;
        body.truncate(at);
        Some((body, mac))
    }
}

impl Sealer {
    /// Creates a sealer. No other process may ever have had the salt.
    pub(super) fn new(trust: TrustReader, salt: Salt) -> Self {
        let secret = trust.load().epochs().sealing();
        let key = SealKey::new(&secret, &salt);
        Self {
            trust,
            salt,
            next_counter: 0,
            secret,
            key,
        }
    }

    /// Returns the salt, which identifies this process.
    pub(super) fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Returns the members and the secrets, of which the current one seals.
    pub(super) fn trust(&self) -> &TrustReader {
        &self.trust
    }

    /// Seals a datagram with `body`, authenticated for the other process of the pair, if there is
    /// one.
    pub(super) fn seal(&mut self, mut body: Vec<u8>, pair: Option<&PairKey>) -> Vec<u8> {
        self.follow_the_epoch();
        let header = Header {
            epoch: self.key.epoch,
            salt: self.salt,
            counter: self.next_counter,
        };
        self.next_counter += 1;
        let clear = header.encode();
        let mac = pair.map_or([0; MAC_BYTES], |pair| pair.mac(&clear, &body));
        body.extend_from_slice(&mac);
        self.key
            .key
            .seal_in_place_append_tag(nonce(header.counter), Aad::from(clear), &mut body)
            .expect("a body is far below the limit of the cipher");
        let mut datagram = Vec::with_capacity(clear.len() + body.len());
        datagram.extend_from_slice(&clear);
        datagram.append(&mut body);
        datagram
    }

    /// Sets the next counter, as a forger of another process's datagrams would.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, counter: u64) {
        self.next_counter = counter;
    }

    fn follow_the_epoch(&mut self) {
        let current = self.trust.load().epochs().sealing();
        if !Arc::ptr_eq(&current, &self.secret) {
            self.key = SealKey::new(&current, &self.salt);
            self.secret = current;
        }
    }
}

/// Makes a nonce with the counter in its low bytes. A counter never repeats under one key, which is
/// all that GCM requires.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_proto::trust::{NodeKey, TestKeyring};
    use p2pfs_types::id::NodeName;

    fn ring(secret: u8) -> TrustReader {
        TestKeyring::in_memory(EpochSecret::new([secret; 32])).reader()
    }

    fn open(ring: &TrustReader, datagram: &[u8]) -> Option<Vec<u8>> {
        let (header, sealed) = Header::decode(datagram).ok()?;
        let opened = SealKey::of(ring, &header)?.open(&header, sealed);
        opened.map(|(body, _)| body)
    }

    #[test]
    fn a_member_decrypts_what_a_member_sealed() {
        let mut sealer = Sealer::new(ring(1), [7; 16]);
        let datagram = sealer.seal(b"hello".to_vec(), None);
        assert_eq!(open(&ring(1), &datagram).as_deref(), Some(&b"hello"[..]));
        assert!(!datagram.windows(5).any(|window| window == b"hello"));
    }

    #[test]
    fn another_secret_decrypts_nothing() {
        let datagram = Sealer::new(ring(1), [7; 16]).seal(b"hello".to_vec(), None);
        assert_eq!(open(&ring(2), &datagram), None);
    }

    #[test]
    fn every_changed_byte_breaks_the_seal() {
        let datagram = Sealer::new(ring(1), [7; 16]).seal(b"hello".to_vec(), None);
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert_eq!(open(&ring(1), &changed), None, "byte {at}");
        }
    }

    #[test]
    fn datagram_counters_are_unique_even_across_epochs() {
        let key = NodeKey::random();
        let (secret, name) = (EpochSecret::new([1; 32]), NodeName::from_host("one"));
        let ring = TestKeyring::founded_in_memory(secret, &key, name, 0);
        let mut sealer = Sealer::new(ring.reader(), [7; 16]);
        let before = sealer.seal(b"a".to_vec(), None);
        ring.rotate(&key).unwrap();
        ring.tick(p2pfs_proto::trust::EPOCH_SWITCH_S);
        let after = sealer.seal(b"a".to_vec(), None);
        let (first, second) = (
            Header::decode(&before).unwrap().0,
            Header::decode(&after).unwrap().0,
        );
        assert_eq!((first.counter, second.counter), (0, 1));
        assert_ne!(first.epoch, second.epoch);
        let ring = ring.reader();
        assert!(open(&ring, &before).is_some() && open(&ring, &after).is_some());
    }
}
