//! What thousands of health checks cost. By itself, since it measures the processor.

#[path = "traffic/balanced.rs"]
#[expect(dead_code, reason = "tests with traffic use the rest")]
mod balanced;

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

/// Processor time that a process has used, seconds.
fn used(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap());
    ticks.sum::<u64>() as f64 / 100.0
}
