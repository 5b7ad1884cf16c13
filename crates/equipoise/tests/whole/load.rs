//! How much there is, and the most that there was.

use equipoise::status::load::Load;

use super::*;
use operate::FIRST;
use restart::run_and_kill;

#[tokio::test]
async fn most_that_there_was_is_told_with_its_time_and_goes_on_in_the_next_process() {
    let text = format!("{CONFIG}\n[settings]\nmax-flows = 1000\n");
    let (driver, lab) = Lab::start(&text).await;
    let mut before = Load::default();
    run_and_kill(driver, async {
        lab.flows(0, 8);
        let first = lab.status_when(|status| status.load.live_flows.now == 8).await;
        assert_eq!(first.load.services[0].live_flows.peak, 8);
        assert_eq!(first.load.bytes_per_second.peak_at, None, "there was never any");
        lab.flows(0, 3);
        let comes = |status: &Status| {
            lab.plane.send_modify(|plane| {
                let (service, _) = ids(plane, FIRST);
                let traffic = plane.memory.service_traffic(service);
                traffic.new_flows += 1;
                traffic.packets_in += 3;
                traffic.packets_out += 2;
                traffic.bytes_in += 400;
                traffic.bytes_out += 100;
            });
            status.load.new_flows_per_second.now > 0
        };
        let Load { new_flows_per_second, packets_per_second, bytes_per_second, .. } =
            lab.status_when(comes).await.load;
        let (flows, packets, bytes) = (new_flows_per_second, packets_per_second, bytes_per_second);
        // Each of them is rounded by itself.
        assert!(packets.now.abs_diff(5 * flows.now) <= 3, "{packets:?} {flows:?}");
        assert!(bytes.now.abs_diff(500 * flows.now) <= 251, "{bytes:?} {flows:?}");
        assert!(flows.peak >= flows.now && flows.peak_at.is_some(), "{flows:?}");
        // Nothing comes any more.
        let last = lab.status_when(|status| status.load.new_flows_per_second.now == 0).await;
        assert!(last.load.new_flows_per_second.peak >= flows.peak);
        assert_eq!((last.load.live_flows.now, last.load.live_flows.peak), (3, 8));
        let room = last.flow_table.headroom;
        assert_eq!((room.ipv4.free, room.ipv4.percent, room.ipv6.free), (997, 99.7, 1000));
        // What is seen from the last writing on is lost with a process that is killed.
        let kept = || fs::read_to_string(lab.path("counters.json")).unwrap_or_default();
        lab.status_when(|_| kept().contains(r#""live":{"most":8,"#)).await;
        before = last.load;
    })
    .await;
    let (driver, lab) = lab.start_again(&text).await;
    run(driver.expect("starts again"), async {
        let after = lab.status_when(|_| true).await.load;
        assert_eq!(after, before);
        let (exit, said) = lab.command("status").await;
        let live = before.live_flows.peak_at.unwrap();
        assert_eq!(exit, 0, "{said}");
        assert!(said.contains(&format!("MOST SINCE {}", before.since)), "{said}");
        let told = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = said.lines().map(told).collect();
        assert!(lines.contains(&format!("live flows of web 3 8 {live}")), "{said}");
        assert!(said.contains("free: 997 for IPv4 (99.7 %), 1000 for IPv6 (100.0 %)\n"), "{said}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
