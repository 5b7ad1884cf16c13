//! The tree to a checked configuration, or to all that is wrong with it.
//!
//! Each key is checked where it stands (`settings`, `service`), and what is right is gathered into
//! drafts even where a neighbour is wrong, so that the checks across services ([`across`]) see as
//! much as there is. A configuration is made only when nothing at all was found.

mod across;
mod address;
mod admin;
mod affinity;
mod breaker;
mod delivery;
mod health;
pub mod keys;
mod limits;
mod log;
mod metrics;
mod named;
pub(super) mod nearest;
mod otlp;
mod panic;
mod policy;
mod ports;
mod prefixes;
mod report;
mod route;
mod service;
mod settings;
mod stream;

pub(super) use admin::is_origin;
pub(super) use metrics::is_path as is_metrics_path;

use super::file::Node;
use super::problem::{Places, Problem};
use super::texts::Texts;
use super::{Around, Config, Settings};
pub(super) use prefixes::parse as prefix;
use report::{At, Report};
pub(super) use stream::is_name as is_server_name;

/// What a check says.
pub(super) struct Verdict {
    /// The configuration, when there is no problem.
    pub(super) config: Option<Config>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<Problem>,
}

/// Checks the tree that was read from texts. What it finds is in no order, with places in all of them.
pub(super) fn check(texts: &Texts, root: &Node, around: &Around<'_>) -> Verdict {
    let mut report = Report::new(texts, around);
    let top = At::root(root);
    let (mut services, mut settings) = (Vec::new(), Settings::default());
    if let Some(fields) = report.fields(&top, &keys::FILE) {
        if let Some(at) = fields.get("settings") {
            settings = settings::settings(&mut report, &at);
        }
        // After the settings, some of which hold for services that say nothing else.
        report.common_limits = settings.limits.clone();
        if let Some(at) = report.need(&fields, "service", "at least one service") {
            services = service::all(&mut report, &at);
        }
    }
    across::check(&mut report, &services);

    let Report { problems, notes, .. } = report;
    let services = services.into_iter().map(service::Draft::finish).collect::<Option<Vec<_>>>();
    let config = services.filter(|_| problems.is_empty()).map(|services| Config {
        services,
        settings,
        places: Places::new(root, texts),
    });
    Verdict { config, problems, notes }
}
