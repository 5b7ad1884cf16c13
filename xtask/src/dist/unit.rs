//! The unit of systemd, read as far as a trial of the package needs it: what it runs, as whom, and with which capabilities.
//!
//! Where there is no systemd to be asked, its service is started in just that way. Knows the few rules that the unit uses.

use std::process::Command;

use anyhow::{Context, Result};

/// A unit's settings, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    settings: Vec<(String, String)>,
}

impl Unit {
    /// Reads its text; `%i` is the name of the instance.
    pub(super) fn parse(text: &str, instance: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '[']));
        let pairs = lines.filter_map(|line| line.split_once('='));
        let settings = pairs.map(|(key, value)| (key.to_owned(), value.replace("%i", instance)));
        Self { settings: settings.collect() }
    }

    /// The value of a key that is there once.
    pub(super) fn one(&self, key: &str) -> Result<&str> {
        let found = self.settings.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("the unit has no {key}"))
    }

    /// What root does before the start.
    pub(super) fn before(&self) -> Result<&str> {
        let before = self.one("ExecStartPre")?;
        before.strip_prefix('+').with_context(|| format!("{before:?} is not root's"))
    }

    /// Appends to a command, which may do everything, how the service is run from there.
    pub(super) fn run(&self, command: &mut Command) -> Result<()> {
        let signed = |value: &str| {
            let names = value
                .split_whitespace()
                .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_ascii_lowercase()));
            format!("-all,{}", names.collect::<Vec<_>>().join(","))
        };
        let ambient = signed(self.one("AmbientCapabilities")?);
        command.arg("setpriv").args(["--init-groups", "--no-new-privs"]);
        command.args(["--reuid", self.one("User")?, "--regid", self.one("Group")?]);
        command.args(["--bounding-set", &signed(self.one("CapabilityBoundingSet")?)]);
        command.args(["--inh-caps", &ambient, "--ambient-caps", &ambient]);
        command.args(self.one("ExecStart")?.split_whitespace());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[Service]\n# A=1\nExecStartPre=+/usr/lib/x/prepare %i\nUser=x\nGroup=x\n\
                        AmbientCapabilities=CAP_BPF CAP_NET_ADMIN\nCapabilityBoundingSet=CAP_BPF\n\
                        ExecStart=/usr/sbin/x --instance %i run\n";

    #[test]
    fn service_is_run_as_the_unit_says() {
        let unit = Unit::parse(TEXT, "web");
        assert_eq!(unit.before().unwrap(), "/usr/lib/x/prepare web");
        let mut command = Command::new("nsenter");
        unit.run(&mut command).unwrap();
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        let words = words.join(" ");
        assert!(words.starts_with("setpriv --init-groups --no-new-privs --reuid x --regid x"));
        assert!(words.contains("--bounding-set -all,+bpf --inh-caps -all,+bpf,+net_admin"));
        assert!(words.ends_with("/usr/sbin/x --instance web run"), "{words}");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let told = Unit::default().one("User").unwrap_err().to_string();
        assert_eq!(told, "the unit has no User");
    }
}
