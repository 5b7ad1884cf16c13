//! The flow table as rows, filtered as asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use equipoise_common::key::{TCP, UDP};
use equipoise_core::config::target;
use equipoise_core::state::ServiceView;
use ipnet::IpNet;

use super::Driver;
use super::answer::unreadable;
use super::select::no_service;
use crate::admin::{Listed, Page, ProblemDetails};
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::{Farewell, FlowRow};
use crate::flow_events::Ends;
use crate::host::Machine;
use crate::status::pool::{EndAnswer, EndRequest};
use crate::status::{Flow, FlowFilter};

/// A filter, with its names resolved.
pub(super) struct Filter {
    service: Option<u32>,
    /// A backend, or all of a name, and clients.
    pub(super) ends: Ends,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    pub(super) fn flows(&self, asked: &FlowFilter, page: Page) -> Result<Listed, ProblemDetails> {
        let services = self.state.services();
        let names = names(&services);
        let filter = self.filter(asked, &names)?;
        let end = page.limit.map_or(usize::MAX, |limit| page.offset.saturating_add(limit));
        let mut listed = Listed::default();
        self.each_flow(&mut |row| {
            if filter.takes(&row) {
                if (page.offset..end).contains(&listed.total) {
                    listed.flows.push(flow(&row, names.get(&row.service).copied()));
                }
                listed.total += 1;
            }
            true
        })
        .map_err(unreadable)?;
        if listed.total == 0 {
            filter.is_of_something(&services)?;
        }
        Ok(listed)
    }

    /// Ends the flows that pass a filter.
    pub(super) fn end_flows(&mut self, asked: &EndRequest) -> Result<EndAnswer, ProblemDetails> {
        let EndRequest { service, backend, client, all, reset } = asked.clone();
        let wanted = FlowFilter { service, backend, client };
        match (wanted == FlowFilter::default(), all) {
            (true, false) => {
                let message = "which flows: a service, a backend, a prefix of clients, or all";
                return Err(ProblemDetails::unprocessable(message));
            }
            (false, true) => {
                let message = "all flows, and only some of them, is no request";
                return Err(ProblemDetails::unprocessable(message));
            }
            (true, true) | (false, false) => {}
        }
        let services = self.state.services();
        let filter = self.filter(&wanted, &names(&services))?;
        let of_something = filter.is_of_something(&services);
        let farewell = if reset { Farewell::Reset } else { Farewell::Silent };
        let ended = self.end_wanted(|row| filter.takes(row), farewell);
        if ended == 0 {
            of_something?;
        }
        tracing::info!(flows = ended, "ended by hand");
        Ok(EndAnswer { ended })
    }

    pub(super) fn filter(
        &self,
        asked: &FlowFilter,
        names: &BTreeMap<u32, &str>,
    ) -> Result<Filter, ProblemDetails> {
        let service = asked.service.as_deref().map(|name| service_id(names, name)).transpose()?;
        let backends = asked.backend.as_deref().map(|text| self.places(text)).transpose()?;
        let client = asked.client.as_deref().map(client).transpose()?;
        Ok(Filter { service, ends: Ends { backends, client } })
    }

    /// The addresses of a backend, or of all of a name.
    fn places(&self, text: &str) -> Result<Vec<SocketAddr>, ProblemDetails> {
        let named = self.state.named(&text.to_ascii_lowercase());
        if named.is_empty() {
            return backend(text).map(|address| vec![address]);
        }
        Ok(named.into_iter().map(|key| key.address).collect())
    }
}

impl Filter {
    /// Whether the backend that it names is configured: one that has left is known as long as flows go to it.
    pub(super) fn is_of_something(
        &self,
        services: &[ServiceView<'_>],
    ) -> Result<(), ProblemDetails> {
        let Some([address]) = self.ends.backends.as_deref() else { return Ok(()) };
        let mut backends = services.iter().flat_map(ServiceView::backends);
        let is_configured = backends.any(|b| {
            let keeps = b.address.port() == 0 && b.address.ip() == address.ip();
            keeps || b.address == *address
        });
        if is_configured {
            return Ok(());
        }
        let address = target::text(*address);
        Err(ProblemDetails::not_found(format!("there is no backend {address}")))
    }

    fn takes(&self, row: &FlowRow) -> bool {
        self.service.is_none_or(|id| id == row.service)
            && self.ends.have(row.client.ip(), row.backend_address)
    }
}

/// A prefix, or an address for the prefix of it alone.
///
/// # Errors
///
/// A sentence, when it is neither.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| address())
        .map_err(|_| format!("{text:?} is neither a prefix nor an address"))
}

/// The services by the ids that flows name them by.
pub(super) fn names<'a>(services: &[ServiceView<'a>]) -> BTreeMap<u32, &'a str> {
    services.iter().filter_map(|view| Some((view.id?, view.service.name.as_str()))).collect()
}

pub(super) fn service_id(names: &BTreeMap<u32, &str>, wanted: &str) -> Result<u32, ProblemDetails> {
    let found = names.iter().find(|(_, name)| **name == wanted).map(|(id, _)| *id);
    found.ok_or_else(|| no_service(wanted, names.values().copied()))
}

fn backend(text: &str) -> Result<SocketAddr, ProblemDetails> {
    let missing = || ProblemDetails::not_found(format!("there is no backend {text:?}"));
    target::parse(text).ok_or_else(missing)
}

fn client(text: &str) -> Result<IpNet, ProblemDetails> {
    parse_prefix(text).map_err(ProblemDetails::unprocessable)
}

fn flow(row: &FlowRow, service: Option<&str>) -> Flow {
    let [packets_in, bytes_in, packets_out, bytes_out] = row.traffic;
    let protocol = match row.protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        number => number.to_string(),
    };
    Flow {
        protocol,
        client: row.client,
        vip: row.vip,
        backend: row.backend_address,
        service: service.map(str::to_owned),
        state: row.state.to_owned(),
        age_seconds: row.age.as_secs_f64(),
        idle_seconds: row.idle.as_secs_f64(),
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_addresses_are_read() {
        let inside: IpAddr = "10.1.2.3".parse().unwrap();
        assert!(parse_prefix("10.0.0.0/8").unwrap().contains(&inside));
        assert!(parse_prefix("10.1.2.3").unwrap().contains(&inside));
        assert!(!parse_prefix("10.1.2.4").unwrap().contains(&inside));
        assert!(parse_prefix("2001:db8::/32").is_ok());
        assert!(parse_prefix("ten").is_err());
        assert!(parse_prefix("10.0.0.0/33").is_err());
    }
}
