//! Whole labs: clients, a balancer and backends, in one of two layouts.
//!
//! | layout | clients | balancer | backends |
//! | --- | --- | --- | --- |
//! | routed | `eth0` 198.51.100.(10+k), 2001:db8:c::(10+k) | `front` .1 and `back` .1 | `eth0` 10.0.0.(10+k), 2001:db8:b::(10+k) |
//! | one-arm | the same, on the same bridge | `front` alone, with both .1 | the same |
//!
//! `k` counts from 1, and an IPv6 address ends in the digits that the IPv4 one ends in. Clients and backends route by
//! the balancer; the VIPs lie on `front`. Bridges live in a namespace of their own. Everything can be
//! changed afterwards with [`Netns::ip`] and [`link`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};

use crate::link::{self, Checksums, End, Gro, Properties};
use crate::netns::Netns;

/// The balancer's address that clients route by.
pub const FRONT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The same for IPv6.
pub const FRONT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1);
/// The balancer's address that backends route by.
pub const BACK_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The same for IPv6.
pub const BACK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1);
/// The VIP of a lab, unless others are asked for.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The same for IPv6.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);

/// Hosts of one kind in a lab; their addresses end in 11 and up, below the broadcast address.
const MOST_HOSTS: usize = 240;

/// How the hosts are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The balancer stands between clients (`front`) and backends (`back`).
    Routed,
    /// All on one bridge; packets leave the balancer by the device they came in by.
    OneArm,
}

/// Whether the balancer's stack forwards packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// `ip_forward` and its IPv6 twin are set.
    On,
    /// Neither is.
    Off,
}

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the hosts are joined.
    pub layout: Layout,
    /// Number of client hosts, at least one; the first alone has no bridge before it.
    pub clients: usize,
    /// Number of backend hosts.
    pub backends: usize,
    /// MTU of every device.
    pub mtu: u32,
    /// Transmit and receive queues of every veth.
    pub queues: u32,
    /// Who finishes the checksums of what is sent.
    pub checksums: Checksums,
    /// Receiving by NAPI at the far ends of the balancer's links, which redirected frames need.
    pub gro: Gro,
    /// Whether the balancer's stack forwards.
    pub forwarding: Forwarding,
    /// Addresses put on the balancer's `front` for clients to connect to.
    pub vips: Vec<IpAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            layout: Layout::Routed,
            clients: 1,
            backends: 3,
            mtu: 1500,
            queues: 1,
            checksums: Checksums::Complete,
            gro: Gro::On,
            forwarding: Forwarding::On,
            vips: vec![VIP_V4.into(), VIP_V6.into()],
        }
    }
}

/// A host with one device, `eth0`.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name: `client1`, `b1`.
    pub name: String,
    /// Where it lives.
    pub netns: Netns,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// Both addresses with a port.
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        [(self.v4, port).into(), (self.v6, port).into()]
    }
}

/// A lab in place: its namespaces go when the last handle to each does.
#[derive(Debug)]
pub struct Lab {
    /// Where connections come from; their device is `eth0`.
    pub clients: Vec<Host>,
    /// What stands between: devices `front`, and `back` when routed.
    pub balancer: Netns,
    /// Where connections end; their device is `eth0`.
    pub backends: Vec<Host>,
    /// Where the bridges are: `backends`, its port to the balancer `balancer`, its port to a host by
    /// the host's name; with several clients when routed also `clients`, its port `balancer-front`.
    pub switch: Netns,
    options: Options,
}

impl Lab {
    /// Makes the hosts, joins them, and waits until every link carries packets.
    pub fn new(options: Options) -> Result<Self> {
        ensure!((1..=MOST_HOSTS).contains(&options.clients), "1 to {MOST_HOSTS} clients");
        ensure!(options.backends <= MOST_HOSTS, "at most {MOST_HOSTS} backends");
        let mut lab = Self {
            clients: Vec::new(),
            balancer: Netns::new()?,
            backends: Vec::new(),
            switch: Netns::new()?,
            options,
        };
        lab.join_balancer()?;
        for number in 1..=lab.options.clients {
            lab.add_client(number)?;
        }
        for _ in 0..lab.options.backends {
            lab.add_backend()?;
        }
        lab.wait_ready()?;
        Ok(lab)
    }

