//! Backends changed while the instance runs, and its file read anew.

use equipoise::admin::ProblemDetails;
use equipoise::status::change::{
    AddRequest, ReloadAnswer, ReloadRequest, ReloadResult, ServiceChanges,
};
use equipoise::status::health::BackendName;

use super::*;
use health::name;
use operate::{FIRST, SECOND, again};

const THIRD: &str = "10.0.0.3:8080";

fn third(weight: u16) -> AddRequest {
    let address = THIRD.to_owned();
    AddRequest { address, weight, route: None, max_flows: 0, backup: false }
}

fn refused(answer: Result<ReloadAnswer, ClientError>) -> ProblemDetails {
    let Err(ClientError::Problem(problem)) = answer else { panic!("{answer:?}") };
    *problem
}

impl Lab {
    /// Backends of the first pool, and their weights.
    async fn backends(&self) -> Vec<(String, u16)> {
        let status = self.client.status().await.unwrap();
        let backends = status.services[0].pools[0].backends.iter();
        backends.map(|b| (b.address.to_string(), b.configured_weight.0 as u16)).collect()
    }

    async fn changes(&self) -> Vec<String> {
        let status = self.client.status().await.unwrap();
        assert_eq!(self.client.changes().await.unwrap(), status.config.runtime_changes);
        let changes = status.config.runtime_changes.into_iter();
        changes.map(|c| format!("{} {} {:?}", c.backend.unwrap(), c.change, c.weight)).collect()
    }

    fn write(&self, text: &str) {
        fs::write(self.path("a.toml"), text).unwrap();
    }
}

fn backends<const N: usize>(backends: [(&str, u16); N]) -> Vec<(String, u16)> {
    backends.map(|(backend, weight)| (backend.to_owned(), weight)).into()
}

#[tokio::test]
async fn weight_is_in_the_maps_when_that_is_answered_and_none_is_no_new_flow() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let answer = lab.client.set_weight(&name(FIRST), 0).await.unwrap();
        assert_eq!((answer.result, answer.generation), (ReloadResult::Applied, 2));
        assert_eq!(answer.services.changed, ["web"]);
        assert!(answer.steps > 0 && !lab.is_chosen(0) && lab.is_chosen(1));
        assert_eq!(lab.backends().await, backends([(FIRST, 0), (SECOND, 1)]));
        assert_eq!(lab.client.config().await.unwrap()["service"][0]["backends"][0]["weight"], 0);
        let answer = lab.client.set_weight(&name(FIRST), 0).await.unwrap();
        assert_eq!((answer.result, answer.steps), (ReloadResult::Unchanged, 0));
        // As the file says: there is nothing to be kept any more.
        lab.client.set_weight(&name(FIRST), 3).await.unwrap();
        assert_eq!(lab.changes().await, Vec::<String>::new());
        assert!(lab.is_chosen(0));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "nothing is left to be kept");
}

