//! Events as a client gets them.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::wire::pairs;
use super::{Client, ClientError, query};
use crate::events::Event;
use crate::flow_events::FlowTold;
use crate::status::FlowFilter;
use crate::status::trace::{TraceFilter, TracedPacket};

/// The events of an instance, one after the other.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    text: Vec<u8>,
}

/// What a stream of events tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An event.
    Event(Box<Event>),
    /// So many are lost, since this side was too slow or came too late.
    Lost(u64),
}

/// Which events are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether those that come are wanted, beside those that are kept.
    pub follows: bool,
    /// Only those after this number.
    pub after: u64,
}

#[derive(Deserialize)]
struct Lost {
    lost: u64,
}

impl Client {
    /// Events.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn events(&self, wanted: Wanted) -> Result<EventStream, ClientError> {
        let Wanted { follows, after } = wanted;
        let path = format!("events?follow={follows}&after={after}");
        self.stream(&path).await
    }

    /// What a path streams.
    async fn stream(&self, path: &str) -> Result<EventStream, ClientError> {
        Ok(EventStream { body: self.open(path).await?, text: Vec::new() })
    }
}

impl Client {
    /// The packets that pass a filter, for as long as the stream is read.
    ///
    /// # Errors
    ///
    /// When there is no answer, or another is told of packets already.
    pub async fn trace(&self, filter: &TraceFilter) -> Result<PacketStream, ClientError> {
        let TraceFilter { service, reason, rate } = filter;
        let rate = rate.map(|rate| rate.to_string());
        let all = [
            ("service", service.as_deref()),
            ("reason", reason.as_deref()),
            ("rate", rate.as_deref()),
        ];
        self.stream(&format!("trace?{}", pairs(&all))).await.map(PacketStream)
    }
}

impl Client {
    /// The flows that pass a filter, as they open and close, for as long as the stream is read.
    ///
    /// # Errors
    ///
    /// When there is no answer, or nothing is told of flows.
    pub async fn flow_events(&self, filter: &FlowFilter) -> Result<FlowStream, ClientError> {
        self.stream(&format!("flows/events?{}", query(filter))).await.map(FlowStream)
    }
}

/// Flows that open and close, one after the other.
#[derive(Debug)]
pub struct FlowStream(EventStream);

impl FlowStream {
    /// The next one; none when the instance has ended.
    ///
    /// # Errors
    ///
    /// When the talk breaks off.
    pub async fn next(&mut self) -> Result<Option<FlowTold>, ClientError> {
        while let Some(block) = self.0.block().await? {
            let told = match sent(&block)? {
                Some(Block::Lost(lost)) => FlowTold::Lost(lost),
                Some(Block::Data(flow)) => FlowTold::Flow(flow),
                None => continue,
            };
            return Ok(Some(told));
        }
        Ok(None)
    }
}

/// Packets, one after the other.
#[derive(Debug)]
pub struct PacketStream(EventStream);

impl PacketStream {
    /// The next one; none when the instance has ended.
    ///
    /// # Errors
    ///
    /// When the talk breaks off.
    pub async fn next(&mut self) -> Result<Option<TracedPacket>, ClientError> {
        while let Some(block) = self.0.block().await? {
            if let Some(Block::Data(packet)) = sent(&block)? {
                return Ok(Some(packet));
            }
        }
        Ok(None)
    }
}

impl EventStream {
    /// The next one; none when the instance has ended, or when those that are kept have been told.
    ///
    /// # Errors
    ///
    /// When the talk breaks off.
    pub async fn next(&mut self) -> Result<Option<Told>, ClientError> {
        while let Some(block) = self.block().await? {
            if let Some(told) = parsed(&block)? {
                return Ok(Some(told));
            }
        }
        Ok(None)
    }

    /// The next block of lines.
    async fn block(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                return Ok(Some(String::from_utf8_lossy(&block).into_owned()));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| ClientError::Talk(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                self.text.extend_from_slice(&data);
            }
        }
    }
}

/// What a line of a block says.
fn field<'a>(block: &'a str, name: &str) -> Option<&'a str> {
    block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// What a block of lines has.
enum Block<T> {
    Data(T),
    Lost(u64),
}

/// What a block of lines has; none for one that only keeps the connection.
fn sent<T: DeserializeOwned>(block: &str) -> Result<Option<Block<T>>, ClientError> {
    let Some(data) = field(block, "data") else { return Ok(None) };
    let talk = |error: serde_json::Error| ClientError::Talk(error.to_string());
    if field(block, "event") == Some("lost") {
        let Lost { lost } = serde_json::from_str(data).map_err(talk)?;
        return Ok(Some(Block::Lost(lost)));
    }
    serde_json::from_str(data).map(|data| Some(Block::Data(data))).map_err(talk)
}

/// What a block of lines tells of an instance.
fn parsed(block: &str) -> Result<Option<Told>, ClientError> {
    Ok(sent(block)?.map(|block| match block {
        Block::Data(event) => Told::Event(event),
        Block::Lost(lost) => Told::Lost(lost),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_events_or_losses_or_nothing() {
        assert_eq!(parsed(":\n\n").unwrap(), None);
        assert_eq!(parsed("event: lost\ndata: {\"lost\":3}\n\n").unwrap(), Some(Told::Lost(3)));
        let event =
            "id: 1\nevent: started\ndata: {\"sequence\":1,\"time\":\"t\",\"kind\":\"started\"}\n\n";
        assert!(matches!(parsed(event).unwrap(), Some(Told::Event(_))));
        assert!(parsed("data: x\n\n").is_err());
    }
}
