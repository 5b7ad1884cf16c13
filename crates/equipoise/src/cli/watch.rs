//! What is shown once, or again and again: on a terminal in place of what was there, elsewhere one after the other.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use super::args::Watch;
use super::{Exit, Failure, print};

/// The time from one to the next.
const EVERY: Duration = Duration::from_secs(1);

/// Shows what there is to be shown, as often as is asked for. A reader that has gone away has seen enough.
pub(super) async fn show(
    watch: Watch,
    text: impl AsyncFn() -> Result<String, Failure>,
) -> Result<(), Failure> {
    if !watch.watch {
        return print(&text().await?);
    }
    let is_terminal = io::stdout().is_terminal();
    let mut ticks = tokio::time::interval(EVERY);
    let mut is_again = false;
    loop {
        ticks.tick().await;
        let text = match text().await {
            Ok(text) => text,
            // The instance ends, or another version takes its place: which of them is known with the next look.
            Err(Failure { exit: Exit::Failed, .. }) if !is_again => {
                is_again = true;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        is_again = false;
        let block = if is_terminal { redrawn(&text) } else { format!("{text}\n") };
        let mut out = io::stdout().lock();
        match out.write_all(block.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::failed(error)),
        }
    }
}

/// From the top of the screen, each line to its end, and nothing below (ECMA-48: CUP, EL, ED). What is drawn over is not
/// wiped first, so that nothing flickers.
fn redrawn(text: &str) -> String {
    let lines = text.lines().map(|line| format!("{line}\x1b[K\n"));
    format!("\x1b[H{}\x1b[J", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_again_leaves_nothing_of_what_was_there() {
        assert_eq!(redrawn("ok\n\nweb\n"), "\x1b[Hok\x1b[K\n\x1b[K\nweb\x1b[K\n\x1b[J");
    }
}
