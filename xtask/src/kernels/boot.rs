//! An emulated machine: started, read off its serial port, and ended whatever happens.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The kernel's arguments. What guards it from programs that nobody runs there costs an emulated machine the most.
const ARGUMENTS: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 no5lvl nokaslr";

/// Ends the machine when it goes.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself, which is how it should end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots, hands on each line that the machine says, and waits until it has switched itself off.
pub(super) fn run(
    kernel: &Path,
    initramfs: &Path,
    limit: Duration,
    mut hear: impl FnMut(&str),
) -> Result<()> {
    let end = Instant::now() + limit;
    // The machine ends also where what has started it is ended before it can end it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    // Emulation works wherever the tests do; hardware acceleration within a virtual machine may hang.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4096"]);
    command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    command.arg("-append").arg(ARGUMENTS);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn().context("`setpriv` cannot be run")?;
    let mut machine = Machine(child);
    let serial = machine.0.stdout.take().expect("stdout was asked for");
    let (sender, lines) = mpsc::channel();
    // Ends with the machine, which closes the serial port.
    thread::spawn(move || {
        for line in BufReader::new(serial).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => hear(String::from_utf8_lossy(&line).trim_end()),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                bail!("not done after {} s, and ended", limit.as_secs())
            }
        }
    }
}
