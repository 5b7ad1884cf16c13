//! Flow tables of another size, as the configuration asks for it.

use equipoise::status::change::ReloadRequest;

use super::*;

fn sized(max_flows: u32) -> String {
    format!("[settings]\nmax-flows = {max_flows}\n{CONFIG}")
}

impl Lab {
    async fn size_is(&self, size: u64) -> Status {
        self.status_when(|status| {
            status.flow_table.size == size && status.flow_table.to_be_carried == 0
        })
        .await
    }

    async fn take(&self, text: &str) {
        fs::write(self.path("a.toml"), text).unwrap();
        self.client.reload(&ReloadRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn tables_of_another_size_are_made_and_taken_when_all_flows_are_there() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        assert_eq!(lab.client.status().await.unwrap().flow_table.size, 1_000_000);
        let attached = lab.attached();
        lab.plane.send_modify(|plane| plane.crowded = 3);
        lab.take(&sized(5_000)).await;
        let waits = |status: &Status| status.flow_table.to_be_carried == 3;
        let status = lab.status_when(waits).await;
        assert_eq!((status.flow_table.size, status.state), (5_000, Health::Ok));
        // Yet another size waits for these.
        lab.take(&sized(6_000)).await;
        lab.plane.send_modify(|plane| plane.crowded = 0);
        lab.size_is(6_000).await;
        assert!(!lab.plane.borrow().is_resizing);
        assert_eq!(lab.attached(), attached, "with programs on the new tables");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn tables_that_cannot_be_made_are_told_of_and_tried_again() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.plane.send_modify(|plane| plane.no_other_size = Some("no memory".to_owned()));
        lab.take(&sized(7_000)).await;
        let status = lab.status_when(|status| status.state == Health::Degraded).await;
        let reason = "the flow tables hold 1000000 flows and not 7000: no memory";
        assert_eq!(status.reasons, [reason]);
        assert_eq!(status.flow_table.size, 1_000_000);
        lab.plane.send_modify(|plane| plane.no_other_size = None);
        let status = lab.size_is(7_000).await;
        assert_eq!(status.reasons, [""; 0]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
