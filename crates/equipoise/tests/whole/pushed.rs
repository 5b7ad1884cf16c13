//! Metrics that are pushed, taken by a collector of the test's own.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use equipoise_common::event::Event;
use equipoise_lab::dns::DnsServer;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Metric, NumberDataPoint, metric, number_data_point,
};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::metrics::{closed, free, get, read};
use super::*;
use restart::run_and_kill;

/// How a collector answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// With this status, and all that it was told in the body.
    Status(u16),
    /// That it has refused so many points.
    Refused(i64),
    /// Not at all, for as long as the other end stays.
    Never,
}

/// What a collector was sent.
struct Pushed {
    /// In lower case.
    head: String,
    request: ExportMetricsServiceRequest,
}

#[derive(Debug, PartialEq, Eq)]
enum Waiting {
    Begun,
    GivenUp,
}

struct Collector {
    address: SocketAddr,
    answer: watch::Sender<Answer>,
    pushed: mpsc::UnboundedReceiver<Pushed>,
    /// Requests that wait for an answer that does not come: that one has begun to, and that it has been given up.
    waiting: mpsc::UnboundedReceiver<Waiting>,
}

impl Collector {
    async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), None)
    }

    fn on(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let (answer, answers) = watch::channel(Answer::Status(200));
        let (sender, pushed) = mpsc::unbounded_channel();
        let (told, waiting) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, sender) = (answers.clone(), sender.clone());
                let (told, tls) = (told.clone(), tls.clone());
                tokio::spawn(async move {
                    let talk = (answers, sender, told);
                    match tls {
                        None => talk_to(stream, talk).await,
                        // Those who do not believe us go away.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                talk_to(stream, talk).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, answer, pushed, waiting }
    }

    fn endpoint(&self) -> String {
        format!("http://{}/v1/metrics", self.address)
    }

    async fn next(&mut self) -> Pushed {
        let pushed = tokio::time::timeout(DEADLINE, self.pushed.recv()).await;
        pushed.expect("nothing is pushed").unwrap()
    }

    /// One that was gathered after all that has happened up to now.
    async fn next_of_now(&mut self) -> Pushed {
        while self.pushed.try_recv().is_ok() {}
        // This one may have been on its way; the one after it was begun after that.
        self.next().await;
        self.next().await
    }

    /// Until a request waits, or has been given up.
    async fn is(&mut self, expected: Waiting) {
        let told = tokio::time::timeout(DEADLINE, self.waiting.recv()).await;
        assert_eq!(told.expect("nothing has become of a request"), Some(expected));
    }
}

type Talk =
    (watch::Receiver<Answer>, mpsc::UnboundedSender<Pushed>, mpsc::UnboundedSender<Waiting>);

/// One request, and its answer. What goes wrong here is seen by who waits for the push.
async fn talk_to(mut stream: impl AsyncRead + AsyncWrite + Unpin, (answers, sender, told): Talk) {
    let mut text = Vec::new();
    let (head, body) = loop {
        let mut chunk = [0; 65_536];
        let Ok(count @ 1..) = stream.read(&mut chunk).await else { return };
        text.extend(&chunk[..count]);
        let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(text[..end].to_vec()).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let body = &text[end + 4..];
        if body.len() >= length.parse().unwrap() {
            break (head, body.to_vec());
        }
    };
    let request = ExportMetricsServiceRequest::decode(&*body).unwrap();
    drop(sender.send(Pushed { head: head.clone(), request }));
    let answer = *answers.borrow();
    let (code, kind, body) = match answer {
        Answer::Status(code) => (code, "text/plain", head.into_bytes()),
        Answer::Refused(points) => {
            let partial = ExportMetricsPartialSuccess {
                rejected_data_points: points,
                error_message: "these are not taken".to_owned(),
            };
            let answer = ExportMetricsServiceResponse { partial_success: Some(partial) };
            (200, "application/x-protobuf", answer.encode_to_vec())
        }
        Answer::Never => {
            drop(told.send(Waiting::Begun));
            while let Ok(1..) = stream.read(&mut [0; 64]).await {}
            drop(told.send(Waiting::GivenUp));
            return;
        }
    };
    let head = format!(
        "HTTP/1.1 {code} Said\r\nLocation: /elsewhere\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    drop(stream.write_all(head.as_bytes()).await);
    drop(stream.write_all(&body).await);
    drop(stream.shutdown().await);
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.clone().unwrap().value.unwrap();
        let any_value::Value::StringValue(text) = value else { panic!("{attribute:?}") };
        (attribute.key.clone(), text)
    };
    attributes.iter().map(text).collect()
}

impl Pushed {
    fn resource(&self) -> BTreeMap<String, String> {
        texts(&self.request.resource_metrics[0].resource.as_ref().unwrap().attributes)
    }

    fn metrics(&self) -> &[Metric] {
        let [of_resource] = &self.request.resource_metrics[..] else { panic!("one resource") };
        let [of_scope] = &of_resource.scope_metrics[..] else { panic!("one scope") };
        &of_scope.metrics
    }

    fn metric(&self, name: &str) -> &Metric {
        let found = self.metrics().iter().find(|metric| metric.name == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    /// All samples, by name and labels as a scrape in text has them, with what each is.
    fn samples(&self) -> BTreeMap<String, (&'static str, f64)> {
        let mut samples = BTreeMap::new();
        for metric in self.metrics() {
            let mut add = |ending: &str, labels: String, kind, value| {
                let series = format!("{}{ending}{labels}", metric.name);
                let twice = samples.insert(series, (kind, value));
                assert_eq!(twice, None, "{}{ending} twice", metric.name);
            };
            match metric.data.as_ref().unwrap() {
                metric::Data::Gauge(gauge) => {
                    for point in &gauge.data_points {
                        add("", labels(&point.attributes, None), "gauge", double(point));
                    }
                }
                metric::Data::Sum(sum) => {
                    assert!(sum.is_monotonic, "{}", metric.name);
                    let temporality = sum.aggregation_temporality();
                    assert_eq!(temporality, AggregationTemporality::Cumulative);
                    for point in &sum.data_points {
                        add("", labels(&point.attributes, None), "counter", double(point));
                    }
                }
                metric::Data::Histogram(histogram) => {
                    let temporality = histogram.aggregation_temporality();
                    assert_eq!(temporality, AggregationTemporality::Cumulative);
                    for point in &histogram.data_points {
                        let mut up_to = 0;
                        let bounds = point.explicit_bounds.iter().map(|bound| format!("{bound:?}"));
                        let bounds: Vec<_> = bounds.chain(["+Inf".to_owned()]).collect();
                        assert_eq!(bounds.len(), point.bucket_counts.len(), "{}", metric.name);
                        for (bound, count) in bounds.iter().zip(&point.bucket_counts) {
                            up_to += count;
                            let labels = labels(&point.attributes, Some(bound));
                            add("_bucket", labels, "histogram", up_to as f64);
                        }
                        let labels = labels(&point.attributes, None);
                        add("_sum", labels.clone(), "histogram", point.sum.unwrap());
                        add("_count", labels, "histogram", point.count as f64);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        samples
    }

    /// From when sums and histograms are counted.
    fn starts(&self) -> BTreeSet<u64> {
        let starts = self.metrics().iter().flat_map(|metric| match metric.data.as_ref().unwrap() {
            metric::Data::Sum(sum) => {
                sum.data_points.iter().map(|point| point.start_time_unix_nano).collect()
            }
            metric::Data::Histogram(histogram) => {
                histogram.data_points.iter().map(|point| point.start_time_unix_nano).collect()
            }
            _ => Vec::new(),
        });
        starts.collect()
    }
}

fn double(point: &NumberDataPoint) -> f64 {
    let Some(number_data_point::Value::AsDouble(value)) = point.value else { panic!("{point:?}") };
    value
}

/// As text has them.
fn labels(attributes: &[KeyValue], bound: Option<&String>) -> String {
    let mut labels = Vec::new();
    for KeyValue { key, .. } in attributes {
        let value = texts(attributes)[key].replace('\\', "\\\\");
        labels.push(format!("{key}=\"{}\"", value.replace('"', "\\\"").replace('\n', "\\n")));
    }
    labels.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

fn nanoseconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

/// With a listener for scrapers beside it.
fn config(listen: SocketAddr, endpoint: &str, more: &str) -> String {
    format!(
        "[settings.metrics]\nlisten = \"{listen}\"\n[settings.otlp]\nendpoint = \"{endpoint}\"\n\
         interval = \"1s\"\n{more}\n{CONFIG}"
    )
}

async fn scraped(listen: SocketAddr) -> BTreeMap<String, f64> {
    read(&get(listen, "/metrics", "*/*").await.2, false)
}

/// Pushes that have ended so.
async fn ended(listen: SocketAddr, result: &str) -> f64 {
    scraped(listen).await[&format!("lb_otlp_pushes_total{{result=\"{result}\"}}")]
}

/// Until so many have.
async fn ended_when(listen: SocketAddr, result: &str, least: f64) {
    let asking = async {
        while ended(listen, result).await < least {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.expect("no push has ended so");
}

/// All that this process logs from the first call on, at every level.
fn logged() -> String {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = LOG.get_or_init(|| {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let lines = Arc::clone(&log);
        tracing_subscriber::fmt()
            .with_env_filter("info,equipoise=trace,hyper=trace,hyper_util=trace,rustls=trace")
            .with_ansi(false)
            .with_writer(move || Lines(Arc::clone(&lines)))
            .init();
        log
    });
    String::from_utf8_lossy(&log.lock().unwrap()).into_owned()
}

/// How many lines of the log have all of these.
fn lines_with(parts: &[&str]) -> usize {
    logged().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

#[tokio::test]
async fn what_is_pushed_is_what_a_scrape_says() {
    let before = nanoseconds();
    let (listen, mut collector) = (free(), Collector::start().await);
    let more = "attributes = { \"service.instance.id\" = \"lb-1\", \"a.b_c\" = \"d\" }";
    let text = config(listen, &collector.endpoint(), more)
        .replace("[[service]]", "[[service]]\nbreaker = {}");
    let (driver, lab) = Lab::start(&text).await;
    run(driver, async {
        closed(&lab, Event { duration: 9, handshake: 2_000, bytes_in: 700, ..Event::default() });
        closed(&lab, Event { bytes_out: 5_000_000, ..Event::default() });
        lab.status_when(|status| {
            status.services[0].pools[0].backends[0].flows.lifetime_seconds.count == 2
        })
        .await;
        let first = collector.next_of_now().await;
        let (_, _, text) = get(listen, "/metrics", "*/*").await;
        let second = collector.next_of_now().await;
        let scraped = read(&text, false);
        let (earlier, later) = (first.samples(), second.samples());
        let series = |samples: &BTreeMap<String, _>| samples.keys().cloned().collect::<Vec<_>>();
        assert_eq!(series(&earlier), scraped.keys().cloned().collect::<Vec<_>>());
        assert_eq!(series(&later), series(&earlier));
        let kinds: BTreeMap<_, _> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        for (series, value) in &scraped {
            let ((kind, least), (_, most)) = (earlier[series], later[series]);
            // What is the same before and after is what it is between; uptime and the like only grow.
            assert!(least <= *value && *value <= most, "{series}: {least}, {value}, {most}");
            let name = series.split('{').next().unwrap();
            let name = if kind == "histogram" { name.rsplit_once('_').unwrap().0 } else { name };
            assert_eq!(kinds[name], kind, "{series}");
        }
        let told: BTreeMap<_, _> =
            text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
        for metric in second.metrics() {
            assert_eq!(metric.description, told[&*metric.name], "{}", metric.name);
        }
        assert_eq!(kinds.len(), second.metrics().len());
        let lifetime = "lb_backend_latency_seconds_count";
        let backend = "service=\"web\",route=\"default\",backend=\"10.0.0.1:8080\"";
        assert_eq!(later[&format!("{lifetime}{{{backend}}}")], ("histogram", 2.0));
        assert_eq!(second.metric("lb_backend_latency_seconds").unit, "s");

        let starts = second.starts();
        let start = *starts.first().unwrap();
        assert_eq!((starts.len(), first.starts()), (1, starts.clone()), "one, and the same");
        // The start was written in milliseconds.
        assert!(before < start + 1_000_000 && start < nanoseconds(), "{before} {start}");
        let host = name_of_host();
        let resource = [
            ("a.b_c", "d"),
            ("host.name", &*host),
            ("service.instance.id", "lb-1"),
            ("service.name", "equipoise"),
            ("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let resource = resource.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(second.resource(), resource.into());
        for said in [
            "post /v1/metrics http/1.1\r\n",
            &format!("host: {}\r\n", collector.address),
            "content-type: application/x-protobuf\r\n",
        ] {
            assert!(format!("{}\r\n", second.head).contains(said), "{said}: {}", second.head);
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// The name of this host.
fn name_of_host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_collector_that_is_down_is_told_once_and_had_as_soon_as_it_is_up() {
    logged();
    let listen = free();
    // The port is ours, and nobody listens on it yet.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}", socket.local_addr().unwrap());
    let (driver, lab) = Lab::start(&config(listen, &endpoint, "")).await;
    run(driver, async {
        ended_when(listen, "failure", 2.0).await;
        let status = lab.client.status().await.unwrap();
        assert_eq!((status.state, status.reasons), (Health::Ok, Vec::new()));
        let failed = ["metrics cannot be pushed", &*endpoint, "onnection refused"];
        assert_eq!(lines_with(&failed), 1, "{}", logged());
        assert_eq!(ended(listen, "success").await, 0.0);

        let mut collector = Collector::on(socket.listen(16).unwrap(), None);
        let pushed = collector.next().await;
        assert!(pushed.head.starts_with("post /v1/metrics "), "{}", pushed.head);
        ended_when(listen, "success", 2.0).await;
        assert_eq!(lines_with(&["metrics are pushed", &endpoint]), 1, "{}", logged());

        collector.answer.send_replace(Answer::Status(503));
        let before = ended(listen, "failure").await;
        ended_when(listen, "failure", before + 1.0).await;
        assert_eq!(lines_with(&["metrics cannot be pushed", &endpoint, "status 503"]), 1);
        collector.answer.send_replace(Answer::Refused(7));
        ended_when(listen, "partial", 1.0).await;
        assert_eq!(lines_with(&["refuses some of the metrics", &endpoint]), 1);
        collector.answer.send_replace(Answer::Refused(0));
        let before = ended(listen, "success").await;
        ended_when(listen, "success", before + 1.0).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_secret_is_for_the_collector_alone() {
    logged();
    let (listen, mut collector) = (free(), Collector::start().await);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, "Bearer of-a-file-sesame\nand more sesame\n").unwrap();
    let more = format!(
        "headers = {{ X-Api-Key = \"by-value sesame\" }}\nheader-files = {{ Authorization = \"{}\" }}",
        file.display()
    );
    let text = config(listen, &collector.endpoint(), &more);
    let (driver, lab) = Lab::start(&text).await;
    run(driver, async {
        let pushed = collector.next().await;
        for said in ["x-api-key: by-value sesame\r\n", "authorization: bearer of-a-file-sesame\r\n"]
        {
            assert!(format!("{}\r\n", pushed.head).contains(said), "{}", pushed.head);
        }
        // A new key holds from the next push on.
        fs::write(&file, "Bearer new-sesame").unwrap();
        let pushed = collector.next_of_now().await;
        assert!(pushed.head.contains("authorization: bearer new-sesame"), "{}", pushed.head);
        // Whatever goes wrong, and whatever the collector says of it; it is not followed elsewhere.
        for code in [401, 302] {
            collector.answer.send_replace(Answer::Status(code));
            let before = ended(listen, "failure").await;
            ended_when(listen, "failure", before + 2.0).await;
            assert!(collector.next_of_now().await.head.starts_with("post /v1/metrics "));
        }
        fs::remove_file(&file).unwrap();
        let before = ended(listen, "failure").await;
        ended_when(listen, "failure", before + 2.0).await;
        let path = file.display().to_string();
        assert_eq!(lines_with(&["metrics cannot be pushed", &path, "No such file"]), 1);
        fs::write(&file, "no-sesame\u{1}\n").unwrap();
        let before = ended(listen, "failure").await;
        ended_when(listen, "failure", before + 2.0).await;
        assert_eq!(lines_with(&["metrics cannot be pushed", &path, "first line"]), 1);

        lab.reload(&text.replace("by-value", "another"));
        lab.status_when(|status| status.config.generation == 2).await;
        let status = serde_json::to_string(&lab.client.status().await.unwrap()).unwrap();
        let config = lab.client.config().await.unwrap();
        assert_eq!(config["settings"]["otlp"]["headers"], json!({ "x-api-key": "<hidden>" }));
        assert_eq!(config["settings"]["otlp"]["header_files"], json!({ "authorization": path }));
        let history = serde_json::to_string(&lab.client.history().await.unwrap()).unwrap();
        let request = PlanRequest { name: "a.toml".to_owned(), text: text.clone() };
        let plan = lab.client.plan(&request).await.unwrap();
        let (_, _, scrape) = get(listen, "/metrics", "*/*").await;
        let kept = ["state.json", "counters.json"]
            .map(|name| fs::read_to_string(lab.path(name)).unwrap_or_default());
        let answers = [config.to_string(), status, history, format!("{plan:?}"), scrape];
        for told in answers.iter().chain(&kept).chain([&logged()]) {
            let found = told.find("sesame").map(|at| &told[at.saturating_sub(200)..at]);
            assert_eq!(found, None);
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_reload_turns_to_another_collector_and_turns_it_off() {
    let (listen, mut one) = (free(), Collector::start().await);
    let mut other = Collector::start().await;
    let on = |collector: &Collector| config(listen, &collector.endpoint(), "timeout = \"1m\"");
    let off = format!("[settings.metrics]\nlisten = \"{listen}\"\n{CONFIG}");
    let (driver, lab) = Lab::start(&off).await;
    run(driver, async {
        let samples = scraped(listen).await;
        assert!(!samples.keys().any(|series| series.contains("otlp")), "nothing is pushed");
        lab.reload(&on(&one));
        assert_eq!(one.next().await.resource()["service.instance.id"], "test");
        // A push that is under way does not outlive what it was for.
        one.answer.send_replace(Answer::Never);
        one.is(Waiting::Begun).await;
        lab.reload(&on(&other));
        one.is(Waiting::GivenUp).await;
        other.next().await;
        while one.pushed.try_recv().is_ok() {}
        other.answer.send_replace(Answer::Never);
        other.is(Waiting::Begun).await;
        lab.reload(&off);
        other.is(Waiting::GivenUp).await;
        lab.status_when(|status| status.config.generation == 4).await;
        while other.pushed.try_recv().is_ok() {}
        // What has been counted stays, and grows no more.
        let before = scraped(listen).await;
        other.answer.send_replace(Answer::Status(200));
        lab.reload(&on(&one));
        one.answer.send_replace(Answer::Status(200));
        one.next().await;
        one.next().await;
        assert!(one.next().await.samples().len() > 100);
        let series = "lb_otlp_pushes_total{result=\"success\"}";
        assert!(scraped(listen).await[series] > before[series]);
        assert!(other.pushed.try_recv().is_err(), "nobody pushes there any more");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// An authority, its PEM in a file of a folder, and what a server of this name needs.
fn certified(name: &str, folder: &TempDir) -> (String, ServerConfig) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, issuer.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    (file.display().to_string(), config)
}

#[tokio::test]
async fn a_collector_with_a_name_is_looked_up_and_believed_by_its_authority() {
    logged();
    let names = DnsServer::start([127, 0, 0, 1].into()).unwrap();
    names.host("otel.test", &["127.0.0.1"], 1);
    let (ours, others) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (authority, server) = certified("otel.test", &ours);
    let (stranger, _) = certified("otel.test", &others);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = TlsAcceptor::from(Arc::new(server));
    let mut collector = Collector::on(listener, Some(tls));
    let endpoint = format!("https://otel.test:{}/metrics", collector.address.port());
    let listen = free();
    let believing = |file: &str| {
        let dns =
            format!("ca-file = \"{file}\"\n[settings.dns]\nresolvers = [\"{}\"]", names.address());
        config(listen, &endpoint, &dns)
    };
    let (driver, lab) = Lab::start(&believing(&stranger)).await;
    run(driver, async {
        ended_when(listen, "failure", 1.0).await;
        assert_eq!(lines_with(&["metrics cannot be pushed", &endpoint, "agreeing on TLS"]), 1);
        lab.reload(&believing(&authority));
        let pushed = collector.next().await;
        assert!(pushed.head.starts_with("post /metrics "), "{}", pushed.head);
        assert!(pushed.head.contains(&format!("host: otel.test:{}", collector.address.port())));
        assert_eq!(pushed.metric("lb_up").description, "1 while the instance answers.");
        ended_when(listen, "success", 1.0).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn counters_that_go_on_in_the_next_process_have_the_start_that_they_had() {
    let (listen, mut collector) = (free(), Collector::start().await);
    let text = config(listen, &collector.endpoint(), "");
    let (driver, lab) = Lab::start(&text).await;
    let (mut starts, mut before) = (BTreeSet::new(), 0.0);
    run_and_kill(driver, async {
        let kept = || {
            let text = fs::read_to_string(lab.path("counters.json")).unwrap_or_default();
            let kept: Value = serde_json::from_str(&text).unwrap_or_default();
            kept["pushes"]["success"].as_f64().unwrap_or_default()
        };
        // What is counted from the last writing on is lost with a process that is killed.
        lab.status_when(|_| kept() > 0.0).await;
        starts = collector.next().await.starts();
        before = kept();
    })
    .await;
    // No push of the next process is a success.
    collector.answer.send_replace(Answer::Status(503));
    let (driver, lab) = lab.start_again(&text).await;
    run(driver.expect("starts again"), async {
        let pushed = collector.next_of_now().await;
        assert_eq!(starts.len(), 1);
        // It is kept in milliseconds.
        let in_ms = |starts: &BTreeSet<u64>| starts.iter().map(|at| at / 1_000_000).collect();
        let (then, now): (Vec<u64>, Vec<u64>) = (in_ms(&starts), in_ms(&pushed.starts()));
        assert_eq!(now, then);
        assert!(ended(listen, "success").await >= before, "{before}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
