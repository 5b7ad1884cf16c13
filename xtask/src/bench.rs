//! Measuring what a packet costs in the kernel programs, and the flow tables in user space.
//!
//! The programs are built once more, with those that make packets; the bench of the product's crate loads both and
//! does the rest. A whole run writes its tables into `docs/benchmarks.md`; a quick one fails when a ratio
//! to the floor of the same run is beyond its limit.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::check::KERNEL_TESTS;
use crate::ebpf::Object;
use crate::install::{self, Need};
use crate::step::{cargo, succeed};
use crate::{build_kernel_programs, root};

/// How much is measured, and where it is written.
#[derive(Args, Clone, Debug)]
pub(crate) struct Wanted {
    /// Few flows and short runs, against limits; docs/benchmarks.md stays as it is
    #[arg(long)]
    quick: bool,
    /// Measure with so many resident flows alone; docs/benchmarks.md stays as it is
    #[arg(long, value_name = "NUMBER")]
    flows: Option<u32>,
    /// Write all figures to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// On what the tests are built from: what is compared to limits is the time of kernel programs, whose user space may be slow.
    #[arg(skip)]
    beside_tests: bool,
}

impl Wanted {
    /// What the suite asks for.
    pub(crate) const QUICK: Self =
        Self { quick: true, flows: None, json: None, beside_tests: true };
}

const OBJECT: Object =
    Object { binary: "equipoise", place: "target/ebpf/bench.o", features: "bench" };

/// Builds, and measures.
pub(crate) fn programs(wanted: &Wanted) -> Result<()> {
    install::ensure(&[Need::Toolchain, Need::Bench])?;
    let object = build_kernel_programs(&OBJECT)?;
    succeed(&mut command(wanted, &object)?)
}

fn command(wanted: &Wanted, object: &std::path::Path) -> Result<Command> {
    // The same packages and features as the tests, so that what they share is built once.
    let mut command = cargo(&["bench", "--locked", "--workspace", "--features", KERNEL_TESTS]);
    if wanted.beside_tests {
        command.args(["--profile", "dev"]);
    }
    command.args(["--bench", "programs", "--", "--object"]).arg(object);
    if wanted.quick {
        command.arg("--quick");
    }
    if let Some(flows) = wanted.flows {
        command.args(["--flows", &flows.to_string()]);
    }
    if !wanted.quick && wanted.flows.is_none() {
        command.arg("--table").arg(root().join("docs/benchmarks.md"));
    }
    if let Some(json) = &wanted.json {
        command.arg("--json").arg(std::path::absolute(json)?);
    }
    Ok(command)
}
