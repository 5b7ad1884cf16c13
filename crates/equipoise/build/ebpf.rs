//! Finding a toolchain for the kernel programs, and building them.
//!
//! Shared by the build script, which embeds the objects, and by `cargo xtask ebpf`, which can also
//! install what is missing; hence the standard library alone. An object has one place whoever
//! builds it, below `target/ebpf`, so that profiles and target directories share one build.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// The target of the kernel programs.
const TARGET: &str = "bpfel-unknown-none";
/// Debian's own compiler, beside which its packages put a ready `core` for the target.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// BPF v3 is what kernel 6.1 takes; the linker is told by the compiler, and must not be told twice.
// What is copied or zeroed is to be loads and stores: told to expand it late, the linker makes calls of functions that
// go byte by byte, which costs packets and, in the verifier, a million instructions for a few structures.
const FLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// A compiler that has `core` for the target, and a linker.
pub(crate) struct Toolchain {
    /// Where the compiler comes from.
    pub(crate) kind: Kind,
    linker: PathBuf,
    /// What it is, in a line for people.
    pub(crate) description: String,
}

/// Where a compiler comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian's stable compiler with its ready `core`.
    Debian,
    /// rustup's nightly with `rust-src`, which builds `core` itself.
    Nightly,
}

/// The first toolchain that is complete, or what is missing for each that could be.
pub(crate) fn find() -> Result<Toolchain, String> {
    let linker = find_program("bpf-linker");
    let compiler = debian_compiler().or_else(nightly_compiler);
    match (compiler, linker) {
        (Some((kind, compiler)), Some(linker)) => {
            let version = first_line(Command::new(&linker).arg("--version")).unwrap_or_default();
            let description = format!("{compiler}; {version} ({})", linker.display());
            Ok(Toolchain { kind, linker, description })
        }
        (None, Some(_)) => Err(format!("no Rust compiler here has `core` for {TARGET}")),
        (Some(_), None) => Err("there is no bpf-linker".to_owned()),
        (None, None) => Err(format!(
            "no Rust compiler here has `core` for {TARGET}, and there is no bpf-linker"
        )),
    }
}

/// What is built of the kernel programs, and where it is put.
pub(crate) struct Object {
    /// The binary of the crate that it is.
    pub(crate) binary: &'static str,
    /// Its place in the repository.
    pub(crate) place: &'static str,
    /// What is built in beside the product's programs.
    pub(crate) features: &'static str,
}

impl Object {
    /// What balances.
    pub(crate) const BALANCER: Self =
        Self { binary: "equipoise", place: "target/ebpf/equipoise.o", features: "" };
    /// What decapsulates on a backend.
    pub(crate) const DECAP: Self =
        Self { binary: "decap", place: "target/ebpf/decap.o", features: "" };
    /// What the product carries.
    pub(crate) const PRODUCT: [Self; 2] = [Self::BALANCER, Self::DECAP];
}

/// Builds the kernel programs of the repository at `root`, and gives the object's place.
pub(crate) fn build(
    root: &Path,
    toolchain: &Toolchain,
    object: &Object,
) -> Result<PathBuf, String> {
    let built = root.join("target/ebpf-build");
    let mut cargo = toolchain.cargo(root, "build");
    cargo.args(["--bin", object.binary, "--features", object.features]);
    cargo.arg("--target-dir").arg(&built);
    let status = cargo.status().map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !status.success() {
        return Err(format!("the kernel programs do not build with {}", toolchain.description));
    }
    let built = built.join(TARGET).join("release").join(object.binary);
    let bytes = fs::read(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    refuse_panics(&bytes)?;
    let place = root.join(object.place);
    write_if_changed(&place, &bytes).map_err(|error| format!("{}: {error}", place.display()))?;
    Ok(place)
}

impl Toolchain {
    /// A cargo command on the kernel programs; the caller adds the target directory.
    pub(crate) fn cargo(&self, root: &Path, command: &str) -> Command {
        let mut cargo = match self.kind {
            Kind::Debian => {
                let mut cargo =
                    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                cargo.arg(command);
                clean(&mut cargo);
                // Debian's compiler is a stable one; the crate uses features of the kernel target.
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Kind::Nightly => {
                let mut cargo = Command::new("rustup");
                cargo.args(["run", "nightly", "cargo", command, "-Zbuild-std=core"]);
                clean(&mut cargo);
                cargo
            }
        };
        let mut flags = OsString::from(FLAGS.join("\x1f"));
        flags.push("\x1f-Clinker=");
        flags.push(&self.linker);
        cargo
            .args(["--release", "--locked", "--target", TARGET])
            .current_dir(root.join("crates/equipoise-ebpf"))
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .stdin(Stdio::null());
        cargo
    }
}

/// Takes away what an outer cargo says to its children: its flags, compiler and wrappers would hide
/// those of the kernel target. Where packages come from stays.
fn clean(command: &mut Command) {
    const KEPT: [&str; 5] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    // Crates build anew when HOST changes, which only build scripts see.
    const OTHERS: [&str; 3] = ["RUSTUP_TOOLCHAIN", "HOST", "TARGET"];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let of_cargo = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        let of_rustc = text.starts_with("RUSTC") || text.starts_with("RUSTFLAGS");
        if of_cargo || of_rustc || OTHERS.contains(&text) {
            command.env_remove(&name);
        }
    }
}

fn debian_compiler() -> Option<(Kind, String)> {
    let mut question = Command::new(DEBIAN_RUSTC);
    clean(&mut question);
    let directory = first_line(question.args(["--print", "target-libdir", "--target", TARGET]))?;
    let mut entries = fs::read_dir(directory).ok()?;
    let has_core = entries.any(|entry| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    if !has_core {
        return None;
    }
    let mut question = Command::new(DEBIAN_RUSTC);
    clean(&mut question);
    let version = first_line(question.arg("--version"))?;
    Some((Kind::Debian, format!("{version} ({DEBIAN_RUSTC}, its own core)")))
}

fn nightly_compiler() -> Option<(Kind, String)> {
    let rustc = |arguments: &[&str]| {
        let mut rustup = Command::new("rustup");
        clean(&mut rustup);
        first_line(rustup.args(["run", "nightly", "rustc"]).args(arguments))
    };
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
        return None;
    }
    let version = rustc(&["--version"])?;
    Some((Kind::Nightly, format!("{version} (rustup, core from rust-src)")))
}

/// Where a program is: in the search path, or where cargo installs.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let installed = cargo.map(|cargo| cargo.join("bin"));
    env::split_paths(&path)
        .chain(installed)
        .map(|place| place.join(name))
        .find(|file| file.is_file())
}

