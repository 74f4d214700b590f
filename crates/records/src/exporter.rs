//! The exporter of a connection (RFC 8446, section 7.5): bytes that only its two ends can derive.
//! An application binds its proofs to them.
//!
//! rustls has no exporter for unbuffered connections. It passes the secret of the exporter to its
//! key log. [`ExporterLog`] keeps that secret and no other.

use std::fmt;

use parking_lot::Mutex;
use rustls::crypto::tls13::OkmBlock;
use rustls::{KeyLog, Tls13CipherSuite};
use zeroize::Zeroizing;

/// Label of the exporter's secret in rustls's key log.
const SECRET_LABEL: &str = "EXPORTER_SECRET";

/// The key log of one connection.
#[derive(Default)]
pub(crate) struct ExporterLog(Mutex<Option<Zeroizing<Vec<u8>>>>);

impl fmt::Debug for ExporterLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExporterLog")
    }
}

impl KeyLog for ExporterLog {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == SECRET_LABEL {
            *self.0.lock() = Some(Zeroizing::new(secret.to_vec()));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == SECRET_LABEL
    }
}

impl ExporterLog {
    /// Takes the secret of the exporter. Returns `None` if rustls has not logged it yet.
    pub(crate) fn take(&self, suite: &'static Tls13CipherSuite) -> Option<Exporter> {
        let secret = self.0.lock().take()?;
        // No hash of TLS 1.3 gives a longer secret.
        let secret = (secret.len() <= OkmBlock::MAX_LEN).then(|| OkmBlock::new(&secret))?;
        let secret = Box::new(secret);
        Some(Exporter { secret, suite })
    }
}

/// The exporter of one connection.
pub(crate) struct Exporter {
    /// Boxed, because a move would leave a copy that nothing overwrites.
    secret: Box<OkmBlock>,
    suite: &'static Tls13CipherSuite,
}

impl Exporter {
    /// Derives 32 bytes for a label, without a context. Returns `None` if the connection's cipher
    /// suite cannot expand its secret to 32 bytes.
    pub(crate) fn export(&self, label: &[u8]) -> Option<[u8; 32]> {
        let (hash, hkdf) = (self.suite.common.hash_provider, self.suite.hkdf_provider);
        let no_bytes = hash.hash(&[]);
        let of_label = info(label, no_bytes.as_ref(), hash.output_len());
        let of_label = of_label.each_ref().map(Vec::as_slice);
        let secret = hkdf.expander_for_okm(&self.secret).expand_block(&of_label);
        let mut exported = [0; 32];
        let of_exporter = info(b"exporter", no_bytes.as_ref(), exported.len());
        let of_exporter = of_exporter.each_ref().map(Vec::as_slice);
        let expander = hkdf.expander_for_okm(&secret);
        let expanded = expander.expand_slice(&of_exporter, &mut exported);
        expanded.ok().map(|()| exported)
    }
}

/// Returns the `info` of HKDF-Expand-Label (section 7.1): `length`, then the label and the context,
/// each with its own length before it.
fn info(label: &[u8], context: &[u8], length: usize) -> [Vec<u8>; 3] {
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let with_length = |prefix: &[u8], bytes: &[u8]| {
        let all = u8::try_from(prefix.len() + bytes.len()).unwrap_or(u8::MAX);
        [&[all], prefix, bytes].concat()
    };
    [
        length.to_vec(),
        with_length(b"tls13 ", label),
        with_length(b"", context),
    ]
}
