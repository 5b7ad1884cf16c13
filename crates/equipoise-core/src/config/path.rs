//! Paths of keys: `service[0].listen.port`, and `settings.attach."eth0.100"` where a name is not
//! of letters, digits, `-` and `_` alone.

/// The path of a name in a table.
pub(super) fn field(table: &str, name: &str) -> String {
    let dot = if table.is_empty() { "" } else { "." };
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) {
        return format!("{table}{dot}{name}");
    }
    format!("{table}{dot}{name:?}")
}

/// The path of an item of a list.
pub(super) fn item(list: &str, index: usize) -> String {
    format!("{list}[{index}]")
}
