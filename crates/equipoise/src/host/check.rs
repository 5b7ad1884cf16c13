//! A configuration against this machine: what it names and the machine does not have.
//!
//! Gives problems and notes with their places in the text, like those of the configuration
//! itself. A pure function of both; `check --host`, `run` and each reload ask it.

use std::net::IpAddr;

use equipoise_core::config::{
    Backend, BackendInterfaces, Config, Ports, Problem, Protocol, Service, problem_at, target,
};

use super::{Device, Reading};

/// Names told at most.
const NAMES: usize = 8;

/// What the machine has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What cannot work.
    pub problems: Vec<Problem>,
    /// What may not do what is expected.
    pub notes: Vec<Problem>,
}

impl Findings {
    /// These, and others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.problems.extend(others.problems);
        self.notes.extend(others.notes);
        self
    }
}

/// Checks `config`.
pub fn check(config: &Config, reading: &Reading) -> Findings {
    let mut check = Check { config, reading, findings: Findings::default() };
    for (position, service) in config.services.iter().enumerate() {
        let key = format!("service[{position}]");
        check.interfaces(&format!("{key}.listen.interfaces"), &service.listen.interfaces);
        check.address(&key, service);
        check.all_ports(&key, service);
        check.backends(&key, service, &service.backends);
        for (list, routes) in
            [("source-route", &service.routes), ("name-route", &service.name_routes)]
        {
            for (position, route) in routes.iter().enumerate() {
                check.backends(&format!("{key}.{list}[{position}]"), service, &route.backends);
            }
        }
    }
    let settings = &config.settings;
    if let BackendInterfaces::Named(names) = &settings.backend_interfaces {
        check.interfaces("settings.backend-interfaces", names);
    }
    for name in settings.attach.interfaces.keys() {
        if !reading.devices.contains_key(name) {
            let message = format!("there is no interface `{name}`, so this has no effect");
            check.note(
                &format!("settings.attach.{}", quoted(name)),
                message,
                Some(check.names(name)),
            );
        }
    }
    check.findings
}

/// VIPs that no interface of this machine has, nobody adds, and so nobody answers for on the link, in words.
pub fn unanswered(config: &Config, reading: &Reading) -> Vec<String> {
    let unanswered = config.services.iter().filter_map(|service| {
        let address = unowned(service, reading)?;
        let is_taken_up = service.pools().any(|pool| service.is_streamed(&pool));
        let more = if is_taken_up { ", and connections that are taken up here are not" } else { "" };
        Some(format!(
            "service {}: no interface of this machine has {address}, so nobody answers when it is asked for on the link{more}",
            service.name
        ))
    });
    unanswered.collect()
}

/// The address of a service that no interface has.
fn unowned(service: &Service, reading: &Reading) -> Option<IpAddr> {
    let address = service.listen.address.filter(|_| !service.manage_address)?;
    reading.owners(address).next().is_none().then_some(address)
}

struct Check<'a> {
    config: &'a Config,
    reading: &'a Reading,
    findings: Findings,
}

