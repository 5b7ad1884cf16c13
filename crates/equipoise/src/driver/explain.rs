//! What becomes of a packet: the programs' own answer, on the maps as they are.
//!
//! Every hook is asked. What packets of an interface really meet is the first hook of its attachment.

use equipoise_common::verdict::Hook;

use super::Driver;
use super::answer::unreadable;
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::{Entry, Explained, Input, KernelError};
use crate::host::Machine;
use crate::status::explain::{ExplainAnswer, ExplainRequest, HookAnswer, hex, packet};

impl<M: Machine, P: DataPlane> Driver<M, P> {
    pub(super) fn explain(
        &mut self,
        asked: &ExplainRequest,
    ) -> Result<ExplainAnswer, ProblemDetails> {
        let frame = packet(&asked.hex).map_err(ProblemDetails::bad_request)?;
        let interface = self.interface(asked.interface.as_deref())?;
        let Some((index, how)) = self.interfaces.attachment(&interface) else {
            let detail =
                format!("no program is attached to {interface}: packets pass it as they come");
            return Err(ProblemDetails::bad_request(detail));
        };
        let first = if how.hook == "xdp" { Hook::Xdp } else { Hook::Ingress };
        let xdp = if how.mode == "generic" { Entry::XdpGeneric } else { Entry::Xdp };
        let input = Input { frame: &frame, interface: index, repeat: 1 };
        let mut hooks = Vec::new();
        let mut real = None;
        for entry in [xdp, Entry::Ingress, Entry::Egress] {
            let said = self.plane.explain(entry, input);
            hooks.push(hook_answer(entry.hook(), &said));
            if entry.hook() == first {
                real = Some(said);
            }
        }
        let real = real.ok_or_else(ProblemDetails::ending)?.map_err(unreadable)?;
        Ok(ExplainAnswer {
            interface,
            hook: first.name().to_owned(),
            action: real.action.to_owned(),
            reason: real.verdict.name().to_owned(),
            out_hex: hex(&real.frame),
            hooks,
        })
    }

    /// The interface that is meant.
    fn interface(&self, asked: Option<&str>) -> Result<String, ProblemDetails> {
        if let Some(name) = asked {
            if !self.reading.devices.contains_key(name) {
                return Err(ProblemDetails::bad_request(format!("there is no interface {name:?}")));
            }
            return Ok(name.to_owned());
        }
        let services = &self.state.config().services;
        let listening = || services.iter().flat_map(|service| &service.listen.interfaces);
        let there = listening().find(|name| self.interfaces.attachment(name).is_some());
        there.or_else(|| listening().next()).cloned().ok_or_else(|| {
            ProblemDetails::bad_request("there is no listening interface: one is to be named")
        })
    }
}

fn hook_answer(hook: Hook, said: &Result<Explained, KernelError>) -> HookAnswer {
    let hook = hook.name().to_owned();
    match said {
        Ok(Explained { action, verdict, frame }) => HookAnswer {
            hook,
            action: Some((*action).to_owned()),
            reason: Some(verdict.name().to_owned()),
            out_hex: Some(hex(frame)),
            error: None,
        },
        Err(error) => HookAnswer { hook, error: Some(error.to_string()), ..HookAnswer::default() },
    }
}
