//! Running a program on a packet that nobody sends: `BPF_PROG_TEST_RUN`.
//!
//! The same text as for real packets, on the same maps. The twin, loaded with its dry constant,
//! decides alike, changes no map and tells its steps.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::ProgramFd;
use equipoise_common::limit;
use equipoise_common::step::{Step, What};
use equipoise_common::verdict::{Hook, Verdict};

use super::pin::refused;
use super::{KernelError, attach};

/// A packet to run a program on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The frame, from its Ethernet header on.
    pub frame: &'a [u8],
    /// Index of the interface that it comes by, in the network namespace of the caller.
    pub interface: u32,
    /// How often; the frame is not put back in between.
    pub repeat: u32,
}

/// A program that packets enter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// XDP in the driver.
    Xdp,
    /// Generic XDP.
    XdpGeneric,
    /// TC ingress.
    Ingress,
    /// TC egress.
    Egress,
}

impl Entry {
    /// The hook that its packets are counted at.
    pub const fn hook(self) -> Hook {
        match self {
            Self::Xdp | Self::XdpGeneric => Hook::Xdp,
            Self::Ingress => Hook::Ingress,
            Self::Egress => Hook::Egress,
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Xdp => attach::XDP,
            Self::XdpGeneric => attach::XDP_GENERIC,
            Self::Ingress => attach::IN,
            Self::Egress => attach::OUT,
        }
    }
}

impl From<Hook> for Entry {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Xdp => Self::Xdp,
            Hook::Ingress => Self::Ingress,
            Hook::Egress => Self::Egress,
        }
    }
}

/// What a program would do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// `pass`, `drop`, `tx`, `redirect`, or `aborted`.
    pub action: &'static str,
    /// Why.
    pub verdict: Verdict,
    /// The frame as the program would leave it.
    pub frame: Vec<u8>,
    /// What the packet met on its way.
    pub steps: Vec<Step>,
}

impl Explained {
    /// Of a dry run.
    pub(super) fn new(entry: Entry, ran: (Output, Vec<Step>)) -> Result<Self, KernelError> {
        let (Output { action, frame, .. }, steps) = ran;
        let failed = |error: String| refused("explaining", &error);
        let end = steps.iter().rev().find(|step| step.what == What::Verdict as u32);
        let verdict = end.and_then(|step| Verdict::ALL.get(step.first as usize).copied());
        let verdict = verdict.ok_or_else(|| failed("the program told no verdict".to_owned()))?;
        let action = word(entry.hook(), action)
            .ok_or_else(|| failed(format!("the program answered {action}")))?;
        Ok(Self { action, verdict, frame, steps })
    }
}

/// A program's answer in a word.
fn word(hook: Hook, action: i32) -> Option<&'static str> {
    match (hook, action) {
        (Hook::Xdp, 0) => Some("aborted"),
        (Hook::Xdp, 1) => Some("drop"),
        (Hook::Xdp, 2) => Some("pass"),
        (Hook::Xdp, 3) => Some("tx"),
        (Hook::Xdp, 4) => Some("redirect"),
        // Neither ends the way to the stack.
        (Hook::Ingress | Hook::Egress, -1 | 0) => Some("pass"),
        (Hook::Ingress | Hook::Egress, 2) => Some("drop"),
        (Hook::Ingress | Hook::Egress, 7) => Some("redirect"),
        _ => None,
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The program's answer: `XDP_` or `TC_ACT_`.
    pub action: i32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Mean time of one run.
    pub duration: Duration,
}

/// The programs once more, loaded to explain.
pub struct Twin {
    ebpf: Ebpf,
    /// The programs that these go on in while flows are carried over, whose places go with it.
    _other: Option<Ebpf>,
    steps: Array<MapData, Step>,
}

impl Twin {
    pub(super) fn new(mut ebpf: Ebpf, other: Option<Ebpf>) -> Result<Self, KernelError> {
        let steps = ebpf
            .take_map("STEPS")
            .ok_or_else(|| refused("loading", &"the object has no map STEPS"))?
            .try_into()
            .map_err(|error| refused("using map STEPS", &error))?;
        Ok(Self { ebpf, _other: other, steps })
    }

