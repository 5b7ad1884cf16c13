//! The machine itself: the kernel, and what is mounted.

use equipoise_lab::Netns;
use equipoise_lab::sandbox::Sandbox;

use crate::bench::{BINARY, Bench, Said, end};

#[test]
fn machine_that_is_as_it_should_be_has_no_warnings() {
    let bench = Bench::new();
    let said = bench.doctor();
    assert_eq!(
        (said.exit, said.answer["level"].as_str()),
        (0, Some("notice")),
        "{:#}",
        said.answer
    );
    // It is what an instance switches on when it starts.
    assert_eq!(
        said.wrong("forwarding"),
        [
            ("notice", "back", "IPv4 forwarding is off"),
            ("notice", "front", "IPv4 forwarding is off")
        ]
    );
    let fixed = bench.fix();
    assert_eq!((fixed.exit, fixed.done()), (0, Vec::new()), "notices are left as they are");
}

#[test]
fn missing_bpf_file_system_is_mounted() {
    let netns = Netns::new().unwrap();
    let sandbox = Sandbox::make(&netns).unwrap();
    let ask = |arguments: &str| sandbox.run(&format!("{BINARY} doctor {arguments}")).unwrap();
    let said = ask("");
    assert!(
        said.contains("warning  bpffs: no BPF file system is mounted at /sys/fs/bpf\n"),
        "{said}"
    );
    assert!(said.contains("help: mount -t bpf bpffs /sys/fs/bpf (--fix does it)"), "{said}");
    let fixed = ask("--fix");
    assert!(
        fixed.starts_with(
            "done     mount -t bpf bpffs /sys/fs/bpf\n         to take it back: umount /sys/fs/bpf\n"
        ),
        "{fixed}"
    );
    assert!(!ask("").contains("bpffs"));
    sandbox.run("umount /sys/fs/bpf").unwrap();
    assert!(ask("").contains("warning  bpffs"));
}

#[test]
fn instance_with_secrets_is_judged_by_what_it_runs() {
    let bench = Bench::new();
    let list = bench.file().replace("a.toml", "list.txt");
    std::fs::write(&list, "192.0.2.7\n").unwrap();
    bench.set(&format!(
        "admin = {{ keys = [{{ name = 'w', key = '0123456789abcdef-secret' }}] }}\n\
         otlp = {{ endpoint = 'http://127.0.0.1:9', headers = {{ X-Key = 'secret' }} }}\n\
         limits = {{ deny = ['@{list}'] }}"
    ));
    let daemon = bench.start();
    let said = bench.ask(&[]);
    assert_eq!(said.answer["by"], format!("what instance {} runs", bench.instance));
    assert_eq!(said.exit, 0, "{:#}", said.answer);
    assert_eq!(said.measured("vip").len(), 1, "it knows the services");
    end(daemon);
}

#[test]
fn work_of_the_verifier_is_told_of_what_runs_and_else_of_what_would() {
    let bench = Bench::new();
    let told = |said: &Said| {
        let [measured] = said.measured("verifier")[..] else { panic!("{:#}", said.answer) };
        let numbers = measured.split(|c: char| !c.is_ascii_digit());
        numbers.filter_map(|text| text.parse().ok()).collect::<Vec<u32>>()
    };
    let at_tc = told(&bench.doctor());
    let [8, most, 1_000_000] = at_tc[..] else { panic!("{at_tc:?}") };
    assert!((100_000..750_000).contains(&most), "{most}");
    let text = std::fs::read_to_string(bench.file()).unwrap();
    bench.attach("{ default = 'tc', front = 'xdp' }");
    assert_eq!(told(&bench.doctor())[0], 8 + 5, "XDP in the driver has its own");
    std::fs::write(bench.file(), text).unwrap();
    let daemon = bench.start();
    assert_eq!(told(&bench.ask(&[])), at_tc, "those that run");
    assert_eq!(told(&bench.ask_without_pins()), at_tc, "its own cannot be seen");
    end(daemon);
}

#[test]
fn programs_that_the_kernel_refuses_are_a_problem_with_the_reason() {
    let bench = Bench::new();
    let ask = |arguments: &[&str]| {
        let mut command = bench.near.command("prlimit");
        // Each map is an open file, and there are more maps.
        command.args(["--nofile=40:40", BINARY, "--instance", &bench.instance]);
        Said::by(command.args(["--json", "doctor"]).args(arguments))
    };
    let said = ask(&["-c", &bench.file()]);
    let [("problem", "", measured)] = said.wrong("verifier")[..] else {
        panic!("{:#}", said.answer)
    };
    assert!(measured.starts_with("the kernel does not take the packet programs: "), "{measured}");
    assert!(measured.contains("Too many open files"), "{measured}");
    assert_eq!(said.exit, 1);
    assert_eq!(bench.doctor().wrong("verifier"), []);
    let daemon = bench.start();
    assert_eq!(ask(&[]).wrong("verifier"), [], "what runs needs no try");
    end(daemon);
}

#[test]
fn slow_clock_is_told_until_the_kernel_goes_by_another() {
    let netns = Netns::new().unwrap();
    let sandbox = Sandbox::make(&netns).unwrap();
    let ask = || sandbox.run(&format!("{BINARY} doctor || true")).unwrap();
    // The kernel has one for all; what is read is another file.
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let goes_by = |name| {
        sandbox.run(&format!("echo {name} > /run/clock; mount --bind /run/clock {clock}")).unwrap();
    };
    goes_by("hpet");
    let said = ask();
    assert!(said.contains("warning  clock: the kernel's clock is hpet\n"), "{said}");
    goes_by("kvm-clock");
    assert!(!ask().contains("clock: "));
}
