//! The admin API on a port: who comes in with what, and what has changed without a restart.

use std::net::SocketAddr;
use std::sync::Arc;

use equipoise::status::change::{ReloadRequest, ReloadResult};
use equipoise::status::history::Author;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use metrics::free;

const WRITE: &str = "write-0123456789abcdef";
const READ: &str = "read-0123456789abcdef";

/// An answer: its code, its head in lower case, its body.
pub(super) type Answer = (u16, String, String);

/// Asks on a connection, and reads the answer to its end.
pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    line: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    loop {
        if let Some(answer) = whole(&text, line) {
            return answer;
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        assert_ne!(read, 0, "cut off after {}", String::from_utf8_lossy(&text));
        text.extend(&chunk[..read]);
    }
}

/// An answer with a length, if all of it is there.
fn whole(text: &[u8], line: &str) -> Option<Answer> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let head = head.to_ascii_lowercase();
    let code: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let Some(length) =
        length.map(|length| length.parse().unwrap()).or((code == 204).then_some(0_usize))
    else {
        // In chunks: flows, in one of them.
        assert!(head.contains("transfer-encoding: chunked"), "{line}: {head}");
        if body == "0\r\n\r\n" {
            return Some((code, head.clone(), String::new()));
        }
        let chunks = body.strip_suffix("\r\n0\r\n\r\n")?;
        let content = chunks.split("\r\n").skip(1).step_by(2);
        return Some((code, head.clone(), content.collect()));
    };
    (body.len() >= length).then(|| (code, head.clone(), body.to_owned()))
}

async fn one(address: SocketAddr, line: &str, headers: &str) -> Answer {
    with_body(address, line, headers, "").await
}

async fn with_body(address: SocketAddr, line: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream, line, &format!("Host: {address}\r\n{headers}"), body).await
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

fn with_keys(listen: SocketAddr, more: &str) -> String {
    format!(
        "[settings.admin]\nlisten = \"{listen}\"\n{more}\n\
         keys = [{{ name = \"ops\", key = \"{WRITE}\", scope = \"write\" }}, {{ name = \"look\", key = \"{READ}\" }}]\n\
         {CONFIG}"
    )
}

