//! The tests of the workspace, by the names of their files, as Cargo knows them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::step::cargo;

/// Test targets by what they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    /// Of all packages, those that need nothing.
    pub(crate) plain: Vec<String>,
    /// Those that need root and the running kernel, first those of the bench that the others stand on.
    pub(crate) kernel: Vec<String>,
}

impl Targets {
    /// Asks Cargo for them.
    pub(crate) fn read() -> Result<Self> {
        let mut command = cargo(&["metadata", "--locked", "--no-deps", "--format-version", "1"]);
        let output = command.output().context("cargo cannot be run")?;
        ensure!(output.status.success(), "cargo metadata: {}", output.status);
        let found = Self::of(&serde_json::from_slice(&output.stdout)?);
        ensure!(!found.plain.is_empty() && !found.kernel.is_empty(), "the workspace has no tests");
        Ok(found)
    }

    fn of(metadata: &Value) -> Self {
        let mut found = Self::default();
        let (mut bench, mut product) = (Vec::new(), Vec::new());
        for package in metadata["packages"].as_array().into_iter().flatten() {
            for target in package["targets"].as_array().into_iter().flatten() {
                let has = |field: &str, wanted: &str| {
                    target[field].as_array().is_some_and(|all| all.iter().any(|one| one == wanted))
                };
                let Some(name) = target["name"].as_str().filter(|_| has("kind", "test")) else {
                    continue;
                };
                let list = match has("required-features", "kernel-tests") {
                    true if package["name"] == "equipoise-lab" => &mut bench,
                    true => &mut product,
                    false => &mut found.plain,
                };
                list.push(name.to_owned());
            }
        }
        for list in [&mut found.plain, &mut bench, &mut product] {
            list.sort();
        }
        found.kernel = bench.into_iter().chain(product).collect();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_apart_by_what_they_need() {
        let target = |name: &str, kind: &str, needs: &[&str]| serde_json::json!({ "name": name, "kind": [kind], "required-features": needs });
        let metadata = serde_json::json!({ "packages": [
            { "name": "equipoise", "targets": [
                target("equipoise", "lib", &[]),
                target("kernel_flows", "test", &["kernel-tests"]),
                target("programs", "bench", &["kernel-tests"]),
                target("docs", "test", &[]),
            ] },
            { "name": "equipoise-lab", "targets": [target("netns", "test", &["kernel-tests"])] },
        ] });
        let found = Targets::of(&metadata);
        assert_eq!(found.plain, ["docs"]);
        assert_eq!(found.kernel, ["netns", "kernel_flows"]);
    }

    #[test]
    fn those_of_this_workspace_are_found() {
        let found = Targets::read().unwrap();
        assert!(found.plain.iter().any(|name| name == "whole_program"), "{found:?}");
        assert!(found.kernel.iter().any(|name| name == "kernel_traffic"), "{found:?}");
    }
}
