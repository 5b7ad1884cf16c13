//! How texts look that are read as something else, as the description of the admin API says it.

use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

/// 0 to 255, without zeros before it.
const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// 0 to 65535.
const PORT: &str =
    "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)";

fn v4() -> String {
    format!("({BYTE}\\.){{3}}{BYTE}")
}

/// Eight groups, or fewer around one `::` (RFC 4291, section 2.2).
fn v6() -> String {
    const GROUP: &str = "[0-9a-fA-F]{1,4}";
    let mut forms = vec![format!("({GROUP}:){{7}}{GROUP}"), format!("({GROUP}:){{1,7}}:")];
    // So many before the gap at most, and the rest of eight after it.
    forms.extend((1..=6).rev().map(|before| {
        let after = 7 - before;
        format!("({GROUP}:){{1,{before}}}(:{GROUP}){{1,{after}}}")
    }));
    forms.push(format!(":((:{GROUP}){{1,7}}|:)"));
    format!("({})", forms.join("|"))
}

fn any_address() -> String {
    format!("({}|{})", v4(), v6())
}

fn any_place() -> String {
    format!("({}|\\[{}\\]):{PORT}", v4(), v6())
}

/// What it is for is told here: what stands above a field is lost where its form is given.
fn text(form: &str, what: &str) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some(what));
    text.pattern(Some(format!("^{form}$"))).build()
}

/// The address of a host whose backends are meant.
pub(super) fn host() -> Object {
    text(&any_address(), "Every backend of this address, in every service.")
}

/// Where a packet comes from.
pub(super) fn source() -> Object {
    text(&any_place(), "Where it comes from; an IPv6 address in brackets.")
}

/// Where a packet goes.
pub(super) fn destination() -> Object {
    text(&any_place(), "Where it goes; an IPv6 address in brackets.")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;
    use proptest::string::string_regex;

    use super::*;

    proptest! {
        #[test]
        fn what_has_the_form_is_read(
            address in string_regex(&any_address()).unwrap(),
            place in string_regex(&any_place()).unwrap(),
        ) {
            prop_assert!(address.parse::<IpAddr>().is_ok(), "{}", address);
            prop_assert!(place.parse::<SocketAddr>().is_ok(), "{}", place);
        }
    }
}
