//! The flow table from user space: so many flows listed, copied into another table, and ended when past their time.

use std::time::{Duration, Instant};

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Clock, Part};

use crate::report::{Report, Spread};
use crate::world::World;

/// Longer than any flow of the bench lives without a packet.
const LONG: Duration = Duration::from_secs(10_000);

/// Measures a table of so many established flows of IPv4.
pub(crate) fn measure(object: &[u8], flows: u32, rounds: u32, report: &mut Report) {
    let (mut list, mut copy, mut expire) = Default::default();
    for _ in 0..rounds.min(5) {
        let mut world = World::new(flows, Clock::Set);
        world.kernel.set_time(LONG).expect("the clock is ours");
        let mut measures = world.kernel.measures(object).unwrap_or_else(|error| panic!("{error}"));
        world.establish(&mut measures, false, flows);
        timed(&mut list, || {
            let mut listed = 0;
            let counted = world.kernel.flows(&mut |_| {
                listed += 1;
                true
            });
            counted.expect("the table is in our memory");
            assert_eq!(listed, flows);
        });
        let other = World::new(flows + flows / 4, Clock::Set);
        timed(&mut copy, || {
            let copied = world.kernel.copy_flows(&other.kernel);
            assert_eq!((copied.copied, copied.refused), (u64::from(flows), 0));
        });
        assert_eq!(other.kernel.occupancy().confirmed, u64::from(flows));
        drop(other);
        world.kernel.set_time(2 * LONG).expect("the clock is ours");
        timed(&mut expire, || {
            let ended = world.kernel.sweep(Part::All).ended;
            assert_eq!(ended, u64::from(flows));
        });
        assert_eq!(world.kernel.occupancy().live, 0);
    }
    report.tables(flows, [list, copy, expire]);
}

/// Milliseconds.
fn timed(spread: &mut Spread, work: impl FnOnce()) {
    let begun = Instant::now();
    work();
    spread.add(begun.elapsed().as_secs_f64() * 1_000.0);
}
