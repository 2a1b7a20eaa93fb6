//! Who may talk to us: TLS 1.3 whose both ends prove the cluster secret.
//!
//! Certificates are made at start and prove nothing: what counts is a keyed hash over the exporter of this very TLS
//! session (RFC 8446 sec. 7.5, RFC 9266), so that somebody between the two ends, who has two sessions, can't pass one end's proof on.
//! The caller proves first; somebody without the secret learns nothing but that a TLS server is there. Must never log the
//! secret or a proof.

use std::sync::Arc;

use aws_lc_rs::hmac;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Shortest cluster secret: a caller could guess a shorter one offline from what we prove to it.
pub const SECRET_MIN_BYTES: usize = 16;

const EXPORTER_LABEL: &[u8] = b"EXPORTER-sluice-peer-v1";
const ALPN: &[u8] = b"sluice-peer/1";
const PROOF_BYTES: usize = 32;

/// Keys made of the cluster secret. Has no `Debug` on purpose.
#[derive(Clone)]
pub struct ClusterSecret {
    peers: hmac::Key,
    identity: hmac::Key,
}

impl ClusterSecret {
    /// Derives the keys; nothing if the secret is too short to be safe.
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        let secret = secret.trim_ascii();
        if secret.len() < SECRET_MIN_BYTES {
            return None;
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive =
            |purpose: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose).as_ref());
        Some(Self {
            peers: derive(b"sluice peers v1"),
            identity: derive(b"sluice cluster identity v1"),
        })
    }

    /// What the cluster's database keeps to recognise the secret.
    #[must_use]
    pub fn identity_proof(&self, cluster: &[u8; 16]) -> [u8; 32] {
        let mut proof = [0; 32];
        proof.copy_from_slice(hmac::sign(&self.identity, cluster).as_ref());
        proof
    }

    /// Whether a proof was made with this secret, in constant time.
    #[must_use]
    pub fn identity_matches(&self, cluster: &[u8; 16], proof: &[u8; 32]) -> bool {
        hmac::verify(&self.identity, cluster, proof).is_ok()
    }

    fn prove(&self, side: Side, exporter: &[u8; 32]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.peers);
        context.update(side.tag());
        context.update(exporter);
        context.sign()
    }

    fn check(&self, side: Side, exporter: &[u8; 32], proof: &[u8]) -> bool {
        let mut message = side.tag().to_vec();
        message.extend_from_slice(exporter);
        hmac::verify(&self.peers, &message, proof).is_ok()
    }
}

/// The two proofs differ, so that one can't be sent back as the other.
#[derive(Clone, Copy)]
enum Side {
    Caller,
    Called,
}

impl Side {
    const fn tag(self) -> &'static [u8] {
        match self {
            Side::Caller => b"caller",
            Side::Called => b"called",
        }
    }
}

/// Why a connection was not accepted as a peer's.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The TLS settings could not be made.
    #[error("can't set up TLS between nodes: {0}")]
    Setup(String),
    /// The connection broke or TLS failed.
    #[error("the connection failed during the handshake: {0}")]
    Io(#[from] std::io::Error),
    /// The other end doesn't know the cluster secret.
    #[error("the other end does not know the cluster secret; compare [cluster] secret_file")]
    WrongSecret,
}

/// Makes authenticated streams out of plain ones.
#[derive(Clone)]
pub struct Authenticator {
    secret: ClusterSecret,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Authenticator {
    /// Makes this process's certificate and the TLS settings for both directions.
    pub fn new(secret: ClusterSecret) -> Result<Self, HandshakeError> {
        let setup = |e: &dyn std::fmt::Display| HandshakeError::Setup(e.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(vec!["peer.sluice".into()])
            .map_err(|e| setup(&e))?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| setup(&e))?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .map_err(|e| setup(&e))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| setup(&e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            secret,
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            name: ServerName::try_from("peer.sluice").map_err(|e| setup(&e))?,
        })
    }

