//! A connection of the member on which it can seal any record.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use p2pfs_proto::trust::{Channel, Role};
use p2pfs_proto::wire::native::tcp::{Greeting, Lane};
use p2pfs_types::id::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, DigitallySignedStruct, Error,
    SignatureScheme,
};

use super::Hostile;

/// The prefix of the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// Maximum wait for the other end to read or send.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a daemon that accepts this member.
pub(crate) struct RawConnection {
    stream: TcpStream,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Hostile {
    /// Dials a node and proves membership.
    pub(crate) fn dial_raw(&self, address: SocketAddr) -> io::Result<RawConnection> {
        let mut tls = self.tls_client();
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        self.prove(&mut tls, &mut stream)?;
        let (sequence, secrets) = tls.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            panic!("another cipher than a node's first");
        };
        Ok(RawConnection {
            stream,
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap()),
            iv: iv.as_ref().try_into().unwrap(),
            sequence,
        })
    }

    fn tls_client(&self) -> ClientConnection {
        let pkcs8 = PrivatePkcs8KeyDer::from(self.key.pkcs8());
        let signer = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&pkcs8).unwrap();
        let spki = [&SPKI_PREFIX[..], self.id.as_bytes()].concat();
        let key = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer));
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)));
        config.alpn_protocols = vec![b"p2pfs/2".to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("p2pfs.invalid").unwrap();
        ClientConnection::new(Arc::new(config), name).unwrap()
    }

    /// Sends the greeting and reads the answer.
    fn prove(&self, tls: &mut ClientConnection, stream: &mut TcpStream) -> io::Result<()> {
        let server = tls.peer_certificates().unwrap()[0].clone();
        let label = b"EXPORTER-p2pfs-1-greeting";
        let channel = Channel {
            client: self.id,
            server: NodeId::new(server[SPKI_PREFIX.len()..].try_into().unwrap()),
            exporter: tls.export_keying_material([0; 32], label, None).unwrap(),
        };
        let greeting = Greeting::Prove {
            lane: Lane::Urgent,
            proof: channel.membership_proof(&self.keyring.epochs().sealing(), Role::Client),
            chain: Bytes::new(),
        };
        let greeting = greeting.encode();
        let greeting = [&greeting.header[..], &greeting.body].concat();
        tls.writer().write_all(&greeting)?;
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            tls.complete_io(stream)?;
            let mut some = [0; 4096];
            match tls.reader().read(&mut some) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => answer.extend_from_slice(&some[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns whether a frame is complete.
fn is_whole(bytes: &[u8]) -> bool {
    let length = bytes.first_chunk().map(|it| u32::from_be_bytes(*it));
    // The length does not include its own four bytes.
    length.is_some_and(|length| bytes.len() >= 4 + length as usize)
}

impl RawConnection {
    /// Sends these bytes in `records` records, each with all of them. Returns false once the other
    /// end has closed the connection.
    pub(crate) fn send(&mut self, carried: &[u8], records: usize) -> bool {
        let sealed: Vec<u8> = (0..records).flat_map(|_| self.seal(carried)).collect();
        self.stream.write_all(&sealed).is_ok()
    }

    /// Waits until the other end closes the connection.
    pub(crate) fn await_end(&mut self) {
        let mut rest = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        }
    }

    fn seal(&mut self, carried: &[u8]) -> Vec<u8> {
        let mut body = [carried, &[23]].concat();
        let length = (body.len() + AES_128_GCM.tag_len()) as u16;
        let [high, low] = length.to_be_bytes();
        let header = [23, 3, 3, high, low];
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        nonce[4..]
            .iter_mut()
            .zip(sequence)
            .for_each(|(byte, it)| *byte ^= it);
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut body)
            .unwrap();
        [&header[..], &body].concat()
    }
}

/// Accepts any server with the key that it shows.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _spki: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _spki: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not used here".into()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _spki: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
