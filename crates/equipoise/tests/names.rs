//! Look-ups, each against a real name server on loopback.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use equipoise::resolver::{Resolver, look_up};
use equipoise_core::config::Name;
use equipoise_core::id::Family;
use equipoise_core::resolve::{Answer, Effect, Failure, FailureKind, LookUpId, Part};
use equipoise_lab::dns::{Data, DnsServer, Kind, Says};

const NAME: &str = "api.internal";

fn server() -> DnsServer {
    DnsServer::start([127, 0, 0, 1].into()).unwrap()
}

fn address(text: &str) -> Data {
    Data::Address(text.parse().unwrap())
}

async fn ask(server: &DnsServer, name: &str) -> Result<Answer, Failure> {
    let text = name.into();
    let name = if name.starts_with('_') { Name::Srv(text) } else { Name::Host(text) };
    look_up(&name, &[server.address()]).await
}

async fn failure(server: &DnsServer, name: &str) -> FailureKind {
    ask(server, name).await.unwrap_err().kind
}

fn places(answer: &Answer) -> Vec<String> {
    answer.places.keys().map(ToString::to_string).collect()
}

#[tokio::test]
async fn host_is_all_of_its_addresses_of_both_families_for_the_shortest_time() {
    let server = server();
    let v4 = vec![address("10.0.0.2"), address("10.0.0.1"), address("10.0.0.2")];
    server.says(NAME, Kind::V4, Says::Records(v4, 60));
    server.says(NAME, Kind::V6, Says::Records(vec![address("2001:db8::1")], 30));
    let answer = ask(&server, NAME).await.unwrap();
    assert_eq!(places(&answer), ["10.0.0.1:0", "10.0.0.2:0", "[2001:db8::1]:0"]);
    assert_eq!((answer.ttl, answer.lacks), (Some(Duration::from_secs(30)), None));
    assert!(answer.places.values().all(|part| *part == Part::default()));
}

#[tokio::test]
async fn each_look_up_asks_anew() {
    let server = server();
    server.host(NAME, &["10.0.0.1"], 3600);
    assert_eq!(places(&ask(&server, NAME).await.unwrap()), ["10.0.0.1:0"]);
    server.host(NAME, &["10.0.0.9"], 3600);
    assert_eq!(places(&ask(&server, NAME).await.unwrap()), ["10.0.0.9:0"]);
    assert_eq!(server.asked(NAME), 4);
}

#[tokio::test]
async fn name_that_is_not_there_and_name_without_an_address_are_told_apart() {
    let server = server();
    let refused = ask(&server, NAME).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::UnknownHost);
    assert!(refused.message.contains(NAME), "{}", refused.message);
    server.says(NAME, Kind::Srv, Says::Records(vec![Data::Service(0, 0, 1, "x")], 1));
    assert_eq!(failure(&server, NAME).await, FailureKind::EmptyResponse);
}

#[tokio::test]
async fn server_that_fails_and_one_that_is_not_there_are_told_apart() {
    let server = server();
    server.says(NAME, Kind::V4, Says::Failure);
    server.says(NAME, Kind::V6, Says::Failure);
    let refused = ask(&server, NAME).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Server);
    assert!(refused.message.contains("Server Failure"), "{}", refused.message);
    // A port that was free a moment ago.
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = look_up(&Name::Host(NAME.into()), &[nobody]).await.unwrap_err();
    assert!(matches!(refused.kind, FailureKind::Network | FailureKind::Timeout), "{refused:?}");
}

#[tokio::test]
async fn server_that_says_nothing_is_waited_for_and_no_longer() {
    let server = server();
    server.says(NAME, Kind::V4, Says::Silence);
    server.says(NAME, Kind::V6, Says::Silence);
    let began = Instant::now();
    assert_eq!(failure(&server, NAME).await, FailureKind::Timeout);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(9), "{took:?}");
    assert!(server.asked(NAME) > 2, "a datagram may be lost");
}

#[tokio::test]
async fn family_that_cannot_be_asked_for_is_lacking_and_the_other_is_told() {
    let server = server();
    for says in [Says::Failure, Says::Silence] {
        server.host(NAME, &["10.0.0.1"], 60);
        server.says(NAME, Kind::V6, says);
        let answer = ask(&server, NAME).await.unwrap();
        assert_eq!(places(&answer), ["10.0.0.1:0"]);
        assert_eq!(answer.lacks.unwrap().0, [Family::V6].into());
    }
    // One that there is not for certain, and one that nothing is known of: nothing is known.
    server.says(NAME, Kind::V4, Says::Records(Vec::new(), 0));
    assert_eq!(failure(&server, NAME).await, FailureKind::Timeout);
}

#[tokio::test]
async fn answer_that_is_cut_off_is_asked_for_over_tcp() {
    let server = server();
    let many: Vec<_> = (0..200).map(|n| address(&format!("10.0.1.{n}"))).collect();
    server.says(NAME, Kind::V4, Says::Long(many, 60));
    let answer = ask(&server, NAME).await.unwrap();
    assert_eq!(answer.places.len(), 200);
}

#[tokio::test]
async fn aliases_are_followed_and_the_shortest_time_on_the_way_counts() {
    let server = server();
    for kind in [Kind::V4, Kind::V6] {
        server.says(NAME, kind, Says::Records(vec![Data::Alias("one.internal")], 300));
        server.says("one.internal", kind, Says::Records(vec![Data::Alias("two.internal")], 20));
    }
    server.host("two.internal", &["10.0.0.1", "2001:db8::1"], 60);
    let answer = ask(&server, NAME).await.unwrap();
    assert_eq!(places(&answer), ["10.0.0.1:0", "[2001:db8::1]:0"]);
    assert_eq!(answer.ttl, Some(Duration::from_secs(20)));
    // One that leads round and round leads nowhere.
    for kind in [Kind::V4, Kind::V6] {
        server.says("two.internal", kind, Says::Records(vec![Data::Alias("one.internal")], 20));
    }
    assert!(ask(&server, NAME).await.is_err());
}

