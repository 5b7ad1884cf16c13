//! What becomes of a packet: the programs' own answer, on the maps as they are.
//!
//! Every hook is asked. What packets of an interface really meet is the first hook of its attachment. A packet is told by its bytes, or by
//! its addresses, for which one is made.

use std::net::IpAddr;
use std::sync::mpsc::{self, Sender};

use equipoise_common::step::What;
use equipoise_common::verdict::{Hook, Kind, Verdict};

use super::Driver;
use super::answer::unreadable;
use crate::admin::{ProblemDetails, Reply};
use crate::dataplane::kernel::{Entry, Explained, Input, KernelError};
use crate::dataplane::{DataPlane, Explainer};
use crate::host::{Machine, Way};
use crate::known::there_are;
use crate::status::explain::{Addresses, ExplainAnswer, ExplainRequest, HookAnswer, hex, packet};
use crate::stream::table::Table;
use crate::stream::would;

mod frame;
mod scene;
mod story;

use frame::{Part, Seen};
use scene::Scene;
use story::Story;

/// A packet to be explained, and who wants to know.
pub(super) struct Asked {
    packet: Packet,
    interface: String,
    index: u32,
    /// Where packets of the interface come first.
    first: Hook,
    xdp: Entry,
    scene: Scene,
    /// How connections go on that this host takes up, and the server that the client names.
    streams: Option<Table>,
    name: Option<String>,
    reply: Reply<ExplainAnswer>,
}

/// As it was asked for.
enum Packet {
    /// These bytes.
    Frame(Vec<u8>),
    /// One between these addresses, to a device with this link address.
    Between(Addresses, [u8; 6]),
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Has a packet explained, by a thread of its own: to load the programs once more takes seconds.
    pub(super) fn explain(&mut self, request: &ExplainRequest, reply: Reply<ExplainAnswer>) {
        let begun = self.meant(request).and_then(|(packet, interface)| {
            let Some((index, how)) = self.interfaces.attachment(&interface) else {
                let detail =
                    format!("no program is attached to {interface}: packets pass it as they come");
                return Err(ProblemDetails::unprocessable(detail));
            };
            let first = if how.hook == "xdp" { Hook::Xdp } else { Hook::Ingress };
            let xdp = if how.mode == "generic" { Entry::XdpGeneric } else { Entry::Xdp };
            let thread = match self.explainer.take() {
                Some(thread) => thread,
                None => start(self.plane.explainer().map_err(unreadable)?),
            };
            Ok((thread, (packet, interface, index, first, xdp)))
        });
        // Whoever asked may be gone; nothing is to be done about it.
        match begun {
            Err(problem) => drop(reply.send(Err(problem))),
            Ok((thread, (packet, interface, index, first, xdp))) => {
                let scene = Scene::new(&self.state, &self.reading);
                let planned = self.state.planned();
                let is_any = !planned.streams.is_empty();
                let streams = is_any.then(|| Table::of(self.state.config(), planned));
                let name = request.sni.clone();
                let asked =
                    Asked { packet, interface, index, first, xdp, scene, streams, name, reply };
                // A thread that has ended drops what is sent, and whoever asked is told that there is no answer.
                self.explainer = thread.send(asked).is_ok().then_some(thread);
            }
        }
    }

    fn meant(&self, request: &ExplainRequest) -> Result<(Packet, String), ProblemDetails> {
        let asked = request.interface.as_deref();
        match (&request.hex, &request.packet) {
            (Some(hex), None) => {
                let frame = packet(hex).map_err(ProblemDetails::unprocessable)?;
                Ok((Packet::Frame(frame), self.interface(asked)?))
            }
            (None, Some(addresses)) => {
                let leads_here = self.way_from(addresses.source.ip());
                let name = self.interface(asked.or(leads_here))?;
                let device = self.reading.devices.get(&name).and_then(|d| d.link_address);
                let device = device.unwrap_or_default();
                // So that what is wrong with it is told at once.
                frame::make(addresses, Part::First, device)?;
                Ok((Packet::Between(addresses.clone(), device), name))
            }
            _ => {
                let message = "either `hex` or `packet` tells the packet";
                Err(ProblemDetails::unprocessable(message))
            }
        }
    }

    /// The interface that leads to this address, if it is a backend's and packets of ours come by it.
    fn way_from(&self, address: IpAddr) -> Option<&str> {
        let Way::Via { interface, .. } = self.reading.ways.get(&address)? else { return None };
        let mut devices = self.reading.devices.iter();
        let (name, _) = devices.find(|(_, device)| device.index == *interface)?;
        self.interfaces.attachment(name).map(|_| name.as_str())
    }

