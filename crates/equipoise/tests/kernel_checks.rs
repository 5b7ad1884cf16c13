//! What thousands of health checks and of services cost. By itself, since it measures time.

#[path = "traffic/balanced.rs"]
#[expect(dead_code, reason = "tests with traffic use the rest")]
mod balanced;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use balanced::{Balancer, DEADLINE, PORT, service, vips};
use equipoise_lab::serve::TcpEcho;
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::{scale, wait_until};

#[test]
fn thousands_of_backends_are_checked_each_second_with_half_a_processor() {
    // On loopback, the kernel's work for the other ends is counted as well.
    let count = scale(1_000, 2_000_u32);
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let any: SocketAddr = (std::net::Ipv4Addr::UNSPECIFIED, PORT).into();
    let server = TcpEcho::start(&lab.balancer, "here", &[any]).unwrap();
    let at = |n: u32| SocketAddr::from(([127, 1, (n / 250) as u8, (n % 250) as u8], PORT));
    let all: Vec<_> = (0..count).map(|n| (at(n), 1)).collect();
    let text = format!(
        "[settings]\nattach = \"tc\"\nmax-flows = 20000\n[settings.health-check]\n\
         interval = \"1s\"\nfast-interval = \"1s\"\n{}",
        service("web", vips()[0].1, &all)
    );
    let balancer = Balancer::start(&lab.balancer, &text);
    let seconds = Duration::from_secs(10);
    wait_until(DEADLINE, "checks of all", || server.connections() > 2 * u64::from(count)).unwrap();
    let pid = balancer.daemon.as_ref().unwrap().pid();
    let (began, checked, spent) = (Instant::now(), server.connections(), used(pid));
    wait_until(seconds * 2, "some seconds", || began.elapsed() > seconds).unwrap();
    let took = began.elapsed().as_secs_f64();
    let each_second = (server.connections() - checked) as f64 / took;
    let processors = (used(pid) - spent) / took;
    eprintln!("{each_second:.0} checks a second with {processors:.3} of a processor");
    assert!(each_second > 0.9 * f64::from(count), "{each_second}");
    assert!(processors < 0.5, "{processors}");
    let status = balancer.status();
    let backends = status["services"][0]["pools"][0]["backends"].as_array().unwrap();
    assert!(backends.iter().all(|backend| backend["health"] == "healthy"));
}

/// So many services of ten backends each, the first of which have this weight.
fn services(lab: &Lab, count: u32, weight: u32) -> String {
    let [address, _] = lab.backends[0].at(PORT);
    let mut text = String::from("[settings]\nattach = \"tc\"\nmax-flows = 20000\n");
    for number in 0..count {
        let vip =
            SocketAddr::from(([203, 0, 113, 10 + (number / 250) as u8], 2_000 + number as u16));
        let all: Vec<_> = (0..10_u16)
            .map(|n| {
                let at = SocketAddr::new(address.ip(), 10_000 + number as u16 * 10 + n);
                (at, if n == 0 { weight } else { 1 })
            })
            .collect();
        write!(text, "{}", service(&format!("s{number}"), vip, &all)).unwrap();
    }
    text
}

#[test]
fn a_thousand_services_are_applied_within_a_second_of_the_files_change() {
    let count = scale(200, 1_000);
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let balancer = Balancer::start(&lab.balancer, &services(&lab, count, 1));
    let applied = || balancer.log().matches("applied steps=").count();
    let mut took = Vec::new();
    for (weight, what) in [(3, "a weight in each service"), (1, "and back")] {
        let next = balancer.file().with_extension("next");
        std::fs::write(&next, services(&lab, count, weight)).unwrap();
        let before = applied();
        let began = Instant::now();
        std::fs::rename(&next, balancer.file()).unwrap();
        wait_until(DEADLINE, what, || applied() > before).unwrap();
        took.push(began.elapsed());
    }
    eprintln!("{count} services of 10 backends: {took:?} from the file's change");
    assert!(took.iter().all(|time| *time < Duration::from_secs(1)), "{took:?}");
    let first = &balancer.status()["services"][0]["pools"][0]["backends"][0];
    assert_eq!(first["configured_weight"], 1.0);
}

/// Processor time that a process has used, seconds.
fn used(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap());
    ticks.sum::<u64>() as f64 / 100.0
}
