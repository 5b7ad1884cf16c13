//! One look-up: the questions that it takes, and one answer made of theirs.
//!
//! Both families are asked for at once, and a family whose question fails is said to be lacking, so that what is known of it
//! is kept. Addresses that are those of no machine are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use equipoise_core::config::Name;
use equipoise_core::id::Family;
use equipoise_core::resolve::{Answer, Failure, FailureKind, Part, Places};
use futures_util::future::{join, join_all};
use hickory_net::{DnsError, NetError, NoRecords};
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name as DnsName, RData, RecordType};
use tokio::time::timeout;

use super::source::Source;

/// All that a look-up may take: that of a host, and of all hosts of SRV records.
const WHOLE: Duration = Duration::from_secs(8);
/// More hosts of SRV records are not asked for.
const MOST_HOSTS: usize = 256;

/// Looks a name up: with these resolvers, or as the system does where there are none.
///
/// # Errors
///
/// When it is not known by that what the name stands for.
pub async fn look_up(name: &Name, resolvers: &[SocketAddr]) -> Result<Answer, Failure> {
    let source = Source::new(resolvers);
    let asked = async {
        match name {
            Name::Host(host) => host_answer(&source, host).await,
            Name::Srv(srv) => srv_answer(&source, srv).await,
        }
    };
    timeout(WHOLE, asked).await.unwrap_or_else(|_| {
        let within = humantime::format_duration(WHOLE);
        Err(failure(FailureKind::Timeout, format!("{name}: no answer within {within}")))
    })
}

/// What has been found of a host.
struct Found {
    addresses: BTreeSet<IpAddr>,
    ttl: Option<Duration>,
    /// Families that nothing certain is known of, and why.
    lacks: Option<(BTreeSet<Family>, Failure)>,
}

async fn host_answer(source: &Source, host: &str) -> Result<Answer, Failure> {
    let Found { addresses, ttl, lacks } = host_addresses(source, host).await?;
    let place = |address: IpAddr| (SocketAddr::new(address, 0), Part::default());
    Ok(Answer { places: addresses.into_iter().map(place).collect(), ttl, lacks })
}

/// Each whole name that a host may be is tried with both families, until one has an address, or it is not known whether it
/// has: what another name has would be another host's then.
async fn host_addresses(source: &Source, host: &str) -> Result<Found, Failure> {
    if let Some(addresses) = in_hosts(source, host) {
        return usable(host, Found { addresses, ttl: None, lacks: None });
    }
    let mut last = failure(FailureKind::UnknownHost, format!("there is no host {host}"));
    for name in source.whole_names(host)? {
        match both_families(source, &name).await {
            Ok(found) => return usable(host, found),
            Err(failure) if !failure.kind.is_definite() => return Err(failure),
            // That there is such a name without an address says more than that there is none.
            Err(failure) if failure.kind == FailureKind::EmptyResponse => last = failure,
            Err(_) => {}
        }
    }
    Err(last)
}

fn in_hosts(source: &Source, host: &str) -> Option<BTreeSet<IpAddr>> {
    let name = DnsName::from_ascii(host).ok()?;
    let addresses = [RecordType::A, RecordType::AAAA].into_iter().flat_map(|kind| {
        let found = source.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let records = found
            .iter()
            .flat_map(hickory_resolver::lookup::Lookup::answers)
            .map(|record| &record.data);
        records.filter_map(address).collect::<Vec<_>>()
    });
    let addresses: BTreeSet<_> = addresses.collect();
    (!addresses.is_empty()).then_some(addresses)
}

async fn both_families(source: &Source, name: &DnsName) -> Result<Found, Failure> {
    let ask = |kind| records(source, name, kind);
    let (v4, v6) = join(ask(RecordType::A), ask(RecordType::AAAA)).await;
    let mut found = Found { addresses: BTreeSet::new(), ttl: None, lacks: None };
    let mut failures = Vec::new();
    for (family, answer) in [(Family::V4, v4), (Family::V6, v6)] {
        match answer {
            Ok(records) => {
                found.addresses.extend(records.data.iter().filter_map(address));
                found.ttl = found.ttl.into_iter().chain([records.ttl]).min();
            }
            Err(failure) => failures.push((family, failure)),
        }
    }
    // What is not known goes before what is known not to be.
    failures.sort_by_key(|(_, failure)| failure.kind.is_definite());
    if found.addresses.is_empty() {
        let first = failures.into_iter().next().map(|(_, failure)| failure);
        return Err(first.unwrap_or_else(|| {
            failure(FailureKind::EmptyResponse, format!("{name} has no address"))
        }));
    }
    let unknown: Vec<_> =
        failures.into_iter().filter(|(_, failure)| !failure.kind.is_definite()).collect();
    let families = unknown.iter().map(|(family, _)| *family).collect();
    found.lacks = unknown.into_iter().next().map(|(_, failure)| (families, failure));
    Ok(found)
}

