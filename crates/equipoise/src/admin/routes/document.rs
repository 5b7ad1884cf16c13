//! What there is to be asked, as a document for programs (OpenAPI 3.1) and as a page for people.
//!
//! Made of what stands above each handler; a test holds it against the routes themselves, both ways.

use std::fmt::Write as _;

use axum::Json;
use axum::response::Html;
use axum::routing::get;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::{OpenApi as Document, PathItem, RefOr};
use utoipa::{Modify, OpenApi};

use super::{Route, change, events, health, limits, names, operate, services, talkers, trace};
use crate::admin::ProblemDetails;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Equipoise",
        description = "The admin API: on the instance's socket, and where `settings.admin` is there, on a port.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
    ),
    paths(
        super::status,
        super::flows,
        super::end_flows,
        super::config,
        super::plan,
        super::explain,
        super::upgrade,
        super::stop,
        change::reload,
        change::changes,
        change::add,
        change::weigh,
        change::remove,
        change::confirm,
        change::history,
        events::events,
        events::flow_events,
        talkers::talkers,
        talkers::dropped,
        trace::trace,
        health::health,
        health::set_health,
        health::check_health,
        limits::limits,
        limits::set,
        limits::clear,
        limits::clear_all,
        limits::denied,
        limits::deny,
        limits::allow_again,
        names::names,
        names::refresh,
        operate::drains,
        operate::drain,
        operate::undrain,
        operate::breakers,
        operate::turn,
        services::services,
        services::add,
        services::give,
        services::remove,
        services::service,
        services::routes_of,
        services::backends,
        services::backend,
        services::pools,
        services::recompute,
        document,
        page,
        metrics
    ),
    components(schemas(ProblemDetails)),
    modifiers(&Given, &Kinds)
)]
struct Api;

/// A parameter is given or is not: unlike a field of a body, it is never `null`, which would be a text like any other. And what it is for
/// stands beside it, not within its schema.
struct Given;

impl Modify for Given {
    fn modify(&self, document: &mut Document) {
        let items = document.paths.paths.values_mut();
        let parameters = items
            .flat_map(|item| {
                [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
            })
            .flatten()
            .flat_map(|operation| operation.parameters.iter_mut().flatten());
        for parameter in parameters {
            if let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
                && let SchemaType::Array(types) = &object.schema_type
                && let [only] = &*types.iter().filter(|of| **of != Type::Null).collect::<Vec<_>>()
            {
                object.schema_type = SchemaType::Type((*only).clone());
            }
            if let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
                && parameter.description.is_none()
            {
                parameter.description = object.description.take();
            }
        }
    }
}

/// What tells the forms of something apart stands in no source, and is described here.
struct Kinds;

impl Modify for Kinds {
    fn modify(&self, document: &mut Document) {
        let schemas = document.components.iter_mut().flat_map(|all| all.schemas.values_mut());
        let forms = schemas.filter_map(|schema| match schema {
            RefOr::T(Schema::OneOf(one)) => Some(&mut one.items),
            _ => None,
        });
        for form in forms.flatten() {
            let RefOr::T(Schema::Object(form)) = form else { continue };
            for field in form.properties.values_mut() {
                if let RefOr::T(Schema::Object(field)) = field
                    && field.enum_values.as_ref().is_some_and(|values| values.len() == 1)
                    && field.description.is_none()
                {
                    field.description = Some("Which of them it is.".to_owned());
                }
            }
        }
    }
}

pub(super) fn routes() -> Vec<Route> {
    vec![("/api/v1/openapi.json", get(document)), ("/api/v1", get(page))]
}

#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "instance", summary = "This document", responses((status = 200, description = "OpenAPI 3.1", body = Value)))]
async fn document() -> Json<Document> {
    Json(Api::openapi())
}

#[utoipa::path(get, path = "/api/v1", tag = "instance", summary = "This document, as a page for people", responses((status = 200, description = "A page", body = String, content_type = "text/html")))]
async fn page() -> Html<String> {
    Html(written(&Api::openapi()))
}

/// Answered by the exporter.
#[utoipa::path(get, path = "/api/v1/metrics", tag = "instance", summary = "Metrics, for scrapers", responses((status = 200, description = "Text 0.0.4, or OpenMetrics where that is accepted", body = String, content_type = "text/plain")))]
#[expect(dead_code, reason = "it stands for its place in the document")]
async fn metrics() {}

/// A table of all that there is to be asked.
fn written(document: &Document) -> String {
    let mut page = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Equipoise: admin API</title>\
        <style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}td{padding:.2rem 1rem .2rem 0;\
        vertical-align:top}code{white-space:nowrap}</style><h1>Equipoise: admin API</h1>\
        <p>For programs: <a href=\"/api/v1/openapi.json\">openapi.json</a>.</p><table>"
        .to_owned();
    for (path, item) in &document.paths.paths {
        for (method, operation) in operations(item) {
            let summary = escaped(operation.summary.as_deref().unwrap_or_default());
            let path = escaped(path);
            // Writing to a text cannot fail.
            let _: std::fmt::Result =
                write!(page, "<tr><td>{method}<td><code>{path}</code><td>{summary}");
        }
    }
    page.push_str("</table></html>");
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// What can be done at a path, by method.
fn operations(item: &PathItem) -> Vec<(&'static str, &Operation)> {
    let all = [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ];
    all.into_iter().filter_map(|(method, of)| Some((method, of.as_ref()?))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use axum::http::{Request, StatusCode, header};
    use axum::{Router, serve};
    use http_body_util::{BodyExt as _, Empty};
    use hyper::body::Bytes;
    use hyper_util::rt::TokioIo;
    use serde_json::Value;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{mpsc, watch};

    use super::super::{METRICS, all};
    use super::*;
    use crate::admin::{Access, Snapshot};
    use crate::status::talkers::{DroppedRequest, TalkersRequest};
    use crate::status::trace::TraceFilter;

    type Methods = BTreeMap<String, BTreeSet<String>>;

    fn told() -> Methods {
        let document = Api::openapi();
        let methods = |item: &PathItem| -> BTreeSet<String> {
            operations(item).into_iter().map(|(method, _)| method.to_owned()).collect()
        };
        let paths = document.paths.paths.iter();
        paths.map(|(path, item)| (path.clone(), methods(item))).collect()
    }

    /// What each route says that it can be asked, when it is asked something else.
    async fn there_is() -> Methods {
        let (commands, _) = mpsc::channel(1);
        let (_, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let router = all()
            .into_iter()
            .fold(Router::new(), |router, (path, methods)| router.route(path, methods));
        let router = router.with_state(Access::new(commands, snapshot));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, router).into_future());
        let mut found = Methods::new();
        for (path, _) in all() {
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let asked = path.replace(['{', '}'], "");
            let request =
                Request::builder().method("TRACE").uri(asked).header(header::HOST, "test");
            let answer =
                sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            let allowed = answer.headers()[header::ALLOW].to_str().unwrap().to_owned();
            answer.into_body().collect().await.unwrap();
            let methods = allowed.split(',').filter(|method| *method != "HEAD").map(str::to_owned);
            found.entry(path.to_owned()).or_default().extend(methods);
        }
        serving.abort();
        found
    }

    #[tokio::test]
    async fn every_route_is_in_the_document_and_the_document_tells_of_no_other() {
        let mut there_is = there_is().await;
        there_is.insert(METRICS.to_owned(), ["GET".to_owned()].into());
        assert_eq!(told(), there_is);
    }

    #[test]
    fn no_parameter_is_null() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        let mut parameters = 0;
        for operation in document["paths"].as_object().unwrap().values() {
            let methods = operation.as_object().unwrap().values();
            for parameter in methods.filter_map(|method| method["parameters"].as_array()).flatten()
            {
                let text = parameter.to_string();
                assert!(!text.contains("null"), "{text}");
                parameters += 1;
            }
        }
        assert!(parameters > 50, "{parameters}");
    }

