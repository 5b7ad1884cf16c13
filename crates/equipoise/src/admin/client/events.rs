//! Events as a client gets them.

use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use serde::Deserialize;

use super::{Client, ClientError};
use crate::events::Event;

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
        let response = self.send(Method::GET, &path, Bytes::new()).await?;
        let body = self.answered(response).await?;
        Ok(EventStream { body, text: Vec::new() })
    }
}

impl EventStream {
    /// The next one; none when the instance has ended, or when those that are kept have been told.
    ///
    /// # Errors
    ///
    /// When the talk breaks off.
    pub async fn next(&mut self) -> Result<Option<Told>, ClientError> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(told) = parsed(&String::from_utf8_lossy(&block))? {
                    return Ok(Some(told));
                }
                continue;
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| ClientError::Talk(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                self.text.extend_from_slice(&data);
            }
        }
    }
}

/// What a block of lines tells; none for one that only keeps the connection.
fn parsed(block: &str) -> Result<Option<Told>, ClientError> {
    let field =
        |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let Some(data) = field("data") else { return Ok(None) };
    let talk = |error: serde_json::Error| ClientError::Talk(error.to_string());
    if field("event") == Some("lost") {
        let Lost { lost } = serde_json::from_str(data).map_err(talk)?;
        return Ok(Some(Told::Lost(lost)));
    }
    serde_json::from_str(data).map(|event| Some(Told::Event(event))).map_err(talk)
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
