//! Mutual TLS 1.3 with raw public keys (RFC 7250). It authenticates the other end and says nothing
//! about membership.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::net::NetError;
use p2pfs_proto::trust::{Channel, NodeKey};
use p2pfs_proto::wire::native::tcp::{Push, Request};
use p2pfs_records::{HandshakeError, Side, TlsStream};
use p2pfs_types::id::NodeId;

/// Application protocols (RFC 7301), in order of preference. `p2pfs/2` is `p2pfs/1` with batches of
/// small files. `p2pfs/3` is `p2pfs/2` with the names of received files. `p2pfs/4` is `p2pfs/3` with
/// requests of both ends, with records of replacements and deletions in logs, and with reasons of
/// declined invitations.
const PROTOCOLS: [&[u8]; 4] = [b"p2pfs/4", b"p2pfs/3", b"p2pfs/2", FIRST];
const FIRST: &[u8] = b"p2pfs/1";
const WITH_BATCHES: Protocol = Protocol(2);
const WITH_KEPT_NAMES: Protocol = Protocol(3);
const SYMMETRIC: Protocol = Protocol(4);
/// Label of the exporter that proofs are bound to (RFC 8446, section 7.5).
const LABEL: &[u8] = b"EXPORTER-p2pfs-1-greeting";
/// Prefix of the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Configuration for opening and accepting TLS connections.
#[derive(Debug)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    protocols: Vec<Vec<u8>>,
    server: Arc<ServerConfig>,
}

impl Tls {
    pub(super) fn new(key: &NodeKey, batches: bool) -> Result<Self, NetError> {
        let provider = Arc::new(provider());
        let bad_key = |error: Error| NetError::Key {
            why: error.to_string(),
        };
        let pkcs8 = PrivatePkcs8KeyDer::from(key.pkcs8());
        let signer = aws_lc_rs::sign::any_eddsa_type(&pkcs8).map_err(bad_key)?;
        let spki = [&SPKI_PREFIX[..], key.node_id().as_bytes()].concat();
        let key = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer));
        let protocols = protocols(batches);
        let server = server_config(&provider, &key, &protocols).map_err(bad_key)?;
        Ok(Self {
            provider,
            key,
            protocols,
            server: Arc::new(server),
        })
    }

    /// Accepts a connection of any node that proves to own its key.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<TlsStream<S>, HandshakeError> {
        p2pfs_records::accept(&self.server, stream).await
    }

    /// Returns the configuration of the accepting side.
    #[cfg(test)]
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Returns the configuration for connections to the node `pinned` alone. With `None`, it is for
    /// connections to any node that proves to own its key, to learn the node's id.
    pub(super) fn dialler(&self, pinned: Option<NodeId>) -> Result<ClientConfig, NetError> {
        let verifier = Verifier {
            pinned,
            provider: Arc::clone(&self.provider),
        };
        let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.key));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| NetError::Key {
                why: error.to_string(),
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols.clone_from(&self.protocols);
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

/// Opens a connection with this configuration. Calls `on_first_bytes` when the other end first
/// sent anything.
pub(super) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    dialler: &ClientConfig,
    stream: S,
    on_first_bytes: impl FnOnce(),
) -> Result<TlsStream<S>, HandshakeError> {
    p2pfs_records::connect(dialler, nameless(), stream, on_first_bytes).await
}

/// Returns the server name for the client's side of TLS. It is not sent, and names no host.
pub(super) fn nameless() -> ServerName<'static> {
    ServerName::try_from("p2pfs.invalid").expect("a constant name is valid")
}

/// Returns the node at the other end, or `None` if the handshake did not authenticate it or did not
/// select our protocol.
pub(super) fn peer_of<S>(stream: &TlsStream<S>) -> Option<NodeId> {
    let protocol = stream.alpn_protocol()?;
    if !PROTOCOLS.contains(&protocol) {
        return None;
    }
    node_of(stream.peer_certificate()?)
}

/// Version of the protocol of a connection: 1 for `p2pfs/1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Protocol(usize);

impl Protocol {
    #[cfg(test)]
    pub(super) const NEWEST: Self = SYMMETRIC;

