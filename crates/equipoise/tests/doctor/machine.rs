//! The machine itself: the kernel, and what is mounted.

use equipoise_lab::Netns;
use equipoise_lab::sandbox::Sandbox;

use crate::bench::{BINARY, Bench};

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
