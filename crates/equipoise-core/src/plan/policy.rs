//! How a service treats its flows, as the programs have it.

use std::time::Duration;

use equipoise_common::flow::State;
use equipoise_common::value;

use super::access;
use crate::config::{Fragments, MssClamp, OnEmpty, OnFull, OnUnknown, Service, Settings};

/// The policy of a service.
pub(super) fn of(service: &Service, settings: &Settings) -> value::Policy {
    let policy = &service.policy;
    let mut timeouts = [0; 8];
    for (state, timeout) in [
        (State::Opening, policy.timeouts.tcp_opening),
        (State::Established, policy.timeouts.tcp_established),
        (State::Closing, policy.timeouts.tcp_closing),
        (State::OneWay, policy.timeouts.udp_one_way),
        (State::TwoWay, policy.timeouts.udp_two_way),
    ] {
        timeouts[state as usize] = ticks(timeout);
    }
    let mut switches = 0;
    if settings.events {
        switches |= value::Policy::EVENTS;
    }
    if policy.timeouts.reset_on_expiry {
        switches |= value::Policy::RESET_ON_EXPIRY;
    }
    if !service.routes.is_empty() {
        switches |= value::Policy::ROUTES;
    }
    value::Policy {
        timeouts,
        max_flows: policy.max_flows,
        on_unknown: match policy.on_unknown {
            OnUnknown::Hash => value::OnUnknown::Hash,
            OnUnknown::Reset => value::OnUnknown::Reset,
            OnUnknown::Drop => value::OnUnknown::Drop,
        } as u8,
        on_empty: match policy.on_empty {
            OnEmpty::Reset => value::OnEmpty::Reset,
            OnEmpty::Drop => value::OnEmpty::Drop,
            OnEmpty::Pass => value::OnEmpty::Pass,
        } as u8,
        on_full: match policy.on_full {
            OnFull::Hash => value::OnFull::Hash,
            OnFull::Drop => value::OnFull::Drop,
        } as u8,
        switches,
        fragments: match policy.fragments {
            Fragments::Track => value::Fragments::Track,
            Fragments::Hash => value::Fragments::Hash,
            Fragments::Drop => value::Fragments::Drop,
        } as u8,
        mss: match service.delivery.mss_clamp {
            MssClamp::Bytes(bytes) => bytes,
            MssClamp::Auto if service.delivery.mode.is_tunnel() => value::Policy::MSS_FITS,
            MssClamp::Auto | MssClamp::Off => value::Policy::MSS_ANY,
        },
        limits: access::limits(service, settings),
        ..value::Policy::default()
    }
}

/// In ticks of 2^20 ns, rounded up: no flow dies before its time.
fn ticks(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_nanos().div_ceil(1 << 20)).unwrap_or(i32::MAX as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_rounded_up_to_ticks() {
        assert_eq!(ticks(Duration::from_nanos(1)), 1);
        assert_eq!(ticks(Duration::from_nanos(1 << 20)), 1);
        assert_eq!(ticks(Duration::from_secs(30)), 28_611);
    }
}
