//! The data plane as the control plane sees it: something that takes steps.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use equipoise_common::flow::count::Pressure;
use equipoise_common::value::{Host, Shortcuts, Traffic};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config::AttachMode;
use equipoise_core::diff::{Found, Step};
use equipoise_core::id::Named;

use equipoise_common::trace::Wanted;

use self::kernel::{
    Attachment, Device, Entry, Events, Expiry, Explained, Farewell, FlowRow, Input, KernelError,
    Occupancy, Part, Traces,
};

pub mod kernel;
pub mod memory;
pub mod simulated;

/// Says what a program would do with a packet; nothing changes. An error is that the kernel refuses the packet.
pub type Explainer = Box<dyn FnMut(Entry, Input<'_>) -> Result<Explained, KernelError> + Send>;

/// How far flows have been carried over to tables of another size, or of another layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moving {
    /// None are.
    Nothing,
    /// There are more.
    Going,
    /// Some have found no room, and wait for others to end.
    Waiting,
    /// All are where they are to be: [`DataPlane::take_new_tables`].
    Done,
}

/// A step that was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct StepError {
    /// What was tried, on what.
    pub step: String,
    /// Why not.
    pub source: std::io::Error,
}

/// Where steps are applied: the kernel's maps, or maps in memory.
pub trait Maps {
    /// Takes one step, whole or not at all.
    ///
    /// # Errors
    ///
    /// When the write was refused; nothing of the step is in force then.
    fn apply(&mut self, step: &Step) -> Result<(), StepError>;
}

