//! What comes one after the other, until that is enough.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Failure;
use super::args::Enough;
use crate::admin::client::ClientError;

/// Gives each thing that comes to `take`, which says whether it counts, until there is nothing more or that is enough. The time
/// runs from now on.
pub(super) async fn each<T>(
    enough: Enough,
    mut next: impl AsyncFnMut() -> Result<Option<T>, ClientError>,
    mut take: impl FnMut(T) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let Enough { count, time } = enough;
    let until = Instant::now() + time.unwrap_or(Duration::from_secs(u32::MAX.into()));
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let next = tokio::select! {
            next = timeout_at(until, next()) => next,
            _ = tokio::signal::ctrl_c() => break,
        };
        let Ok(next) = next else { break };
        let Some(told) = next? else { break };
        left -= u64::from(take(told)?);
    }
    Ok(())
}
