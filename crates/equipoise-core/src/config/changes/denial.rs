//! Prefixes denied while the program runs, for one service or for all.
//!
//! Each is one more item of the list that the file has. One that is in that list already is given up; what a file of prefixes that
//! the list names has in it is not looked at, so that it stays denied when that changes.

use std::fmt;
use std::sync::Arc;

use super::tree::{down, items, made, service};
use crate::config::Prefix;
use crate::config::file::{Inside, Node, Value};

/// Clients of a prefix that are not let in, and whose flows are ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denial {
    /// Which clients.
    pub prefix: Prefix,
    /// Of which service; of all if absent.
    pub service: Option<Arc<str>>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{} at {service}", self.prefix),
            None => write!(f, "{}", self.prefix),
        }
    }
}

/// Makes one change; false where it is none.
pub(super) fn lay(root: &mut Node, denial: &Denial) -> bool {
    let table = match &denial.service {
        Some(name) => service(root, name),
        None => made(root, &["settings"], Value::Table(Vec::new())),
    };
    let Some(table) = table else { return false };
    let names = ["limits", "deny"];
    let is_it =
        |item: &Node| item.value.text().and_then(|text| text.parse().ok()) == Some(denial.prefix);
    if let Some(list) = down(table, &names)
        && let Inside::List(listed) = list.value.inside()
        && listed.iter().any(is_it)
    {
        return false;
    }
    let Some(list) = made(table, &names, Value::List(Vec::new())) else { return false };
    let span = list.span.clone();
    items(list).is_some_and(|items| {
        items.push(Node { span, value: Value::Text(denial.prefix.to_string()) });
        true
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Changes;
    use super::*;
    use crate::config::{Around, Config, parse_changed};

    const FILE: &str = "
        [settings]
        limits = { deny = ['10.1.2.3'] }
        [[service]]
        name = 'web'
        listen = { interfaces = ['eth0'], port = 80 }
        backends = [{ address = '10.0.0.1:80' }]
        [[service]]
        name = 'dns'
        listen = { interfaces = ['eth0'], port = 53, protocol = 'udp' }
        backends = [{ address = '10.0.0.1:80' }]
        limits = { deny = ['10.2.0.0/16'] }
    ";

    fn denial(prefix: &str, service: Option<&str>) -> Denial {
        Denial { prefix: prefix.parse().unwrap(), service: service.map(Into::into) }
    }

    fn laid(file: &str, changes: &Changes) -> (Config, Vec<Denial>) {
        let around = Around::files(&|_| unreachable!());
        let changed = parse_changed(("a.toml", file), &around, changes).unwrap();
        let holding = changed.changes.denials().map(|(denial, _)| denial.clone()).collect();
        (changed.checked.config, holding)
    }

    #[test]
    fn denied_prefixes_are_in_the_list_that_they_are_for_and_those_of_the_file_stay() {
        let mut changes = Changes::default();
        let all = [
            denial("10.3.0.0/16", None),
            denial("10.4.0.0/16", Some("web")),
            denial("2001:db8::/32", Some("dns")),
        ];
        all.iter().for_each(|denial| changes.deny(denial.clone(), None));
        let (config, holding) = laid(FILE, &changes);
        assert_eq!(holding, all);
        assert_eq!(config.settings.limits.deny.written, ["10.1.2.3", "10.3.0.0/16"]);
        let of = |at: usize| config.services[at].policy.limits.deny.written.clone();
        assert_eq!(of(0), ["10.4.0.0/16"]);
        assert_eq!(of(1), ["10.2.0.0/16", "2001:db8::/32"]);
        // There need be no settings for that.
        let bare = FILE.replace("[settings]\n        limits = { deny = ['10.1.2.3'] }", "");
        assert_eq!(laid(&bare, &changes).0.settings.limits.deny.written, ["10.3.0.0/16"]);
    }

    #[test]
    fn denial_is_given_up_when_the_file_has_it_or_has_no_such_service() {
        let mut changes = Changes::default();
        changes.deny(denial("10.1.2.3/32", None), None);
        changes.deny(denial("10.2.0.0/16", Some("dns")), None);
        changes.deny(denial("10.2.0.0/16", Some("mail")), None);
        let (config, holding) = laid(FILE, &changes);
        assert_eq!(holding, []);
        assert_eq!(config.settings.limits.deny.written, ["10.1.2.3"]);
    }

    #[test]
    fn denials_are_over_at_their_time_and_not_before() {
        let mut changes = Changes::default();
        let (first, last) = (denial("10.1.0.0/16", None), denial("10.2.0.0/16", None));
        changes.deny(first.clone(), Some(Duration::from_secs(5)));
        changes.deny(last.clone(), None);
        assert_eq!(changes.next_end(), Some(Duration::from_secs(5)));
        assert_eq!(changes.expire(Duration::from_millis(4_999)), []);
        assert_eq!(changes.expire(Duration::from_secs(5)), std::slice::from_ref(&first));
        assert_eq!((changes.next_end(), changes.len()), (None, 1));
        assert!(changes.allow_again(&last) && !changes.allow_again(&last));
        assert!(changes.is_empty());
    }
}
