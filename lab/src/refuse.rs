//! Calls to the kernel that are refused on purpose: writes to BPF maps, pins, or links, of a thread or of a whole program.
//!
//! A seccomp filter hands each such call to a thread of this process (`seccomp_unotify(2)`), which lets the kernel have it
//! or answers in its place. So what fails is what the kernel itself would fail, wherever in the program the call is
//! made, and nothing in the program knows of it. Root is needed.

use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use libc::{seccomp_data, seccomp_notif, seccomp_notif_resp, sock_filter};

/// Under this number a program that has been started holds the other end of its filter.
const KNOWN: RawFd = 99;

/// What a program asks the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// That an entry of a map be written or removed.
    MapWrite,
    /// That a map, a program or a link be pinned.
    Pin,
    /// That a program be hung up by a link. Kernels that know no such link answer with `libc::EINVAL`.
    Link,
}

/// Which calls are refused at the moment, and how many have been; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    rule: Option<Rule>,
    /// Calls of the kind that the rule is about, since it was given.
    seen: u64,
    refused: u64,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    call: Call,
    every: u64,
    error: i32,
}

impl Refusals {
    /// From now on every so manieth call of a kind is refused, with an error such as `libc::ENOMEM`.
    pub fn refuse(&self, call: Call, every: u64, error: i32) {
        let mut told = self.lock();
        (told.rule, told.seen) = (Some(Rule { call, every, error }), 0);
    }

    /// From now on none is.
    pub fn lift(&self) {
        self.lock().rule = None;
    }

    /// Calls that have been refused so far.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// For the calls of this thread, and of those that it starts from now on, for as long as they last.
    pub fn begin_here(&self) -> Result<()> {
        // Begun before, or that thread's own calls would be heard as well, and keep it waiting for ever.
        let hear = self.answer();
        let listener =
            listen().context("a filter of system calls cannot be set (root is needed)")?;
        hear.send(listener).context("nobody answers")
    }

    /// For the calls of a program that is to be started. They wait until [`Refusals::watch`] has its process.
    pub fn prepare(command: &mut Command) {
        // SAFETY: between fork and exec the function makes a few system calls and no allocation.
        unsafe { command.pre_exec(listen_under_known) };
    }

    /// Begins to answer the calls of a program that was prepared.
    pub fn watch(&self, pid: u32) -> Result<()> {
        let listener = fetch(pid).context("the filter of a program cannot be had")?;
        self.answer().send(listener).context("nobody answers")
    }

    /// A thread that answers what it hears at the end that it is sent, until nobody is left who could call.
    fn answer(&self) -> Sender<OwnedFd> {
        let (hear, end) = mpsc::channel();
        let refusals = self.clone();
        thread::spawn(move || {
            if let Ok(listener) = end.recv() {
                while refusals.answer_one(&listener).is_ok() {}
            }
        });
        hear
    }

    fn answer_one(&self, listener: &OwnedFd) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, as is said.
        let ready = unsafe { libc::poll(&raw mut poll, 1, -1) };
        if ready > 0 && poll.revents & libc::POLLIN == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: plain data for which zeros are a value, and are what the kernel wants to find.
        let mut call: seccomp_notif = unsafe { zeroed() };
        // SAFETY: the structure that this request fills.
        if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) } != 0 {
            // Whoever called has been interrupted, or has gone.
            return Ok(());
        }
        let error = self.lock().error_for(call.data.args[0]);
        let flags = if error == 0 { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 };
        let answer = seccomp_notif_resp { id: call.id, val: 0, error: -error, flags };
        // SAFETY: the structure that this request reads. Who has gone meanwhile needs no answer.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw const answer) };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        // Whole numbers, whoever has panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// The error that a call of `bpf(2)` with this command gets; 0 for none.
    fn error_for(&mut self, command: u64) -> i32 {
        let Some(Rule { call, every, error }) = self.rule else { return 0 };
        if kind(command) != Some(call) {
            return 0;
        }
        self.seen += 1;
        if !self.seen.is_multiple_of(every) {
            return 0;
        }
        self.refused += 1;
        error
    }
}

/// Commands of linux/bpf.h.
fn kind(command: u64) -> Option<Call> {
    const MAP_UPDATE_ELEM: u64 = 2;
    const MAP_DELETE_ELEM: u64 = 3;
    const OBJ_PIN: u64 = 6;
    const MAP_UPDATE_BATCH: u64 = 26;
    const MAP_DELETE_BATCH: u64 = 27;
    const LINK_CREATE: u64 = 28;
    match command {
        MAP_UPDATE_ELEM | MAP_DELETE_ELEM | MAP_UPDATE_BATCH | MAP_DELETE_BATCH => {
            Some(Call::MapWrite)
        }
        OBJ_PIN => Some(Call::Pin),
        LINK_CREATE => Some(Call::Link),
        _ => None,
    }
}

/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)` of linux/seccomp.h.
const RECEIVE: libc::Ioctl = request(0, size_of::<seccomp_notif>());
const SEND: libc::Ioctl = request(1, size_of::<seccomp_notif_resp>());

const fn request(number: u32, size: usize) -> libc::Ioctl {
    const READ_AND_WRITE: u32 = 3;
    (READ_AND_WRITE << 30 | (size as u32) << 16 | (b'!' as u32) << 8 | number) as libc::Ioctl
}

/// Sets the filter for this thread, and gives the end that its calls are heard at.
fn listen() -> io::Result<OwnedFd> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let one = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let mut filter = [
        one(LOAD, offset_of!(seccomp_data, nr) as u32),
        sock_filter { code: JUMP, jt: 0, jf: 1, k: libc::SYS_bpf as u32 },
        one(RETURN, libc::SECCOMP_RET_USER_NOTIF),
        one(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a whole filter with its length; the kernel copies it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    owned(listener)
}

/// Sets it, and has the program that comes next hold that end under the number that is known.
fn listen_under_known() -> io::Result<()> {
    let listener = listen()?;
    // SAFETY: an open descriptor, and a number that was to be closed anyway if it stands for anything here.
    if unsafe { libc::dup2(listener.as_raw_fd(), KNOWN) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The end of another process that it holds under the number that is known.
fn fetch(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: numbers alone.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: an open descriptor, and numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), KNOWN, 0) })
}

fn owned(made: libc::c_long) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(made).unwrap_or(-1);
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_so_manieth_call_of_the_kind_is_refused_until_that_is_lifted() {
        let refusals = Refusals::default();
        let errors = |commands: &[u64]| -> Vec<i32> {
            commands.iter().map(|command| refusals.lock().error_for(*command)).collect()
        };
        assert_eq!(errors(&[2, 3, 6]), [0, 0, 0]);
        refusals.refuse(Call::MapWrite, 2, libc::ENOMEM);
        // A look-up and a pin are none.
        assert_eq!(errors(&[2, 1, 6, 3, 26, 27]), [0, 0, 0, libc::ENOMEM, 0, libc::ENOMEM]);
        refusals.refuse(Call::Pin, 1, libc::ENOSPC);
        assert_eq!(errors(&[2, 6]), [0, libc::ENOSPC]);
        refusals.refuse(Call::Link, 1, libc::EINVAL);
        assert_eq!(errors(&[6, 28]), [0, libc::EINVAL]);
        refusals.lift();
        assert_eq!(errors(&[6, 28]), [0, 0]);
        assert_eq!(refusals.refused(), 4);
    }
}