    pub(super) fn of<S>(stream: &TlsStream<S>) -> Self {
        let spoken = stream.alpn_protocol();
        let newer = PROTOCOLS.iter().position(|it| Some(*it) == spoken);
        Self(PROTOCOLS.len() - newer.unwrap_or(PROTOCOLS.len() - 1))
    }

    /// Returns whether the peer knows a request.
    pub(super) fn knows(self, request: &Request) -> bool {
        match request {
            Request::Batch { .. } => self >= WITH_BATCHES,
            Request::Push(Push::AskKept { .. }) => self >= WITH_KEPT_NAMES,
            _ => true,
        }
    }

    /// Returns whether the peer can decode records of replacements and deletions.
    pub(super) fn has_replacements(self) -> bool {
        self >= SYMMETRIC
    }

    /// Returns whether the peer can decode the reason why its invitation is declined.
    pub(super) fn knows_decline(self) -> bool {
        self >= SYMMETRIC
    }

    /// Returns whether both ends of the connection ask.
    pub(super) fn is_symmetric(self) -> bool {
        self >= SYMMETRIC
    }
}

fn protocols(batches: bool) -> Vec<Vec<u8>> {
    let known = PROTOCOLS.iter().filter(|it| batches || **it == FIRST);
    known.map(|protocol| protocol.to_vec()).collect()
}

/// Returns the channel that proofs on this connection are bound to, or `None` if [`peer_of`]
/// returns `None` or TLS exports no keying material.
pub(super) fn channel_of<S>(stream: &TlsStream<S>, me: NodeId) -> Option<Channel> {
    let peer = peer_of(stream)?;
    let (client, server) = match stream.side() {
        Side::Client => (me, peer),
        Side::Server => (peer, me),
    };
    Some(Channel {
        client,
        server,
        exporter: stream.export_keying_material(LABEL)?,
    })
}

fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    // preferred, because it is the fastest cipher for bulk data on processors with AES instructions
    provider
        .cipher_suites
        .sort_by_key(|suite| usize::from(suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256));
    provider
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    key: &Arc<CertifiedKey>,
    protocols: &[Vec<u8>],
) -> Result<ServerConfig, Error> {
    let verifier = Verifier {
        pinned: None,
        provider: Arc::clone(provider),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
            Arc::clone(key),
        )));
    config.alpn_protocols = protocols.to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn node_of(spki: &CertificateDer<'_>) -> Option<NodeId> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(NodeId::new)
}

/// Verifier that accepts the key of the other end and checks that the other end owns it.
#[derive(Debug)]
struct Verifier {
    /// The only accepted key. `None` accepts any.
    pinned: Option<NodeId>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn check_key(&self, spki: &CertificateDer<'_>) -> Result<(), Error> {
        let node = node_of(spki).ok_or(CertificateError::BadEncoding)?;
        if self.pinned.is_some_and(|pinned| pinned != node) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signature.scheme != SignatureScheme::ED25519 {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, algorithms)
    }
}

/// Methods that both kinds of verifier share.
macro_rules! verifies_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _spki: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not spoken here".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            spki: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.check_signature(message, spki, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        spki: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_key(spki)
            .map(|()| ServerCertVerified::assertion())
    }

    verifies_signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        spki: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_key(spki)
            .map(|()| ClientCertVerified::assertion())
    }

    verifies_signatures!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_uses_the_fastest_cipher() {
        let suites = provider().cipher_suites;
        assert_eq!(suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    }

    #[test]
    fn only_a_whole_ed25519_key_is_a_node() {
        let node = NodeId::new([7; 32]);
        let spki = [&SPKI_PREFIX[..], node.as_bytes()].concat();
        assert_eq!(node_of(&CertificateDer::from(&spki[..])), Some(node));
        for bad in [&spki[1..], &spki[..43], &[&spki[..], b"x"].concat()] {
            assert_eq!(node_of(&CertificateDer::from(bad)), None);
        }
    }

    #[test]
    fn sessions_cannot_be_resumed_and_no_early_data_is_accepted() {
        let tls = Tls::new(&NodeKey::random(), true).unwrap();
        assert_eq!(tls.server.send_tls13_tickets, 0);
        assert_eq!(tls.server.max_early_data_size, 0);
        assert!(!tls.server.ticketer.enabled());
        assert!(!tls.server.session_storage.can_cache());
    }
}
