//! The process that makes probes: it becomes an owner case once, then takes batches from stdin.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    libc,
    sys::socket::{SockaddrStorage, recvfrom},
    unistd::{self, Gid, Uid},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    maker,
    owners::{self, Identity, Trick},
    probe::{Kind, Probe},
    servers, sys,
    wire::{Failure, Observation, Order, Role},
};

/// Everything is on this machine, so whoever does not answer by now never will.
const PATIENCE: Duration = Duration::from_millis(300);

/// What `lab-prober` does: what the first line of stdin says, until stdin ends.
pub fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(maker::ARGUMENT) {
        return maker::run();
    }
    let mut lines = io::stdin().lock().lines();
    let role = lines.next().context("no first line")??;
    match serde_json::from_str(&role).context("the first line")? {
        Role::Serve(services) => {
            servers::start(&services)?;
            say(&"ready")?;
            for line in lines {
                line?;
            }
            Ok(())
        }
        Role::Probe(owner) => {
            let mut prober = Prober::become_owner(owner.as_deref())?;
            say(&"ready")?;
            for line in lines {
                let orders: Vec<Order> = serde_json::from_str(&line?).context("a batch")?;
                let done: Result<Vec<_>> = orders.iter().map(|it| prober.follow(it)).collect();
                say(&done?)?;
            }
            Ok(())
        }
    }
}

fn say(value: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush().context("writing to stdout")
}

struct Prober {
    trick: Trick,
    maker: Option<UnixStream>,
}

impl Prober {
    fn become_owner(owner: Option<&str>) -> Result<Self> {
        let Some(owner) = owner else {
            return Ok(Self {
                trick: Trick::None,
                maker: None,
            });
        };
        let case = owners::case(owner).with_context(|| format!("no owner case {owner:?}"))?;
        let maker = match case.trick {
            Trick::Passed(uid, gid) => Some(maker::start(uid, gid)?),
            Trick::None | Trick::FsUid(_) | Trick::UidAfterwards(_) | Trick::Fchown(..) => None,
        };
        take(&case.identity)?;
        Ok(Self {
            trick: case.trick,
            maker,
        })
    }

    fn follow(&mut self, order: &Order) -> Result<Observation> {
        let probe: Probe = order.probe.parse()?;
        let mut seen = Observation::default();
        if let Err((call, error)) = self.probe(&probe, order.port, &mut seen) {
            // What is no errno is a fault of the laboratory.
            let errno = error
                .raw_os_error()
                .with_context(|| format!("{call}: {error}"))?;
            seen.failure = Some(Failure {
                call: call.to_owned(),
                errno,
            });
        }
        if let Trick::UidAfterwards(_) = self.trick {
            unistd::seteuid(Uid::from_raw(0)).context("becoming root again")?;
        }
        Ok(seen)
    }

    fn probe(&mut self, probe: &Probe, port: u16, seen: &mut Observation) -> Outcome<()> {
        let socket = self.socket(probe).during("socket")?;
        socket.set_read_timeout(Some(PATIENCE)).during("option")?;
        socket.set_write_timeout(Some(PATIENCE)).during("option")?;
        sys::choose_port(socket.as_fd(), port).during("port")?;
        if let Some(device) = &probe.device {
            socket
                .bind_device(Some(device.as_bytes()))
                .during("device")?;
        }
        if let Some(from) = probe.from {
            socket
                .bind(&address(probe, SocketAddr::new(from, 0)))
                .during("bind")?;
        }
        let to = address(probe, probe.to);
        match probe.kind {
            Kind::Tcp => stream(&socket, &to, seen),
            Kind::Udp | Kind::UdpConnected => datagram(&socket, probe, &to, seen),
        }
    }

