//! Offloads that do not go with the packet programs: what a device has merged, taken out or left undone before they see a packet.

use equipoise_core::config::AttachMode;

use super::super::{Case, Finding, Level, Remedy};
use crate::host::offloads::Turn;
use crate::host::{Device, Features};

const CHECKSUM: &str = "tx-checksum-ip-generic";
const GRO: &str = "rx-gro";
const LRO: &str = "rx-lro";
const VLAN: &str = "rx-vlan-hw-parse";

pub(super) fn all(case: &Case) -> Vec<Finding> {
    let interfaces = case.interfaces();
    let any_native = interfaces.iter().any(|(name, device)| case.is_native(name, device));
    let mut findings = Vec::new();
    for (name, device) in interfaces {
        findings.extend(lro(case, name, device));
        findings.extend(gro(case, name, device));
        findings.extend(vlan(case, name, device));
        findings.extend(checksums(case, name, device));
        if any_native {
            findings.extend(redirects(case, name, device));
        }
    }
    findings
}

fn is_on(case: &Case, index: u32, feature: &str) -> Option<bool> {
    case.measured.offloads.get(&index).map(|offloads| offloads.on.contains(feature))
}

/// Turning it is done by `--fix` for devices made of software alone: a NIC may lose its link for a moment.
fn turned(finding: Finding, (name, device): (&str, &Device), feature: &str, to: Turn) -> Finding {
    let remedy = Remedy::Offload { device: name.to_owned(), feature: feature.to_owned(), to };
    match device.kind {
        Some(_) => finding.cured(remedy),
        None => finding.helped(remedy.to_string()),
    }
}

fn lro(case: &Case, name: &str, device: &Device) -> Option<Finding> {
    if !is_on(case, device.index, LRO)? {
        return Some(Finding::ok("lro", name, "packets are not merged by the NIC"));
    }
    let finding = Finding::ok(
        "lro",
        name,
        "the NIC merges packets for good (large receive offload)",
    )
    .because(
        Level::Warning,
        "merged packets cannot be sent on as they came, and most drivers refuse XDP beside it",
    );
    Some(turned(finding, (name, device), LRO, Turn::Off))
}

/// At TC, one look-up serves all the packets that have been merged.
fn gro(case: &Case, name: &str, device: &Device) -> Option<Finding> {
    let hardware = device.kind.is_none() && !device.loopback;
    if !hardware || case.is_native(name, device) {
        return None;
    }
    if is_on(case, device.index, GRO)? {
        return Some(Finding::ok("gro", name, "the stack merges packets, which TC takes as one"));
    }
    let finding = Finding::ok("gro", name, "packets are not merged (generic receive offload)")
        .because(
            Level::Notice,
            "at TC each packet is looked up by itself: bulk traffic costs several times as much",
        );
    Some(turned(finding, (name, device), GRO, Turn::On))
}

/// A tag that the NIC has taken out is not told to XDP.
fn vlan(case: &Case, name: &str, device: &Device) -> Option<Finding> {
    let links = &case.measured.details.links;
    let elsewhere = |index| links.get(index).is_some_and(|link| link.peer_elsewhere);
    let over = case.measured.reading.devices.iter().filter(|(_, other)| {
        other.kind.as_deref() == Some("vlan")
            && other.below == Some(device.index)
            && !elsewhere(&other.index)
    });
    let over: Vec<&str> = over.map(|(name, _)| name.as_str()).collect();
    if over.is_empty() || !case.is_native(name, device) || !is_on(case, device.index, VLAN)? {
        return None;
    }
    let measured =
        format!("it takes out VLAN tags before XDP, and has {} over it", over.join(", "));
    let finding = Finding::ok("vlan-offload", name, measured).because(
        Level::Warning,
        "packets of a VLAN look to XDP as if they had no tag: those for a VIP that is served here are taken, whatever VLAN they are of",
    );
    Some(turned(finding, (name, device), VLAN, Turn::Off))
}