    /// Says what the program at `entry` would do with a packet, and its steps on the way.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the frame or the interface.
    pub fn explain(
        &mut self,
        entry: impl Into<Entry>,
        input: Input<'_>,
    ) -> Result<(Output, Vec<Step>), KernelError> {
        self.steps
            .set(0, Step::default(), 0)
            .map_err(|error| refused("clearing the step log", &error))?;
        let output = Runner::of(&self.ebpf, entry.into())?.run(input)?;
        let step = |index| {
            self.steps.get(&index, 0).map_err(|error| refused("reading the step log", &error))
        };
        let told = step(0)?.first.min(limit::STEPS - 1);
        let steps = (1..=told).map(step).collect::<Result<_, _>>()?;
        Ok((output, steps))
    }
}

/// Runs the program of a hook.
pub(super) fn run(ebpf: &Ebpf, hook: Hook, input: Input<'_>) -> Result<Output, KernelError> {
    Runner::of(ebpf, hook.into())?.run(input)
}

/// The program of a hook, to be run on packets from any thread while the maps are used elsewhere.
pub struct Runner {
    hook: Hook,
    program: ProgramFd,
}

impl Runner {
    pub(super) fn of(ebpf: &Ebpf, entry: Entry) -> Result<Self, KernelError> {
        let name = entry.program();
        let failed = |error: &dyn std::fmt::Display| refused(&format!("running {name}"), error);
        let program = ebpf.program(name).ok_or_else(|| failed(&"there is no such program"))?;
        let fd = program.fd().map_err(|error| failed(&error))?;
        let program = fd.try_clone().map_err(|error| failed(&error))?;
        Ok(Self::new(entry.hook(), program))
    }

    /// Of a program that is for this hook.
    pub(super) const fn new(hook: Hook, program: ProgramFd) -> Self {
        Self { hook, program }
    }

    /// Whether what came of a run is that the packet is dropped.
    pub fn has_dropped(&self, output: &Output) -> bool {
        word(self.hook, output.action) == Some("drop")
    }

    /// Runs it; maps change as for a real packet.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the frame or the interface.
    pub fn run(&self, input: Input<'_>) -> Result<Output, KernelError> {
        let fd = self.program.as_fd().as_raw_fd();
        match self.hook {
            Hook::Xdp => test_run(fd, input, &mut xdp_context(input)),
            Hook::Ingress | Hook::Egress => test_run(fd, input, &mut tc_context(input)),
        }
        .map_err(|error| {
            let name = Entry::from(self.hook).program();
            let what = format!("running {name} on {} bytes", input.frame.len());
            refused(&what, &error)
        })
    }
}

/// `struct xdp_md`: data, data_end, data_meta, ingress interface, receive queue, egress interface.
fn xdp_context(input: Input<'_>) -> [u32; 6] {
    [0, input.frame.len() as u32, 0, input.interface, 0, 0]
}

/// `struct __sk_buff`, as words.
fn tc_context(input: Input<'_>) -> [u32; 48] {
    const IFINDEX: usize = 40 / size_of::<u32>();
    let mut context = [0; 48];
    context[IFINDEX] = input.interface;
    context
}

fn test_run<const N: usize>(
    fd: RawFd,
    input: Input<'_>,
    context: &mut [u32; N],
) -> io::Result<Output> {
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    /// Programs may make a packet longer.
    const ROOM: usize = 256;
    // The part of `union bpf_attr` that this command reads and writes.
    #[repr(C)]
    struct Attributes {
        program: u32,
        answer: u32,
        input_size: u32,
        output_size: u32,
        input: u64,
        output: u64,
        repeat: u32,
        duration: u32,
        context_size: u32,
        context_out_size: u32,
        context: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch: u32,
        zero: u32,
    }
    let mut frame = vec![0; input.frame.len() + ROOM];
    let mut attributes = Attributes {
        program: fd as u32,
        answer: 0,
        input_size: input.frame.len() as u32,
        output_size: frame.len() as u32,
        input: input.frame.as_ptr() as u64,
        output: frame.as_mut_ptr() as u64,
        repeat: input.repeat,
        duration: 0,
        context_size: size_of_val(context) as u32,
        context_out_size: 0,
        context: context.as_mut_ptr() as u64,
        context_out: 0,
        flags: 0,
        cpu: 0,
        batch: 0,
        zero: 0,
    };
    let size = size_of::<Attributes>();
    // SAFETY: every address in `attributes` is of a buffer that outlives the call, with its size.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    frame.truncate(attributes.output_size as usize);
    Ok(Output {
        action: attributes.answer as i32,
        frame,
        duration: Duration::from_nanos(u64::from(attributes.duration)),
    })
}
