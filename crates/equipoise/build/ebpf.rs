//! Finding a toolchain for the kernel programs, and building them.
//!
//! Shared by the build script, which embeds the objects, and by `cargo xtask ebpf`, which can also
//! install what is missing. An object has one place whoever
//! builds it, below `target/ebpf`, so that profiles and target directories share one build.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use object::build::ByteString;
use object::build::elf::{Builder, Section, SectionData};

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
    let place = root.join(object.place);
    write_if_changed(&place, &finished(&bytes)?)
        .map_err(|error| format!("{}: {error}", place.display()))?;
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

/// The object that is loaded, of what the linker has made: without what debuggers alone read, which is most of
/// it. Line numbers for the verifier's log are in BTF.
///
/// An error when a panic is left in it: the verifier refuses that, with less to go by.
fn finished(linked: &[u8]) -> Result<Vec<u8>, String> {
    let not_elf = |error| format!("the object is not ELF as bpf-linker writes it: {error}");
    let mut object = Builder::read64(linked).map_err(not_elf)?;
    let names = object.symbols.iter().map(|symbol| symbol.name.to_string());
    let panics: Vec<String> = names.filter(|name| name.contains("panicking")).collect();
    if !panics.is_empty() {
        return Err(format!("panics are left in the kernel programs: {}", panics.join(", ")));
    }
    // Those of BTF name places in sections, which a loader finds by the section and the offset that stand there already.
    const LEFT_OUT: [&[u8]; 3] = [b".debug", b".rel.debug", b".rel.BTF"];
    for section in object.sections.iter_mut() {
        let name = section.name.as_slice();
        section.delete |= LEFT_OUT.iter().any(|left_out| name.starts_with(left_out));
    }
    object.delete_orphans();
    let is_of_names = |section: &Section<'_>| matches!(section.data, SectionData::SectionString);
    if !object.sections.iter().any(is_of_names) {
        // LLVM has the names of sections and of symbols in one; here are two.
        let names = object.sections.add();
        names.name = ByteString::from(".shstrtab");
        names.data = SectionData::SectionString;
    }
    let mut finished = Vec::new();
    object.write(&mut finished).map_err(not_elf)?;
    Ok(finished)
}

#[cfg(test)]
mod tests {
    use object::write::{Object, Symbol, SymbolSection};
    use object::{
        Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    };

    use super::*;

    /// An ELF file for the kernel with symbols of these names, and with a section for debuggers.
    fn elf(names: &[&str]) -> Vec<u8> {
        let mut file = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let text = file.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
        file.append_section_data(text, &[0; 16], 8);
        let debug = file.add_section(Vec::new(), b".debug_line".to_vec(), SectionKind::Debug);
        file.append_section_data(debug, &[1; 64], 1);
        for name in names {
            file.add_symbol(Symbol {
                name: name.as_bytes().to_vec(),
                value: 0,
                size: 8,
                kind: SymbolKind::Text,
                scope: SymbolScope::Linkage,
                weak: false,
                section: SymbolSection::Section(text),
                flags: SymbolFlags::None,
            });
        }
        file.write().unwrap()
    }

    #[test]
    fn an_object_with_a_panic_left_in_it_is_refused_by_name() {
        assert!(finished(&elf(&["equipoise_xdp"])).is_ok());
        let error =
            finished(&elf(&["_ZN4core9panicking5panic17h0E", "equipoise_xdp"])).unwrap_err();
        assert!(error.contains("_ZN4core9panicking5panic17h0E"), "{error}");
    }

    #[test]
    fn what_is_not_a_whole_elf_file_is_refused() {
        let whole = elf(&["equipoise_xdp"]);
        assert!(finished(b"").is_err());
        assert!(finished(b"\x7fELF\x01\x01").is_err());
        for length in [20, 64, whole.len() - 64] {
            assert!(finished(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_debuggers_alone_read_is_left_out() {
        let whole = elf(&["equipoise_xdp"]);
        let finished = finished(&whole).unwrap();
        let object = Builder::read64(finished.as_slice()).unwrap();
        let sections: Vec<String> =
            object.sections.iter().map(|section| section.name.to_string()).collect();
        assert!(sections.iter().any(|name| name == "xdp"), "{sections:?}");
        assert!(!sections.iter().any(|name| name.starts_with(".debug")), "{sections:?}");
        assert!(object.symbols.iter().any(|symbol| symbol.name.as_slice() == b"equipoise_xdp"));
    }
}
