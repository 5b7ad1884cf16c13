//! What the kernel's verifier had to do for each program, against a record: it refuses at a million instructions, and
//! a program comes near that in leaps. `UPDATE_EXPECT=1` writes the record anew, which is `docs/verifier.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Clock, Eviction, Kernel, Options, TcWay, decap, verifier};
use object::{File, Object as _, ObjectSection as _};

/// What the kernel allows.
const LIMIT: u32 = 1_000_000;
/// Percent by which a program may grow before it is told.
const GROWTH: u32 = 20;

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/verifier.md");

fn recorded(text: &str) -> BTreeMap<String, u32> {
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((name.to_owned(), cells.next()?.replace(' ', "").parse().ok()?))
    });
    rows.collect()
}

fn record(counts: &BTreeMap<String, u32>) -> String {
    let mut text = format!(
        "# The verifier's work\n\n\
         Instructions that the kernel's verifier goes through when it loads each program, as it is shipped. It refuses a\n\
         program beyond {LIMIT}. A test fails when one has grown by more than {GROWTH} %; this file is written anew by\n\
         `UPDATE_EXPECT=1 cargo test -p equipoise --features kernel-tests --test kernel_verifier`.\n\n\
         | program | instructions | of the limit |\n| --- | --- | --- |\n"
    );
    for (name, count) in counts {
        let share = f64::from(*count) * 100.0 / f64::from(LIMIT);
        writeln!(text, "| `{name}` | {count} | {share:.1} % |").unwrap();
    }
    text
}

/// What has grown too much, or is not in the record, or has gone.
fn complaints(before: &BTreeMap<String, u32>, now: &BTreeMap<String, u32>) -> Vec<String> {
    let mut said = Vec::new();
    for (name, &count) in now {
        match before.get(name) {
            Some(&was) if u64::from(count) * 100 <= u64::from(was) * u64::from(100 + GROWTH) => {}
            Some(was) => said.push(format!("{name}: {count} instructions, recorded were {was}")),
            None => said.push(format!("{name}: {count} instructions, and there is no record")),
        }
    }
    said.extend(
        before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{name} is gone")),
    );
    said
}

/// The programs of a backend.
fn decapsulating(name: &str) -> BTreeMap<String, u32> {
    let options =
        decap::Options { name, port: 6080, from: decap::From::Sources, tc: TcWay::default() };
    let programs = decap::Decap::load(&options).unwrap_or_else(|error| panic!("{error}"));
    programs.verified().unwrap()
}

/// Asks this of a data plane that has all programs.
fn of_all<T>(ask: impl FnOnce(&Kernel) -> T) -> T {
    let instance = format!("verifier-{}", std::process::id());
    let (tc, clock, eviction) = (TcWay::default(), Clock::default(), Eviction::default());
    // As many flows as are the default.
    let options = Options { instance: &instance, max_flows: 1_000_000, tc, clock, eviction };
    let mut kernel = Kernel::load(&options).unwrap_or_else(|error| panic!("{error}"));
    let answer = kernel.load_all().map(|()| ask(&kernel));
    kernel.remove().unwrap();
    answer.unwrap()
}

fn verified() -> BTreeMap<String, u32> {
    let mut counts = of_all(|kernel| kernel.verified().unwrap());
    counts.extend(decapsulating(&format!("verifier-{}", std::process::id())));
    counts
}

/// Bytes of memory that this process has for itself alone.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// On whichever kernel runs: the work differs between them, and the record is of one.
#[test]
fn every_program_is_loaded() {
    let counts = verified();
    for (name, count) in &counts {
        println!("{name}: loaded, {count} instructions");
        assert!(*count < LIMIT, "{name}: {count}");
    }
    let names = |counts: &BTreeMap<String, u32>| counts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&counts), names(&recorded(&std::fs::read_to_string(RECORD).unwrap())));
}

#[test]
fn programs_are_no_more_work_for_the_verifier_than_recorded() {
    let counts = verified();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(Path::new(RECORD), record(&counts)).unwrap();
    }
    let text = std::fs::read_to_string(RECORD).unwrap();
    let said = complaints(&recorded(&text), &counts);
    assert!(
        said.is_empty(),
        "{said:#?}\nRead why, and then refresh the record with UPDATE_EXPECT=1."
    );
}

/// The object of this build, in which an instruction of the program in this section reads a register that nobody has written.
fn damaged(section: &str) -> Vec<u8> {
    /// `r0 = r9` (RFC 9669, section 4.1).
    const MOVE: [u8; 8] = [0xbf, 0x90, 0, 0, 0, 0, 0, 0];
    /// A constant of 64 bits, as long as two instructions; the loader writes those of maps.
    const LOAD: u8 = 0x18;
    let mut object = std::fs::read(concat!(env!("OUT_DIR"), "/equipoise.o")).unwrap();
    let file = File::parse(&*object).unwrap();
    let (at, _) = file.section_by_name(section).and_then(|found| found.file_range()).unwrap();
    let mut at = usize::try_from(at).unwrap();
    while object[at] == LOAD {
        at += 2 * MOVE.len();
    }
    object[at..at + MOVE.len()].copy_from_slice(&MOVE);
    object
}

#[test]
fn what_the_verifier_refuses_is_told_with_lines_of_the_source() {
    let told = verifier::of_object(&damaged("sk_lookup")).unwrap_err().to_string();
    for part in ["loading equipoise_take", "R9 !read_ok", ".rs:"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

/// With line numbers it is 250 MB: the loader has them all for each function.
#[test]
fn programs_that_are_loaded_take_little_memory_of_the_process() {
    let before = memory();
    let more = of_all(|_| memory()).saturating_sub(before);
    assert!(more < 64 << 20, "{more} bytes more");
}

#[test]
fn growth_beyond_a_fifth_is_told() {
    let of = |count| BTreeMap::from([("one".to_owned(), count)]);
    assert_eq!(recorded(&record(&of(1000))), of(1000));
    assert_eq!(complaints(&of(1000), &of(1200)), [""; 0]);
    assert_eq!(complaints(&of(1000), &of(10)), [""; 0]);
    assert_eq!(complaints(&of(1000), &of(1201)).len(), 1);
    assert_eq!(complaints(&BTreeMap::new(), &of(1)).len(), 1);
    assert_eq!(complaints(&of(1), &BTreeMap::new()).len(), 1);
}
