//! Embeds the kernel programs: builds them where a toolchain is found, and puts the objects at
//! `$OUT_DIR/equipoise.o` and `$OUT_DIR/decap.o`.
//!
//! Without a toolchain the objects are empty, the build goes on with a warning, and
//! `EQUIPOISE_EBPF_STUB` says for `option_env!` what to do. Nothing is installed from here.

#[path = "build/ebpf.rs"]
mod ebpf;

use std::path::{Path, PathBuf};
use std::{env, fs};

use object::{File, Object as _, ObjectSection as _};

/// What the objects depend on, from this crate.
const SOURCES: [&str; 6] = [
    "../equipoise-ebpf/src",
    "../equipoise-ebpf/Cargo.toml",
    "../equipoise-ebpf/Cargo.lock",
    "../equipoise-common/src",
    "build.rs",
    "build/ebpf.rs",
];

fn main() {
    let here =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    let root = here.ancestors().nth(2).expect("the crate is two levels inside its repository");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", here.join(source).display());
    }
    if let Err(error) = embed(root, &out) {
        println!("cargo::error={error}");
    }
}

/// What is embedded.
fn objects() -> [ebpf::Object; 2] {
    let is_other = env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some();
    if is_other { [OTHER, ebpf::Object::DECAP] } else { ebpf::Object::PRODUCT }
}

/// What balances with maps of another layout.
const OTHER: ebpf::Object =
    ebpf::Object { binary: "equipoise", place: "target/ebpf/other.o", features: "other-layout" };

/// Where an object says how many bytes of line numbers it has: `line_info_len` of `struct btf_ext_header`, as libbpf's
/// `btf.h` and the kernel's documents on BTF have it.
fn lines_at(object: &[u8]) -> Result<u64, String> {
    const LINE_INFO_LEN: u64 = 20;
    let file = File::parse(object).map_err(|error| format!("the object: {error}"))?;
    let section = file.section_by_name(".BTF.ext").and_then(|section| section.file_range());
    let (at, _) = section.ok_or("the object has no section .BTF.ext")?;
    Ok(at + LINE_INFO_LEN)
}

fn embed(root: &Path, out: &Path) -> Result<(), String> {
    let place = |object: &ebpf::Object| out.join(object.binary).with_extension("o");
    let failed = |error: std::io::Error| format!("{}: {error}", out.display());
    match ebpf::find() {
        Ok(toolchain) => {
            println!("kernel programs built with {}", toolchain.description);
            for object in &objects() {
                let built = ebpf::build(root, &toolchain, object)?;
                fs::copy(built, place(object)).map_err(failed)?;
            }
            let [balancer, _] = &objects();
            let object = fs::read(place(balancer)).map_err(failed)?;
            println!("cargo::rustc-env=EQUIPOISE_EBPF_LINES_AT={}", lines_at(&object)?);
            Ok(())
        }
        Err(missing) => {
            let advice = format!(
                "this build has no kernel programs in it, because {missing}: run `cargo xtask ebpf`, then build again"
            );
            println!("cargo::warning={advice}");
            println!("cargo::rustc-env=EQUIPOISE_EBPF_STUB={advice}");
            // Where the object appears once the toolchain does.
            let appears = root.join("target/ebpf");
            fs::create_dir_all(&appears).map_err(failed)?;
            println!("cargo::rerun-if-changed={}", appears.display());
            objects().iter().try_for_each(|object| fs::write(place(object), [])).map_err(failed)
        }
    }
}
