//! What the programs are loaded with: sizes and names, and what tests have otherwise.

/// How to load.
pub struct Options<'a> {
    /// Names the pins: `/sys/fs/bpf/equipoise/INSTANCE`.
    pub instance: &'a str,
    /// Flows that each family's table holds.
    pub max_flows: u32,
    /// How TC programs are attached.
    pub tc: TcWay,
    /// What the programs go by.
    pub clock: Clock,
    /// What gives way when there is no room.
    pub eviction: Eviction,
}

/// What gives way when there is no room for a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// The oldest flow that is not confirmed.
    #[default]
    Unconfirmed,
    /// The oldest flow, whatever it is. For tests: what a table without classes would do to its users.
    Any,
}

/// What flows are timed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The kernel's monotonic clock, at its last tick.
    #[default]
    Kernel,
    /// What [`super::Kernel::set_time`] has set; for tests.
    Set,
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcWay {
    /// By TCX links where the kernel has them (6.6), else by filters on a `clsact` qdisc.
    #[default]
    Newest,
    /// By filters on a `clsact` qdisc.
    Clsact,
}
