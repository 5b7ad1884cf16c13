//! `equipoise config`: the configuration that runs, with every default filled in; with `--changes`, what is otherwise than the
//! file says.

use super::args::{Config, Global};
use super::{Failure, change, print, print_json};
use crate::running_config;

pub(super) async fn config(global: &Global, asked: &Config) -> Result<(), Failure> {
    if asked.changes {
        let changes = global.client().changes().await?;
        if global.json {
            return print_json(&changes);
        }
        let lines = changes.iter().map(|change| format!("{}\n", change::in_words(change)));
        return print(&lines.collect::<String>());
    }
    let config = global.client().config().await?;
    if global.json {
        return print_json(&config);
    }
    print(&running_config::to_toml(config).map_err(Failure::failed)?)
}
