//! A configuration written out whole: every default filled in, checks and breakers where they hold.
//!
//! What is written reads back as the same configuration. Files are named, not read in; what came from several files is one.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::health::{Panic, PanicPolicy};
use super::{Attach, Backend, BackendInterfaces, Config, Named, Role, Route, Service, target};

/// The configuration, as JSON with the keys of the file.
pub fn written(config: &Config) -> Value {
    let settings = &config.settings;
    let mut written = json!({
        "attach": attach(&settings.attach),
        "backend-interfaces": backend_interfaces(&settings.backend_interfaces),
        "max-flows": settings.max_flows,
        "on-exit": settings.on_exit,
        "events": settings.events,
        "exec-checks": settings.exec_checks,
        "observe": settings.observe,
        "drain": settings.drain,
        "limits": settings.limits,
        "least-connections": settings.least_connections,
        "dns": settings.dns,
        "log": settings.log,
    });
    if let Some(breaker) = settings.breaker {
        written["breaker"] = json!(breaker);
    }
    if let Some(metrics) = &settings.metrics {
        written["metrics"] = json!(metrics);
    }
    if let Some(otlp) = &settings.otlp {
        written["otlp"] = json!(otlp);
    }
    if let Some(admin) = &settings.admin {
        written["admin"] = json!(admin);
    }
    if let Some(access_log) = &settings.access_log {
        written["access-log"] = json!(access_log);
    }
    json!({ "service": config.services.iter().map(service).collect::<Vec<_>>(), "settings": written })
}

fn service(service: &Service) -> Value {
    let mut written = json!({
        "name": service.name,
        "listen": service.listen,
        "algorithm": service.algorithm,
        "affinity": service.affinity,
        "affinity-prefix": service.affinity_prefix,
        "manage-address": service.manage_address,
        "backends": backends(&service.backends, &service.named),
        "recovery": service.recovery,
        "panic": panic(service.panic, &service.backends, &service.named),
    });
    put(&mut written, json!(service.delivery));
    put(&mut written, json!(service.policy));
    if let Some(breaker) = service.breaker {
        written["breaker"] = json!(breaker);
    }
    if !service.routes.is_empty() {
        written["source-route"] = service.routes.iter().map(route).collect();
    }
    if !service.name_routes.is_empty() {
        written["name-route"] = service.name_routes.iter().map(route).collect();
    }
    written
}

fn route(route: &Route) -> Value {
    let mut written = json!({
        "algorithm": route.algorithm,
        "affinity": route.affinity,
        "affinity-prefix": route.affinity_prefix,
        "backends": backends(&route.backends, &route.named),
        "recovery": route.recovery,
        "panic": panic(route.panic, &route.backends, &route.named),
    });
    if let Some(breaker) = route.breaker {
        written["breaker"] = json!(breaker);
    }
    if route.is_by_name() {
        written["names"] = json!(route.names);
    } else {
        written["source"] = json!(route.source);
    }
    written
}

/// Those of a pool, without those that step in when it panics.
fn backends(backends: &[Backend], names: &[Arc<Named>]) -> Value {
    let backends = backends.iter().filter(|backend| backend.role != Role::Fallback).map(backend);
    let names = names.iter().filter(|named| named.role != Role::Fallback);
    backends.chain(names.map(|named| json!(named))).collect()
}

fn backend(backend: &Backend) -> Value {
    let mut written = json!({
        "address": target::text(backend.address),
        "weight": backend.weight,
        "max-flows": backend.max_flows,
        "backup": backend.role == Role::Backup,
    });
    if let Some(protocol) = backend.proxy_protocol {
        written["proxy-protocol"] = json!(protocol);
    }
    if let Some(check) = &backend.health_check {
        written["health-check"] = json!(check);
    }
    written
}

fn panic(panic: Panic, backends: &[Backend], names: &[Arc<Named>]) -> Value {
    let mut written = json!(panic);
    if panic.policy == PanicPolicy::Fallback {
        let fallback = backends.iter().filter(|backend| backend.role == Role::Fallback);
        let names = names.iter().filter(|named| named.role == Role::Fallback);
        written["fallback-backends"] =
            fallback.map(backend).chain(names.map(|named| json!(named))).collect();
    }
    written
}

fn attach(attach: &Attach) -> Value {
    if attach.interfaces.is_empty() {
        return json!(attach.default);
    }
    let mut modes = json!(attach.interfaces);
    modes["default"] = json!(attach.default);
    modes
}

fn backend_interfaces(interfaces: &BackendInterfaces) -> Value {
    match interfaces {
        BackendInterfaces::Auto => json!("auto"),
        BackendInterfaces::Named(names) => json!(names),
    }
}

fn put(into: &mut Value, more: Value) {
    let entries: Map<_, _> = match more {
        Value::Object(entries) => entries,
        _ => Map::new(),
    };
    for (name, value) in entries {
        into[name] = value;
    }
}
