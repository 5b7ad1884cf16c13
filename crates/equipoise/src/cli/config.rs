//! `equipoise config`: the configuration that runs, with every default filled in.

use super::args::Global;
use super::{Failure, print, print_json};
use crate::running_config;

pub(super) async fn config(global: &Global) -> Result<(), Failure> {
    let config = global.client().config().await?;
    if global.json {
        return print_json(&config);
    }
    print(&running_config::to_toml(config))
}