    /// The interface that is meant.
    fn interface(&self, asked: Option<&str>) -> Result<String, ProblemDetails> {
        if let Some(name) = asked {
            if !self.reading.devices.contains_key(name) {
                let devices = self.reading.devices.keys().map(String::as_str);
                let message = format!("there is no interface {name:?}");
                let help = there_are("interfaces", name, devices);
                return Err(ProblemDetails::unprocessable(message).with_help(help));
            }
            return Ok(name.to_owned());
        }
        let services = &self.state.config().services;
        let listening = || services.iter().flat_map(|service| &service.listen.interfaces);
        let there = listening().find(|name| self.interfaces.attachment(name).is_some());
        there.or_else(|| listening().next()).cloned().ok_or_else(|| {
            ProblemDetails::unprocessable("there is no listening interface: one is to be named")
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
    let frame = frame_of(explain, asked)?;
    let Asked { interface, index, first, xdp, scene, name, .. } = asked;
    let input = Input { frame: &frame, interface: *index, repeat: 1 };
    let mut hooks = Vec::new();
    let mut said = Vec::new();
    for entry in [*xdp, Entry::Ingress, Entry::Egress] {
        let explained = explain(entry, input);
        hooks.push(hook_answer(entry.hook(), &explained));
        said.push((entry.hook(), explained));
    }
    let at = said.iter().position(|(hook, _)| hook == first).ok_or_else(ProblemDetails::ending)?;
    let (_, real) = said.swap_remove(at);
    let real = real.map_err(unreadable)?;
    let mut story = Story::new(scene, *first, &frame, &real);
    if let (Verdict::Streamed, Some(seen)) = (real.verdict, Seen::of(&frame)) {
        let ends = (seen.source, seen.destination);
        let would = asked.streams.clone().and_then(|table| would(table, ends, name.as_deref()));
        if let Some(would) = would {
            story.go_on(scene, (*first, would), name.as_deref(), &seen);
        }
    }
    let mut steps = story.steps;
    // What XDP in the driver cannot send it leaves as it came to TC ingress of the same device.
    let next = said.into_iter().find(|(hook, _)| *hook == Hook::Ingress);
    if let Some((hook, Ok(next))) = next
        && (*first, *xdp) == (Hook::Xdp, Entry::Xdp)
        && real.verdict.kind() == Kind::Stack
    {
        steps.extend(Story::new(scene, hook, &frame, &next).steps);
    }
    Ok(ExplainAnswer {
        interface: interface.clone(),
        hook: first.name().to_owned(),
        verdict: story::kind(real.verdict).to_owned(),
        reason: real.verdict.name().to_owned(),
        service: story.service,
        route: story.route,
        backend: story.backend,
        why_not: story.why_not,
        rewrite: story.rewrite,
        out: story.out,
        mtu: story.mtu,
        steps,
        action: real.action.to_owned(),
        out_hex: hex(&real.frame),
        hooks,
    })
}

/// The bytes of the packet that is meant. Of one that is told by its addresses, whether it is the first of its flow depends on whether the
/// flow table knows the flow.
fn frame_of(explain: &mut Explainer, asked: &Asked) -> Result<Vec<u8>, ProblemDetails> {
    let (addresses, device) = match &asked.packet {
        Packet::Frame(frame) => return Ok(frame.clone()),
        Packet::Between(addresses, device) => (addresses, *device),
    };
    let later = frame::make(addresses, Part::Later, device)?;
    let entry = if asked.first == Hook::Xdp { asked.xdp } else { asked.first.into() };
    let input = Input { frame: &later, interface: asked.index, repeat: 1 };
    let said = explain(entry, input).map_err(unreadable)?;
    let is_known = said.steps.iter().any(|step| step.what == What::FlowHit as u32);
    if is_known { Ok(later) } else { frame::make(addresses, Part::First, device) }
}

fn hook_answer(hook: Hook, said: &Result<Explained, KernelError>) -> HookAnswer {
    let hook = hook.name().to_owned();
    match said {
        Ok(Explained { action, verdict, frame, .. }) => HookAnswer {
            hook,
            action: Some((*action).to_owned()),
            reason: Some(verdict.name().to_owned()),
            out_hex: Some(hex(frame)),
            error: None,
        },
        Err(error) => HookAnswer { hook, error: Some(error.to_string()), ..HookAnswer::default() },
    }
}