/// Whether what comes in has no checksums yet, where programs are asked for that do not see that.
fn checksums(case: &Case, name: &str, device: &Device) -> Option<Finding> {
    let xdp = match case.attached(name) {
        Some(status) => status.hook == "xdp",
        None => matches!(case.asked(name), AttachMode::Xdp | AttachMode::XdpGeneric),
    };
    if device.kind.as_deref() != Some("veth") || !xdp {
        return None;
    }
    let effect = "TCP and UDP checksums that the sender has left to the device are taken for whole by XDP: backends drop such packets";
    let Some((peer, other)) = peer(case, device) else {
        let finding = Finding::ok(
            "checksum-offload",
            name,
            "its other end is in another network namespace, where its offloads cannot be read from here",
        );
        let help =
            "there: `ethtool -K DEV tx off`; or attach = \"tc\" here, which is right with them";
        return Some(
            finding
                .because(Level::Notice, format!("if its transmit checksums are on: {effect}"))
                .helped(help),
        );
    };
    if !is_on(case, other.index, CHECKSUM)? {
        return Some(Finding::ok(
            "checksum-offload",
            name,
            format!("{peer}, its other end, sends whole checksums"),
        ));
    }
    let measured = format!("{peer}, its other end, leaves checksums to the device");
    let finding = Finding::ok("checksum-offload", name, measured).because(Level::Problem, effect);
    Some(turned(finding, (peer, other), CHECKSUM, Turn::Off))
}

/// Frames that XDP in a driver redirects vanish where the device does not take them; the data plane knows, and does not.
fn redirects(case: &Case, name: &str, device: &Device) -> Option<Finding> {
    let features = device.features?;
    let to_come = device.kind.is_none() && case.is_native(name, device);
    if to_come && case.attached(name).is_none() {
        // Drivers of NICs make room for such frames when a program is attached.
        return None;
    }
    if Features::ndo_xmit(features) {
        return Some(Finding::ok("redirect", name, "it takes frames that XDP redirects to it"));
    }
    let finding = Finding::ok("redirect", name, "it takes no frames that XDP redirects to it")
        .because(
            Level::Notice,
            "the stack sends in place of XDP what goes out by it: right, and slower",
        );
    let Some((peer, other)) = peer(case, device) else {
        let help = "a NIC whose driver takes them; for a veth, GRO at its other end: `ethtool -K DEV gro on`";
        return Some(finding.helped(help));
    };
    let warned = finding.because(
        Level::Warning,
        "the stack sends in place of XDP what goes out by it: right, and slower",
    );
    Some(turned(warned, (peer, other), GRO, Turn::On))
}

