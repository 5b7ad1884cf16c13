//! The thread that writes the log: orders in, lines out.
//!
//! Takes what waits, gathers the lines of it, and writes them when nothing more waits or there is enough. May take as long as the disk
//! does: nobody waits for it.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use equipoise_core::config::log::LineFormat;
use tokio::sync::{oneshot, watch};

use super::output::Output;
use super::{Counts, Failures, Order, line};

/// Writes until there is nobody left to order anything.
pub(super) fn run(orders: &Receiver<Order>, counts: &Counts, failures: &watch::Sender<Failures>) {
    let mut writer = Writer { format: LineFormat::Json, outputs: Vec::new(), line: Vec::new() };
    loop {
        let order = match orders.try_recv() {
            Ok(order) => Some(order),
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                writer.flush(counts);
                writer.tell(failures);
                match writer.wait(orders) {
                    Ok(order) => Some(order),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        };
        if let Some(done) = order.and_then(|order| writer.obey(order, counts)) {
            writer.end(counts);
            // Whoever ends may have lost patience.
            let _: Result<(), ()> = done.send(());
            return;
        }
    }
    writer.end(counts);
}

struct Writer {
    format: LineFormat,
    outputs: Vec<Output>,
    line: Vec<u8>,
}

impl Writer {
    /// The next order, or the time to try again what has failed.
    fn wait(&self, orders: &Receiver<Order>) -> Result<Order, RecvTimeoutError> {
        match self.outputs.iter().filter_map(Output::again).min() {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(again) => orders.recv_timeout(again.saturating_duration_since(Instant::now())),
        }
    }

    /// Does what it is told; who is to know that it was the last.
    fn obey(&mut self, order: Order, counts: &Counts) -> Option<oneshot::Sender<()>> {
        match order {
            Order::Flow(told) => {
                counts.waiting.fetch_sub(1, Ordering::Relaxed);
                self.line.clear();
                line::write(&mut self.line, self.format, &told);
                for output in &mut self.outputs {
                    output.take(&self.line, counts);
                }
            }
            Order::Follow(wanted) => {
                self.end(counts);
                self.outputs = wanted.as_ref().map(Output::all).unwrap_or_default();
                self.format = wanted.map(|wanted| wanted.format).unwrap_or_default();
            }
            Order::Reopen => {
                for output in &mut self.outputs {
                    output.reopen(counts);
                }
                tracing::info!("the access log is opened anew");
            }
            Order::End(done) => return Some(done),
        }
        None
    }

    fn flush(&mut self, counts: &Counts) {
        for output in &mut self.outputs {
            output.flush(counts);
        }
    }

    fn end(&mut self, counts: &Counts) {
        self.outputs.iter_mut().for_each(|output| output.end(counts));
    }

    /// Says what is wrong, where that is otherwise than it was.
    fn tell(&self, failures: &watch::Sender<Failures>) {
        let now: Failures = self
            .outputs
            .iter()
            .filter_map(|output| Some((output.name(), output.reason()?.to_owned())))
            .collect();
        failures.send_if_modified(|before| {
            let is_new = *before != now;
            if is_new {
                *before = now;
            }
            is_new
        });
    }
}
