//! The `equipoise` command as a version has it whose maps are of another layout: for tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    equipoise::cli::main()
}
