//! A flow that has closed, or opened, as a line.

use std::io::Write as _;
use std::time::SystemTime;

use equipoise_core::config::log::LineFormat;

use crate::flow_events::Told;
use crate::status::flow_event::FlowEvent;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Adds a flow's line, with its end.
pub(super) fn write(into: &mut Vec<u8>, format: LineFormat, told: &Told) {
    match format {
        LineFormat::Json => json(into, told),
        LineFormat::Clf => clf(into, told),
    }
    into.push(b'\n');
}

fn json(into: &mut Vec<u8>, told: &Told) {
    // Nothing in it can be refused: texts, numbers that are finite, and memory to write to.
    let _: serde_json::Result<()> = serde_json::to_writer(into, &FlowEvent::from(told));
}

/// As web servers do it, with the flow where they have the request. What they have no word for, protocol and reason, comes last.
fn clf(into: &mut Vec<u8>, told: &Told) {
    let [client, vip, backend] = told.ends();
    let word = if told.is_closed() { "CONN-CLOSED" } else { "NEW-CONN" };
    let duration = told.duration_ms().map_or_else(|| "-".to_owned(), |took| format!("{took:.0}ms"));
    let reason = told.reason().unwrap_or("-");
    let written = write!(
        into,
        "{} - - [{}] \"{word} {vip} -> {backend}\" {}/{} {duration} {} {reason}",
        client.ip(),
        clf_time(told.at),
        told.event.bytes_in,
        told.event.bytes_out,
        told.protocol(),
    );
    // Memory refuses nothing.
    let _: std::io::Result<()> = written;
}

fn clf_time(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    let (date, time) = text.trim_end_matches('Z').split_once('T').unwrap_or_default();
    let mut parts = date.splitn(3, '-');
    let [year, month, day] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let month = month.parse::<usize>().ok().and_then(|month| MONTHS.get(month.checked_sub(1)?));
    format!("{day}/{}/{year}:{time} +0000", month.unwrap_or(&MONTHS[0]))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use equipoise_common::event::Event;
    use equipoise_common::flow::{Reason, State};
    use equipoise_common::key::{Be16, TCP, UDP, V6};
    use serde_json::{Value, json};

    use super::*;
    use crate::flow_events::Owner;

    fn address(text: &str) -> (V6, Be16) {
        let address: SocketAddr = text.parse().unwrap();
        (address.ip().into(), Be16::new(address.port()))
    }

    fn closed([client, vip, backend]: [&str; 3], more: Event) -> Told {
        let flags = |text: &str, flag| if text.starts_with('[') { flag } else { 0 };
        let ((client_ip, client_port), (vip_ip, vip_port)) = (address(client), address(vip));
        let (backend_address, backend_port) = address(backend);
        let event = Event {
            client: client_ip,
            client_port,
            vip: vip_ip,
            vip_port,
            backend_address,
            backend_port,
            what: Event::CLOSED | flags(vip, Event::IPV6) | flags(backend, Event::BACKEND_IPV6),
            ..more
        };
        let owner = Owner { service: "w\"eb".into(), route: "default".into() };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_211_844_321);
        Told { event, at, owner: Some(owner) }
    }

    fn line(format: LineFormat, told: &Told) -> String {
        let mut line = Vec::new();
        write(&mut line, format, told);
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        line.trim_end().to_owned()
    }

    fn connection() -> Told {
        let event = Event {
            protocol: TCP,
            why: Reason::ClientFin as u32,
            state: State::Established as u32,
            duration: 1_000,
            packets_in: 5,
            bytes_in: 700,
            packets_out: 4,
            bytes_out: 5_000,
            handshake: 2_001,
            ..Event::default()
        };
        closed(["198.51.100.7:50000", "203.0.113.10:80", "10.0.0.1:8080"], event)
    }

    #[test]
    fn connection_is_an_object_with_all_that_is_known_of_it() {
        let read: Value = serde_json::from_str(&line(LineFormat::Json, &connection())).unwrap();
        let expected = json!({
            "timestamp": "2024-02-29T13:04:04.321Z",
            "event": "closed",
            "protocol": "tcp",
            "client": { "ip": "198.51.100.7", "port": 50000 },
            "vip": { "ip": "203.0.113.10", "port": 80 },
            "backend": { "ip": "10.0.0.1", "port": 8080 },
            "service": "w\"eb",
            "route": "default",
            "reason": "client_fin",
            "state": "established",
            "duration_ms": 1048.576,
            "handshake_ms": 2.049,
            "packets_in": 5,
            "bytes_in": 700,
            "packets_out": 4,
            "bytes_out": 5000,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn datagrams_are_told_as_such_and_families_are_told_apart() {
        let event = Event {
            protocol: UDP,
            why: Reason::Idle as u32,
            state: State::TwoWay as u32,
            ..Event::default()
        };
        let ends = ["[2001:db8::7]:50000", "[2001:db8::10]:53", "10.0.0.1:5353"];
        let closed = Told { owner: None, ..closed(ends, event) };
        let read: Value = serde_json::from_str(&line(LineFormat::Json, &closed)).unwrap();
        assert_eq!((&read["protocol"], &read["reason"]), (&json!("udp"), &json!("idle")));
        assert_eq!(read["client"], json!({ "ip": "2001:db8::7", "port": 50000 }));
        assert_eq!(read["backend"], json!({ "ip": "10.0.0.1", "port": 5353 }));
        assert_eq!((&read["service"], &read["handshake_ms"]), (&Value::Null, &Value::Null));
        let expected = "2001:db8::7 - - [29/Feb/2024:13:04:04 +0000] \
                        \"CONN-CLOSED [2001:db8::10]:53 -> 10.0.0.1:5353\" 0/0 0ms udp idle";
        assert_eq!(line(LineFormat::Clf, &closed), expected);
    }

    #[test]
    fn what_opens_has_no_end_yet() {
        let told = connection();
        let what = told.event.what & !Event::CLOSED | Event::OPENED;
        let state = State::Opening as u32;
        let event = Event { what, state, why: 0, duration: 0, handshake: 0, ..told.event };
        let opened = Told { event, ..told };
        let read: Value = serde_json::from_str(&line(LineFormat::Json, &opened)).unwrap();
        assert_eq!((&read["event"], &read["state"]), (&json!("opened"), &json!("opening")));
        for later in ["reason", "duration_ms", "handshake_ms"] {
            assert_eq!(read[later], Value::Null, "{later}");
        }
        let expected = "198.51.100.7 - - [29/Feb/2024:13:04:04 +0000] \
                        \"NEW-CONN 203.0.113.10:80 -> 10.0.0.1:8080\" 700/5000 - tcp -";
        assert_eq!(line(LineFormat::Clf, &opened), expected);
    }

    #[test]
    fn common_log_format_has_the_flow_where_it_has_a_request() {
        let expected = "198.51.100.7 - - [29/Feb/2024:13:04:04 +0000] \
                        \"CONN-CLOSED 203.0.113.10:80 -> 10.0.0.1:8080\" 700/5000 1049ms tcp client_fin";
        assert_eq!(line(LineFormat::Clf, &connection()), expected);
    }
}
