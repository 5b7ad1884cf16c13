//! `equipoise doctor` on machines that are broken in one way each: found, told, and put right, by `--fix` where that is safe, else by what it
//! says to do.

#[path = "traffic/bare.rs"]
#[expect(dead_code, reason = "tests with traffic use the rest")]
mod bare;
#[path = "doctor/bench.rs"]
mod bench;
#[path = "doctor/interfaces.rs"]
mod interfaces;
#[path = "doctor/machine.rs"]
mod machine;
#[path = "doctor/paths.rs"]
mod paths;
#[path = "doctor/vips.rs"]
mod vips;
