//! Interfaces: whether they carry packets, which hook each gets, and who hangs there already.

use equipoise_core::config::AttachMode;

use super::super::{Case, Finding, Level};
use crate::dataplane::kernel::hooks::{Entry, Hung};
use crate::host::{Device, Features};

pub(super) fn all(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, device) in case.interfaces() {
        findings.push(link(case, name, device));
        findings.push(hook(case, name, device));
        findings.extend(foreign_xdp(case, name, device));
        findings.extend(foreign_tc(case, name, device));
        findings.extend(queues(case, name, device));
    }
    findings
}

fn link(case: &Case, name: &str, device: &Device) -> Finding {
    let carrier = case.measured.details.links.get(&device.index).is_none_or(|link| link.carrier);
    let measured = match (device.up, carrier) {
        (true, true) => {
            return Finding::ok(
                "link",
                name,
                format!("it is up, with packets of {} bytes", device.mtu),
            );
        }
        (true, false) => "it is up, and has no carrier",
        (false, _) => "it is down",
    };
    let help = if device.up {
        "see to its other end".to_owned()
    } else {
        format!("ip link set {name} up")
    };
    Finding::ok("link", name, measured)
        .because(Level::Problem, "no packet comes in or goes out by it")
        .helped(help)
}

/// What hangs there, or what would.
fn hook(case: &Case, name: &str, device: &Device) -> Finding {
    if let Some(status) = case.attached(name) {
        let measured = format!("{} ({}): {}", status.hook, status.mode, status.reason);
        let finding = Finding::ok("hook", name, measured);
        return match &*status.hook {
            "none" => finding
                .because(Level::Problem, "packets that come in by it are not balanced")
                .helped("do what the reason says; the instance tries again by itself"),
            _ => finding,
        };
    }
    let without = device.features.is_some_and(|features| !Features::basic(features));
    match case.asked(name) {
        AttachMode::Auto if device.native_xdp() => {
            let told = match device.features {
                Some(_) => "the driver has XDP, which `auto` takes",
                None => {
                    "the kernel (before 6.3) does not tell whether the driver has XDP: `auto` tries it, and takes TC else"
                }
            };
            Finding::ok("hook", name, told)
        }
        AttachMode::Auto => match &device.kind {
            Some(kind) => Finding::ok("hook", name, format!("a {kind} device: `auto` takes TC")),
            None if device.loopback => {
                Finding::ok("hook", name, "the loopback device: `auto` takes TC")
            }
            // A rule of its own says who is in the way.
            None if device.xdp_program.is_some() => Finding::ok("hook", name, "`auto` takes TC"),
            None => Finding::ok("hook", name, "the driver has no XDP: `auto` takes TC")
                .because(
                    Level::Notice,
                    "a packet costs several times what it does with XDP in the driver",
                )
                .helped("a NIC whose driver has XDP; nothing is lost without"),
        },
        AttachMode::Xdp if without => {
            Finding::ok("hook", name, "the driver has no XDP, and `attach` asks for it")
                .because(Level::Problem, "nothing is attached there")
                .helped(format!("attach = \"auto\", \"tc\" or \"xdp-generic\" for {name}"))
        }
        AttachMode::Xdp => Finding::ok("hook", name, "XDP in the driver, as `attach` asks for"),
        AttachMode::XdpGeneric => {
            Finding::ok("hook", name, "XDP in the stack, as `attach` asks for")
                .because(
                    Level::Notice,
                    "a packet costs more than at TC: the stack has made its own of it before",
                )
                .helped(format!("attach = \"auto\" for {name}"))
        }
        AttachMode::Tc => Finding::ok("hook", name, "TC, as `attach` asks for"),
    }
}

fn foreign_xdp(case: &Case, name: &str, device: &Device) -> Option<Finding> {
    let hung = case.measured.xdp.get(&device.index)?;
    // The running instance says that it is its own where it could not pin it.
    if hung.instance.is_some() || case.attached(name).is_some_and(|status| status.hook == "xdp") {
        return None;
    }
    let finding = Finding::ok(
        "foreign-xdp",
        name,
        format!("an XDP program of somebody else's hangs there: {}", told(hung)),
    );
    let (level, effect) = match case.asked(name) {
        AttachMode::Auto if device.kind.is_none() && !device.loopback => (
            Level::Warning,
            "it decides first what becomes of packets; ours take TC, which costs several times as much",
        ),
        AttachMode::Auto | AttachMode::Tc => (
            Level::Notice,
            "it decides first what becomes of packets; what it passes comes to ours",
        ),
        AttachMode::Xdp | AttachMode::XdpGeneric => {
            (Level::Problem, "a device has room for one: ours is refused there")
        }
    };
    let help = format!(
        "ip link set dev {name} xdp off, if nobody needs it; or attach = \"tc\" for {name}"
    );
    Some(finding.because(level, effect).helped(help))
}

