//! Arguments of commands that install the program.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

pub(super) const COMPLETIONS: &str = "\
Examples:
  equipoise completions bash > /usr/share/bash-completion/completions/equipoise
  equipoise completions zsh > /usr/share/zsh/vendor-completions/_equipoise
  equipoise completions fish > /usr/share/fish/vendor_completions.d/equipoise.fish";

pub(super) const MAN: &str = "\
Examples:
  equipoise man | man -l -
  equipoise man drain | man -l -
  equipoise man --dir /usr/share/man/man8";

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The page of this command, as it is written, such as `backend add`
    pub command: Vec<String>,
    /// Write the pages of all commands into this folder, which is made if it is not there
    #[arg(long, conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}