    /// All parts of a document that are under this name, wherever.
    fn under<'v>(name: &str, value: &'v Value, found: &mut Vec<&'v Value>) {
        let parts: Vec<_> = match value {
            Value::Object(object) => object.iter().map(|(key, part)| (&**key, part)).collect(),
            Value::Array(list) => list.iter().map(|part| ("", part)).collect(),
            _ => return,
        };
        for (key, part) in parts {
            if key == name {
                found.push(part);
            }
            under(name, part, found);
        }
    }

    /// Whether something is said of what has this schema: by it, or where it may be absent, by what it is otherwise.
    fn is_described(schema: &Value) -> bool {
        let says =
            |value: &Value| value["description"].as_str().is_some_and(|text| !text.is_empty());
        says(schema) || schema["oneOf"].as_array().is_some_and(|of| of.iter().any(says))
    }

    #[test]
    fn every_parameter_and_every_field_is_described() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        let (mut described, mut silent) = (0, Vec::new());
        let mut lists = Vec::new();
        under("parameters", &document, &mut lists);
        for parameter in lists.into_iter().filter_map(Value::as_array).flatten() {
            match parameter["description"].as_str() {
                Some(text) if !text.is_empty() => described += 1,
                _ => silent.push(parameter.to_string()),
            }
        }
        let mut objects = Vec::new();
        under("properties", &document, &mut objects);
        for (name, field) in objects.into_iter().filter_map(Value::as_object).flatten() {
            match is_described(field) {
                true => described += 1,
                false => silent.push(format!("{name}: {field}")),
            }
        }
        assert!(silent.is_empty(), "{}", silent.join("\n"));
        assert!(described > 300, "{described}");
    }

    #[test]
    fn descriptions_are_for_readers_of_the_document_and_not_of_the_source() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        let mut texts = Vec::new();
        for name in ["description", "summary"] {
            under(name, &document, &mut texts);
        }
        let texts: Vec<_> = texts.into_iter().filter_map(Value::as_str).collect();
        for text in &texts {
            let links = ["[`", "`]", "](", "][", "::"];
            assert!(!links.iter().any(|link| text.contains(link)), "{text}");
        }
        assert!(texts.len() > 400, "{}", texts.len());
        // What is told in numbers is so.
        for told in [
            format!("; {} unless given", TalkersRequest::LIMIT),
            format!("; {} unless given", DroppedRequest::SECONDS),
            format!("; {} unless given", TraceFilter::RATE),
        ] {
            assert!(texts.iter().any(|text| text.contains(&told)), "{told}");
        }
    }

    #[test]
    fn every_answer_has_a_schema_and_the_page_has_every_path() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        assert!(
            document["openapi"].as_str().unwrap().starts_with("3.1"),
            "{}",
            document["openapi"]
        );
        let page = written(&Api::openapi());
        let text = document.to_string();
        for (path, methods) in told() {
            assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
            for method in methods {
                let operation = &document["paths"][&path][method.to_ascii_lowercase()];
                let content = operation["responses"]["200"]["content"].as_object().expect(&path);
                assert!(content.values().all(|content| content["schema"].is_object()), "{path}");
            }
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name} is referred to and not there");
        }
    }
}
