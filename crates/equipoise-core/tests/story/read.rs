//! What sections of a scenario say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use equipoise_core::config::{self, Config};
use equipoise_core::facts::{Facts, Interface};
use equipoise_core::health::{Failure, FailureKind};
use equipoise_core::id::BackendKey;
use equipoise_core::resolve::{self, Answer, Part};

/// How a backend answers checks.
pub(super) enum Heard {
    Good,
    Bad(Failure),
    /// Not at all, and nobody gives up.
    Silent,
}

/// An address and a port, and how it answers: `good`, `silent`, or `bad`, of a kind and in words.
pub(super) fn heard(line: &str) -> (SocketAddr, Heard) {
    let words: Vec<_> = line.split_whitespace().collect();
    let [address, words @ ..] = &words[..] else { panic!("an address and its answer: {line}") };
    let heard = match words {
        ["good"] => Heard::Good,
        ["silent"] => Heard::Silent,
        ["bad"] => Heard::Bad(Failure::new(FailureKind::ConnectionRefused, "connection refused")),
        ["bad", kind, message @ ..] => {
            use FailureKind as Kind;
            let network = [
                Kind::Timeout,
                Kind::ConnectionRefused,
                Kind::ConnectionReset,
                Kind::NoRoute,
                Kind::Io,
            ];
            let of_answers =
                [Kind::Tls, Kind::UnexpectedStatus, Kind::UnexpectedAnswer, Kind::ExitCode];
            let kind = network.into_iter().chain(of_answers).find(|one| one.name() == *kind);
            Heard::Bad(Failure::new(kind.expect("a kind of failure"), message.join(" ")))
        }
        _ => panic!("an answer is good, bad or silent: {line}"),
    };
    (address.parse().expect("an address and a port"), heard)
}

/// What is said of a name.
pub(super) enum Says {
    Stands(Answer),
    Fails(resolve::FailureKind),
    /// Nothing, and nobody gives up.
    Silent,
}

fn fails(kind: &str) -> Says {
    use resolve::FailureKind as Kind;
    let kinds =
        [Kind::UnknownHost, Kind::EmptyResponse, Kind::Timeout, Kind::Server, Kind::Network];
    Says::Fails(kinds.into_iter().find(|one| one.name() == kind).expect("a kind of failure"))
}

/// A name, for how long it may be believed, and what it stands for: addresses, or `ADDRESS:PORT/PRIORITY/WEIGHT`. Or a
/// name and `silent`, or `fails` and how.
pub(super) fn name(line: &str) -> (String, Says) {
    let mut words = line.split_whitespace();
    let (Some(name), Some(ttl)) = (words.next(), words.next()) else {
        panic!("a name, a time and addresses: {line}");
    };
    match ttl {
        "silent" => return (name.to_owned(), Says::Silent),
        "fails" => return (name.to_owned(), fails(words.next().unwrap_or_default())),
        _ => {}
    }
    let place = |word: &str| match word.split('/').collect::<Vec<_>>()[..] {
        [address] => (SocketAddr::new(address.parse().expect("an address"), 0), Part::default()),
        [place, priority, weight] => {
            let (priority, weight) = (priority.parse(), weight.parse());
            let part =
                Part { priority: priority.expect("a priority"), weight: weight.expect("a weight") };
            (place.parse().expect("an address and a port"), part)
        }
        _ => panic!("no place: {word}"),
    };
    let answer =
        Answer { places: words.map(place).collect(), ttl: Some(duration(ttl)), lacks: None };
    (name.to_owned(), Says::Stands(answer))
}

/// Lines that begin with a backend, and what else they say.
pub(super) fn named(body: &str) -> Vec<(BackendKey, Vec<&str>)> {
    let line = |line| {
        let words: Vec<&str> = str::split_whitespace(line).collect();
        let (service, route, words) = match &words[..] {
            [service, "from", route, words @ ..] => (*service, Some(*route), words),
            [service, words @ ..] => (*service, None, words),
            [] => panic!("a service and a backend: {line}"),
        };
        let [address, words @ ..] = words else { panic!("a backend: {line}") };
        let address = address.parse().expect("an address and a port");
        (
            BackendKey { service: service.into(), route: route.map(Into::into), address },
            words.to_vec(),
        )
    };
    body.lines().filter(|line| !line.is_empty()).map(line).collect()
}

pub(super) fn duration(text: &str) -> Duration {
    let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.expect("seconds"))
}

pub(super) fn facts(body: &str) -> Facts {
    let mut interfaces = BTreeMap::new();
    for line in body.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(index)) = (words.next(), words.next()) else {
            panic!("an interface has a name and an index: {line}");
        };
        let addresses = words.map(|word| word.parse().expect("an address")).collect();
        let index = index.parse().expect("an index");
        interfaces.insert(name.to_owned(), Interface { index, addresses });
    }
    Facts { interfaces, ..Facts::default() }
}

pub(super) fn parse(body: &str) -> Config {
    match config::parse("scenario.toml", body) {
        Ok(checked) => checked.config,
        Err(problems) => panic!("{problems:?}\nin\n{body}"),
    }
}
