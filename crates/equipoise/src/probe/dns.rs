//! The check of type `dns`: a question over UDP, and the code of its answer.

use equipoise_core::config::health::Dns;
use equipoise_core::health::{Failure, FailureKind};
use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::{Name, RecordType};

use super::to::To;
use super::{tcp, udp};

/// Good when the answer has the code that is expected.
pub(super) async fn check(to: To<'_>, dns: &Dns) -> Result<(), Failure> {
    let name = Name::from_ascii(&dns.query).map_err(|error| unexpected(error.to_string()))?;
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, RecordType::from(dns.query_type.number())));
    let bytes = question.to_vec().map_err(|error| unexpected(error.to_string()))?;
    let socket = udp::open(to).await?;
    socket.send(&bytes).await.map_err(|error| tcp::failure("sending", &error))?;
    let answer = loop {
        let answer = udp::receive(to, &socket).await?;
        let answer = Message::from_vec(&answer).map_err(|error| unexpected(error.to_string()))?;
        let is_response = answer.metadata.message_type == MessageType::Response;
        // An earlier question's would have come to another port; this is for those who guess.
        if is_response && answer.metadata.id == question.metadata.id {
            break answer;
        }
    };
    let code = u16::from(answer.metadata.response_code);
    if code != dns.expected_rcode.number() {
        return Err(unexpected(format!("answered {}", answer.metadata.response_code)));
    }
    Ok(())
}

fn unexpected(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::UnexpectedAnswer, message)
}
