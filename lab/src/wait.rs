//! Waiting for a condition with a deadline, in place of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until the condition holds; an error naming `what` once the deadline has passed.
pub fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    wait_for(deadline, what, || condition().then_some(()))
}

/// Looks again and again until there is a value, and gives it.
pub fn wait_for<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = deadline * crate::patience();
    let end = Instant::now() + deadline;
    loop {
        // The time is read first: a slow look that succeeds after the deadline still counts.
        let late = Instant::now() >= end;
        if let Some(value) = look() {
            return Ok(value);
        }
        if late {
            bail!("waited {deadline:?} in vain for: {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        wait_until(Duration::from_secs(10), "three looks", || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn a_wait_in_vain_names_what_was_awaited() {
        let error = wait_until(Duration::from_millis(1), "the moon", || false).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }

    #[test]
    fn a_condition_is_looked_at_even_without_any_time() {
        assert_eq!(wait_for(Duration::ZERO, "a value", || Some(7)).unwrap(), 7);
    }
}
