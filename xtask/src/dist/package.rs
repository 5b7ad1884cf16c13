//! The Debian package: a tree of files as they are installed, and what dpkg wants to know of it.
//!
//! Made by `dpkg-deb`; which libraries it needs, and in which versions, is told by `dpkg-shlibdeps`. Nothing depends on who builds it or when.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{binary, commit_time, directory, made, said};
use crate::root;
use crate::step::succeed;

/// What is installed of the repository: where from, where to, and its mode.
const FILES: [(&str, &str, &str); 12] = [
    ("packaging/prepare", "usr/lib/equipoise", "755"),
    ("packaging/systemd/*", "usr/lib/systemd/system", "644"),
    ("packaging/etc/*", "etc/equipoise", "644"),
    ("packaging/debian/postinst", "DEBIAN", "755"),
    ("packaging/debian/prerm", "DEBIAN", "755"),
    ("packaging/debian/postrm", "DEBIAN", "755"),
    ("examples/*", "usr/share/doc/equipoise/examples", "644"),
    ("docs/*.md", "usr/share/doc/equipoise/docs", "644"),
    ("packaging/grafana/*", "usr/share/doc/equipoise/packaging/grafana", "644"),
    ("packaging/prometheus/*", "usr/share/doc/equipoise/packaging/prometheus", "644"),
    ("*.md", "usr/share/doc/equipoise", "644"),
    ("LICENSE-*", "usr/share/doc/equipoise", "644"),
];

/// The same of what is made.
const MADE: [(&str, &str, &str); 5] = [
    ("man/*", "usr/share/man/man8", "644"),
    ("completions/bash/*", "usr/share/bash-completion/completions", "644"),
    ("completions/zsh/*", "usr/share/zsh/vendor-completions", "644"),
    ("completions/fish/*", "usr/share/fish/vendor_completions.d", "644"),
    ("THIRD-PARTY-LICENSES", "usr/share/doc/equipoise", "644"),
];

/// What a user may have changed, which an upgrade leaves as it is.
const CONFFILES: &str = "/etc/equipoise/equipoise.toml\n";

/// Makes it, of this revision.
pub(super) fn make(revision: &str) -> Result<PathBuf> {
    let tree = directory().join("tree");
    let _ = fs::remove_dir_all(&tree);
    let mut files = FILES.iter().map(|file| (root().to_owned(), file)).collect::<Vec<_>>();
    files.extend(MADE.iter().map(|file| (made(), file)));
    for (folder, (from, to, mode)) in files {
        // The shell knows the patterns.
        let script = format!("install -D --mode={mode} --target-directory=\"$1\" {from}");
        let mut install = Command::new("sh");
        install.args(["-c", &script, "sh"]).arg(tree.join(to)).current_dir(folder);
        succeed(&mut install)?;
    }
    let mut install = Command::new("install");
    install.args(["-D", "--mode=755", "--target-directory"]);
    succeed(install.arg(tree.join("usr/sbin")).arg(binary()))?;
    let mut pack = Command::new("sh");
    pack.args(["-c", "gzip -9n usr/share/man/man8/* usr/share/doc/equipoise/THIRD-PARTY-LICENSES"]);
    succeed(pack.current_dir(&tree))?;
    fs::write(tree.join("usr/share/doc/equipoise/copyright"), copyright()?)?;
    let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
    let architecture = said(Command::new("dpkg").arg("--print-architecture"))?;
    let architecture = architecture.trim();
    let about = tree.join("DEBIAN");
    fs::write(about.join("conffiles"), CONFFILES)?;
    fs::write(about.join("control"), control(&tree, &version, architecture)?)?;
    let mut sums = Command::new("sh");
    sums.args(["-c", "find usr -type f | LC_ALL=C sort | xargs -d '\\n' md5sum"]);
    fs::write(about.join("md5sums"), said(sums.current_dir(&tree))?)?;
    let package = directory().join(format!("equipoise_{version}_{architecture}.deb"));
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "--build"]).arg(&tree).arg(&package);
    succeed(build.env("SOURCE_DATE_EPOCH", commit_time().to_string()))?;
    fs::remove_dir_all(&tree)?;
    Ok(package)
}

fn control(tree: &Path, version: &str, architecture: &str) -> Result<String> {
    // In kilobytes.
    let size = said(Command::new("du").args(["--summarize", "--apparent-size", "-k"]).arg(tree))?;
    let size = size.split_whitespace().next().context("the size of the tree")?;
    let libraries = libraries()?;
    Ok(format!(
        "Package: equipoise\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: The authors of Equipoise <maintainers@equipoise.invalid>\n\
         Installed-Size: {size}\n\
         Depends: adduser, {libraries}\n\
         Section: net\n\
         Priority: optional\n\
         Description: {}\n \
         Equipoise rewrites TCP and UDP packets in the kernel, with its own XDP and\n \
         TC (eBPF) programs, and sends them to a backend. A small daemon turns one\n \
         configuration file into the maps that those programs read, follows the\n \
         machine as it changes, and answers questions on a Unix socket.\n",
        "layer-4 load balancer with an eBPF data plane",
    ))
}

/// The libraries that the binary is linked with, as packages.
fn libraries() -> Result<String> {
    // It wants to be in the source of a package.
    let source = directory().join("source");
    fs::create_dir_all(source.join("debian"))?;
    fs::write(
        source.join("debian/control"),
        "Source: equipoise\n\nPackage: equipoise\nArchitecture: any\n",
    )?;
    let mut question = Command::new("dpkg-shlibdeps");
    let told = said(question.arg("-O").arg(binary()).current_dir(&source))?;
    fs::remove_dir_all(&source)?;
    let told = told.trim().strip_prefix("shlibs:Depends=").map(str::to_owned);
    told.context("dpkg-shlibdeps names no libraries")
}

fn copyright() -> Result<String> {
    let ours = fs::read_to_string(root().join("LICENSE"))?;
    Ok(format!(
        "{ours}\nBoth texts are beside this file. Those of the crates that the binary is linked with are in\n\
         THIRD-PARTY-LICENSES.gz. On Debian, the Apache License is in /usr/share/common-licenses/Apache-2.0, too.\n"
    ))
}