impl Check<'_> {
    fn interfaces(&mut self, key: &str, names: &[String]) {
        for (position, name) in names.iter().enumerate() {
            if !self.reading.devices.contains_key(name) {
                let allowed = Some(self.names(name));
                let message = format!("there is no interface `{name}`");
                self.problem(&format!("{key}[{position}]"), message, allowed);
            }
        }
    }

    fn address(&mut self, key: &str, service: &Service) {
        let Some(address) = unowned(service, self.reading) else {
            return;
        };
        let message = format!(
            "no interface of this machine has the address {address}: nobody answers when it is asked for on \
             the link, so clients get no answer unless it is routed here"
        );
        let allowed = "an address of this machine, or `manage-address = true` in the service to have it added";
        self.note(&format!("{key}.listen.address"), message, Some(allowed.to_owned()));
    }

    /// All ports of an address that this host is known by would leave none to the host itself.
    fn all_ports(&mut self, key: &str, service: &Service) {
        let Some(address) = service.listen.address.filter(|_| service.listen.port == Ports::All)
        else {
            return;
        };
        let has = |device: &&Device| device.addresses.contains(&address);
        let mut owners = self.reading.devices.iter().filter(|(_, device)| has(device));
        let Some((interface, _)) =
            owners.find(|(_, device)| is_main(device, address, service.manage_address))
        else {
            return;
        };
        let message = format!(
            "{address} is a main address of this machine, by `{interface}`: with all its ports a service's, the machine \
             itself would not be reached any more"
        );
        let allowed =
            "an address of the service's own, without a subnet (/32 or /128), or a range of ports";
        self.problem(&format!("{key}.listen.port"), message, Some(allowed.to_owned()));
    }

    /// The configuration's own check knows VIPs that it names; those that are the interfaces' own
    /// addresses are known here alone.
    fn backends(&mut self, key: &str, service: &Service, backends: &[Backend]) {
        for (position, backend) in backends.iter().enumerate() {
            let ip = backend.address.ip();
            let arrives = service.listen.port.at(backend.address);
            let loops = self.config.services.iter().find(|other| {
                let ports = other.listen.port.meet(&arrives) && share_protocol(service, other);
                ports && other.listen.address.is_none() && self.listens_on(other, ip)
            });
            if let Some(other) = loops {
                let name = &other.name;
                let message = format!(
                    "backend {} is where the service `{name}` itself is reached",
                    target::text(backend.address)
                );
                self.problem(&format!("{key}.backends[{position}].address"), message, None);
            }
        }
    }

    fn listens_on(&self, service: &Service, address: IpAddr) -> bool {
        self.reading
            .owners(address)
            .any(|owner| service.listen.interfaces.iter().any(|name| name == owner))
    }

    /// The machine's interfaces, those with a similar name first.
    fn names(&self, like: &str) -> String {
        let mut names: Vec<&str> = self.reading.devices.keys().map(String::as_str).collect();
        let similarity = |name: &str| strsim::jaro_winkler(name, like);
        names.sort_by(|a, b| similarity(b).total_cmp(&similarity(a)));
        let more = names.len().saturating_sub(NAMES);
        names.truncate(NAMES);
        let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{listed} and {more} more") } else { listed }
    }

    fn problem(&mut self, key: &str, message: String, allowed: Option<String>) {
        self.findings.problems.push(problem_at(&self.config.places, key, message, allowed));
    }

    fn note(&mut self, key: &str, message: String, allowed: Option<String>) {
        self.findings.notes.push(problem_at(&self.config.places, key, message, allowed));
    }
}

/// Whether a device's address is one that its machine is known by: it came with a subnet, or there is no other of its
/// family. What is managed for a service may be alone.
fn is_main(device: &Device, address: IpAddr, managed: bool) -> bool {
    const UNDER_VIPS: &str = "dummy";
    let alone = || {
        let mut family = device.addresses.iter().filter(|a| a.is_ipv4() == address.is_ipv4());
        let is_for_vips = device.loopback || device.kind.as_deref() == Some(UNDER_VIPS);
        !managed && !is_for_vips && family.all(|&other| other == address)
    };
    device.primary.contains(&address) || alone()
}

fn share_protocol(a: &Service, b: &Service) -> bool {
    let (a, b) = (a.listen.protocol, b.listen.protocol);
    a == b || a == Protocol::Both || b == Protocol::Both
}

