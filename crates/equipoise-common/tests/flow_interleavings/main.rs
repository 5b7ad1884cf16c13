//! The flow table on several CPUs at once, under a model checker: every interleaving, and every value that
//! memory may still show, up to a number of preemptions.
//!
//! Each scenario is a few calls on two or three CPUs and what must hold whichever way they meet. The
//! threads are CPUs in the middle of a packet, or user space in its sweep. Those that are explored up to a number
//! of preemptions are allowed one more by `EQUIPOISE_SOAK=1`. See [`table`] for what memory promises.

mod carrying;
mod ending;
mod opening;
mod table;
mod turning;

use std::sync::Arc;

use equipoise_lab::scale;
use loom::model::Builder;
use loom::thread::{self, JoinHandle};

use self::table::{CPU, Name, Table};

/// Runs a scenario in every way that it can go, or, where there are too many, in those with so many preemptions
/// at most.
fn explore(preemptions: Option<usize>, scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions.map(|most| scale(most, most + 1));
    builder.max_branches = 20_000;
    builder.check(scenario);
}

/// Runs something on another CPU.
fn on_another_cpu<T: 'static>(
    table: &Arc<Table>,
    what: impl FnOnce(&Table) -> T + 'static,
) -> JoinHandle<T> {
    let (table, cpu) = (Arc::clone(table), table.next_cpu());
    thread::spawn(move || {
        CPU.with(|own| own.set(cpu));
        what(&table)
    })
}

/// A flow with its request in the first and its reply in the second of two sets.
fn plain() -> Name {
    Name::leading_to([0, 0], [1, 1], 2)
}