#[tokio::test]
async fn addresses_of_no_machine_are_left_out() {
    let server = server();
    server.host(NAME, &["0.0.0.0", "10.0.0.1", "224.0.0.1", "::", "::ffff:10.0.0.2"], 60);
    assert_eq!(places(&ask(&server, NAME).await.unwrap()), ["10.0.0.1:0", "10.0.0.2:0"]);
    server.host(NAME, &["0.0.0.0", "::"], 60);
    let refused = ask(&server, NAME).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::EmptyResponse);
    assert!(refused.message.contains("0.0.0.0, ::"), "{}", refused.message);
}

const SRV: &str = "_http._tcp.api.internal";

#[tokio::test]
async fn service_is_the_addresses_of_its_hosts_with_ports_weights_and_priorities() {
    let server = server();
    let records = vec![
        Data::Service(10, 60, 8080, "a.internal"),
        Data::Service(10, 20, 8081, "b.internal"),
        Data::Service(20, 5, 80, "a.internal"),
        Data::Service(10, 1, 80, "nobody.internal"),
    ];
    server.says(SRV, Kind::Srv, Says::Records(records, 300));
    server.host("a.internal", &["10.0.0.1", "2001:db8::1"], 60);
    server.host("b.internal", &["10.0.0.2"], 40);
    let answer = ask(&server, SRV).await.unwrap();
    let told: Vec<_> = answer
        .places
        .iter()
        .map(|(place, part)| (place.to_string(), part.priority, part.weight))
        .collect();
    let told: Vec<_> = told.iter().map(|(place, p, w)| (place.as_str(), *p, *w)).collect();
    assert_eq!(
        told,
        [
            ("10.0.0.1:80", 20, 5),
            ("10.0.0.1:8080", 10, 60),
            ("10.0.0.2:8081", 10, 20),
            ("[2001:db8::1]:80", 20, 5),
            ("[2001:db8::1]:8080", 10, 60),
        ]
    );
    assert_eq!((answer.ttl, answer.lacks), (Some(Duration::from_secs(40)), None));
}

#[tokio::test]
async fn service_with_a_host_that_cannot_be_asked_for_takes_nothing_away() {
    let server = server();
    let records =
        vec![Data::Service(1, 1, 80, "a.internal"), Data::Service(1, 1, 80, "b.internal")];
    server.says(SRV, Kind::Srv, Says::Records(records, 300));
    server.host("a.internal", &["10.0.0.1"], 60);
    server.says("b.internal", Kind::V4, Says::Failure);
    server.says("b.internal", Kind::V6, Says::Failure);
    let answer = ask(&server, SRV).await.unwrap();
    assert_eq!(places(&answer), ["10.0.0.1:80"]);
    assert_eq!(answer.lacks.unwrap().0, Family::ALL.into());
    server.forget("b.internal");
    assert_eq!(ask(&server, SRV).await.unwrap().lacks, None, "it is known not to be there");
}

#[tokio::test]
async fn service_that_is_decidedly_not_there_is_empty() {
    let server = server();
    server.says(SRV, Kind::Srv, Says::Records(vec![Data::Service(0, 0, 0, ".")], 60));
    assert_eq!(failure(&server, SRV).await, FailureKind::EmptyResponse);
    server.forget(SRV);
    assert_eq!(failure(&server, SRV).await, FailureKind::UnknownHost);
}

#[tokio::test]
async fn second_resolver_answers_where_the_first_is_silent() {
    let (silent, server) = (server(), server());
    for kind in [Kind::V4, Kind::V6] {
        silent.says(NAME, kind, Says::Silence);
    }
    server.host(NAME, &["10.0.0.1"], 60);
    let resolvers = [silent.address(), server.address()];
    let answer = look_up(&Name::Host(NAME.into()), &resolvers).await.unwrap();
    assert_eq!(places(&answer), ["10.0.0.1:0"]);
}

#[tokio::test]
async fn without_resolvers_the_hosts_file_is_asked_first() {
    let answer = look_up(&Name::Host("localhost".into()), &[]).await.unwrap();
    assert!(answer.places.keys().all(|place| place.ip().is_loopback()), "{answer:?}");
}

/// What a look-up of the thread's comes to.
fn order(resolver: &Resolver, id: u64, server: &DnsServer) {
    let resolvers: [SocketAddr; 1] = [server.address()];
    let name = Name::Host(NAME.into());
    resolver.order(Effect::LookUp { id: LookUpId(id), name, resolvers: resolvers.into() });
}

#[tokio::test]
async fn slow_look_up_puts_no_other_off_and_one_that_is_given_up_does_not_answer() {
    let (silent, server) = (server(), server());
    for kind in [Kind::V4, Kind::V6] {
        silent.says(NAME, kind, Says::Silence);
    }
    server.host(NAME, &["10.0.0.1"], 60);
    let (resolver, mut answers) = Resolver::start().unwrap();
    order(&resolver, 1, &silent);
    order(&resolver, 2, &silent);
    order(&resolver, 3, &server);
    assert_eq!(answers.recv().await.unwrap().0, LookUpId(3));
    resolver.order(Effect::Cancel { id: LookUpId(1) });
    let (id, answer) = answers.recv().await.unwrap();
    assert_eq!((id, answer.unwrap_err().kind), (LookUpId(2), FailureKind::Timeout));
    drop(resolver);
    assert!(answers.recv().await.is_none(), "nothing more comes");
}
