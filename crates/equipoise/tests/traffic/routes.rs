//! Routes by source under real traffic: two clients of one VIP, each of whom another backend answers.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use equipoise_lab::topology::{Host, Options};

use crate::balanced::{Attach, Balanced, DEADLINE, backends, settings, vips};

/// Both families: all go to the first backend, but clients of these numbers to those.
fn config(attach: Attach, balanced: &Balanced, routes: &[(usize, usize)]) -> String {
    let lab = &balanced.lab;
    let mut text = settings(attach.asked);
    for (name, vip) in vips() {
        let list = |number: usize| {
            format!("backends = [{{ address = \"{}\" }}]", backends(lab, vip)[number].0)
        };
        writeln!(
            text,
            "[[service]]\nname = \"{name}\"\n{}\n\
             listen = {{ interfaces = [\"front\"], address = \"{}\", port = {} }}",
            list(0),
            vip.ip(),
            vip.port()
        )
        .unwrap();
        for &(client, backend) in routes {
            let source = address(&lab.clients[client], vip);
            writeln!(text, "[[service.source-route]]\nsource = \"{source}\"\n{}", list(backend))
                .unwrap();
        }
    }
    text
}

fn address(host: &Host, vip: SocketAddr) -> IpAddr {
    host.at(0)[usize::from(vip.is_ipv6())].ip()
}

/// Asks over a connection that stays, and says which backend has answered.
fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut bytes = [0; 4_096];
    loop {
        let read = stream.read(&mut bytes).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..read]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((_, body)) = text.split_once("\r\n\r\n").filter(|(_, body)| !body.is_empty()) {
            return body.trim().to_owned();
        }
    }
}

pub(crate) fn clients_are_led_by_their_address_and_established_ones_stay(attach: Attach) {
    let options = Options { clients: 2, ..Options::default() };
    let mut balanced = Balanced::new(attach, options);
    balanced.balancer.reload(&config(attach, &balanced, &[(1, 1)]));
    let connect = |balanced: &Balanced, client: usize, vip: SocketAddr| {
        let stream = balanced.lab.clients[client]
            .netns
            .run(|| TcpStream::connect_timeout(&vip, DEADLINE))
            .unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    };
    let name = |balanced: &Balanced, number: usize| balanced.lab.backends[number].name.clone();
    let mut streams = Vec::new();
    for (_, vip) in vips() {
        for client in [0, 1] {
            let mut stream = connect(&balanced, client, vip);
            let answered = ask(&mut stream);
            assert!(answered.contains(&name(&balanced, client)), "{client} {vip}: {answered}");
            streams.push((stream, client));
        }
    }
    let status = balanced.balancer.status();
    for (service, (_, vip)) in status["services"].as_array().unwrap().iter().zip(vips()) {
        let route = address(&balanced.lab.clients[1], vip).to_string();
        assert_eq!(service["pools"][0]["route"], "default");
        assert_eq!(service["pools"][1]["route"], route.as_str());
        for pool in [0, 1] {
            assert_eq!(service["pools"][pool]["backends"][0]["new_flows"], 1, "{service}");
        }
    }
    let running = balanced.balancer.ask(&["config"]).1;
    assert_eq!(running.matches("[[service.source-route]]").count(), 2, "{running}");

    // Now the first client has a route, and the second none.
    balanced.balancer.reload(&config(attach, &balanced, &[(0, 2)]));
    for (stream, client) in &mut streams {
        let answered = ask(stream);
        assert!(answered.contains(&name(&balanced, *client)), "{client}: {answered}");
    }
    for (_, vip) in vips() {
        for (client, backend) in [(0, 2), (1, 0)] {
            let answered = ask(&mut connect(&balanced, client, vip));
            assert!(answered.contains(&name(&balanced, backend)), "{client} {vip}: {answered}");
        }
    }
}
