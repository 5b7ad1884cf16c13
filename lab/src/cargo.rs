//! Cargo from within Cargo.

use std::ffi::OsStr;
use std::process::Command;

/// This cargo, without what an outer one has told this process of its package.
///
/// Build scripts may depend on that: a crate near the root of all that is built would be built anew whenever who asks changes.
pub fn cargo(binary: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let is_of_package = name.to_str().is_some_and(is_of_package);
        if is_of_package {
            command.env_remove(&name);
        }
    }
    command
}

fn is_of_package(name: &str) -> bool {
    ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_"].iter().any(|of| name.starts_with(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_package_is_left_out_and_nothing_else() {
        assert!(is_of_package("CARGO_MANIFEST_DIR") && is_of_package("CARGO_PKG_VERSION"));
        assert!(!is_of_package("CARGO_HOME") && !is_of_package("PATH"));
        // Cargo has told this test of its own.
        let command = cargo("cargo");
        let left_out: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).collect();
        assert!(left_out.iter().any(|(name, _)| *name == "CARGO_MANIFEST_DIR"), "{left_out:?}");
    }
}
