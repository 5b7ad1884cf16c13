//! Paths of keys: `service[0].listen.port`, and `settings.attach."eth0.100"` where a name is not
//! of letters, digits, `-` and `_` alone.

use std::fmt::Write as _;

/// The path of a name in a table.
pub(super) fn field(table: &str, name: &str) -> String {
    let mut path = String::with_capacity(table.len() + name.len() + 1);
    path.push_str(table);
    push_field(&mut path, name);
    path
}

/// The path of an item of a list.
pub(super) fn item(list: &str, index: usize) -> String {
    let mut path = String::with_capacity(list.len() + 7);
    path.push_str(list);
    push_item(&mut path, index);
    path
}

/// Makes the path of a table that of a name in it.
pub(super) fn push_field(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.bytes().all(bare) {
        path.push_str(name);
    } else {
        add(path, format_args!("{name:?}"));
    }
}

/// Makes the path of a list that of an item of it.
pub(super) fn push_item(path: &mut String, index: usize) {
    add(path, format_args!("[{index}]"));
}

fn add(path: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string has nothing to fail at.
    let _: std::fmt::Result = path.write_fmt(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_taken_for_a_path_are_quoted() {
        assert_eq!(field("", "service"), "service");
        assert_eq!(field(&item("service", 3), "manage-address"), "service[3].manage-address");
        assert_eq!(field("settings.attach", "eth0.100"), "settings.attach.\"eth0.100\"");
        assert_eq!(field("", "a b[\"]"), "\"a b[\\\"]\"");
        assert_eq!(field("a", ""), "a.\"\"");
    }
}