    /// The caller's side: proves first, then wants the proof of the called one.
    pub async fn call<S>(&self, stream: S) -> Result<client::TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = self.connector.connect(self.name.clone(), stream).await?;
        let exporter = stream
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(|e| HandshakeError::Setup(e.to_string()))?;
        let proof = self.secret.prove(Side::Caller, &exporter);
        stream.write_all(proof.as_ref()).await?;
        stream.flush().await?;
        let mut answer = [0; PROOF_BYTES];
        // A called node that doesn't know our secret closes without a proof.
        if let Err(e) = stream.read_exact(&mut answer).await {
            return Err(match e.kind() {
                std::io::ErrorKind::UnexpectedEof => HandshakeError::WrongSecret,
                _ => e.into(),
            });
        }
        match self.secret.check(Side::Called, &exporter, &answer) {
            true => Ok(stream),
            false => Err(HandshakeError::WrongSecret),
        }
    }

    /// The called side: nothing is proved to a caller that has not proved itself.
    pub async fn answer<S>(&self, stream: S) -> Result<server::TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = self.acceptor.accept(stream).await?;
        let exporter = stream
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(|e| HandshakeError::Setup(e.to_string()))?;
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        if !self.secret.check(Side::Caller, &exporter, &proof) {
            let _ = stream.shutdown().await;
            return Err(HandshakeError::WrongSecret);
        }
        let answer = self.secret.prove(Side::Called, &exporter);
        stream.write_all(answer.as_ref()).await?;
        stream.flush().await?;
        Ok(stream)
    }
}

/// Takes any certificate, but checks that the other end has its key: the session is then bound by the proofs.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("only TLS 1.3 between nodes".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator(secret: &[u8]) -> Authenticator {
        Authenticator::new(ClusterSecret::new(secret).unwrap()).unwrap()
    }

    #[test]
    fn a_short_secret_is_refused_and_an_identity_proof_fits_its_cluster_and_secret_only() {
        assert!(ClusterSecret::new(b"too short      \n\n\n\n\n").is_none());
        let secret = ClusterSecret::new(b"a secret that is long enough\n").unwrap();
        let other = ClusterSecret::new(b"another that is long enough").unwrap();
        let proof = secret.identity_proof(&[1; 16]);
        assert!(secret.identity_matches(&[1; 16], &proof));
        assert!(!secret.identity_matches(&[2; 16], &proof));
        assert!(!other.identity_matches(&[1; 16], &proof));
    }

    #[tokio::test]
    async fn both_ends_with_the_secret_get_a_stream() {
        let (a, b) = tokio::io::duplex(4096);
        let (caller, called) = (
            authenticator(b"the secret of this cluster"),
            authenticator(b"the secret of this cluster"),
        );
        let (a, b) = tokio::join!(caller.call(a), called.answer(b));
        let (mut a, mut b) = (a.unwrap(), b.unwrap());
        a.write_all(b"hello").await.unwrap();
        a.flush().await.unwrap();
        let mut got = [0; 5];
        b.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }

    #[tokio::test]
    async fn another_secret_is_refused_at_both_ends() {
        let (a, b) = tokio::io::duplex(4096);
        let (caller, called) = (
            authenticator(b"the secret of this cluster"),
            authenticator(b"the secret of another cluster"),
        );
        let (a, b) = tokio::join!(caller.call(a), called.answer(b));
        assert!(matches!(a, Err(HandshakeError::WrongSecret)));
        assert!(matches!(b, Err(HandshakeError::WrongSecret)));
    }

    #[tokio::test]
    async fn a_proof_passed_on_by_somebody_in_between_is_refused() {
        let secret = b"the secret of this cluster";
        let (caller, called) = (authenticator(secret), authenticator(secret));
        let between = authenticator(b"whatever this one believes in");
        let (a, a_between) = tokio::io::duplex(4096);
        let (b_between, b) = tokio::io::duplex(4096);
        let relay = async {
            let mut left = between.acceptor.accept(a_between).await.unwrap();
            let mut right = between
                .connector
                .connect(between.name.clone(), b_between)
                .await
                .unwrap();
            let mut proof = [0; PROOF_BYTES];
            left.read_exact(&mut proof).await.unwrap();
            right.write_all(&proof).await.unwrap();
            right.flush().await.unwrap();
            assert!(right.read_exact(&mut proof).await.is_err());
        };
        let (a, b, ()) = tokio::join!(caller.call(a), called.answer(b), relay);
        assert!(a.is_err());
        assert!(matches!(b, Err(HandshakeError::WrongSecret)));
    }
}