/// The other end of a veth, where it is in this namespace.
fn peer<'a>(case: &'a Case, device: &Device) -> Option<(&'a str, &'a Device)> {
    let here =
        |index| case.measured.details.links.get(index).is_some_and(|link| !link.peer_elsewhere);
    if device.kind.as_deref() != Some("veth") || !here(&device.index) {
        return None;
    }
    case.measured.reading.by_index(device.below?)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{BACK, FRONT, case, level, only, running};
    use super::*;
    use crate::host::offloads::Offloads;

    fn turn_on(case: &mut Case, index: u32, features: &[&str]) {
        let on = features.iter().map(|feature| (*feature).to_owned()).collect();
        case.measured.offloads.insert(index, Offloads { on, ..Offloads::default() });
    }

    /// `eth0` is a veth whose other end is `eth1`, and XDP is asked for there.
    fn pair() -> Case {
        let mut case = case();
        let attach = &mut case.config.as_mut().unwrap().settings.attach;
        attach.interfaces.insert("eth0".to_owned(), AttachMode::Xdp);
        attach.default = AttachMode::Tc;
        let front = case.measured.reading.devices.get_mut("eth0").unwrap();
        (front.kind, front.below) = (Some("veth".to_owned()), Some(BACK));
        let back = case.measured.reading.devices.get_mut("eth1").unwrap();
        back.kind = Some("veth".to_owned());
        case
    }

    #[test]
    fn merging_for_good_is_switched_off_by_hand_on_a_nic() {
        let mut case = case();
        turn_on(&mut case, FRONT, &[LRO]);
        let found = only(&all(&case), "lro");
        assert_eq!((found.level, &*found.help), (Level::Warning, "ethtool -K eth0 rx-lro off"));
        assert_eq!(found.remedy, None);
        turn_on(&mut case, FRONT, &[]);
        assert_eq!(level(&all(&case), "lro"), Level::Ok);
    }

    #[test]
    fn merging_is_missed_at_tc_alone() {
        let mut case = case();
        turn_on(&mut case, FRONT, &[]);
        assert!(all(&case).iter().all(|finding| finding.rule != "gro"), "in the driver");
        case.config.as_mut().unwrap().settings.attach.default = AttachMode::Tc;
        assert_eq!(only(&all(&case), "gro").level, Level::Notice);
        turn_on(&mut case, FRONT, &[GRO]);
        assert_eq!(level(&all(&case), "gro"), Level::Ok);
    }

    #[test]
    fn tags_taken_out_matter_where_vlans_are_over_the_device() {
        let mut case = case();
        turn_on(&mut case, FRONT, &[VLAN]);
        assert!(all(&case).iter().all(|finding| finding.rule != "vlan-offload"));
        let vlan =
            Device { index: 9, kind: Some("vlan".into()), below: Some(FRONT), ..Device::default() };
        case.measured.reading.devices.insert("eth0.7".to_owned(), vlan);
        let found = only(&all(&case), "vlan-offload");
        assert_eq!(found.level, Level::Warning);
        assert!(found.measured.ends_with("has eth0.7 over it"), "{}", found.measured);
        turn_on(&mut case, FRONT, &[]);
        assert!(all(&case).iter().all(|finding| finding.rule != "vlan-offload"));
    }

    #[test]
    fn unfinished_checksums_at_the_other_end_are_a_problem_under_xdp() {
        let mut case = pair();
        turn_on(&mut case, BACK, &[CHECKSUM]);
        let found = only(&all(&case), "checksum-offload");
        assert_eq!(
            (found.level, &*found.help),
            (Level::Problem, "ethtool -K eth1 tx-checksum-ip-generic off")
        );
        assert!(found.is_to_be_fixed());
        turn_on(&mut case, BACK, &[]);
        assert_eq!(level(&all(&case), "checksum-offload"), Level::Ok);
        case.measured.details.links.get_mut(&FRONT).unwrap().peer_elsewhere = true;
        assert_eq!(only(&all(&case), "checksum-offload").level, Level::Notice);
        case.config.as_mut().unwrap().settings.attach.interfaces.clear();
        assert!(all(&case).iter().all(|finding| finding.rule != "checksum-offload"));
    }

    #[test]
    fn nic_says_what_it_takes_once_a_program_is_attached() {
        let mut case = case();
        case.measured.reading.devices.get_mut("eth0").unwrap().features = Some(Features(3));
        assert!(all(&case).iter().all(|finding| finding.rule != "redirect"));
        case.running = Some(running(Vec::new()));
        assert_eq!(only(&all(&case), "redirect").level, Level::Notice);
    }

    #[test]
    fn device_that_takes_no_redirected_frames_gets_them_where_its_other_end_is_here() {
        let mut case = pair();
        assert_eq!(level(&all(&case), "redirect"), Level::Ok);
        case.measured.reading.devices.get_mut("eth0").unwrap().features = Some(Features(3));
        let found = only(&all(&case), "redirect");
        assert_eq!((found.level, &*found.help), (Level::Warning, "ethtool -K eth1 rx-gro on"));
        case.measured.details.links.get_mut(&FRONT).unwrap().peer_elsewhere = true;
        let found = only(&all(&case), "redirect");
        assert_eq!((found.level, found.remedy), (Level::Notice, None));
        case.config.as_mut().unwrap().settings.attach.interfaces.clear();
        assert!(all(&case).iter().all(|finding| finding.rule != "redirect"));
    }
}
