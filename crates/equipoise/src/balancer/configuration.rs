//! A configuration that is no file: a text in memory, or a value.
//!
//! Both are one thing to an instance, which keeps the text to lay changes over it. Knows nothing of instances.

use equipoise_core::config::{Changes, Config, Problem};

use crate::config_file::Base;
use crate::running_config;

/// A configuration that an application has in memory.
///
/// ```
/// use equipoise::Configuration;
///
/// let text = r#"
///     [[service]]
///     name = "web"
///     listen = { interfaces = ["eth0"], address = "203.0.113.10", port = 80 }
///     backends = [{ address = "10.0.0.11:8080" }]
/// "#;
/// let config = Configuration::toml(text).check().unwrap();
/// assert_eq!(config.services[0].name, "web");
/// assert!(Configuration::toml("[[service]]").check().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Configuration {
    pub(super) base: Base,
}

impl Configuration {
    /// A text, by a name whose ending tells its format (`.toml`, `.yaml`, `.json`, `.edn`). The name stands in messages; files that
    /// the text includes are found relative to it.
    pub fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { base: Base::new(name, text) }
    }

    /// A text of TOML.
    pub fn toml(text: impl Into<String>) -> Self {
        Self::text("configuration.toml", text)
    }

    /// What is wrong with it, or what it means with every default filled in. Does not ask the machine.
    ///
    /// # Errors
    ///
    /// All that is wrong, in the order of the text; never nothing.
    pub fn check(mut self) -> Result<Config, Vec<Problem>> {
        self.base.check(&Changes::default()).map(|changed| changed.checked.config)
    }
}

impl From<&Config> for Configuration {
    fn from(config: &Config) -> Self {
        Self::toml(running_config::to_toml(running_config::to_json(config)))
    }
}