#[tokio::test]
async fn this_host_comes_in_without_a_key_and_pages_in_its_browser_do_not() {
    let listen = free();
    let config = format!(
        "[settings.admin]\nlisten = \"{listen}\"\nallowed-origins = [\"https://ops.example.com\"]\n{CONFIG}"
    );
    let (driver, lab) = Lab::start(&config).await;
    run(driver, async {
        let status = "GET /api/v1/status";
        let (code, _, body) = one(listen, status, "").await;
        assert_eq!(
            (code, serde_json::from_str::<Value>(&body).unwrap()["instance"].clone()),
            (200, json!("test"))
        );
        assert_eq!(one(listen, "GET /health", "").await.2, "OK\n");
        let (code, head, body) = one(listen, status, "Origin: https://evil.example.com\r\n").await;
        assert_eq!(code, 403, "{body}");
        assert!(
            !head.contains("access-control") && head.contains("application/problem+json"),
            "{head}"
        );
        let (code, head, _) = one(listen, status, "Origin: https://ops.example.com\r\n").await;
        assert!(
            code == 200 && head.contains("access-control-allow-origin: https://ops.example.com"),
            "{head}"
        );
        let (code, head, body) =
            one(listen, "OPTIONS /api/v1/stop", "Origin: https://ops.example.com\r\n").await;
        assert_eq!((code, &*body), (204, ""));
        assert!(head.contains("access-control-allow-methods: get, post"), "{head}");
        // A name that leads here is anybody's.
        let mut stream = TcpStream::connect(listen).await.unwrap();
        for (host, right) in [
            ("evil.example.com", 403),
            ("localhost:8081", 200),
            ("127.0.0.1", 200),
            ("[::1]:1", 200),
        ] {
            let (code, ..) = ask(&mut stream, status, &format!("Host: {host}\r\n"), "").await;
            assert_eq!(code, right, "{host}");
        }
        let weight = "PATCH /api/v1/services/web/backends/10.0.0.1%3A8080";
        let (code, _, body) = with_body(listen, weight, "", "{\"weight\": 7}").await;
        assert_eq!(code, 200, "{body}");
        let by = lab.client.history().await.unwrap()[0].by.clone();
        assert_eq!(by, Author::Address { address: [127, 0, 0, 1].into() });
        let (code, ..) =
            with_body(listen, "POST /api/v1/upgrade", "", "{\"binary\": \"/bin/true\"}").await;
        assert_eq!(code, 403, "no program is run for who comes by a port");
        for local in ["trace", "top-talkers/dropped"] {
            let asked =
                async |method: &str| one(listen, &format!("{method} /api/v1/{local}"), "").await.0;
            assert_eq!((asked("GET").await, asked("POST").await), (403, 405), "{local}");
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(TcpStream::connect(listen).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn who_has_no_key_is_refused_and_a_key_opens_what_it_is_for() {
    let listen = free();
    let (driver, lab) = Lab::start(&with_keys(listen, "")).await;
    run(driver, async {
        let status = "GET /api/v1/status";
        let (code, head, body) = one(listen, status, "").await;
        assert!(code == 401 && head.contains("www-authenticate: bearer"), "{head}");
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["status"], 401);
        for header in [bearer(READ), bearer(WRITE), format!("X-API-Key: {READ}\r\n")] {
            assert_eq!(one(listen, status, &header).await.0, 200, "{header}");
        }
        for wrong in [
            bearer("read-0123456789abcdeg"),
            bearer(&READ[1..]),
            bearer(&format!("{READ}x")),
            "Authorization: Basic cmVhZA==\r\n".to_owned(),
            "X-API-Key: \r\n".to_owned(),
        ] {
            assert_eq!(one(listen, status, &wrong).await.0, 401, "{wrong}");
        }
        assert_eq!(
            one(listen, "GET /api/v1/nothing", "").await.0,
            401,
            "what there is is told nobody"
        );
        assert_eq!(one(listen, "GET /health", "").await.0, 200);
        let weight = "PATCH /api/v1/services/web/backends/10.0.0.1%3A8080";
        let change = "{\"weight\": 7}";
        assert_eq!(with_body(listen, weight, &bearer(READ), change).await.0, 403);
        let before = lab.client.status().await.unwrap().config.generation;
        assert_eq!(before, 1, "nothing has changed");
        assert_eq!(with_body(listen, weight, &bearer(WRITE), change).await.0, 200);
        let entry = lab.client.history().await.unwrap().remove(0);
        assert_eq!(entry.by, Author::Key { name: "ops".to_owned() });
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_answer_tells_a_key() {
    let listen = free();
    let (driver, lab) = Lab::start(&with_keys(listen, "")).await;
    run(driver, async {
        lab.client.set_weight(&health::name(operate::FIRST), 9).await.unwrap();
        let config = with_keys(listen, "allowed-origins = [\"http://localhost\"]")
            .replace(READ, "other-0123456789abcdef");
        fs::write(lab.path("a.toml"), &config).unwrap();
        let answer = lab.client.reload(&ReloadRequest::default()).await.unwrap();
        assert_eq!(answer.result, ReloadResult::Applied);
        let request = PlanRequest {
            name: "a.toml".to_owned(),
            text: config.replace("port = 80 ", "port = 81 "),
        };
        let told = [
            lab.client.config().await.unwrap().to_string(),
            format!("{:?}", lab.client.history().await.unwrap()),
            format!("{:?}", lab.client.status().await.unwrap()),
            format!("{:?}", lab.client.plan(&request).await.unwrap()),
        ];
        for told in &told {
            assert!(!told.contains("0123456789abcdef"), "{told}");
        }
        assert!(told[0].contains("<hidden>") && told[1].contains("allowed_origins"), "{told:?}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let kept = fs::read_to_string(lab.path("state.json")).unwrap();
    assert!(!kept.contains("0123456789abcdef"), "{kept}");
}

#[tokio::test]
async fn files_of_this_host_are_named_by_its_users_alone_and_not_shown_to_them() {
    const SECRET: &str = "root:$y$j9T$secret:20228";
    let listen = free();
    let (driver, lab) = Lab::start(&with_keys(listen, "")).await;
    fs::write(lab.path("secret"), format!("{SECRET}\n10.1.2.3/8\n")).unwrap();
    fs::write(lab.path("b.toml"), CONFIG).unwrap();
    run(driver, async {
        let file = lab.path("secret").display().to_string();
        let web = json!({
            "listen": { "interfaces": ["eth0"], "port": 8100 },
            "backends": [{ "address": "10.0.0.1:1" }],
            "limits": { "deny": [format!("@{file}")] },
        });
        let put = "PUT /api/v1/services/listed";
        let (code, _, body) = with_body(listen, put, &bearer(WRITE), &web.to_string()).await;
        assert_eq!(code, 403, "{body}");
        // What is run here is not theirs to choose either, whatever the settings allow to the file.
        let check = json!({ "type": "exec", "command": ["/bin/true"] });
        let mut checked = web.clone();
        checked["limits"] = json!({});
        checked["health_check"] = check;
        let (code, _, body) = with_body(listen, put, &bearer(WRITE), &checked.to_string()).await;
        assert!(code == 403 && body.contains("commands of this host"), "{body}");
        checked["health_check"] = json!({ "type": "https", "ca_file": file });
        assert_eq!(with_body(listen, put, &bearer(WRITE), &checked.to_string()).await.0, 403);
        let other = json!({ "file": lab.path("b.toml") }).to_string();
        let reload = "POST /api/v1/reload";
        let (code, _, body) = with_body(listen, reload, &bearer(WRITE), &other).await;
        assert_eq!(code, 403, "{body}");
        for nothing in ["{}", ""] {
            assert_eq!(with_body(listen, reload, &bearer(WRITE), nothing).await.0, 200);
        }
        let text = format!("{CONFIG}limits = {{ deny = [\"@{file}\"] }}\n");
        let plan = json!({ "name": "b.toml", "text": text }).to_string();
        let planned = "POST /api/v1/plan";
        let (code, _, body) = with_body(listen, planned, &bearer(WRITE), &plan).await;
        assert!(code == 422 && body.contains("for users of this host alone"), "{body}");
        let (code, body) = lab.asked(planned, &plan).await;
        assert!(code == 422 && body.to_string().contains("nothing like one"), "{body}");
        // Variables may be secrets.
        let path: String = std::env::var("PATH").unwrap().chars().take(10).collect();
        let text = format!("{CONFIG}limits = {{ deny = [\"${{PATH}}\"] }}\n");
        let plan = json!({ "name": "b.toml", "text": text }).to_string();
        let (code, _, body) = with_body(listen, planned, &bearer(WRITE), &plan).await;
        assert!(code == 422 && body.contains("PATH") && !body.contains(&*path), "{body}");
        let (code, body) = lab.asked(planned, &plan).await;
        assert!(code == 422 && body.to_string().contains(&*path), "{body}");
        // By the socket a list is read, and of what is none only what looks like one is told.
        let (code, body) = lab.asked(put, &web.to_string()).await;
        let said = body.to_string();
        assert!(
            code == 422 && said.contains("secret, line 1: what is there is not a prefix"),
            "{said}"
        );
        assert!(said.contains("10.1.2.3/8"), "{said}");
        let events = lab.send("GET /api/v1/events?follow=false", "", "").await.2;
        let history = lab.send("GET /api/v1/history", "", "").await.2;
        for text in [said, events, history] {
            assert!(!text.contains("y$j9T"), "{text}");
        }
        fs::write(lab.path("secret"), "10.0.0.0/8\n").unwrap();
        assert_eq!(lab.asked(put, &web.to_string()).await.0, 200);
        // What they have given to it stays, whoever changes the rest.
        let (_, _, config) = one(listen, "GET /api/v1/config", &bearer(WRITE)).await;
        let config: Value = serde_json::from_str(&config).unwrap();
        let mut listed = config["service"][1].clone();
        assert_eq!(listed["limits"]["deny"], json!([format!("@{file}")]), "{listed}");
        listed["listen"]["port"] = json!(8101);
        let (code, _, body) = with_body(listen, put, &bearer(WRITE), &listed.to_string()).await;
        assert_eq!(code, 200, "{body}");
        let web = config["service"][0]["name"].as_str().unwrap();
        listed["name"] = json!(web);
        let other = format!("PUT /api/v1/services/{web}");
        let (code, _, body) = with_body(listen, &other, &bearer(WRITE), &listed.to_string()).await;
        assert_eq!(code, 403, "another service's: {body}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn whoever_guesses_keys_is_slowed_down_and_the_right_one_does_not_help_meanwhile() {
    let listen = free();
    let (driver, lab) = Lab::start(&with_keys(listen, "")).await;
    run(driver, async {
        let status = "GET /api/v1/status";
        let mut stream = TcpStream::connect(listen).await.unwrap();
        let mut guessed = async |key: &str| ask(&mut stream, status, &bearer(key), "").await;
        let mut wrong = 0;
        let limited = loop {
            let answer = guessed("wrong-0123456789abcdef").await;
            if answer.0 != 401 {
                break answer;
            }
            wrong += 1;
            assert!(wrong < 100, "it is never limited");
        };
        assert_eq!(limited.0, 429);
        assert!(wrong >= 10 && limited.1.contains("retry-after: 1"), "{wrong}: {}", limited.1);
        assert_eq!(guessed(WRITE).await.0, 429);
        // A token comes in each second.
        let waiting = async {
            while guessed(WRITE).await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("it is let in again");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn keys_addresses_and_files_change_without_a_restart_and_for_connections_that_are_there() {
    let (first, second) = (free(), free());
    let directory = TempDir::new().unwrap();
    let key_file = directory.path().join("key");
    fs::write(&key_file, format!("{READ}\nand more\n")).unwrap();
    let config = |listen: SocketAddr| {
        let file = key_file.display();
        format!(
            "[settings.admin]\nlisten = \"{listen}\"\nkeys = [{{ name = \"look\", key-file = \"{file}\" }}]\n{CONFIG}"
        )
    };
    let (driver, lab) = Lab::start(&config(first)).await;
    run(driver, async {
        let reload = async |text: &str| {
            fs::write(lab.path("a.toml"), text).unwrap();
            lab.client.reload(&ReloadRequest::default()).await
        };
        let status = "GET /api/v1/status";
        let mut stream = TcpStream::connect(first).await.unwrap();
        let mut here = async |key: &str| ask(&mut stream, status, &bearer(key), "").await.0;
        assert_eq!(here(READ).await, 200);
        // The file is another, and nothing else.
        fs::write(&key_file, "other-0123456789abcdef").unwrap();
        assert_eq!(reload(&config(first)).await.unwrap().result, ReloadResult::Unchanged);
        assert_eq!((here(READ).await, here("other-0123456789abcdef").await), (401, 200));
        // What is no key changes nothing, and is told.
        fs::write(&key_file, "short").unwrap();
        reload(&config(first)).await.unwrap();
        let told = lab.client.status().await.unwrap();
        assert!(
            told.state == Health::Degraded && told.reasons[0].contains("is no key"),
            "{:?}",
            told.reasons
        );
        assert_eq!(here("other-0123456789abcdef").await, 200);
        fs::write(&key_file, READ).unwrap();
        reload(&config(second)).await.unwrap();
        assert_eq!(lab.client.status().await.unwrap().state, Health::Ok);
        assert_eq!(one(second, status, &bearer(READ)).await.0, 200);
        assert!(TcpStream::connect(first).await.is_err(), "nobody listens there any more");
        let cut = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 1])).await;
        assert_eq!(cut.expect("it is cut").unwrap(), 0, "nor on a connection that was there");
        // One that cannot be had is not taken.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let Err(ClientError::Problem(problem)) = reload(&config(taken.local_addr().unwrap())).await
        else {
            panic!("it is taken")
        };
        assert!(problem.detail.contains("what ran before runs again"), "{}", problem.detail);
        assert_eq!(one(second, status, &bearer(READ)).await.0, 200);
        reload(CONFIG).await.unwrap();
        assert!(TcpStream::connect(second).await.is_err());
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn who_is_not_let_in_any_more_is_told_of_no_more_events() {
    let listen = free();
    let both = with_keys(listen, "");
    let look = format!(", {{ name = \"look\", key = \"{READ}\" }}");
    let (driver, lab) = Lab::start(&both).await;
    run(driver, async {
        let reload = async |text: &str| {
            fs::write(lab.path("a.toml"), text).unwrap();
            lab.client.reload(&ReloadRequest::default()).await.unwrap()
        };
        let follow = async |key: &str| {
            let mut stream = TcpStream::connect(listen).await.unwrap();
            let head =
                format!("GET /api/v1/events HTTP/1.1\r\nHost: {listen}\r\n{}\r\n", bearer(key));
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut chunk = [0; 15];
            stream.read_exact(&mut chunk).await.unwrap();
            assert_eq!(&chunk, b"HTTP/1.1 200 OK");
            stream
        };
        // By an end of the answer, or of the connection.
        let to_the_end = async |mut stream: TcpStream| {
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n0\r\n\r\n") {
                let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut text)).await;
                if read.expect("it ends").unwrap() == 0 {
                    return;
                }
            }
        };
        let (gone, mut stays) = (follow(READ).await, follow(WRITE).await);
        reload(&both.replace(&look, "")).await;
        to_the_end(gone).await;
        // The other one is told of what is taken from then on, until nobody is let in.
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("config_applied") {
            assert_ne!(stays.read_buf(&mut text).await.unwrap(), 0, "it goes on");
        }
        reload(CONFIG).await;
        to_the_end(stays).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// A certificate for this host that is its own authority, and its key: files in PEM.
fn certificate(lab: &TempDir, name: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let file = |kind: &str| lab.path().join(format!("{name}.{kind}"));
    fs::write(file("pem"), certificate.pem()).unwrap();
    fs::write(file("key"), key.serialize_pem()).unwrap();
    (file("pem"), file("key"))
}

/// A request over TLS from who believes this certificate alone; none where it is not shown.
async fn over_tls(address: SocketAddr, certificate: &std::path::Path) -> Option<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(name, stream).await.ok()?;
    let headers = format!("Host: localhost\r\n{}", bearer(READ));
    Some(ask(&mut stream, "GET /api/v1/status", &headers, "").await)
}

#[tokio::test]
async fn it_is_served_over_tls_with_the_certificate_of_the_moment() {
    let listen = free();
    let directory = TempDir::new().unwrap();
    let (pem, key) = certificate(&directory, "first");
    let tls = format!(
        "tls = {{ certificate-file = '{}', key-file = '{}' }}",
        pem.display(),
        key.display()
    );
    let (driver, lab) = Lab::start(&with_keys(listen, &tls)).await;
    run(driver, async {
        // One that says nothing keeps nobody waiting.
        let silent = TcpStream::connect(listen).await.unwrap();
        let first = directory.path().join("kept.pem");
        fs::copy(&pem, &first).unwrap();
        assert_eq!(over_tls(listen, &first).await.unwrap().0, 200);
        let (second, other_key) = certificate(&directory, "second");
        fs::copy(&second, &pem).unwrap();
        let reload = async || lab.client.reload(&ReloadRequest::default()).await.unwrap();
        reload().await;
        let told = lab.client.status().await.unwrap();
        assert!(told.state == Health::Degraded, "the key is another certificate's");
        assert_eq!(over_tls(listen, &first).await.unwrap().0, 200, "what was there goes on");
        fs::copy(&other_key, &key).unwrap();
        reload().await;
        assert_eq!(over_tls(listen, &second).await.unwrap().0, 200);
        assert!(over_tls(listen, &first).await.is_none());
        assert_eq!(lab.client.status().await.unwrap().state, Health::Ok);
        drop(silent);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
