//! What is of the whole machine: the kernel, what this process may do, and the clock.

use super::super::{Case, Finding, Level, Remedy};
use crate::dataplane::kernel::Ability;
use crate::dataplane::kernel::verifier::LIMIT;

pub(super) fn all(case: &Case) -> Vec<Finding> {
    let mut findings = vec![kernel(case), process(case), pins(case), memlock(case)];
    findings.extend(abilities(case));
    findings.extend(verifier(case));
    findings.extend(settings(case));
    findings.extend(jit(case));
    findings.extend(clock(case));
    findings
}

fn kernel(case: &Case) -> Finding {
    match &case.measured.kernel {
        None => Finding::ok("kernel", "", "this kernel is new enough"),
        Some(why) => Finding::ok("kernel", "", why)
            .because(Level::Problem, "no instance starts")
            .helped("run a newer kernel"),
    }
}

fn process(case: &Case) -> Finding {
    match &case.measured.process {
        None => Finding::ok("privileges", "", "this process may do what an instance does"),
        Some(why) => Finding::ok("privileges", "", why)
            .because(
                Level::Warning,
                "not everything can be measured, and this user cannot run an instance",
            )
            .helped("ask again as root, or as the user of the instance"),
    }
}

fn abilities(case: &Case) -> Vec<Finding> {
    let all = &case.measured.abilities;
    let mut findings = Vec::new();
    for Ability { what, instead, found } in all {
        let finding = Finding::ok("abilities", "", format!("this kernel has no {what}"));
        match (found, instead) {
            (Ok(false), Some(instead)) => {
                findings.push(
                    finding.because(Level::Notice, *instead).helped("nothing has to be done"),
                );
            }
            (Ok(false), None) => findings.push(
                finding
                    .because(Level::Problem, "the packet programs need it and are refused")
                    .helped("run a kernel that has it; Debian's, from 6.1 on, do"),
            ),
            (Ok(true) | Err(_), _) => {}
        }
    }
    let untold: Vec<&String> =
        all.iter().filter_map(|ability| ability.found.as_ref().err()).collect();
    if let Some(reason) = untold.first() {
        let measured = format!(
            "{} of {} abilities of the kernel were not told: {reason}",
            untold.len(),
            all.len()
        );
        findings.push(
            Finding::ok("abilities", "", measured)
                .because(Level::Warning, "whether the packet programs can be loaded is not known")
                .helped("ask again as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
        );
    }
    if findings.is_empty() {
        let measured =
            format!("the kernel can do all of {} things that the packet programs use", all.len());
        findings.push(Finding::ok("abilities", "", measured));
    }
    findings
}

/// How near to its limit the verifier comes. It gets there in leaps: another kernel may walk three times as much for the same program.
fn verifier(case: &Case) -> Option<Finding> {
    /// Of the limit; what is known of any kernel is below 60 %.
    const NEAR: u32 = LIMIT / 4 * 3;
    let counts = match case.verified.as_ref()? {
        Ok(counts) => counts,
        Err(why) => {
            let finding = Finding::ok("verifier", "", brief(why));
            return Some(
                finding
                    .because(Level::Problem, "no instance of this version starts here; one of another version that runs goes on")
                    .helped("a kernel that docs/kernels.md names, or another version; `equipoise -vv run` has all that the kernel says"),
            );
        }
    };
    let (name, count) = counts.iter().max_by_key(|(_, count)| **count)?;
    let measured = format!(
        "of {} programs {name} is the most work for the kernel's verifier: {count} instructions of {LIMIT} at most",
        counts.len()
    );
    let finding = Finding::ok("verifier", "", measured);
    if *count < NEAR {
        return Some(finding);
    }
    Some(
        finding
            .because(Level::Warning, "with another kernel or version it may be more than that: the program is refused then, and no instance starts")
            .helped("`equipoise doctor` with the other kernel or version, before it is taken; docs/verifier.md has what is usual"),
    )
}

/// What was refused, and the last that a verifier's log says, which is why; between them may be thousands of lines.
fn brief(why: &str) -> String {
    let lines: Vec<&str> = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match &lines[..] {
        [first, .., before, last] if lines.len() > 3 => format!("{first} ... {before}; {last}"),
        lines => lines.join("; "),
    }
}

fn pins(case: &Case) -> Finding {
    if case.measured.pins_mounted {
        return Finding::ok("bpffs", "", "the BPF file system is mounted at /sys/fs/bpf");
    }
    Finding::ok("bpffs", "", "no BPF file system is mounted at /sys/fs/bpf")
        .because(
            Level::Warning,
            "an instance mounts it itself, which takes CAP_SYS_ADMIN; without, it does not start",
        )
        .cured(Remedy::MountPins)
}

/// Kernels that are new enough count maps as memory of the control group, and not against this limit.
fn memlock(case: &Case) -> Finding {
    let limit = match case.measured.memlock {
        Some(bytes) => format!("{} kB", bytes / 1024),
        None => "no limit".to_owned(),
    };
    Finding::ok(
        "memlock",
        "",
        format!("locked memory: {limit}; from kernel 5.11 on, maps do not count"),
    )
}

fn settings(case: &Case) -> Option<Finding> {
    let why = case.measured.settings_refused.as_ref()?;
    // For want of privileges, which have a rule of their own.
    if case.measured.process.is_some() {
        return None;
    }
    let finding = Finding::ok("settings", "", format!("kernel settings cannot be written: {why}"));
    Some(
        finding
            .because(Level::Warning, "an instance cannot switch on the forwarding that it needs, and says so")
            .helped("mount /proc/sys writable (in a container: a privileged one), or set what is missing from outside"),
    )
}

fn jit(case: &Case) -> Vec<Finding> {
    let (enable, harden) = ("core/bpf_jit_enable", "core/bpf_jit_harden");
    let mut findings = Vec::new();
    match case.setting(enable) {
        Some("0") => findings.push(
            Finding::ok(
                "jit",
                "",
                "programs are interpreted, not compiled: net.core.bpf_jit_enable = 0",
            )
            .because(Level::Warning, "a packet costs several times what it could")
            .cured(case.to_set(enable, "1")),
        ),
        Some(_) => findings.push(Finding::ok("jit", "", "programs are compiled")),
        // Of other network namespaces than the first the setting is not told, though it holds there.
        None => {}
    }
    if case.setting(harden) == Some("2") {
        findings.push(
            Finding::ok(
                "jit",
                "",
                "constants of programs are blinded for root as well: net.core.bpf_jit_harden = 2",
            )
            .because(Level::Notice, "a packet costs a little more")
            .helped("net.core.bpf_jit_harden = 1 blinds those of others alone"),
        );
    }
    findings
}

fn clock(case: &Case) -> Option<Finding> {
    const SLOW: [&str; 5] = ["hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"];
    let clock = case.measured.clock.as_deref()?;
    let finding = Finding::ok("clock", "", format!("the kernel's clock is {clock}"));
    if !SLOW.contains(&clock) {
        return Some(finding);
    }
    Some(
        finding
            .because(
                Level::Warning,
                "reading it takes up to some microseconds or is coarse: health checks and all else in user space pay for it; the \
                 packet programs do not, which go by the kernel's coarse clock",
            )
            .helped("see why the kernel gave up `tsc` (dmesg), or on a virtual machine offer it kvm-clock"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::{case, level, only};
    use super::*;

    #[test]
    fn machine_that_is_as_it_should_be_is_ok_in_all_rules() {
        let findings = all(&case());
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    }

    #[test]
    fn old_kernel_is_a_problem_and_missing_privileges_a_warning() {
        let mut case = case();
        case.measured.kernel = Some("this kernel is 5.15; equipoise needs Linux 6.1".to_owned());
        case.measured.process = Some("run as root".to_owned());
        assert_eq!(level(&all(&case), "kernel"), Level::Problem);
        assert_eq!(level(&all(&case), "privileges"), Level::Warning);
    }

    #[test]
    fn missing_abilities_are_problems_unless_something_takes_their_place() {
        let mut case = case();
        let ability = |what, instead, found| Ability { what, instead, found };
        case.measured.abilities = vec![ability("ring buffers", None, Ok(false))];
        assert_eq!(level(&all(&case), "abilities"), Level::Problem);
        case.measured.abilities = vec![ability("links", Some("filters"), Ok(false))];
        assert_eq!(level(&all(&case), "abilities"), Level::Notice);
        case.measured.abilities = vec![ability("links", Some("filters"), Err("denied".to_owned()))];
        let found = only(&all(&case), "abilities");
        assert_eq!(found.level, Level::Warning);
        assert_eq!(found.measured, "1 of 1 abilities of the kernel were not told: denied");
    }

    #[test]
    fn programs_near_the_limit_of_the_verifier_are_told() {
        let mut case = case();
        assert!(all(&case).iter().all(|finding| finding.rule != "verifier"), "not measured");
        for (count, wanted) in [(749_999, Level::Ok), (750_000, Level::Warning)] {
            let counts = [("odd_in", 90_000), ("equipoise_in", count)];
            let counts = counts.map(|(name, count)| (name.to_owned(), count));
            case.verified = Some(Ok(counts.into()));
            let found = only(&all(&case), "verifier");
            assert_eq!(found.level, wanted, "{count}");
            let told = format!(
                "of 2 programs equipoise_in is the most work for the kernel's verifier: {count} instructions of 1000000 at most"
            );
            assert_eq!(found.measured, told);
        }
    }

    #[test]
    fn programs_that_are_refused_are_a_problem_with_the_end_of_the_log() {
        let mut case = case();
        let log = "loading equipoise_in: Argument list too long (os error 7). Verifier output: 0: R1=ctx()\n\
                   1: (b7) r0 = 0\n2: (95) exit\nBPF program is too large. Processed 1000001 insn\n\
                   processed 1000001 insns (limit 1000000) max_states_per_insn 4\n\n";
        case.verified = Some(Err(log.to_owned()));
        let found = only(&all(&case), "verifier");
        assert_eq!(found.level, Level::Problem);
        assert_eq!(
            found.measured,
            "loading equipoise_in: Argument list too long (os error 7). Verifier output: 0: R1=ctx() ... BPF program is too large. \
             Processed 1000001 insn; processed 1000001 insns (limit 1000000) max_states_per_insn 4"
        );
        case.verified = Some(Err("this build has no programs".to_owned()));
        assert_eq!(only(&all(&case), "verifier").measured, "this build has no programs");
    }

    #[test]
    fn missing_bpf_file_system_is_mounted() {
        let mut case = case();
        case.measured.pins_mounted = false;
        let found = only(&all(&case), "bpffs");
        assert_eq!((found.level, found.remedy), (Level::Warning, Some(Remedy::MountPins)));
    }

    #[test]
    fn interpreted_programs_are_compiled_again() {
        let mut case = case();
        case.measured.settings.insert("core/bpf_jit_enable".to_owned(), "0".to_owned());
        let found = only(&all(&case), "jit");
        assert_eq!(found.level, Level::Warning);
        assert_eq!(found.help, "sysctl -w net.core.bpf_jit_enable=1");
        case.measured.settings.insert("core/bpf_jit_enable".to_owned(), "1".to_owned());
        case.measured.settings.insert("core/bpf_jit_harden".to_owned(), "2".to_owned());
        assert_eq!(all(&case).iter().map(|f| f.level).max(), Some(Level::Notice));
    }

    #[test]
    fn slow_clocks_are_told() {
        let mut case = case();
        for (clock, wanted) in
            [("tsc", Level::Ok), ("kvm-clock", Level::Ok), ("hpet", Level::Warning)]
        {
            case.measured.clock = Some(clock.to_owned());
            assert_eq!(level(&all(&case), "clock"), wanted, "{clock}");
        }
    }

    #[test]
    fn settings_that_cannot_be_written_are_told_unless_privileges_are_missing_anyway() {
        let mut case = case();
        case.measured.settings_refused = Some("read-only".to_owned());
        assert_eq!(level(&all(&case), "settings"), Level::Warning);
        case.measured.process = Some("run as root".to_owned());
        assert!(all(&case).iter().all(|finding| finding.rule != "settings"));
    }
}
