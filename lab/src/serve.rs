//! Small servers in a namespace: each knows its name, counts what it served, and stops when dropped.
//!
//! A thread per connection: hundreds at once are what tests need, and plain code is what they can
//! be trusted with.

mod http;
mod stream;
mod udp;

pub use http::HttpServer;
pub use stream::TcpEcho;
pub use udp::UdpEcho;