fn foreign_tc(case: &Case, name: &str, device: &Device) -> Option<Finding> {
    let tc = case.measured.tc.get(&device.index)?;
    let sides = [("ingress", &tc.ingress), ("egress", &tc.egress)];
    let all = sides.into_iter().flat_map(|(side, all)| all.iter().map(move |entry| (side, entry)));
    let (ours, foreign): (Vec<_>, Vec<_>) =
        all.partition(|(_, entry)| entry.program().is_some_and(|hung| is_ours(case, name, hung)));
    if foreign.is_empty() {
        return None;
    }
    let each: Vec<String> = foreign.iter().map(|(side, entry)| at_tc(side, entry)).collect();
    let measured = format!("somebody else's hang at TC: {}", each.join(", "));
    let has = |entries: &[(&str, &Entry)], of: &dyn Fn(&str, u16) -> bool| {
        let mut filters =
            entries.iter().filter_map(|(side, entry)| Some((side, entry.priority()?)));
        filters.any(|(side, priority)| of(side, priority))
    };
    // Filters of ours count in the same place, for packets that are to be dropped.
    let dropped = if has(&ours, &|_, _| true) { 0 } else { tc.dropped };
    let (level, measured) = match dropped {
        0 => (Level::Warning, measured),
        packets => (Level::Problem, format!("{measured}; filters have dropped {packets} packets")),
    };
    let filter = foreign.iter().find_map(|(side, entry)| {
        let priority = entry.priority()?;
        // All of a priority go at once, and one of ours may be among them.
        let is_shared = has(&ours, &|its, own| (its, own) == (*side, priority));
        let command =
            format!("tc filter del dev {name} {side} pref {priority}, if nobody needs it; ");
        (!is_shared).then_some(command)
    });
    let help = "`bpftool net` shows programs and their order, `tc -s filter show` filters";
    Some(
        Finding::ok("foreign-tc", name, measured)
            .because(level, "what they drop or send elsewhere is lost to those behind them")
            .helped(filter.unwrap_or_default() + help),
    )
}

/// Whether an instance has hung it there: it has pinned it, or, where pins cannot be seen (`ip netns exec` mounts another `/sys`), the running
/// one says that its programs hang there, and this has the name of one.
fn is_ours(case: &Case, interface: &str, hung: &Hung) -> bool {
    let hangs = case.attached(interface).is_some_and(|status| status.hook != "none");
    hung.instance.is_some() || (hangs && hung.is_named_as_ours())
}

fn at_tc(side: &str, entry: &Entry) -> String {
    match entry {
        Entry::Link(hung) => format!("{} ({side})", told(hung)),
        Entry::Filter { kind, priority, program } => {
            let runs = program.as_ref().map(|hung| format!(" with {}", told(hung)));
            let runs = runs.unwrap_or_default();
            format!("a `{kind}` filter of priority {priority}{runs} ({side})")
        }
    }
}

fn told(hung: &Hung) -> String {
    match &*hung.name {
        "" => format!("id {}", hung.id),
        name => format!("{name} (id {})", hung.id),
    }
}

