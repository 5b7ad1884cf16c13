//! What becomes of a packet: the programs' own answer, on the maps as they are.
//!
//! Every hook is asked. What packets of an interface really meet is the first hook of its attachment.

use std::sync::mpsc::{self, Sender};

use equipoise_common::verdict::Hook;

use super::Driver;
use super::answer::unreadable;
use crate::admin::{ProblemDetails, Reply};
use crate::dataplane::kernel::{Entry, Explained, Input, KernelError};
use crate::dataplane::{DataPlane, Explainer};
use crate::host::Machine;
use crate::status::explain::{ExplainAnswer, ExplainRequest, HookAnswer, hex, packet};

/// A packet to be explained, and who wants to know.
pub(super) struct Asked {
    frame: Vec<u8>,
    interface: String,
    index: u32,
    /// Where packets of the interface come first.
    first: Hook,
    xdp: Entry,
    reply: Reply<ExplainAnswer>,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Has a packet explained, by a thread of its own: to load the programs once more takes seconds.
    pub(super) fn explain(&mut self, request: &ExplainRequest, reply: Reply<ExplainAnswer>) {
        let begun = self.meant(request).and_then(|(frame, interface)| {
            let Some((index, how)) = self.interfaces.attachment(&interface) else {
                let detail =
                    format!("no program is attached to {interface}: packets pass it as they come");
                return Err(ProblemDetails::bad_request(detail));
            };
            let first = if how.hook == "xdp" { Hook::Xdp } else { Hook::Ingress };
            let xdp = if how.mode == "generic" { Entry::XdpGeneric } else { Entry::Xdp };
            let thread = match self.explainer.take() {
                Some(thread) => thread,
                None => start(self.plane.explainer().map_err(unreadable)?),
            };
            Ok((thread, (frame, interface, index, first, xdp)))
        });
        // Whoever asked may be gone; nothing is to be done about it.
        match begun {
            Err(problem) => drop(reply.send(Err(problem))),
            Ok((thread, (frame, interface, index, first, xdp))) => {
                let asked = Asked { frame, interface, index, first, xdp, reply };
                // A thread that has ended drops what is sent, and whoever asked is told that there is no answer.
                self.explainer = thread.send(asked).is_ok().then_some(thread);
            }
        }
    }

    fn meant(&self, request: &ExplainRequest) -> Result<(Vec<u8>, String), ProblemDetails> {
        let frame = packet(&request.hex).map_err(ProblemDetails::bad_request)?;
        Ok((frame, self.interface(request.interface.as_deref())?))
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

/// The thread ends when nobody can ask any more.
fn start(mut explain: Explainer) -> Sender<Asked> {
    let (asker, asked) = mpsc::channel::<Asked>();
    std::thread::spawn(move || {
        for one in asked {
            let answer = answer(&mut explain, &one);
            drop(one.reply.send(answer));
        }
    });
    asker
}

fn answer(explain: &mut Explainer, asked: &Asked) -> Result<ExplainAnswer, ProblemDetails> {
    let Asked { frame, interface, index, first, xdp, .. } = asked;
    let input = Input { frame, interface: *index, repeat: 1 };
    let mut hooks = Vec::new();
    let mut real = None;
    for entry in [*xdp, Entry::Ingress, Entry::Egress] {
        let said = explain(entry, input);
        hooks.push(hook_answer(entry.hook(), &said));
        if entry.hook() == *first {
            real = Some(said);
        }
    }
    let real = real.ok_or_else(ProblemDetails::ending)?.map_err(unreadable)?;
    Ok(ExplainAnswer {
        interface: interface.clone(),
        hook: first.name().to_owned(),
        action: real.action.to_owned(),
        reason: real.verdict.name().to_owned(),
        out_hex: hex(&real.frame),
        hooks,
    })
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
