//! A check of a backend that gets packets as they are: made the way the packets go, and straight to its address.
//!
//! What the packets' way says is what counts; the other one tells, when that fails, what is broken. Both are made at once,
//! so that a verdict takes no longer than one.

use std::net::SocketAddr;
use std::pin::pin;

use equipoise_core::config::HealthCheck;
use equipoise_core::health::{Cause, Failure, FailureKind, Outcome};

use super::to::Vip;
use super::{Answered, ask_at};

/// Makes a check both ways.
pub async fn ask_both(address: SocketAddr, check: &HealthCheck, vip: Vip) -> Outcome {
    let mut straight = pin!(ask_at(address, None, check));
    let mut by_vip = pin!(ask_at(address, Some(vip), check));
    let mut told = None;
    let Answered { outcome, is_reached } = loop {
        tokio::select! {
            answered = &mut by_vip => break answered,
            answered = &mut straight, if told.is_none() => told = Some(answered),
        }
    };
    // A good answer waits for nothing more.
    let Err(failure) = outcome else { return outcome };
    let straight = match told {
        Some(answered) => answered,
        None => straight.await,
    };
    let cause = cause((failure.kind, is_reached), &straight, check.question.is_in_datagrams());
    let straight = match straight.outcome {
        Ok(_) => "straight to its address, a good answer".to_owned(),
        Err(failure) => format!("straight to its address, {}", failure.message),
    };
    let message = format!("by VIP {}, {}; {straight}", vip.address, failure.message);
    Err(Failure { message, cause: Some(cause), ..failure })
}

fn cause(
    (kind, is_reached): (FailureKind, bool),
    straight: &Answered,
    in_datagrams: bool,
) -> Cause {
    if kind == FailureKind::ConnectionRefused {
        return Cause::PortClosed;
    }
    if is_reached {
        return Cause::Application;
    }
    let is_refused = |failure: &Failure| failure.kind == FailureKind::ConnectionRefused;
    match &straight.outcome {
        // An ICMP error about a datagram to the VIP reaches no socket of ours.
        Err(failure) if is_refused(failure) && in_datagrams => Cause::PortClosed,
        // A host that has the VIP would have refused there, too.
        Err(failure) if is_refused(failure) => Cause::VipOrTunnel,
        Err(_) if !straight.is_reached => Cause::HostDown,
        Ok(_) | Err(_) => Cause::VipOrTunnel,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_ways_tell_four_causes_apart() {
        use FailureKind::{ConnectionRefused, NoRoute, Timeout, UnexpectedStatus};
        let good = || Answered { outcome: Ok(Duration::ZERO), is_reached: true };
        let bad = |kind, is_reached| Answered { outcome: Err(Failure::new(kind, "")), is_reached };
        let told = |by_vip, straight| cause(by_vip, &straight, false);
        // Nothing comes back from anywhere.
        assert_eq!(told((Timeout, false), bad(Timeout, false)), Cause::HostDown);
        assert_eq!(told((NoRoute, false), bad(NoRoute, false)), Cause::HostDown);
        // The VIP refuses.
        assert_eq!(
            told((ConnectionRefused, false), bad(ConnectionRefused, false)),
            Cause::PortClosed
        );
        assert_eq!(told((ConnectionRefused, false), good()), Cause::PortClosed);
        // The VIP is silent, and the host is not.
        assert_eq!(told((Timeout, false), good()), Cause::VipOrTunnel);
        assert_eq!(told((Timeout, false), bad(ConnectionRefused, false)), Cause::VipOrTunnel);
        assert_eq!(told((Timeout, false), bad(UnexpectedStatus, true)), Cause::VipOrTunnel);
        assert_eq!(told((Timeout, false), bad(Timeout, true)), Cause::VipOrTunnel);
        // Somebody has taken the connection.
        assert_eq!(told((UnexpectedStatus, true), bad(UnexpectedStatus, true)), Cause::Application);
        assert_eq!(told((Timeout, true), bad(Timeout, true)), Cause::Application);
        // In datagrams the VIP cannot refuse.
        let refused = bad(ConnectionRefused, false);
        assert_eq!(cause((Timeout, false), &refused, true), Cause::PortClosed);
    }
}
