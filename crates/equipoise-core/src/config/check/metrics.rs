//! The keys of `[settings.metrics]`.

use std::net::SocketAddr;

use super::keys;
use super::report::{At, Report, shown};
use crate::config::Metrics;

const LISTEN: &str = "an address and a port, such as `127.0.0.1:9090` or `[::]:9090`";
const PATH: &str = "a path such as `/metrics`, of letters, digits, `-`, `_`, `.` and `/`; `/health` and `/ready` are taken";

/// Checks them; what is wrong and reported has its default.
pub(super) fn metrics(report: &mut Report<'_>, at: &At<'_>) -> Metrics {
    let mut found = Metrics::default();
    let Some(fields) = report.fields(at, &keys::METRICS) else { return found };
    if let Some(at) = fields.get("listen")
        && let Some(text) = report.text(&at, LISTEN)
    {
        match text.parse::<SocketAddr>() {
            Ok(listen) if listen.port() != 0 => found.listen = listen,
            _ => {
                report.problem(&at.place, format!("{} cannot be listened on", shown(text)), LISTEN);
            }
        }
    }
    if let Some(at) = fields.get("path")
        && let Some(text) = report.text(&at, PATH)
    {
        if is_path(text) {
            found.path = text.to_owned();
        } else {
            report.problem(&at.place, format!("{} is no path for metrics", shown(text)), PATH);
        }
    }
    found
}

/// Whether metrics can be served at a path.
pub(in crate::config) fn is_path(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    text.starts_with('/') && text.chars().all(is_plain) && !["/health", "/ready"].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn read(settings: &str) -> Result<Option<Metrics>, Vec<String>> {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.1', port = 80 }}\n\
             backends = [{{ address = '10.0.0.1:80' }}]\n{settings}\n"
        );
        let read = parse("equipoise.toml", &text).map(|checked| checked.config.settings.metrics);
        read.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nobody_listens_unless_the_table_is_there() {
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("[settings.metrics]"), Ok(Some(Metrics::default())));
        let own = Metrics { listen: "[::1]:9100".parse().unwrap(), path: "/lb/metrics".to_owned() };
        let text = "[settings.metrics]\nlisten = '[::1]:9100'\npath = '/lb/metrics'";
        assert_eq!(read(text), Ok(Some(own)));
    }

    #[test]
    fn what_cannot_be_listened_on_or_asked_for_is_told() {
        for wrong in
            ["listen = ':9090'", "listen = '127.0.0.1:0'", "path = 'metrics'", "path = '/ready'"]
        {
            let problems = read(&format!("[settings.metrics]\n{wrong}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
        assert!(read("[settings.metrics]\npath = '/{x}'").is_err());
        let both = |admin: &str, metrics: &str| {
            read(&format!(
                "[settings.admin]\nlisten = '{admin}'\n[settings.metrics]\nlisten = '{metrics}'"
            ))
        };
        for (admin, metrics) in [
            ("127.0.0.1:9090", "127.0.0.1:9090"),
            ("127.0.0.1:9090", "0.0.0.0:9090"),
            ("[::1]:1", "[::]:1"),
        ] {
            let problems = both(admin, metrics).unwrap_err();
            let told = format!("the admin API listens on {admin} already");
            assert!(problems.len() == 1 && problems[0].contains(&told), "{problems:?}");
        }
        assert!(both("127.0.0.1:9091", "0.0.0.0:9090").is_ok());
        assert!(both("[::1]:9090", "127.0.0.1:9090").is_ok());
    }
}
