//! Taking remedies: each once, in the order of the findings, and each failure told beside the others.
//!
//! Settings go by the [`Machine`]; the rest by the kernel itself. Knows nothing of why something is to be done.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Finding, Remedy};
use crate::dataplane::kernel::hooks;
use crate::host::{Machine, offloads};

/// What has been done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// The command that does the same.
    pub did: String,
    /// The command that takes it back.
    pub back: String,
    /// Why it could not be done; none where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Does what the findings ask for and is safe.
pub fn fix<M: Machine>(machine: &mut M, findings: &[Finding]) -> Vec<Done> {
    let mut seen = BTreeSet::new();
    let remedies = findings.iter().filter(|finding| finding.is_to_be_fixed());
    let remedies = remedies.filter_map(|finding| finding.remedy.as_ref());
    let mut all = Vec::new();
    for remedy in remedies.filter(|remedy| seen.insert((*remedy).clone())) {
        let failed = take(machine, remedy).err();
        all.push(Done { did: remedy.to_string(), back: remedy.back(), failed });
    }
    all
}

fn take<M: Machine>(machine: &mut M, remedy: &Remedy) -> Result<(), String> {
    match remedy {
        Remedy::Setting { path, to, .. } => {
            machine.set(path, to).map_err(|error| error.to_string())?;
            match machine.setting(path) {
                Some(now) if now == *to => Ok(()),
                now => Err(format!("it is {} still", now.as_deref().unwrap_or("not there"))),
            }
        }
        Remedy::Offload { device, feature, to } => {
            offloads::turn(device, feature, *to).map_err(|error| error.to_string())
        }
        Remedy::MountPins => hooks::mount_pins().map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::host::simulated::{Simulated, World};

    const SETTING: &str = "ipv4/conf/eth0/forwarding";

    fn finding(path: &str) -> Finding {
        let remedy =
            Remedy::Setting { path: path.to_owned(), from: "0".to_owned(), to: "1".to_owned() };
        Finding::ok("forwarding", "eth0", "off").because(Level::Problem, "lost").cured(remedy)
    }

    #[test]
    fn settings_are_made_once_and_told_with_the_way_back() {
        let world =
            World { settings: [(SETTING.to_owned(), "0".to_owned())].into(), ..World::default() };
        let (mut machine, _) = Simulated::new(world);
        let done = fix(&mut machine, &[finding(SETTING), finding(SETTING)]);
        let [Done { did, back, failed: None }] = &done[..] else { panic!("{done:?}") };
        assert_eq!(did, "sysctl -w net.ipv4.conf.eth0.forwarding=1");
        assert_eq!(back, "sysctl -w net.ipv4.conf.eth0.forwarding=\"0\"");
        assert_eq!(machine.setting(SETTING).as_deref(), Some("1"));
    }

    #[test]
    fn what_cannot_be_done_is_told_and_the_rest_is_done() {
        let world =
            World { settings: [(SETTING.to_owned(), "0".to_owned())].into(), ..World::default() };
        let (mut machine, _) = Simulated::new(world);
        let done = fix(&mut machine, &[finding("ipv4/conf/gone/forwarding"), finding(SETTING)]);
        assert_eq!(
            done.iter().map(|done| done.failed.is_some()).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(machine.setting(SETTING).as_deref(), Some("1"));
    }

    #[test]
    fn notices_are_left_as_they_are() {
        let world =
            World { settings: [(SETTING.to_owned(), "0".to_owned())].into(), ..World::default() };
        let (mut machine, _) = Simulated::new(world);
        assert_eq!(fix(&mut machine, &[Finding { level: Level::Notice, ..finding(SETTING) }]), []);
        assert_eq!(machine.setting(SETTING).as_deref(), Some("0"));
    }
}
