//! What a packet costs in the kernel programs, and what the flow tables cost in user space.
//!
//! Each figure of a path is the mean over many packets of flows drawn at random, less what the empty program costs on
//! the same packets, in turn with it; of several rounds the median is given, with the least and the most. Started by
//! `cargo xtask bench programs`, which builds the object that `--object` names. Needs root.

#[path = "../tests/packets/bench.rs"]
#[expect(dead_code, reason = "the packet table uses the rest")]
mod bench;
#[path = "programs/paths.rs"]
mod paths;
#[path = "programs/report.rs"]
mod report;
#[path = "programs/tables.rs"]
mod tables;
#[path = "programs/world.rs"]
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use crate::report::Report;

/// How much is measured.
#[derive(Clone)]
struct Extent {
    /// Resident flows, each in a run of its own.
    residents: Vec<u32>,
    rounds: u32,
    /// Packets of one figure of one round.
    packets: u32,
    /// New flows of one figure of one round.
    new: u32,
}

impl Extent {
    fn full() -> Self {
        let residents = vec![1_000, 100_000, 1_000_000];
        Self { residents, rounds: 9, packets: 200_000, new: 20_000 }
    }

    fn quick() -> Self {
        Self { residents: vec![1_000], rounds: 15, packets: 50_000, new: 5_000 }
    }
}

fn main() -> ExitCode {
    let mut object = None;
    let mut extent = Extent::full();
    let (mut json, mut table) = (None, None);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().map(PathBuf::from).expect("a path comes after it");
        match argument.as_str() {
            "--object" => object = Some(value()),
            "--json" => json = Some(value()),
            "--table" => table = Some(value()),
            "--flows" => {
                let flows = value().to_string_lossy().parse();
                extent.residents = vec![flows.expect("a number comes after --flows")];
            }
            "--quick" => extent = Extent::quick(),
            // Cargo says so to every bench.
            "--bench" => {}
            other => panic!("{other}: not an argument of this bench"),
        }
    }
    let object = object.expect("`--object FILE`: programs built with the feature `bench`");
    let object = fs::read(&object).unwrap_or_else(|error| panic!("{}: {error}", object.display()));
    let mut report = Report::default();
    for &residents in &extent.residents {
        paths::measure(&object, residents, &extent, &mut report);
    }
    tables::measure(
        &object,
        extent.residents.last().copied().unwrap_or(1),
        extent.rounds,
        &mut report,
    );
    println!("{}", report.table());
    if let Some(json) = json {
        let text = serde_json::to_string_pretty(&report.json()).expect("it has string keys");
        fs::write(&json, text).unwrap_or_else(|error| panic!("{}: {error}", json.display()));
    }
    if let Some(table) = table {
        report.write_into(&table);
    }
    report.verdict()
}
