//! What there is, for whoever has named something that there is not.

use equipoise_core::config::nearest;

/// More are counted, not named.
const NAMED: usize = 8;

/// The one that was most likely meant, and all that there are: `is "web" meant? The services are "web", "mail"`.
pub(crate) fn there_are<'k>(
    what: &str,
    word: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    // One that is in several pools is named once.
    let mut named = std::collections::BTreeSet::new();
    known.retain(|name| named.insert(*name));
    if known.is_empty() {
        return format!("there are no {what}");
    }
    let shown: Vec<_> = known.iter().take(NAMED).map(|name| format!("{name:?}")).collect();
    let more = match known.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let all = format!("{what} are {}{more}", shown.join(", "));
    match nearest(word, &known) {
        Some(name) => format!("is {name:?} meant? The {all}"),
        None => format!("the {all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_comes_first_and_many_are_counted() {
        let services = |word, known: &[&str]| there_are("services", word, known.iter().copied());
        assert_eq!(
            services("wbe", &["web", "mail"]),
            r#"is "web" meant? The services are "web", "mail""#
        );
        assert_eq!(services("x", &["web", "mail", "web"]), r#"the services are "web", "mail""#);
        assert_eq!(services("x", &[]), "there are no services");
        let many: Vec<String> = (0..11).map(|n| format!("s{n}-api")).collect();
        let told = there_are("services", "x", many.iter().map(String::as_str));
        assert!(told.ends_with(r#""s7-api" and 3 more"#), "{told}");
    }
}
