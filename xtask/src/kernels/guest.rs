//! What an emulated machine has in it: an initramfs with a shell, modules, programs and their libraries.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::package::Kernel;
use super::{Chosen, Program};
use crate::root;

/// What the machine says before the name of a test binary in which all went well.
pub(super) const WELL: &str = "all is well with ";

/// Modules of the devices, and of the classifiers of TC, that the tests use; what they need comes with them.
const MODULES: [&str; 7] = ["veth", "bridge", "tun", "8021q", "bonding", "sch_ingress", "cls_bpf"];
/// Programs of this machine that the bench runs.
const PROGRAMS: [&str; 2] = ["/sbin/ip", "/sbin/ethtool"];
/// The shell, with all that it calls, in one program without libraries.
const SHELL: &str = "/bin/busybox";
/// Files of the repository that tests read.
const FILES: [&str; 1] = ["docs/verifier.md"];

/// Puts everything together, and gives the file to boot with.
pub(super) fn pack(kernel: &Kernel, programs: &[Program], chosen: &[Chosen]) -> Result<PathBuf> {
    let tree = kernel.directory.join("root");
    let _ = fs::remove_dir_all(&tree);
    for directory in ["bin", "dev", "proc", "sys", "tmp", "run", "modules", "tests"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    let mut libraries = BTreeSet::new();
    copy(Path::new(SHELL), &tree.join("bin/busybox"))?;
    for program in PROGRAMS.map(Path::new) {
        copy(program, &inside(&tree, program))?;
        libraries.extend(libraries_of(program)?);
    }
    for Program { name, place } in programs {
        libraries.extend(libraries_of(place)?);
        let test = chosen.iter().any(|chosen| chosen.binary == name);
        let to = if test { tree.join("tests").join(name) } else { inside(&tree, place) };
        strip(place, &to)?;
    }
    for library in &libraries {
        copy(library, &inside(&tree, library))?;
    }
    for file in FILES.map(|file| root().join(file)) {
        copy(&file, &inside(&tree, &file))?;
    }
    let modules = Modules::find(&kernel.modules)?;
    for (place, module) in modules.with_what_they_need(&MODULES)?.iter().enumerate() {
        fs::write(tree.join(format!("modules/{place:02}.ko")), module)?;
    }
    let init = tree.join("init");
    fs::write(&init, script(chosen))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    archive(&tree, &kernel.directory.join("initramfs"))
}

/// What the machine does, from its first process.
fn script(chosen: &[Chosen]) -> String {
    let directory = root().join("crates/equipoise");
    let directory = directory.display();
    let mut text = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/sbin:/bin RUST_BACKTRACE=0 EQUIPOISE_PATIENCE=20\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         for module in /modules/*; do insmod $module || echo \"a module does not load: $module\"; done\n\
         ip link set lo up\n\
         mkdir -p {directory}\n\
         cd {directory}\n\
         uname -r\n"
    );
    for Chosen { binary, arguments } in chosen {
        // Tests that other machines cannot run for want of a device are marked as ignored.
        let asked = format!("--test-threads=1 --include-ignored {}", arguments.join(" "));
        writeln!(
            text,
            "echo; echo '-- {binary}'\n/tests/{binary} {asked} && echo '{WELL}{binary}'"
        )
        .expect("a string takes everything");
    }
    text + "sync\nreboot -f\n"
}

/// Where a file of this machine is in the other.
fn inside(tree: &Path, file: &Path) -> PathBuf {
    tree.join(file.strip_prefix("/").unwrap_or(file))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file without a directory")?;
    fs::create_dir_all(parent)?;
    fs::copy(from, to).with_context(|| format!("{} is needed", from.display()))?;
    Ok(())
}

/// Copies a program without what only debuggers read, which is most of it.
fn strip(from: &Path, to: &Path) -> Result<()> {
    copy(from, to)?;
    output(Command::new("strip").arg("--strip-debug").arg(to)).map(drop)
}

/// The shared libraries that a program is started with, the loader included.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(program))?;
    let text = String::from_utf8_lossy(&text);
    let places = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(places.map(PathBuf::from).collect())
}

/// The archive that the kernel unpacks, of all files in a directory.
fn archive(tree: &Path, to: &Path) -> Result<PathBuf> {
    let names = output(Command::new("find").arg(".").current_dir(tree))?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "--create", "--format=newc", "--owner=0:0"]).current_dir(tree);
    cpio.stdin(Stdio::piped()).stdout(File::create(to)?);
    let mut child = cpio.spawn().context("`cpio` cannot be run")?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    stdin.write_all(&names)?;
    drop(stdin);
    let status = child.wait()?;
    ensure!(status.success(), "`cpio`: {status}");
    Ok(to.to_owned())
}

/// What a command says, if it ends well.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
    Ok(output.stdout)
}

/// The modules of a kernel, by name.
struct Modules(BTreeMap<String, PathBuf>);

impl Modules {
    fn find(directory: &Path) -> Result<Self> {
        let names = output(Command::new("find").arg(directory).args(["-name", "*.ko*"]))?;
        let names = String::from_utf8_lossy(&names);
        let entry = |place: &str| {
            let (name, _) = Path::new(place).file_name()?.to_str()?.split_once(".ko")?;
            // A file may have a dash where the module's name has an underscore.
            Some((name.replace('-', "_"), PathBuf::from(place)))
        };
        Ok(Self(names.lines().filter_map(entry).collect()))
    }

    /// The contents of modules and of all that they need, each after what it needs.
    fn with_what_they_need(&self, wanted: &[&str]) -> Result<Vec<Vec<u8>>> {
        let mut seen = BTreeSet::new();
        let mut sorted = Vec::new();
        for name in wanted {
            self.visit(name, &mut seen, &mut sorted)?;
        }
        Ok(sorted)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        sorted: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let place = self.0.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let module = if place.extension().is_some_and(|extension| extension == "xz") {
            output(Command::new("xz").args(["--decompress", "--stdout"]).arg(place))?
        } else {
            fs::read(place)?
        };
        for needed in needs(&module) {
            self.visit(&needed, seen, sorted)?;
        }
        sorted.push(module);
        Ok(())
    }
}

/// What a module says that it needs, in its `.modinfo`: words that end in a zero, one of them `depends=a,b`.
fn needs(module: &[u8]) -> Vec<String> {
    let words = module.split(|byte| *byte == 0);
    let named = words.filter_map(|word| word.strip_prefix(b"depends=")).next().unwrap_or_default();
    let named = String::from_utf8_lossy(named);
    named.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        let of = |text: &str| needs(text.as_bytes());
        assert_eq!(of("code\0license=GPL\0depends=stp,nf-nat\0name=x\0"), ["stp", "nf_nat"]);
        assert_eq!(of("license=GPL\0depends=\0name=x\0"), [""; 0]);
        assert_eq!(of("no word of it"), [""; 0]);
    }
}