/// What a command says first, if it succeeds.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

/// Writes whole or not at all, and leaves the time of an unchanged file, which cargo looks at.
fn write_if_changed(place: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if fs::read(place).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(directory) = place.parent() {
        fs::create_dir_all(directory)?;
    }
    // Two builds may end at once: each renames a file of its own.
    let draft = place.with_extension(format!("{}.draft", std::process::id()));
    fs::write(&draft, bytes)?;
    fs::rename(&draft, place)
}

/// An error when a panic is left in the object: the verifier refuses it, with less to go by.
fn refuse_panics(object: &[u8]) -> Result<(), String> {
    let symbols = symbols(object).ok_or("the object is not ELF as bpf-linker writes it")?;
    let panics: Vec<&str> =
        symbols.iter().map(String::as_str).filter(|name| name.contains("panicking")).collect();
    if panics.is_empty() {
        return Ok(());
    }
    Err(format!("panics are left in the kernel programs: {}", panics.join(", ")))
}

/// The names in the symbol tables of a 64-bit little-endian ELF file.
fn symbols(object: &[u8]) -> Option<Vec<String>> {
    const SYMBOL_TABLE: u64 = 2;
    const SYMBOL_SIZE: usize = 24;
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (headers, size, count) =
        (number(object, 40, 8)?, number(object, 58, 2)?, number(object, 60, 2)?);
    // A section's type, its linked section and its bytes.
    let section = |index: u64| -> Option<(u64, u64, &[u8])> {
        let at = usize::try_from(headers.checked_add(index.checked_mul(size)?)?).ok()?;
        let header = object.get(at..)?;
        let start = usize::try_from(number(header, 24, 8)?).ok()?;
        let end = start.checked_add(usize::try_from(number(header, 32, 8)?).ok()?)?;
        // Sections without bytes in the file may name any place.
        let bytes = object.get(start..end).unwrap_or_default();
        Some((number(header, 4, 4)?, number(header, 40, 4)?, bytes))
    };
    let mut names = Vec::new();
    for index in 0..count {
        let (kind, linked, table) = section(index)?;
        if kind != SYMBOL_TABLE {
            continue;
        }
        let (_, _, texts) = section(linked)?;
        for symbol in table.chunks_exact(SYMBOL_SIZE) {
            let text = texts.get(usize::try_from(number(symbol, 0, 4)?).ok()?..)?;
            let name = text.split(|byte| *byte == 0).next()?;
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Some(names)
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of three sections: none, a symbol table, and the names that it uses.
    fn elf(names: &[&str]) -> Vec<u8> {
        const HEADER: usize = 64;
        let texts: Vec<u8> =
            names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
        let mut symbols = Vec::new();
        let mut at = 0_u32;
        for name in names {
            symbols.extend(at.to_le_bytes());
            symbols.extend([0; 20]);
            at += u32::try_from(name.len()).unwrap() + 1;
        }
        let headers = HEADER + symbols.len() + texts.len();
        let mut file = vec![0; HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[40..48].copy_from_slice(&(headers as u64).to_le_bytes());
        file[58] = 64;
        file[60] = 3;
        file.extend(&symbols);
        file.extend(&texts);
        let section = |kind: u8, start: usize, size: usize| {
            let mut header = vec![0; 64];
            header[4] = kind;
            header[24..32].copy_from_slice(&(start as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            header[40] = 2;
            header
        };
        file.extend(section(0, 0, 0));
        file.extend(section(2, HEADER, symbols.len()));
        file.extend(section(3, HEADER + symbols.len(), texts.len()));
        file
    }

    #[test]
    fn an_object_with_a_panic_left_in_it_is_refused_by_name() {
        assert_eq!(refuse_panics(&elf(&["", "equipoise_xdp"])), Ok(()));
        let error = refuse_panics(&elf(&["", "_ZN4core9panicking5panic17h0E", "equipoise_xdp"]))
            .unwrap_err();
        assert!(error.contains("_ZN4core9panicking5panic17h0E"), "{error}");
    }

    #[test]
    fn what_is_not_a_whole_elf_file_is_refused() {
        let whole = elf(&["", "equipoise_xdp"]);
        assert!(refuse_panics(b"").is_err());
        assert!(refuse_panics(b"\x7fELF\x01\x01").is_err());
        for length in [20, 64, whole.len() - 64] {
            assert!(refuse_panics(&whole[..length]).is_err(), "{length}");
        }
    }
}