/// The places that SRV records name. A target that is not known to have no address lacks it, and so does the whole answer.
async fn srv_answer(source: &Source, srv: &str) -> Result<Answer, Failure> {
    let mut last = failure(FailureKind::UnknownHost, format!("there is no name {srv}"));
    let mut found = None;
    for name in source.whole_names(srv)? {
        match records(source, &name, RecordType::SRV).await {
            Ok(records) => {
                found = Some(records);
                break;
            }
            Err(failure) if !failure.kind.is_definite() => return Err(failure),
            Err(failure) => last = failure,
        }
    }
    let Some(Records { data, ttl }) = found else { return Err(last) };
    let targets: Vec<_> = data
        .iter()
        .filter_map(|data| match data {
            // RFC 2782: the root says that there is decidedly no such service.
            RData::SRV(srv) if !srv.target.is_root() => Some(srv),
            _ => None,
        })
        .take(MOST_HOSTS)
        .collect();
    let hosts: BTreeSet<String> = targets.iter().map(|srv| srv.target.to_ascii()).collect();
    let asked = hosts.into_iter().map(async |host| {
        let found = host_addresses(source, &host).await;
        (host, found)
    });
    let hosts: BTreeMap<String, Result<Found, Failure>> =
        join_all(asked).await.into_iter().collect();
    let (mut places, mut ttl, mut lacks) = (Places::new(), Some(ttl), None);
    for found in hosts.values() {
        match found {
            Ok(found) => {
                ttl = ttl.into_iter().chain(found.ttl).min();
                lacks = lacks.or(found.lacks.clone());
            }
            Err(failure) if !failure.kind.is_definite() => {
                lacks = Some((Family::ALL.into(), failure.clone()));
            }
            Err(_) => {}
        }
    }
    for srv in targets {
        let Some(Ok(found)) = hosts.get(&srv.target.to_ascii()) else { continue };
        let part = Part { weight: srv.weight.into(), priority: srv.priority };
        for address in &found.addresses {
            let new = places.entry(SocketAddr::new(*address, srv.port)).or_insert(part);
            // Twice the same place: the earlier priority counts.
            if part.priority < new.priority {
                *new = part;
            }
        }
    }
    if places.is_empty() {
        let nothing = || failure(FailureKind::EmptyResponse, format!("{srv} names no address"));
        return Err(lacks.map_or_else(nothing, |(_, failure)| failure));
    }
    Ok(Answer { places, ttl, lacks })
}

/// Records of one kind, and how long they may be believed.
struct Records {
    data: Vec<RData>,
    ttl: Duration,
}

async fn records(source: &Source, name: &DnsName, kind: RecordType) -> Result<Records, Failure> {
    let resolver = source.resolver.as_ref().map_err(Clone::clone)?;
    let found = resolver.lookup(name.clone(), kind).await.map_err(|error| why(name, &error))?;
    let answers = found.answers();
    // Those of the names on the way count too: each may lead elsewhere when its time is over.
    let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or_default();
    let of_kind = answers.iter().filter(|record| record.record_type() == kind);
    let data: Vec<_> = of_kind.map(|record| record.data.clone()).collect();
    if data.is_empty() {
        return Err(failure(FailureKind::EmptyResponse, format!("{name} has no {kind} record")));
    }
    Ok(Records { data, ttl: Duration::from_secs(ttl.into()) })
}

fn why(name: &DnsName, error: &NetError) -> Failure {
    let (kind, message) = match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, query, .. })) => {
            match *response_code {
                ResponseCode::NXDomain => {
                    (FailureKind::UnknownHost, format!("there is no name {name}"))
                }
                ResponseCode::NoError => {
                    let kind = query.query_type();
                    (FailureKind::EmptyResponse, format!("{name} has no {kind} record"))
                }
                code => (FailureKind::Server, format!("{name}: the server says: {code}")),
            }
        }
        NetError::Dns(DnsError::ResponseCode(code)) => {
            (FailureKind::Server, format!("{name}: the server says: {code}"))
        }
        NetError::Timeout => (FailureKind::Timeout, format!("{name}: no server has answered")),
        NetError::Io(error) => (FailureKind::Network, format!("{name}: {error}")),
        NetError::NoConnections => {
            (FailureKind::Network, format!("{name}: no server can be reached"))
        }
        // What cannot be understood is an answer too.
        error => (FailureKind::Server, format!("{name}: {error}")),
    };
    failure(kind, message)
}

/// Leaves out addresses that are those of no machine.
fn usable(host: &str, mut found: Found) -> Result<Found, Failure> {
    let mut odd = Vec::new();
    found.addresses.retain(|address| {
        let is_usable = is_of_a_machine(*address);
        if !is_usable {
            odd.push(address.to_string());
        }
        is_usable
    });
    if found.addresses.is_empty() {
        let message = format!("{host} has addresses of no machine alone: {}", odd.join(", "));
        return Err(failure(FailureKind::EmptyResponse, message));
    }
    Ok(found)
}

fn is_of_a_machine(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != Ipv4Addr::BROADCAST
}

/// An address; one of IPv4 in the form of IPv6 is one of IPv4.
fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(IpAddr::from(aaaa.0).to_canonical()),
        _ => None,
    }
}

fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}
