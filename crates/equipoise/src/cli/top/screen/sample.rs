//! A status with one service, for tests of what is shown of it.

use std::time::Duration;

use ratatui::crossterm::event::KeyCode;

use super::{Act, Screen};
use crate::status::Status;

/// Of this process, with a backend for each number of new flows.
pub(in super::super) fn status(pid: u32, flows: &[u64]) -> Status {
    let backend = |(n, flows): (usize, &u64)| {
        serde_json::json!({
            "address": format!("10.0.0.{}:80", n + 1), "configured_weight": 2, "effective_weight": 1.5, "share": 0.5,
            "health": if n == 0 { "healthy" } else { "unhealthy" }, "breaker": "closed", "draining": n == 1,
            "live_flows": 7, "new_flows": flows, "packets_in": flows, "bytes_in": flows * 100,
            "packets_out": 0, "bytes_out": 0, "ports_changed": 0,
            "passive": { "handshake_ms": 0.25, "refused": 0, "unanswered": 0, "reset": 0 },
        })
    };
    let backends: Vec<_> = flows.iter().enumerate().map(backend).collect();
    serde_json::from_value(serde_json::json!({
        "version": "1.0", "instance": "default", "pid": pid, "uptime_seconds": 60, "state": "degraded",
        "reasons": ["eth9 is not attached"], "notes": [],
        "config": { "path": null, "generation": 3, "loaded_at": "", "last_error": null, "watching": true },
        "services": [{
            "name": "web",
            "listen": { "interfaces": ["eth0"], "address": null, "addresses": [], "port": 80, "protocol": "tcp" },
            "state": "up", "new_flows": 0, "packets_in": 0, "bytes_in": 0, "packets_out": 0, "bytes_out": 0, "ports_changed": 0,
            "pools": [{ "route": "default", "algorithm": "source-hash", "panic": false, "backends": backends }],
        }],
        "interfaces": [],
        "flow_table": {
            "size": 1000, "opening": 0, "established": 0, "closing": 0, "live": 14, "memory_bytes": 0, "evicted": 0, "refused": 0,
            "pressure": {}, "events": { "opened": 0, "closed": {}, "lost": 0 },
        },
        "verdicts": {}, "hooks": {},
    }))
    .unwrap()
}

/// After two answers, a second apart: 10 and 30 new flows.
pub(in super::super) fn screen() -> Screen {
    let mut screen = Screen::default();
    screen.take(status(1, &[100, 200]), Duration::ZERO);
    screen.take(status(1, &[110, 230]), Duration::from_secs(1));
    screen
}

/// Types a text; what the last key asks for.
pub(in super::super) fn press(screen: &mut Screen, text: &str) -> Option<Act> {
    text.chars().map(|c| screen.key(KeyCode::Char(c).into())).last().flatten()
}
