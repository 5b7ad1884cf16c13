//! What a terminal is shown beyond plain text: colours, and lines that are drawn again in place.

use std::ffi::OsStr;
use std::io::IsTerminal;

/// Whether what goes there may have colours: to a terminal, unless its user wants none.
pub(crate) fn is_coloured(stream: &impl IsTerminal) -> bool {
    allows_colours(stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

/// Whether a line that goes there can be drawn again.
pub(crate) fn is_redrawn(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// <https://no-color.org>: set to anything but nothing.
fn allows_colours(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_users_have_not_said_no() {
        assert!(allows_colours(true, None) && allows_colours(true, Some(OsStr::new(""))));
        assert!(!allows_colours(true, Some(OsStr::new("1"))) && !allows_colours(false, None));
    }
}
