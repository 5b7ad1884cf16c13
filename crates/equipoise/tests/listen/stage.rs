//! A client beside the balancer of [`crate::bench`], whose programs hang on the device between them.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Device, Kernel};
use equipoise_common::verdict::Verdict;
use equipoise_core::config::AttachMode;
use equipoise_lab::wait_until;

use crate::bench::{BACKEND, BACKEND6, Bench, VIP, VIP6};

/// Until something that does not come is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What it takes that the client of the bench is there, and finds the VIPs.
const CLIENT: &str = "\
link set front address 02:00:00:00:00:07
addr add 198.51.100.7/24 dev front
addr add 2001:db8:c::7/64 dev front nodad
route add 203.0.113.0/24 via 198.51.100.1
route add 2001:db8:f::/64 via 2001:db8:c::1";

/// A service of each family on these ports.
pub(crate) fn config(ports: &str) -> String {
    let service = |(vip, backend): (&str, &str)| {
        let ip = vip.parse::<SocketAddr>().unwrap().ip();
        format!(
            "[[service]]\nname = '{ip}'\n\
             listen = {{ interfaces = ['front'], address = '{ip}', port = {ports}, protocol = 'both' }}\n\
             backends = [{{ address = '{backend}' }}]\n"
        )
    };
    [(VIP, BACKEND), (VIP6, BACKEND6)].map(service).concat()
}

/// The balancer, and how its programs hang.
pub(crate) struct Stage {
    pub(crate) bench: Bench,
    mode: AttachMode,
}

impl Stage {
    /// Where the pools of this configuration are streamed.
    pub(crate) fn new(text: &str, mode: AttachMode) -> Self {
        let bench = Bench::hung(text);
        bench.far.ip(CLIENT).unwrap();
        bench.netns.ip("addr add 2001:db8:f::10/128 dev front nodad").unwrap();
        let mut stage = Self { bench, mode };
        stage.stream(text);
        stage.attach();
        stage
    }

    pub(crate) fn stream(&mut self, text: &str) {
        let all = [BACKEND, BACKEND6].map(|backend| backend.parse().unwrap());
        self.bench.stream(text, &all);
    }

    /// Hangs the programs that are loaded now on the client's device, and takes away what is left of others.
    pub(crate) fn attach(&mut self) {
        let (mode, index) = (self.mode, self.bench.front);
        let Bench { netns, kernel, .. } = &mut self.bench;
        netns.run(|| {
            hang(kernel, index, mode);
            kernel.conclude().unwrap();
        });
    }

    /// The same of another process's, which is not concluded.
    pub(crate) fn attach_other(&self, kernel: &mut Kernel) {
        self.bench.netns.run(|| hang(kernel, self.bench.front, self.mode));
    }

    pub(crate) fn listen_by(&mut self, listeners: &Listeners) {
        let Bench { netns, kernel, .. } = &mut self.bench;
        netns.run(|| listeners.told(kernel));
    }

    pub(crate) fn vips(&self, port: u16) -> [SocketAddr; 2] {
        [VIP, VIP6].map(|vip| SocketAddr::new(vip.parse::<SocketAddr>().unwrap().ip(), port))
    }

    /// A client's attempt.
    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.bench.far.run(|| TcpStream::connect_timeout(&to, PATIENCE))
    }

    /// So, where nobody is expected to answer.
    pub(crate) fn waits_for(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.bench.far.run(|| TcpStream::connect_timeout(&to, PATIENCE / 10))
    }

    /// Checks that the VIPs refuse connections, at once or when a child process of another test that has just been forked has let
    /// its copies of sockets go.
    pub(crate) fn refuses(&self) {
        for vip in self.vips(80) {
            let is_refused = || {
                self.connect(vip).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            };
            wait_until(PATIENCE, "a refusal", is_refused).unwrap();
        }
    }

    /// The balancer's own.
    pub(crate) fn connect_here(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.bench.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE))
    }

    /// Both ends of a client's connection that these have taken up.
    pub(crate) fn connected(&self, to: SocketAddr, by: &Listeners) -> (TcpStream, TcpStream) {
        let client = self.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        (client, by.accept().expect("it has been taken up"))
    }

    /// Packets that have left with a verdict, at any hook.
    pub(crate) fn verdicts(&self, verdict: Verdict) -> u64 {
        let all = self.bench.kernel.verdicts().unwrap();
        all.into_iter().filter(|(_, which, _)| *which == verdict).map(|(_, _, count)| count).sum()
    }

    /// Names of what is pinned.
    pub(crate) fn pinned(&self, folder: &str) -> Vec<String> {
        let path = format!("/sys/fs/bpf/equipoise/{}/{folder}", self.bench.instance);
        let entries = std::fs::read_dir(path).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn hang(kernel: &mut Kernel, index: u32, mode: AttachMode) {
    let kind = Some("veth");
    let device = Device { name: "front", index, native_xdp: true, xdp_program: None, kind };
    kernel.attach(&device, mode).unwrap();
}

/// Sockets of the balancer that take connections up, of each family.
pub(crate) struct Listeners([TcpListener; 2]);

impl Listeners {
    pub(crate) fn new(stage: &Stage) -> Self {
        Self::of(stage.bench.netns.run(|| {
            [
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
                TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap(),
            ]
        }))
    }

    pub(crate) fn of(sockets: [TcpListener; 2]) -> Self {
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        Self(sockets)
    }

    /// Has connections go to them.
    pub(crate) fn told(&self, kernel: &mut Kernel) {
        let [v4, v6] = &self.0;
        kernel.listen_by([v4.as_fd(), v6.as_fd()]).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The next connection that either has taken up.
    pub(crate) fn accept(&self) -> Option<TcpStream> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some((taken, _)) = self.0.iter().find_map(|socket| socket.accept().ok()) {
                taken.set_nonblocking(false).unwrap();
                return Some(taken);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Whether no connection waits for them.
    pub(crate) fn are_idle(&self) -> bool {
        self.0.iter().all(|socket| socket.accept().is_err())
    }
}

/// Both ends say something that takes some packets, and hear it.
pub(crate) fn say(one: &TcpStream, other: &TcpStream) {
    const LENGTH: usize = 40_000;
    for (mut from, mut to) in [(one, other), (other, one)] {
        from.write_all(&[7; LENGTH]).unwrap();
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heard = vec![0; LENGTH];
        to.read_exact(&mut heard).unwrap();
        assert!(heard.iter().all(|&byte| byte == 7));
    }
}