fn queues(case: &Case, name: &str, device: &Device) -> Option<Finding> {
    let queues = case.measured.queues.get(&device.index).filter(|queues| queues.used > 0)?;
    let cpus = case.measured.cpus;
    let measured =
        format!("{} queues to receive by, of {}, and {cpus} CPUs", queues.used, queues.most);
    let finding = Finding::ok("queues", name, measured);
    if queues.used >= cpus || !case.is_native(name, device) {
        return Some(finding);
    }
    let effect = format!("{} of {cpus} CPUs take all the packets", queues.used);
    let help = match queues.used < queues.most {
        true => {
            let which = if queues.combined { "combined" } else { "rx" };
            format!("ethtool -L {name} {which} {}", cpus.min(queues.most))
        }
        false => {
            "more queues, where the NIC is a virtual machine's; nothing is lost without".to_owned()
        }
    };
    Some(finding.because(Level::Notice, effect).helped(help))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{BACK, FRONT, case, configured, level, only, running};
    use super::*;
    use crate::dataplane::kernel::hooks::AtTc;
    use crate::host::offloads::Queues;

    /// The sample, with another device of that kind and mode in place of `eth0`.
    fn with(kind: Option<&str>, features: u64, attach: &str) -> Case {
        let mut case = configured("");
        let config = case.config.as_mut().unwrap();
        config.settings.attach.default = match attach {
            "xdp" => AttachMode::Xdp,
            "xdp-generic" => AttachMode::XdpGeneric,
            "tc" => AttachMode::Tc,
            _ => AttachMode::Auto,
        };
        let device = case.measured.reading.devices.get_mut("eth0").unwrap();
        device.kind = kind.map(str::to_owned);
        device.features = Some(Features(features));
        case
    }

    fn of_front(case: &Case, rule: &str) -> Vec<Finding> {
        let all = all(case).into_iter();
        all.filter(|finding| finding.rule == rule && finding.subject == "eth0").collect()
    }

    #[test]
    fn link_that_is_down_or_without_carrier_is_a_problem() {
        let mut case = case();
        assert_eq!(level(&all(&case), "link"), Level::Ok);
        case.measured.details.links.get_mut(&BACK).unwrap().carrier = false;
        assert_eq!(only(&all(&case), "link").measured, "it is up, and has no carrier");
        case.measured.reading.devices.get_mut("eth1").unwrap().up = false;
        assert_eq!(only(&all(&case), "link").help, "ip link set eth1 up");
    }

    #[test]
    fn hook_is_what_attaching_would_take() {
        let cases = [
            (None, 7, "auto", Level::Ok, "the driver has XDP, which `auto` takes"),
            (None, 0, "auto", Level::Notice, "the driver has no XDP: `auto` takes TC"),
            (Some("veth"), 7, "auto", Level::Ok, "a veth device: `auto` takes TC"),
            (None, 0, "xdp", Level::Problem, "the driver has no XDP, and `attach` asks for it"),
            (Some("veth"), 7, "xdp", Level::Ok, "XDP in the driver, as `attach` asks for"),
            (None, 7, "xdp-generic", Level::Notice, "XDP in the stack, as `attach` asks for"),
            (None, 7, "tc", Level::Ok, "TC, as `attach` asks for"),
        ];
        for (kind, features, attach, level, measured) in cases {
            let [found] = &of_front(&with(kind, features, attach), "hook")[..] else { panic!() };
            assert_eq!((found.level, &*found.measured), (level, measured));
        }
    }

    #[test]
    fn running_instance_tells_what_hangs_there() {
        let mut case = case();
        case.running = Some(running(Vec::new()));
        assert_eq!(of_front(&case, "hook")[0].measured, "xdp (native): the driver has XDP");
        let status = &mut case.running.as_mut().unwrap().interfaces[0];
        status.hook = "none".to_owned();
        status.reason = "no driver".to_owned();
        assert_eq!(of_front(&case, "hook")[0].level, Level::Problem);
    }

    #[test]
    fn program_of_others_is_as_bad_as_what_it_is_in_the_way_of() {
        let hung = |instance| hung("firewall", instance);
        for (kind, attach, level) in [
            (None, "auto", Level::Warning),
            (Some("veth"), "auto", Level::Notice),
            (None, "tc", Level::Notice),
            (None, "xdp", Level::Problem),
            (None, "xdp-generic", Level::Problem),
        ] {
            let mut case = with(kind, 7, attach);
            case.measured.xdp.insert(FRONT, hung(None));
            let [found] = &of_front(&case, "foreign-xdp")[..] else { panic!("{attach}") };
            assert_eq!(found.level, level, "{attach}");
            assert!(found.measured.ends_with("firewall (id 9)"), "{}", found.measured);
            case.measured.xdp.insert(FRONT, hung(Some("default")));
            assert_eq!(of_front(&case, "foreign-xdp"), [], "one of ours");
        }
    }

    fn hung(name: &str, instance: Option<&str>) -> Hung {
        Hung { id: 9, name: name.to_owned(), instance: instance.map(str::to_owned) }
    }

    #[test]
    fn what_others_hang_at_tc_is_told_and_ours_is_not() {
        let mut case = case();
        let mut of = |entry, dropped| {
            let tc = AtTc { ingress: Vec::new(), egress: vec![entry], dropped };
            case.measured.tc.insert(FRONT, tc);
            of_front(&case, "foreign-tc").pop().map(|found| (found.level, found.measured))
        };
        let filter = |program| Entry::Filter { kind: "bpf".to_owned(), priority: 7, program };
        assert_eq!(of(Entry::Link(hung("", Some("default"))), 0), None);
        assert_eq!(of(filter(Some(hung("", Some("default")))), 5), None, "it is to drop");
        for (entry, told) in [
            (Entry::Link(hung("", None)), "id 9 (egress)"),
            (filter(None), "a `bpf` filter of priority 7 (egress)"),
            (
                filter(Some(hung("theirs", None))),
                "a `bpf` filter of priority 7 with theirs (id 9) (egress)",
            ),
        ] {
            let measured = format!("somebody else's hang at TC: {told}");
            assert_eq!(of(entry.clone(), 0), Some((Level::Warning, measured.clone())));
            let lost = format!("{measured}; filters have dropped 5 packets");
            assert_eq!(of(entry, 5), Some((Level::Problem, lost)));
        }
    }

    #[test]
    fn packets_that_a_filter_of_ours_may_have_dropped_are_no_problem() {
        let mut case = case();
        let filter = |priority, program| Entry::Filter {
            kind: "bpf".to_owned(),
            priority,
            program: Some(program),
        };
        let ours = filter(1, hung("", Some("default")));
        let mut of = |theirs| {
            let ingress = vec![ours.clone(), theirs];
            case.measured.tc.insert(FRONT, AtTc { ingress, egress: Vec::new(), dropped: 5 });
            let found = of_front(&case, "foreign-tc").remove(0);
            assert_eq!(found.level, Level::Warning);
            found.help
        };
        let help = of(filter(7, hung("theirs", None)));
        assert!(help.starts_with("tc filter del dev eth0 ingress pref 7, if"), "{help}");
        let help = of(filter(1, hung("theirs", None)));
        assert!(!help.contains("tc filter del"), "ours would go as well: {help}");
    }

    #[test]
    fn programs_whose_pins_cannot_be_seen_are_ours_where_the_instance_says_so() {
        let mut case = case();
        let entry = Entry::Link(hung("equipoise_in", None));
        let tc = AtTc { ingress: vec![entry], ..AtTc::default() };
        case.measured.tc.insert(FRONT, tc.clone());
        assert_eq!(of_front(&case, "foreign-tc").len(), 1, "no instance runs");
        case.running = Some(running(Vec::new()));
        assert_eq!(of_front(&case, "foreign-tc"), []);
        let theirs = Entry::Link(hung("theirs", None));
        case.measured.tc.get_mut(&FRONT).unwrap().ingress.push(theirs);
        let found = &of_front(&case, "foreign-tc")[0];
        assert!(found.measured.ends_with(": theirs (id 9) (ingress)"), "{}", found.measured);
        case.measured.tc.insert(FRONT, tc);
        case.running.as_mut().unwrap().interfaces[0].hook = "none".to_owned();
        assert_eq!(of_front(&case, "foreign-tc").len(), 1, "an earlier process's");
    }

    #[test]
    fn fewer_queues_than_cpus_are_told_where_packets_are_taken_in_the_driver() {
        let mut case = case();
        assert_eq!(level(&all(&case), "queues"), Level::Ok);
        case.measured.queues.insert(FRONT, Queues { used: 1, most: 4, combined: true });
        let found = only(&all(&case), "queues");
        assert_eq!((found.level, &*found.help), (Level::Notice, "ethtool -L eth0 combined 2"));
        case.measured.queues.get_mut(&FRONT).unwrap().combined = false;
        assert_eq!(only(&all(&case), "queues").help, "ethtool -L eth0 rx 2");
        case.config.as_mut().unwrap().settings.attach.default = AttachMode::Tc;
        assert_eq!(level(&all(&case), "queues"), Level::Ok);
    }
}
