//! Who is asked: the resolvers of the configuration, or what the system has: hosts file, resolvers and search domains.
//!
//! The system's files are read at each look-up, so that a change of them is followed as by every program that starts.

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use equipoise_core::resolve::{Failure, FailureKind};
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_proto::rr::Name;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

const HOSTS: &str = "/etc/hosts";

/// A server that says nothing within this is asked once more.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN: usize = 1;

/// Who is asked, and for which names.
pub(super) struct Source {
    /// Names that need no asking.
    pub(super) hosts: Hosts,
    /// Asks servers for whole names; none where there are no servers, and why.
    pub(super) resolver: Result<TokioResolver, Failure>,
    search: Vec<Name>,
    /// So many dots make a name that is tried as it is first.
    dots: usize,
}

impl Source {
    /// These resolvers, for names as they are written; where there are none, the system's.
    pub(super) fn new(resolvers: &[SocketAddr]) -> Self {
        if !resolvers.is_empty() {
            let servers = resolvers.iter().copied().map(server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            let resolver = resolver(config, ResolverOpts::default());
            return Self { hosts: Hosts::default(), resolver, search: Vec::new(), dots: 0 };
        }
        let mut hosts = Hosts::default();
        // Without the file, or with one that ends in the middle, what there is counts.
        if let Ok(file) = File::open(HOSTS)
            && let Err(error) = hosts.read_hosts_conf(file)
        {
            tracing::warn!(%error, "{HOSTS} cannot be read");
        }
        match system_conf::read_system_conf() {
            Ok((config, options)) => {
                let (search, dots) = (config.search().to_vec(), options.ndots);
                Self { hosts, resolver: resolver(config, options), search, dots }
            }
            Err(error) => {
                let message = format!("the system has no resolver: {error}");
                let failure = Failure { kind: FailureKind::Network, message };
                Self { hosts, resolver: Err(failure), search: Vec::new(), dots: 0 }
            }
        }
    }

    /// The whole names that a name may be, in the order in which they are tried.
    pub(super) fn whole_names(&self, text: &str) -> Result<Vec<Name>, Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure {
            kind: FailureKind::UnknownHost,
            message: format!("{text} is no name: {error}"),
        };
        let mut name = Name::from_ascii(text).map_err(|error| wrong(&error))?;
        if name.is_fqdn() {
            return Ok(vec![name]);
        }
        let searched = self.search.iter().filter_map(|domain| {
            // What would be too long with its domain is not tried.
            let mut whole = name.clone().append_domain(domain).ok()?;
            whole.set_fqdn(true);
            Some(whole)
        });
        let mut names: Vec<_> = searched.collect();
        name.set_fqdn(true);
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        names.insert(if dots >= self.dots { 0 } else { names.len() }, name);
        Ok(names)
    }
}

fn resolver(config: ResolverConfig, options: ResolverOpts) -> Result<TokioResolver, Failure> {
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let built = builder.options_mut();
    *built = options;
    built.timeout = PATIENCE;
    built.attempts = AGAIN;
    // What is known is kept elsewhere, and the hosts file has been asked.
    built.cache_size = 0;
    built.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|error| {
        let message = format!("the resolver cannot be set up: {error}");
        Failure { kind: FailureKind::Network, message }
    })
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}