/// A name as the paths of keys write it.
fn quoted(name: &str) -> String {
    let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { name.to_owned() } else { format!("{name:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use equipoise_core::config::parse;

    fn machine() -> Reading {
        let device = |index, address: &str| Device {
            index,
            addresses: vec![address.parse().unwrap()],
            ..Device::default()
        };
        let devices = [
            ("eth0".to_owned(), device(2, "192.0.2.1")),
            ("eth1".to_owned(), device(3, "10.0.0.254")),
            ("lo".to_owned(), device(1, "127.0.0.1")),
        ];
        Reading { devices: devices.into(), ..Reading::default() }
    }

    fn findings(text: &str) -> Findings {
        check(&parse("a.toml", text).unwrap().config, &machine())
    }

    fn service(listen: &str, backend: &str) -> String {
        format!(
            "[[service]]\nname = \"web\"\nlisten = {{ {listen} }}\nbackends = [{{ address = \"{backend}\" }}]\n"
        )
    }

    #[test]
    fn missing_interface_is_a_problem_with_its_place_and_the_near_names() {
        let found =
            findings(&service("interfaces = [\"eth0\", \"eht1\"], port = 80", "10.0.0.1:80"));
        let [problem] = &found.problems[..] else { panic!("{found:?}") };
        assert_eq!(problem.key, "service[0].listen.interfaces[1]");
        assert_eq!(problem.line, 3);
        assert_eq!(problem.message, "there is no interface `eht1`");
        assert!(problem.allowed.as_ref().unwrap().starts_with("`eth1`"), "{:?}", problem.allowed);
    }

    #[test]
    fn backend_of_a_route_that_comes_back_here_is_a_problem_with_its_place() {
        let routes = "[[service.source-route]]\nsource = '10.1.0.0/16'\nbackends = [{ address = '192.0.2.1:80' }]\n\
            [[service.name-route]]\nnames = ['a']\nbackends = [{ address = '10.0.0.1:80' }]\n\
            [[service.name-route]]\nnames = ['b']\nbackends = [{ address = '10.0.0.1:80' }, { address = '192.0.2.1:80' }]\n";
        let listen = "interfaces = [\"eth0\"], port = 80";
        let found = findings(&(service(listen, "10.0.0.1:80") + routes));
        let keys: Vec<_> = found.problems.iter().map(|problem| problem.key.as_str()).collect();
        let expected = ["source-route[0].backends[0]", "name-route[1].backends[1]"];
        assert_eq!(keys, expected.map(|key| format!("service[0].{key}.address")));
    }

    #[test]
    fn address_that_nobody_owns_is_a_note_that_says_what_to_do() {
        let listen = "interfaces = [\"eth0\"], address = \"203.0.113.10\", port = 80";
        let found = findings(&service(listen, "10.0.0.1:80"));
        assert_eq!(found.problems, []);
        let [note] = &found.notes[..] else { panic!("{found:?}") };
        assert_eq!(note.key, "service[0].listen.address");
        assert!(note.allowed.as_ref().unwrap().contains("manage-address"));
        let owned = findings(&service(
            "interfaces = [\"eth0\"], address = \"192.0.2.1\", port = 80",
            "10.0.0.1:80",
        ));
        assert_eq!(owned, Findings::default());
    }

    #[test]
    fn managed_address_is_no_note() {
        let listen = "interfaces = [\"eth0\"], address = \"203.0.113.10\", port = 80";
        let text =
            service(listen, "10.0.0.1:80").replace("backends", "manage-address = true\nbackends");
        assert_eq!(findings(&text), Findings::default());
    }

    #[test]
    fn backend_that_is_an_own_address_of_the_listening_interface_is_refused() {
        let listen = "interfaces = [\"eth0\"], port = 80";
        let found = findings(&service(listen, "192.0.2.1:80"));
        let [problem] = &found.problems[..] else { panic!("{found:?}") };
        assert_eq!(problem.key, "service[0].backends[0].address");
        assert_eq!(findings(&service(listen, "192.0.2.1:8080")), Findings::default());
        assert_eq!(findings(&service(listen, "10.0.0.254:80")), Findings::default());
    }

    #[test]
    fn all_ports_of_a_main_address_are_refused() {
        let mut machine = machine();
        let eth0 = machine.devices.get_mut("eth0").unwrap();
        eth0.primary = eth0.addresses.clone();
        eth0.addresses.push("192.0.2.7".parse().unwrap());
        let found = |address: &str, manages: bool| {
            let listen = format!("interfaces = ['eth0'], address = '{address}', port = 'all'");
            let text = service(&listen, "10.0.0.1")
                .replace("backends", &format!("manage-address = {manages}\nbackends"));
            let findings = check(&parse("a.toml", &text).unwrap().config, &machine);
            findings.problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
        };
        let refused = ["service[0].listen.port"];
        // With a subnet, and the only one of its interface.
        assert_eq!(found("192.0.2.1", false), refused);
        assert_eq!(found("192.0.2.1", true), refused);
        assert_eq!(found("10.0.0.254", false), refused);
        // Ours alone, another of its interface, on `lo`, and nobody's.
        assert_eq!(found("10.0.0.254", true), [""; 0]);
        assert_eq!(found("192.0.2.7", false), [""; 0]);
        assert_eq!(found("203.0.113.10", false), [""; 0]);
    }

    #[test]
    fn backend_that_keeps_the_port_is_refused_where_a_service_has_it() {
        let listen = "interfaces = [\"eth0\"], port = \"8000-8100\"";
        assert_eq!(findings(&service(listen, "192.0.2.1")).problems.len(), 1);
        assert_eq!(findings(&service(listen, "192.0.2.1:8050")).problems.len(), 1);
        assert_eq!(findings(&service(listen, "192.0.2.1:80")), Findings::default());
    }

    #[test]
    fn settings_for_interfaces_that_are_not_there_are_told() {
        let listen = "interfaces = [\"eth0\"], port = 80";
        let settings = "[settings]\nbackend-interfaces = [\"eth7\"]\nattach = { default = \"tc\", \"eth0.7\" = \"xdp\" }\n";
        let found = findings(&format!("{}{settings}", service(listen, "10.0.0.1:80")));
        assert_eq!(found.problems[0].key, "settings.backend-interfaces[0]");
        assert_eq!(found.notes[0].key, "settings.attach.\"eth0.7\"");
    }
}
