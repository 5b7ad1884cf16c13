//! `grpc.health.v1`, over plain HTTP/2 and TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use equipoise_core::health::FailureKind;
use hyper::body::Bytes;
use hyper::{HeaderMap, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::http::{Asks, Authority};
use crate::{fails, nobody, passes};

/// Answers for services by their names.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let mut body = request.into_body();
        let mut asked = Vec::new();
        // The connection has to go on for the body to come.
        while let Some(data) = tokio::select! {
            data = body.data() => data,
            _ = connection.accept() => None,
        } {
            asked.extend_from_slice(&data.unwrap());
        }
        let service = String::from_utf8_lossy(asked.get(7..).unwrap_or_default()).into_owned();
        let head = Response::builder().header("content-type", "application/grpc");
        if service == "unknown" {
            let head = head.header("grpc-status", "5").header("grpc-message", "unknown service");
            respond.send_response(head.body(()).unwrap(), true).unwrap();
            continue;
        }
        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
        let status = if service == "sick" { 2 } else { 1 };
        stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    }
}

async fn server(tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => serve(stream).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream).await;
                        }
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn grpc_is_good_when_the_service_is_serving() {
    let address = server(None).await;
    passes(address, "type = 'grpc'").await;
    passes(address, "type = 'grpc'\ngrpc-service = 'well'").await;
    let (kind, message) = fails(address, "type = 'grpc'\ngrpc-service = 'sick'").await;
    assert_eq!((kind, &*message), (FailureKind::UnexpectedAnswer, "not serving"));
    let (_, message) = fails(address, "type = 'grpc'\ngrpc-service = 'unknown'").await;
    assert_eq!(message, "grpc status 5: unknown service");
    assert_eq!(fails(nobody(), "type = 'grpc'").await.0, FailureKind::ConnectionRefused);
}

#[tokio::test]
async fn grpc_goes_over_tls_when_asked() {
    let authority = Authority::new();
    authority.certify("backend.test");
    let mut config = authority.server("backend.test", Asks::Nothing);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = server(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let ca = authority.file("ca.pem");
    let lines = format!(
        "type = 'grpc'\ntls = true\nserver-name = 'backend.test'\nca-file = '{}'",
        ca.display()
    );
    passes(address, &lines).await;
    let (kind, _) = fails(address, "type = 'grpc'\ntls = true\nserver-name = 'backend.test'").await;
    assert_eq!(kind, FailureKind::Tls);
    assert_ne!(fails(address, "type = 'grpc'\ntimeout = '1s'").await.0, FailureKind::Tls);
}
