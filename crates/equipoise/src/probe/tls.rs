//! TLS towards a backend: who is believed, and what is shown.
//!
//! Authorities and certificates are read from their files, which costs more than a whole check, so what is made of them is used
//! again for a minute; then files that have changed are seen.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise_core::config::health::Tls;
use equipoise_core::health::{Failure, FailureKind};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tcp;
use super::to::To;

/// How long files are believed not to have changed.
const FRESH: Duration = Duration::from_secs(60);

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Inside {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

type Made = BTreeMap<(Tls, Inside), (Instant, Arc<ClientConfig>)>;

thread_local! {
    /// Checks share a thread.
    static MADE: RefCell<Made> = const { RefCell::new(BTreeMap::new()) };
}

/// A connection over TLS.
pub(super) async fn connect(
    to: To<'_>,
    tls: &Tls,
    inside: Inside,
) -> Result<TlsStream<TcpStream>, Failure> {
    let config = recent(tls, inside)?;
    let name = match &tls.server_name {
        Some(name) => ServerName::try_from(name.clone())
            .map_err(|error| failure(format!("server name {name}: {error}")))?,
        None => ServerName::IpAddress(to.address.ip().into()),
    };
    let stream = tcp::connect(to).await?;
    let connecting = TlsConnector::from(config).connect(name, stream).await;
    connecting.map_err(|error| tcp::failure("agreeing on TLS", &error))
}

fn failure(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Tls, message)
}

fn recent(tls: &Tls, inside: Inside) -> Result<Arc<ClientConfig>, Failure> {
    MADE.with_borrow_mut(|made| {
        made.retain(|_, (at, _)| at.elapsed() < FRESH);
        if let Some((_, config)) = made.get(&(tls.clone(), inside)) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(make(tls, inside)?);
        made.insert((tls.clone(), inside), (Instant::now(), Arc::clone(&config)));
        Ok(config)
    })
}

/// What is wrong with the files that it names, if anything.
pub(crate) fn fault(tls: &Tls) -> Option<String> {
    make(tls, Inside::Http1).err().map(|failure| failure.message)
}

fn make(tls: &Tls, inside: Inside) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder =
        builder.with_safe_default_protocol_versions().map_err(|e| failure(e.to_string()))?;
    let builder = if tls.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(authorities(tls.ca_file.as_deref())?)
    };
    let mut config = match (&tls.client_certificate, &tls.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(Path::new(key))
                .map_err(|error| failure(format!("{key}: {error}")))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| failure(format!("{certificate}: {error}")))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match inside {
        Inside::Http1 => vec![b"http/1.1".to_vec()],
        Inside::Http2 => vec![b"h2".to_vec()],
    };
    Ok(config)
}

/// Those of a file, or else of this host.
fn authorities(file: Option<&str>) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    match file {
        Some(file) => {
            for certificate in certificates(file)? {
                store.add(certificate).map_err(|error| failure(format!("{file}: {error}")))?;
            }
        }
        // What cannot be read or parsed is not believed; that others are is what is asked for.
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        let from = file.unwrap_or("this host");
        return Err(failure(format!("{from} has no authority to be believed")));
    }
    Ok(store)
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(Path::new(file));
    let all = read.and_then(Iterator::collect::<Result<Vec<_>, _>>);
    all.map_err(|error| failure(format!("{file}: {error}")))
}

/// Believes anybody who has the key of the certificate that is shown.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
