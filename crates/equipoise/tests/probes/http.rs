//! Pages, over TCP and TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Redirect;
use axum::routing::{any, get};
use equipoise_core::health::FailureKind;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{fails, nobody, passes};

async fn pages() -> SocketAddr {
    let told = |method: Method, headers: HeaderMap| async move {
        let text = |name| headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        format!("{method} {} {}", text(header::HOST.as_str()), text("x-check"))
    };
    let router = Router::new()
        .route("/health", get(async || "all is well"))
        .route("/told", any(told))
        .route("/empty", get(async || StatusCode::NO_CONTENT))
        .route("/busy", get(async || StatusCode::SERVICE_UNAVAILABLE))
        .route("/moved", get(async || Redirect::temporary("/health")))
        .route("/away", get(async || Redirect::temporary("http://192.0.2.1/health")))
        .route("/round", get(async || Redirect::temporary("/round")))
        .route("/late", get(std::future::pending::<String>));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn http_is_good_when_status_and_body_are_those_expected() {
    let pages = pages().await;
    let lines = |more: &str| format!("type = 'http'\n{more}");
    passes(pages, &lines("")).await;
    passes(pages, &lines("path = '/empty'")).await;
    passes(pages, &lines("path = '/busy'\nexpected-codes = [200, '500-599']")).await;
    passes(pages, &lines("expected-body = 'is well'")).await;
    let (kind, message) = fails(pages, &lines("path = '/busy'")).await;
    assert_eq!((kind, &*message), (FailureKind::UnexpectedStatus, "status 503"));
    let (kind, _) = fails(pages, &lines("expected-codes = ['300-399']")).await;
    assert_eq!(kind, FailureKind::UnexpectedStatus);
    let (kind, _) = fails(pages, &lines("expected-body = 'is bad'")).await;
    assert_eq!(kind, FailureKind::UnexpectedAnswer);
    let (kind, _) = fails(pages, &lines("path = '/late'\ntimeout = '200ms'")).await;
    assert_eq!(kind, FailureKind::Timeout);
    let (kind, _) = fails(nobody(), &lines("")).await;
    assert_eq!(kind, FailureKind::ConnectionRefused);
}

#[tokio::test]
async fn http_asks_as_it_is_told_to() {
    let pages = pages().await;
    let told = |more: &str, body: &str| {
        format!("type = 'http'\npath = '/told'\n{more}\nexpected-body = '{body}'")
    };
    passes(pages, &told("", &format!("GET {pages} -"))).await;
    passes(pages, &told("method = 'OPTIONS'\nhost = 'a.example'", "OPTIONS a.example -")).await;
    passes(
        pages,
        &told("headers = { Host = 'b.example', X-Check = 'it is us' }", "GET b.example it is us"),
    )
    .await;
    passes(pages, "type = 'http'\nmethod = 'HEAD'").await;
}

#[tokio::test]
async fn redirects_are_followed_when_asked_and_only_within_the_address() {
    let pages = pages().await;
    let lines = |path: &str, more: &str| format!("type = 'http'\npath = '{path}'\n{more}");
    let (kind, message) = fails(pages, &lines("/moved", "")).await;
    assert_eq!((kind, &*message), (FailureKind::UnexpectedStatus, "status 307"));
    passes(pages, &lines("/moved", "follow-redirects = true\nexpected-body = 'well'")).await;
    for path in ["/away", "/round"] {
        let (kind, _) = fails(pages, &lines(path, "follow-redirects = true")).await;
        assert_eq!(kind, FailureKind::UnexpectedStatus, "{path}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_not_expected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in [&b"SSH-2.0-x\r\n"[..], b""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
            stream.write_all(answer).await.unwrap();
        }
    });
    assert_eq!(fails(address, "type = 'http'").await.0, FailureKind::UnexpectedAnswer);
    assert_eq!(fails(address, "type = 'http'").await.0, FailureKind::ConnectionReset);
}

/// An authority, and certificates of it, in files.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes `NAME.pem` and `NAME.key`.
    pub(crate) fn certify(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// What a server with that certificate needs; with `asks`, clients have to show one of the authority's.
    pub(crate) fn server(&self, name: &str, asks: Asks) -> ServerConfig {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let read = |path: &Path| CertificateDer::from_pem_file(path).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match asks {
            Asks::Nothing => builder.with_no_client_auth(),
            Asks::Certificate => {
                let mut roots = RootCertStore::empty();
                roots.add(read(&self.file("ca.pem"))).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        builder.with_single_cert(vec![read(&self.file(&format!("{name}.pem")))], key).unwrap()
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Asks {
    Nothing,
    Certificate,
}

async fn secure(config: ServerConfig) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Those who do not believe us go away.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            if stream.read(&mut [0; 1024]).await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
                drop(stream.write_all(answer).await);
                drop(stream.shutdown().await);
            }
        }
    });
    address
}

#[tokio::test]
async fn https_is_good_when_the_certificate_is_believed() {
    let authority = Authority::new();
    authority.certify("backend.test");
    let address = secure(authority.server("backend.test", Asks::Nothing)).await;
    let ca = format!("ca-file = '{}'", authority.file("ca.pem").display());
    let lines = |more: &str| format!("type = 'https'\n{more}\nexpected-body = 'hello'");
    passes(address, &lines(&format!("{ca}\nserver-name = 'backend.test'"))).await;
    passes(address, &lines("insecure = true")).await;
    for wrong in [
        // Nobody of this host's authorities has signed it.
        "server-name = 'backend.test'".to_owned(),
        format!("{ca}\nserver-name = 'another.test'"),
        // It is not of the address.
        ca.clone(),
        "ca-file = '/no/such/file'\nserver-name = 'backend.test'".to_owned(),
    ] {
        let (kind, message) = fails(address, &lines(&wrong)).await;
        assert_eq!(kind, FailureKind::Tls, "{message}: {wrong}");
    }
    let (kind, message) = fails(pages().await, &lines("insecure = true")).await;
    assert_eq!(kind, FailureKind::Tls, "{message}");
}

#[tokio::test]
async fn https_shows_a_certificate_to_who_asks() {
    let authority = Authority::new();
    authority.certify("backend.test");
    authority.certify("checker.test");
    let address = secure(authority.server("backend.test", Asks::Certificate)).await;
    let file = |name: &str| authority.file(name).display().to_string();
    let lines =
        format!("type = 'https'\nserver-name = 'backend.test'\nca-file = '{}'\n", file("ca.pem"));
    let shown = format!(
        "client-certificate = '{}'\nclient-key = '{}'\n",
        file("checker.test.pem"),
        file("checker.test.key")
    );
    passes(address, &(lines.clone() + &shown)).await;
    let (kind, message) = fails(address, &lines).await;
    assert!(matches!(kind, FailureKind::Tls | FailureKind::ConnectionReset), "{kind:?} {message}");
}
