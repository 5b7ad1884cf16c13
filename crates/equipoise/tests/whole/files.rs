//! Files that change while the instance runs, read by itself; what cannot be applied or is not confirmed, taken back.

use std::os::unix::fs::symlink;

use equipoise::admin::problem::ROLLED_BACK;
use equipoise::driver::Watching;
use equipoise::status::Decimal;
use equipoise::status::change::{ReloadRequest, ReloadResult};
use equipoise::status::history::{Author, HistoryEntry};
use tokio::time::sleep;

use super::*;
use health::name;
use operate::{FIRST, SECOND, drain};

/// The configuration with another weight of the first backend.
fn weighing(weight: u16) -> String {
    CONFIG.replace("weight = 3", &format!("weight = {weight}"))
}

impl Lab {
    /// Starts an instance that watches its file; with what the file is called.
    async fn watching(place: &str, prepare: impl FnOnce(&TempDir)) -> (TestDriver, Self) {
        let directory = TempDir::new().unwrap();
        prepare(&directory);
        let file = directory.path().join(place);
        let (driver, lab) =
            Self::start_at((directory, file, Watching::Yes), world(), CONFIG, |_| {}).await;
        (driver.expect("starts"), lab)
    }

    async fn weighs(&self, weight: u16) -> Status {
        let is_so = |status: &Status| {
            status.services[0].pools[0].backends[0].configured_weight == Decimal(f64::from(weight))
        };
        self.status_when(is_so).await
    }

    async fn latest(&self) -> HistoryEntry {
        self.client.history().await.unwrap().remove(0)
    }
}

fn plain(directory: &TempDir) {
    fs::write(directory.path().join("a.toml"), CONFIG).unwrap();
}