    /// The only or first client.
    pub fn client(&self) -> &Host {
        &self.clients[0]
    }

    /// The devices of the balancer that lead somewhere.
    pub fn balancer_devices(&self) -> &'static [&'static str] {
        match self.options.layout {
            Layout::Routed => &["front", "back"],
            Layout::OneArm => &["front"],
        }
    }

    /// What both ends of each pair of this lab have in common, for links added later.
    pub fn properties(&self) -> Properties {
        let Options { mtu, queues, checksums, .. } = self.options;
        Properties { mtu, queues, checksums }
    }

    /// Joins one more backend, and gives it.
    pub fn add_backend(&mut self) -> Result<&Host> {
        let number = self.backends.len() + 1;
        ensure!(number <= MOST_HOSTS, "at most {MOST_HOSTS} backends");
        let host = new_host(format!("b{number}"), (BACK_V4, BACK_V6), number)?;
        self.plug(&host, "backends", (BACK_V4, BACK_V6))?;
        link::wait_ready(&host.netns, "eth0")?;
        self.backends.push(host);
        Ok(&self.backends[number - 1])
    }

    /// Sets the balancer's devices, addresses and forwarding, and the bridges that it is joined to.
    fn join_balancer(&self) -> Result<()> {
        link::bridge(&self.switch, "backends", self.options.mtu)?;
        match self.options.layout {
            Layout::Routed => {
                self.uplink("back", "backends", "balancer")?;
                if self.options.clients > 1 {
                    link::bridge(&self.switch, "clients", self.options.mtu)?;
                    self.uplink("front", "clients", "balancer-front")?;
                    self.address_balancer("front", "back")?;
                }
            }
            Layout::OneArm => {
                self.uplink("front", "backends", "balancer")?;
                self.address_balancer("front", "front")?;
            }
        }
        let forwarding = match self.options.forwarding {
            Forwarding::On => "1",
            Forwarding::Off => "0",
        };
        self.balancer.sysctl("net/ipv4/ip_forward", forwarding)?;
        self.balancer.sysctl("net/ipv6/conf/all/forwarding", forwarding)?;
        // One-arm packets leave by the way they came: a redirect would lead hosts past the balancer.
        for key in ["net/ipv4/conf/all/send_redirects", "net/ipv4/conf/default/send_redirects"] {
            self.balancer.sysctl(key, "0")?;
        }
        Ok(())
    }

    /// Joins a device of the balancer to a bridge.
    fn uplink(&self, device: &str, bridge: &str, port: &str) -> Result<()> {
        link::veth(
            End { netns: &self.balancer, device, gro: Gro::Off },
            End { netns: &self.switch, device: port, gro: self.options.gro },
            self.properties(),
        )?;
        self.switch.ip(&format!("link set {port} master {bridge}"))
    }

    /// Gives the balancer's devices their addresses.
    fn address_balancer(&self, front: &str, back: &str) -> Result<()> {
        self.address_front(front)?;
        self.address_back(back)
    }

    /// Gives the device that backends route by its addresses.
    fn address_back(&self, device: &str) -> Result<()> {
        self.balancer.ip(&format!(
            "addr add {BACK_V4}/24 dev {device}\n\
             addr add {BACK_V6}/64 dev {device} nodad\n"
        ))
    }

    /// Gives the device that clients route by its addresses, the VIPs among them.
    fn address_front(&self, device: &str) -> Result<()> {
        let mut script = format!(
            "addr add {FRONT_V4}/24 dev {device}\n\
             addr add {FRONT_V6}/64 dev {device} nodad\n"
        );
        for vip in &self.options.vips {
            let (length, nodad) = if vip.is_ipv4() { (32, "") } else { (128, " nodad") };
            script += &format!("addr add {vip}/{length} dev {device}{nodad}\n");
        }
        self.balancer.ip(&script)
    }

    /// Makes and joins a client.
    fn add_client(&mut self, number: usize) -> Result<()> {
        let host = new_host(format!("client{number}"), (FRONT_V4, FRONT_V6), number)?;
        match (self.options.layout, self.options.clients) {
            (Layout::Routed, 1) => {
                link::veth(
                    End { netns: &self.balancer, device: "front", gro: Gro::Off },
                    End { netns: &host.netns, device: "eth0", gro: self.options.gro },
                    self.properties(),
                )?;
                self.address_balancer("front", "back")?;
                address_host(&host, "eth0", (FRONT_V4, FRONT_V6))?;
            }
            (Layout::Routed, _) => self.plug(&host, "clients", (FRONT_V4, FRONT_V6))?,
            (Layout::OneArm, _) => self.plug(&host, "backends", (FRONT_V4, FRONT_V6))?,
        }
        self.clients.push(host);
        Ok(())
    }

    /// Joins a host to a bridge, with addresses and routes.
    fn plug(&self, host: &Host, bridge: &str, gateway: (Ipv4Addr, Ipv6Addr)) -> Result<()> {
        link::veth(
            End { netns: &host.netns, device: "eth0", gro: self.options.gro },
            End { netns: &self.switch, device: &host.name, gro: self.options.gro },
            self.properties(),
        )?;
        self.switch.ip(&format!("link set {} master {bridge}", host.name))?;
        address_host(host, "eth0", gateway)
    }

    /// Takes away the balancer's way to the backends, as pulling a card out would: of a routed lab.
    pub fn back_vanishes(&self) -> Result<()> {
        self.balancer.ip("link delete back")
    }

    /// Has it come back, with the link address that it is known by.
    pub fn back_returns(&self, address: &str) -> Result<()> {
        self.uplink("back", "backends", "balancer")?;
        self.balancer.ip(&format!("link set back address {address}"))?;
        self.address_back("back")?;
        link::wait_ready(&self.balancer, "back")
    }

    /// Has the balancer be reached by clients over another device than `front`, which `script` makes of it with `ip`
    /// while it is down.
    pub fn front_becomes(&self, device: &str, script: &str) -> Result<()> {
        self.balancer.ip(&format!("link set front down\naddr flush dev front\n{script}"))?;
        self.balancer.ip(&format!("link set front up\nlink set {device} up\n"))?;
        self.address_front(device)?;
        link::wait_ready(&self.balancer, device)
    }

    /// The same for the first client and its `eth0`.
    pub fn client_becomes(&self, device: &str, script: &str) -> Result<()> {
        let host = self.client();
        // What is down has no routes any more.
        host.netns.ip(&format!("link set eth0 down\naddr flush dev eth0\n{script}"))?;
        host.netns.ip(&format!("link set eth0 up\nlink set {device} up\n"))?;
        address_host(host, device, (FRONT_V4, FRONT_V6))?;
        link::wait_ready(&host.netns, device)
    }

    fn wait_ready(&self) -> Result<()> {
        for device in self.balancer_devices() {
            link::wait_ready(&self.balancer, device)?;
        }
        for host in self.clients.iter().chain(&self.backends) {
            link::wait_ready(&host.netns, "eth0")?;
        }
        Ok(())
    }
}

/// A host in a new namespace, its addresses those of its gateway but for the last part.
fn new_host(name: String, gateway: (Ipv4Addr, Ipv6Addr), number: usize) -> Result<Host> {
    let last = u8::try_from(number + 10)?;
    let [a, b, c, _] = gateway.0.octets();
    let mut segments = gateway.1.segments();
    // The digits of the IPv4 address, read as hexadecimal ones.
    segments[7] = u16::from_str_radix(&last.to_string(), 16)?;
    Ok(Host { name, netns: Netns::new()?, v4: Ipv4Addr::new(a, b, c, last), v6: segments.into() })
}

/// Gives a host its addresses, and the balancer as its way out.
fn address_host(host: &Host, device: &str, gateway: (Ipv4Addr, Ipv6Addr)) -> Result<()> {
    host.netns.ip(&format!(
        "addr add {}/24 dev {device}\n\
         addr add {}/64 dev {device} nodad\n\
         route add default via {}\n\
         route add ::/0 via {}\n",
        host.v4, host.v6, gateway.0, gateway.1,
    ))
}