    fn socket(&mut self, probe: &Probe) -> io::Result<Socket> {
        let domain = if probe.is_socket6() {
            Domain::IPV6
        } else {
            Domain::IPV4
        };
        let make = || match probe.kind {
            Kind::Tcp => Socket::new(domain, Type::STREAM, Some(Protocol::TCP)),
            Kind::Udp | Kind::UdpConnected => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)),
        };
        match self.trick {
            Trick::None => make(),
            Trick::FsUid(uid) => {
                unistd::setfsuid(Uid::from_raw(uid));
                let socket = make();
                unistd::setfsuid(Uid::from_raw(0));
                socket
            }
            Trick::UidAfterwards(uid) => {
                let socket = make()?;
                unistd::seteuid(Uid::from_raw(uid))?;
                Ok(socket)
            }
            Trick::Fchown(uid, gid) => {
                let socket = make()?;
                unistd::fchown(&socket, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                Ok(socket)
            }
            Trick::Passed(..) => {
                let maker = self.maker.as_mut().ok_or(io::ErrorKind::NotConnected)?;
                let socket: OwnedFd = maker::ask(maker, probe.is_socket6(), probe.kind.is_tcp())?;
                Ok(socket.into())
            }
        }
    }
}

fn take(identity: &Identity) -> Result<()> {
    let groups: Vec<Gid> = identity
        .supplementary
        .iter()
        .map(|&it| Gid::from_raw(it))
        .collect();
    let [rgid, egid, sgid] = identity.gids.map(Gid::from_raw);
    let [ruid, euid, suid] = identity.uids.map(Uid::from_raw);
    unistd::setgroups(&groups).context("setgroups (is it root?)")?;
    unistd::setresgid(rgid, egid, sgid).context("setresgid")?;
    unistd::setresuid(ruid, euid, suid).context("setresuid")
}

type Outcome<T> = Result<T, (&'static str, io::Error)>;

trait During<T> {
    fn during(self, call: &'static str) -> Outcome<T>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, call: &'static str) -> Outcome<T> {
        self.map_err(|error| (call, error.into()))
    }
}

/// As the socket's family writes it.
fn address(probe: &Probe, addr: SocketAddr) -> SockAddr {
    match addr.ip() {
        IpAddr::V4(ip) if probe.mapped => {
            SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port()).into()
        }
        IpAddr::V4(_) | IpAddr::V6(_) => addr.into(),
    }
}

fn stream(socket: &Socket, to: &SockAddr, seen: &mut Observation) -> Outcome<()> {
    // A reset leaves no TIME_WAIT behind.
    socket.set_linger(Some(Duration::ZERO)).during("option")?;
    socket.connect(to).during("connect")?;
    names(socket, seen)?;
    let mut text = Vec::new();
    let mut reader = socket;
    reader.read_to_end(&mut text).during("read")?;
    understand(&text, seen)?;
    let _ = socket.shutdown(Shutdown::Read);
    Ok(())
}

fn datagram(socket: &Socket, probe: &Probe, to: &SockAddr, seen: &mut Observation) -> Outcome<()> {
    sys::report_errors(socket.as_fd(), probe.is_socket6()).during("option")?;
    if probe.kind == Kind::UdpConnected {
        socket.connect(to).during("connect")?;
        names(socket, seen)?;
        socket.send(b"?").during("send")?;
    } else {
        socket.send_to(b"?", to).during("sendto")?;
        seen.sock_name = socket.local_addr().during("getsockname")?.as_socket();
    }
    let mut buffer = [0; 512];
    let (length, from) =
        recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer).during("recvfrom")?;
    seen.reply_from = from.as_ref().and_then(servers::to_std);
    understand(buffer.get(..length).unwrap_or_default(), seen)
}

fn names(socket: &Socket, seen: &mut Observation) -> Outcome<()> {
    seen.peer_name = socket.peer_addr().during("getpeername")?.as_socket();
    seen.sock_name = socket.local_addr().during("getsockname")?.as_socket();
    Ok(())
}

fn understand(text: &[u8], seen: &mut Observation) -> Outcome<()> {
    let answer = serde_json::from_slice(text);
    // A server that closes without a word.
    seen.seen = Some(answer.map_err(|_| ("answer", io::Error::from_raw_os_error(libc::EPROTO)))?);
    Ok(())
}