#[tokio::test]
async fn backend_is_added_and_removed_and_keeps_its_flows_and_others_theirs() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.client.add_backend("web", &third(4)).await.unwrap();
        assert_eq!(lab.backends().await, backends([(FIRST, 3), (SECOND, 1), (THIRD, 4)]));
        assert!(lab.is_chosen(2));
        lab.flows(0, 2);
        lab.client.remove_backend(&name(FIRST)).await.unwrap();
        assert_eq!(lab.backends().await, backends([(SECOND, 1), (THIRD, 4)]));
        assert!(!lab.is_chosen(0));
        let gone = lab.plane.borrow().memory.contents().backends[&0];
        assert_eq!(gone.state, Backend::GONE, "it is there for the flows that it has");
        lab.client.remove_backend(&name(THIRD)).await.unwrap();
        assert_eq!(lab.changes().await, ["10.0.0.1:8080 removed None"]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_would_be_wrong_in_a_file_is_refused_as_there_and_changes_nothing() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.client.set_weight(&name(SECOND), 0).await.unwrap();
        let before = lab.plane.borrow().memory.contents().clone();
        let problem = refused(lab.client.set_weight(&name(FIRST), 0).await);
        assert_eq!((problem.status, &*problem.errors[0].key), (422, "service[0].backends"));
        assert!(problem.errors[0].message.starts_with("all weights are 0"), "{problem:?}");
        assert_eq!(refused(lab.client.remove_backend(&name(FIRST)).await).status, 422);
        assert_eq!(refused(lab.client.remove_backend(&name(THIRD)).await).status, 404);
        assert_eq!(refused(lab.client.set_weight(&name(THIRD), 1).await).status, 404);
        assert_eq!(refused(lab.client.set_weight(&name("somewhere"), 1).await).status, 422);
        let of = |service: &str, route: Option<&str>| BackendName {
            service: service.to_owned(),
            route: route.map(str::to_owned),
            ..name(FIRST)
        };
        assert_eq!(refused(lab.client.set_weight(&of("mail", None), 1).await).status, 404);
        let elsewhere = of("web", Some("10.0.0.0/8"));
        assert_eq!(refused(lab.client.set_weight(&elsewhere, 1).await).status, 404);
        let add = async |service: &str, request: AddRequest| {
            refused(lab.client.add_backend(service, &request).await).status
        };
        let address = FIRST.to_owned();
        assert_eq!(add("web", AddRequest { address, ..third(1) }).await, 409);
        assert_eq!(add("mail", third(1)).await, 404);
        let route = Some("10.0.0.0/8".to_owned());
        assert_eq!(add("web", AddRequest { route, ..third(1) }).await, 404);
        let address = "224.0.0.1:80".to_owned();
        assert_eq!(add("web", AddRequest { address, ..third(1) }).await, 422);
        assert_eq!(lab.backends().await, backends([(FIRST, 3), (SECOND, 0)]));
        assert_eq!(*lab.plane.borrow().memory.contents(), before);
        let status = lab.client.status().await.unwrap();
        assert_eq!((status.config.generation, status.config.last_error), (2, None));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn changes_outlive_reload_and_process_until_they_are_dropped() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.client.set_weight(&name(FIRST), 7).await.unwrap();
        lab.client.add_backend("web", &third(4)).await.unwrap();
        // Something else in the file is otherwise, and a reload takes that.
        lab.write(&CONFIG.replace("weight = 1", "weight = 2"));
        let answer = lab.client.reload(&ReloadRequest::default()).await.unwrap();
        assert_eq!(answer.result, ReloadResult::Applied);
        assert_eq!(lab.backends().await, backends([(FIRST, 7), (SECOND, 2), (THIRD, 4)]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let (driver, lab) = again(lab, CONFIG).await;
    run(driver, async {
        assert_eq!(lab.backends().await, backends([(FIRST, 7), (SECOND, 1), (THIRD, 4)]));
        assert!(lab.is_chosen(2), "not a moment without");
        // The file has caught up with one of them.
        lab.write(&CONFIG.replace("weight = 3", "weight = 7"));
        lab.client.reload(&ReloadRequest::default()).await.unwrap();
        assert_eq!(lab.changes().await, ["10.0.0.3:8080 added Some(4)"]);
        let reset = ReloadRequest { reset: true, ..ReloadRequest::default() };
        lab.client.reload(&reset).await.unwrap();
        assert_eq!(lab.backends().await, backends([(FIRST, 7), (SECOND, 1)]));
        assert!(lab.changes().await.is_empty());
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    assert!(!lab.path("state.json").exists(), "nothing is left to be kept");
}

#[tokio::test]
async fn changes_that_do_not_go_with_the_file_refuse_a_reload_and_not_a_start() {
    let (driver, lab) = Lab::start(CONFIG).await;
    let idle = CONFIG.replace("weight = 3", "weight = 0");
    run(driver, async {
        lab.client.set_weight(&name(SECOND), 0).await.unwrap();
        lab.write(&idle);
        let problem = refused(lab.client.reload(&ReloadRequest::default()).await);
        assert_eq!(problem.status, 422);
        assert!(problem.detail.starts_with("with what has been changed"), "{}", problem.detail);
        assert_eq!(lab.backends().await, backends([(FIRST, 3), (SECOND, 0)]));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
    let (driver, lab) = again(lab, &idle).await;
    run(driver, async {
        assert_eq!(lab.backends().await, backends([(FIRST, 0), (SECOND, 1)]));
        assert!(lab.changes().await.is_empty());
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn reload_tells_what_is_otherwise_and_what_is_wrong_with_its_place() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let reload = async || lab.client.reload(&ReloadRequest::default()).await;
        let answer = reload().await.unwrap();
        assert_eq!((answer.result, answer.generation), (ReloadResult::Unchanged, 1));
        let more = CONFIG.replace("web", "mail").replace("port = 80 ", "port = 25 ");
        let more = format!("{}{more}", CONFIG.replace("weight = 3", "weight = 4"));
        lab.write(&more);
        let expected = ServiceChanges {
            added: vec!["mail".to_owned()],
            changed: vec!["web".to_owned()],
            removed: Vec::new(),
        };
        assert_eq!(reload().await.unwrap().services, expected);
        lab.write("nonsense");
        let problem = refused(reload().await);
        assert_eq!((problem.status, problem.errors[0].line), (422, 1));
        let last = lab.client.status().await.unwrap().config.last_error;
        assert!(last.unwrap().contains("a.toml"));
        // Another file, from then on.
        let other = lab.path("b.toml").display().to_string();
        let request = ReloadRequest { file: Some(other.clone()), ..ReloadRequest::default() };
        assert_eq!(refused(lab.client.reload(&request).await).status, 422);
        fs::write(&other, CONFIG).unwrap();
        let answer = lab.client.reload(&request).await.unwrap();
        assert_eq!(answer.services.removed, ["mail"]);
        let config = lab.client.status().await.unwrap().config;
        assert_eq!((config.path, config.last_error), (Some(other), None));
        assert_eq!(reload().await.unwrap().result, ReloadResult::Unchanged);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn other_names_alone_are_a_change_of_their_service_and_its_backends_are_changed_by_its_name()
{
    let route = "[[service.name-route]]\nnames = ['a.example.com', 'b.example.com']\nbackends = [{ address = '10.0.0.4:8080' }]\n";
    let text = format!("{CONFIG}{route}");
    let (driver, lab) = Lab::start(&text).await;
    run(driver, async {
        let reload = async || lab.client.reload(&ReloadRequest::default()).await.unwrap();
        assert_eq!(reload().await.result, ReloadResult::Unchanged);
        for other in ["'*.example.com'", "'b.example.com', 'c.example.com'"] {
            lab.write(&text.replace("'b.example.com'", other));
            let answer = reload().await;
            assert_eq!((answer.result, answer.steps), (ReloadResult::Applied, 0), "{other}");
            assert_eq!(answer.services.changed, ["web"], "{other}");
        }
        lab.write(&text.replace("'b.example.com'", "'B.example.com', 'c.example.com'"));
        assert_eq!(reload().await.result, ReloadResult::Unchanged, "another case is no other name");

        let route = Some("a.example.com".to_owned());
        lab.client.add_backend("web", &AddRequest { route, ..third(5) }).await.unwrap();
        let status = lab.client.status().await.unwrap();
        let pool = status.services[0].pools.iter().find(|pool| pool.route == "a.example.com");
        assert_eq!(pool.unwrap().backends.len(), 2);
        let route = Some("b.example.com".to_owned());
        let answer = lab.client.add_backend("web", &AddRequest { route, ..third(5) }).await;
        assert_eq!(refused(answer).status, 404, "routes are called by their first name");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn change_that_the_maps_refuse_is_said_and_taken_back() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        let problem = refused(lab.client.set_weight(&name(FIRST), 9).await);
        assert_eq!(problem.status, 500);
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
        lab.status_when(|status| status.state == Health::Ok).await;
        assert_eq!(lab.backends().await, backends([(FIRST, 3), (SECOND, 1)]));
        assert_eq!(lab.changes().await, Vec::<String>::new());
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}
