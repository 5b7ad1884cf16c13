//! The machine itself: the kernel, and what is mounted.

use equipoise_lab::Netns;
use equipoise_lab::sandbox::Sandbox;

use crate::bench::{BINARY, Bench, end};

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
