//! The name that a client has at a backend: its own address and port, unless another flow has them there, or one of ours.

use std::net::{IpAddr, SocketAddr};

use equipoise_core::config::Mode;

use super::balancer::{Balancer, Naming, Request, ends};
use super::memory::Taken;
use super::route;
use super::shot::{Carries, Shot};
use crate::bench::HOSTS;

impl Balancer {
    /// The name that a request has got, if it is allowed.
    pub(crate) fn named(
        &self,
        shot: &Shot,
        request: &Request,
        (naming, backend): (Naming, SocketAddr),
        came: &[u8],
    ) -> Result<SocketAddr, String> {
        let Carries::Segment(segment, piece) = &shot.carries else { unreachable!("TCP or UDP") };
        let (client, vip) = ends(&shot.header, segment);
        let is_later = piece.is_some_and(|piece| piece.offset > 0);
        let Some(name) = route::source(shot, came, is_later) else {
            return Err("too short for a source".to_owned());
        };
        let service = &self.services[request.service];
        if service.mode == Mode::FullNat {
            let is_own = service.sources.is_empty();
            let own: IpAddr = HOSTS[1][usize::from(shot.header.is_v6())].parse().unwrap();
            let allowed =
                if is_own { name.ip() == own } else { service.sources.contains(&name.ip()) };
            // Those that the kernel gives to its own connections are not.
            let ports = if is_own { 1024..=32_767 } else { 1024..=65_535 };
            if !allowed || !is_later && !ports.contains(&name.port()) {
                return Err(format!("comes from {name}, which is not allowed"));
            }
        } else if name.ip() != client.ip() {
            return Err(format!("comes from {name} and not from its client"));
        }
        if is_later || matches!(naming, Naming::Any) {
            return Ok(name);
        }
        let taken = |name| self.taken((segment.protocol, client, vip), backend, name);
        if taken(name) == Taken::Yes {
            return Err(format!("comes from {name}, which another flow has"));
        }
        let is_other = name.port() != client.port();
        let is_fine = service.mode == Mode::FullNat
            || match taken(client) {
                Taken::No => !is_other,
                Taken::Yes | Taken::Unknown => !is_other || name.port() >= 0x8000,
            };
        if is_fine { Ok(name) } else { Err(format!("comes from {name} without need")) }
    }
}