/// A whole data plane: maps, the programs that read them, and what they have counted.
pub trait DataPlane: Maps {
    /// Attaches the programs to a device, as `mode` says; once per device.
    ///
    /// # Errors
    ///
    /// When the kernel or the device refuses.
    fn attach(&mut self, device: &Device<'_>, mode: AttachMode) -> Result<Attachment, KernelError>;

    /// Takes the programs off a device; one that has vanished is no error.
    fn detach(&mut self, index: u32);

    /// Has the connections that lead to pools which are streamed go to these listening sockets, of IPv4 and of IPv6, whatever the
    /// address and port that they are for. From the first time on the sockets of this network namespace are looked up so, also by the
    /// process that comes next once it has been told of its own.
    ///
    /// Sockets of before are replaced; connections that have been taken up by them stay theirs. A socket that is closed is there no
    /// more, and what would have gone to it goes where it would without us. So those of a process that was to take over are gone when
    /// that has come to nothing: after [`DataPlane::reclaim`] this is to be told again.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn listen_by(&mut self, listeners: [BorrowedFd<'_>; 2]) -> Result<(), KernelError>;

    /// Tells the programs whether a device takes redirected frames.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn allow_redirect(&mut self, index: u32, allowed: bool) -> Result<(), KernelError>;

    /// Tells the programs for which packets the way need not be asked for again. For none until they are told.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn allow_shortcuts(&mut self, shortcuts: Shortcuts) -> Result<(), KernelError>;

    /// Tells the programs from which addresses this host answers packets that came by a device; none for one that is not
    /// there any more.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn answer_from(&mut self, index: u32, host: Option<Host>) -> Result<(), KernelError>;

    /// The packets counted, by hook and verdict.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read; so for those that follow.
    fn verdicts(&self) -> Result<Vec<(Hook, Verdict, u64)>, KernelError>;

    /// What has gone through these services, by id.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read.
    fn service_traffic(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, KernelError>;

    /// What has gone through these backends, by id.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read.
    fn backend_traffic(&self, ids: &[u32]) -> Result<BTreeMap<u32, Traffic>, KernelError>;

    /// Calls `each` for every flow, until it answers false.
    ///
    /// # Errors
    ///
    /// When the flow table cannot be read.
    fn flows(&self, each: &mut dyn FnMut(FlowRow) -> bool) -> Result<(), KernelError>;

    /// Ends the flows in a part of the tables that are past their time, closes those whose backend has gone where
    /// their service wants that, and sends the RSTs that follow from either.
    fn sweep(&mut self, part: Part) -> Expiry;

    /// Ends all flows whose clients are denied by the lists as they are now, and sends the RSTs that follow from it.
    fn cut_denied(&mut self) -> Expiry;

    /// Ends all flows that are wanted, and says goodbye to their ends as is asked for.
    fn end_flows(&mut self, wanted: &mut dyn FnMut(&FlowRow) -> bool, farewell: Farewell)
    -> Expiry;

    /// How full the flow tables are.
    fn occupancy(&self) -> Occupancy;

    /// Memory that maps take, bytes, by name.
    fn map_memory(&self) -> BTreeMap<String, u64>;

    /// The live flows of a backend, by id.
    fn live_flows(&self, backend: u32) -> u64;

    /// So, without those that are over and wait for what may still come.
    fn open_flows(&self, backend: u32) -> u64;

    /// How long a backend takes on average to answer a SYN, by id; none before it has answered any.
    fn handshake(&self, backend: u32) -> Option<Duration>;

    /// The ids that flows name.
    fn named(&self) -> Named;

    /// What became of flows under pressure.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read.
    fn pressures(&self) -> Result<Vec<(Pressure, u64)>, KernelError>;

    /// What says what becomes of packets. It may take seconds at first, so it can go to another thread.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn explainer(&self) -> Result<Explainer, KernelError>;

    /// The source of flow events, once; none for a data plane that has none.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn events(&mut self) -> Result<Option<Events>, KernelError>;

    /// What is in the maps, where those of an earlier process have been taken over; none for new ones.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    fn found(&mut self) -> Result<Option<Found>, KernelError>;

    /// Why what an earlier process had left has not been taken over; none where it has, or where there was nothing.
    fn given_up(&self) -> Option<&str>;

    /// Everything that is wanted is attached: what else an earlier process has left of attachments and programs goes.
    ///
    /// # Errors
    ///
    /// When something is left; packets do not meet it.
    fn conclude(&mut self) -> Result<(), KernelError>;

    /// Takes back a start that has come to nothing: what an earlier process had left is in force again, and where there was
    /// nothing, nothing is left.
    ///
    /// # Errors
    ///
    /// When something could not be taken back.
    fn abandon(self) -> Result<(), KernelError>;

    /// A process that was to take over has come to nothing: the programs of this one are in force again, and what is in the
    /// maps now is told.
    ///
    /// # Errors
    ///
    /// When something is not in force again, or cannot be read.
    fn reclaim(&mut self) -> Result<Found, KernelError>;

    /// Has packets be decided about and counted, and go on as they have come; or not any more. True if programs that do so are
    /// ready to be attached in place of the others, as in [`DataPlane::attach`] and [`DataPlane::conclude`].
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or flows are being carried over; nothing has changed then.
    fn observe(&mut self, observes: bool) -> Result<bool, KernelError>;

    /// Has these packets be told of, by programs that are ready to be attached in place of the others, as in
    /// [`DataPlane::attach`] and [`DataPlane::conclude`]; none for no packets, and programs that do not tell of any.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or flows are being carried over; nothing has changed then.
    fn trace(&mut self, wanted: Option<&Wanted>) -> Result<Option<Traces>, KernelError>;

    /// Live flows that each flow table holds at most, or will once flows have been carried over.
    fn max_flows(&self) -> u32;

    /// Makes flow tables of another size. From here on new flows are opened there, and those that are there live on where they
    /// are until they have been carried over.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, as for want of memory; everything is as before then.
    fn resize(&mut self, max_flows: u32) -> Result<(), KernelError>;

    /// Carries some flows over, for 20 ms at most.
    ///
    /// # Errors
    ///
    /// When the kernel refuses that it is begun; nothing has changed then.
    fn carry_over(&mut self) -> Result<Moving, KernelError>;

    /// Once all flows are in the new tables: programs that know of these alone are ready to be attached in place of the others,
    /// as in [`DataPlane::attach`], and then what is not used any more goes by [`DataPlane::conclude`].
    ///
    /// # Errors
    ///
    /// When the kernel refuses; nothing has changed then.
    fn take_new_tables(&mut self) -> Result<(), KernelError>;

    /// Leaves everything in force without this process.
    ///
    /// # Errors
    ///
    /// When something cannot be left so.
    fn keep(self) -> Result<(), KernelError>;

    /// Detaches and removes everything of ours, and nothing else.
    ///
    /// # Errors
    ///
    /// When something is left.
    fn remove(self) -> Result<(), KernelError>;
}