#[tokio::test]
async fn weight_that_is_changed_in_the_file_reaches_the_maps_by_itself() {
    let (driver, lab) = Lab::watching("a.toml", plain).await;
    run(driver, async {
        let share = |lab: &Lab| {
            let plane = lab.plane.borrow();
            let first = ids(&plane, FIRST).1;
            let slots = plane.memory.slots(0).unwrap();
            slots.iter().filter(|slot| **slot == first).count() as f64 / slots.len() as f64
        };
        assert!((share(&lab) - 0.75).abs() < 0.01);
        fs::write(lab.path("a.toml"), weighing(1)).unwrap();
        let status = lab.weighs(1).await;
        assert!((share(&lab) - 0.5).abs() < 0.01);
        assert!(status.config.watching && status.config.last_error.is_none());
        assert_eq!(status.config.generation, 2);
        let entry = lab.latest().await;
        assert_eq!((&entry.by, entry.result), (&Author::File, ReloadResult::Applied));
        let key = format!("service[web].backends[{FIRST}].weight");
        assert_eq!(entry.changes.len(), 1, "{entry:?}");
        assert_eq!(entry.changes[0].key, key);
        assert_eq!(
            (&entry.changes[0].before, &entry.changes[0].after),
            (&Some(3.into()), &Some(1.into()))
        );
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn bad_file_changes_nothing_and_is_told_until_a_good_one_comes() {
    let (driver, lab) = Lab::watching("a.toml", plain).await;
    run(driver, async {
        let before = lab.plane.borrow().memory.contents().clone();
        fs::write(lab.path("a.toml"), weighing(1).replace("port = 80", "prot = 80")).unwrap();
        let status = lab.status_when(|status| status.config.last_error.is_some()).await;
        assert!(status.config.last_error.unwrap().contains("`prot`"));
        assert_eq!(status.config.generation, 1);
        assert_eq!(*lab.plane.borrow().memory.contents(), before);
        let entry = lab.latest().await;
        assert_eq!((entry.result, &*entry.changes), (ReloadResult::Rejected, &[][..]));
        fs::write(lab.path("a.toml"), weighing(2)).unwrap();
        assert_eq!(lab.weighs(2).await.config.last_error, None);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// Another file that is asked for and wrong is not what the instance follows, and what is wrong with it stays told.
#[tokio::test]
async fn another_file_that_is_bad_is_told_of_and_not_followed() {
    let (driver, lab) = Lab::watching("a.toml", plain).await;
    run(driver, async {
        let other = lab.path("b.toml");
        let request = |file: &std::path::Path| ReloadRequest {
            file: Some(file.display().to_string()),
            ..ReloadRequest::default()
        };
        fs::write(&other, weighing(5).replace("port = 80", "prot = 80")).unwrap();
        lab.client.reload(&request(&other)).await.unwrap_err();
        // Longer than a change of a file that is followed waits.
        sleep(Duration::from_millis(800)).await;
        let config = lab.client.status().await.unwrap().config;
        assert!(config.last_error.unwrap().contains("`prot`"));
        assert_eq!(lab.client.history().await.unwrap().len(), 1);
        fs::write(&other, weighing(6)).unwrap();
        sleep(Duration::from_millis(800)).await;
        assert_eq!(lab.client.status().await.unwrap().config.generation, 1);
        // Its own file still is, until the other one is taken.
        fs::write(lab.path("a.toml"), weighing(7)).unwrap();
        lab.weighs(7).await;
        lab.client.reload(&request(&other)).await.unwrap();
        lab.weighs(6).await;
        fs::write(&other, weighing(8)).unwrap();
        lab.weighs(8).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

/// The first half is a configuration of its own, which must not be taken in between.
#[tokio::test]
async fn file_written_in_two_halves_is_taken_whole() {
    let (driver, lab) = Lab::watching("a.toml", plain).await;
    run(driver, async {
        let second = CONFIG.replace("\"web\"", "\"mail\"").replace("port = 80", "port = 25");
        fs::write(lab.path("a.toml"), weighing(9)).unwrap();
        sleep(Duration::from_millis(300)).await;
        fs::write(lab.path("a.toml"), weighing(9) + &second).unwrap();
        let status = lab.weighs(9).await;
        assert_eq!((status.services.len(), status.config.generation), (2, 2));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn swapped_links_and_renamed_files_are_taken_again_and_again() {
    let version = |directory: &TempDir, text: &str| {
        let at = |name: &str| directory.path().join(name);
        let number = fs::read_dir(directory.path()).unwrap().count();
        fs::create_dir(at(&format!("..{number}"))).unwrap();
        fs::write(at(&format!("..{number}/a.toml")), text).unwrap();
        symlink(format!("..{number}"), at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    let (driver, lab) = Lab::watching("a.toml", |directory| {
        version(directory, CONFIG);
        symlink("..data/a.toml", directory.path().join("a.toml")).unwrap();
    })
    .await;
    run(driver, async {
        for weight in [5, 6, 7] {
            version(&lab.directory, &weighing(weight));
            lab.weighs(weight).await;
        }
        // A file in the place of the link.
        for weight in [8, 9] {
            fs::write(lab.path("new"), weighing(weight)).unwrap();
            fs::rename(lab.path("new"), lab.path("a.toml")).unwrap();
            lab.weighs(weight).await;
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn file_that_comes_into_an_included_directory_is_taken() {
    let (driver, lab) = Lab::watching("a.toml", plain).await;
    run(driver, async {
        fs::create_dir(lab.path("conf.d")).unwrap();
        let file = "include = [\"conf.d/*.toml\"]\n".to_owned() + &weighing(9);
        fs::write(lab.path("a.toml"), file).unwrap();
        lab.weighs(9).await;
        let second = CONFIG.replace("\"web\"", "\"mail\"").replace("port = 80", "port = 25");
        fs::write(lab.path("conf.d/mail.toml"), second).unwrap();
        lab.status_when(|status| status.services.len() == 2).await;
        fs::remove_file(lab.path("conf.d/mail.toml")).unwrap();
        lab.status_when(|status| status.services.len() == 1).await;
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn list_that_the_file_names_is_watched_also_while_it_is_missing() {
    let (driver, lab) = Lab::watching("a.toml", plain).await;
    run(driver, async {
        let list = lab.path("deny.txt");
        let limits = format!("limits = {{ deny = [\"@{}\"] }}\n", list.display());
        fs::write(lab.path("a.toml"), CONFIG.to_owned() + &limits).unwrap();
        let status = lab.status_when(|status| status.config.last_error.is_some()).await;
        assert_eq!(status.config.generation, 1);
        fs::write(&list, "198.51.100.0/24\n").unwrap();
        lab.status_when(|status| status.config.generation == 2).await;
        fs::write(&list, "198.51.100.0/24\n192.0.2.0/24\n").unwrap();
        lab.status_when(|status| status.config.generation == 3).await;
        assert_eq!(lab.plane.borrow().memory.contents().access.len(), 2);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn unwatched_file_waits_for_a_reload_and_an_unchanged_one_writes_nothing() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        assert!(!lab.client.status().await.unwrap().config.watching);
        // Not one write is tried.
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        let answer = lab.client.reload(&ReloadRequest::default()).await.unwrap();
        assert_eq!((answer.result, answer.steps), (ReloadResult::Unchanged, 0));
        assert_eq!(lab.client.status().await.unwrap().state, Health::Ok);
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
        fs::write(lab.path("a.toml"), weighing(9)).unwrap();
        sleep(Duration::from_millis(800)).await;
        assert_eq!(lab.client.status().await.unwrap().config.generation, 1);
        let answer = lab.client.reload(&ReloadRequest::default()).await.unwrap();
        assert_eq!((answer.result, answer.generation), (ReloadResult::Applied, 2));
        let entry = lab.latest().await;
        // SAFETY: takes nothing and touches no memory.
        let uid = unsafe { libc::getuid() };
        assert_eq!((entry.by, &*entry.what), (Author::User { uid }, "reload"));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_cannot_be_applied_is_taken_back_with_drains_and_words() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.client.drain(&drain(&[SECOND])).await.unwrap();
        let before = lab.plane.borrow().memory.contents().clone();
        // eth2 takes no programs, and the drained backend is gone.
        lab.plane.send_modify(|plane| plane.refusing.extend(["eth2".to_owned()]));
        let other = weighing(9)
            .replace("[\"eth0\"]", "[\"eth0\", \"eth2\"]")
            .replace("  { address = \"10.0.0.2:8080\", weight = 1 },\n", "");
        fs::write(lab.path("a.toml"), other).unwrap();
        let Err(ClientError::Problem(problem)) = lab.client.reload(&ReloadRequest::default()).await
        else {
            panic!("taken")
        };
        assert!(problem.is_of(ROLLED_BACK) && problem.detail.contains("eth2"), "{problem:?}");
        let status = lab.client.status().await.unwrap();
        assert_eq!((status.state, status.config.generation), (Health::Ok, 1));
        assert_eq!(status.config.last_error.as_ref(), Some(&problem.detail));
        let [_, second] = &status.services[0].pools[0].backends[..] else { panic!() };
        assert!(second.draining);
        assert_eq!(lab.attached(), names(["eth0", "eth1"]));
        let plane = lab.plane.borrow().clone();
        assert_eq!(plane.memory.check_references(), Ok(()));
        assert_eq!(plane.memory.contents().services, before.services);
        assert_eq!(lab.latest().await.result, ReloadResult::RolledBack);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_fails_for_a_moment_is_tried_again_and_stays() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Once(2)));
        fs::write(lab.path("a.toml"), weighing(9)).unwrap();
        let answer = lab.client.reload(&ReloadRequest::default()).await.unwrap();
        assert_eq!((answer.result, answer.generation), (ReloadResult::Applied, 2));
        assert_eq!(lab.weighs(9).await.state, Health::Ok);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_nobody_confirms_goes_again_and_what_somebody_does_stays() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let within = |seconds: f64| ReloadRequest {
            confirm_seconds: Some(seconds),
            ..ReloadRequest::default()
        };
        fs::write(lab.path("a.toml"), weighing(9)).unwrap();
        lab.client.reload(&within(60.0)).await.unwrap();
        let status = lab.client.status().await.unwrap();
        assert!(status.config.confirm_within_seconds.is_some_and(|left| left <= 60.0));
        // A second one does not make the first one good.
        fs::write(lab.path("a.toml"), weighing(8)).unwrap();
        lab.client.reload(&within(0.3)).await.unwrap();
        let status = lab.weighs(3).await;
        assert_eq!((status.config.generation, status.config.confirm_within_seconds), (4, None));
        assert!(status.config.last_error.unwrap().contains("nobody has confirmed generation 3"));
        let entry = lab.latest().await;
        assert_eq!((entry.by, entry.result), (Author::Deadline, ReloadResult::RolledBack));

        lab.client.reload(&within(60.0)).await.unwrap();
        assert_eq!(lab.client.confirm().await.unwrap().generation, 5);
        let status = lab.client.status().await.unwrap();
        assert_eq!(status.config.confirm_within_seconds, None);
        let Err(ClientError::Problem(problem)) = lab.client.confirm().await else { panic!() };
        assert_eq!(problem.status, 409);
        for none in [0.0, -1.0, f64::MAX] {
            let Err(ClientError::Problem(problem)) = lab.client.reload(&within(none)).await else {
                panic!("{none}")
            };
            assert_eq!(problem.status, 422);
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn plan_tells_what_moves_what_breaks_and_what_fits_no_more() {
    let (driver, lab) = Lab::start(CONFIG).await;
    lab.plane.send_modify(|plane| {
        let two = ids(plane, SECOND);
        plane.flows = vec![
            flow("198.51.100.1:1000", SECOND, two, "established"),
            flow("198.51.100.2:1000", SECOND, two, "established"),
        ];
    });
    run(driver, async {
        let effect = async |text: String| {
            let request = PlanRequest { name: "a.toml".to_owned(), text };
            lab.client.plan(&request).await.unwrap().effect
        };
        assert_eq!(effect(CONFIG.to_owned()).await, []);
        let without = |more: &str| {
            CONFIG.replace("  { address = \"10.0.0.2:8080\", weight = 1 },\n", "") + more
        };
        let [kept] = &effect(without("")).await[..] else { panic!() };
        assert!((24.0..27.0).contains(&kept.moved_percent), "{kept:?}");
        assert_eq!((&*kept.change, kept.broken_flows, kept.mtu), ("changed", 0, None));
        let [reset] = &effect(without("on-backend-removed = \"reset\"\n")).await[..] else {
            panic!()
        };
        assert_eq!(reset.broken_flows, 2);
        let tunnelled = CONFIG.replace(":8080", "") + "mode = \"ipip\"\n";
        let [tunnelled] = &effect(tunnelled).await[..] else { panic!() };
        let mtu = tunnelled.mtu.unwrap();
        assert_eq!((mtu.before, mtu.after), (1500, 1480));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn history_tells_who_has_changed_a_weight_by_command() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.client.set_weight(&name(FIRST), 7).await.unwrap();
        let entry = lab.latest().await;
        assert_eq!(entry.what, format!("weight 7 of {FIRST} of web"));
        assert_eq!(entry.changes[0].after, Some(7.into()));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
