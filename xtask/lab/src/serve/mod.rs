//! The agent's side of [`crate::agent`]: reads requests from stdin, works, writes replies to
//! stdout, and ends with its stdin.

mod crowd;
mod datagram;
mod echo;
mod load;
mod tcp;
mod udp;

use std::{
    collections::HashMap,
    io::{self, BufRead, Write},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, seteuid, setfsgid, setfsuid, setgid, setgroups, setuid};
use serde::Serialize;
use serde_json::Value;
use socket2::Socket;

use crate::{
    datagram::{DatagramRequest, UdpRequest},
    proxy::{self, ProxyLine, ProxyOptions},
    wire::{
        BackgroundRequest, ConnRequest, Connected, During, IdentityRequest, Listening, LoadReport,
        OpError, OpResult, Request, Seen,
    },
};

/// What goes back, whatever its type: the client knows which one to expect.
type Reply = OpResult<Value>;

/// A list that background threads append to and a request reads.
type Log<T> = Arc<Mutex<Vec<T>>>;

#[derive(Default)]
struct Server {
    last_id: u64,
    listeners: HashMap<u64, Socket>,
    conns: HashMap<u64, Socket>,
    udp_echoes: HashMap<u64, udp::EchoServer>,
    echoed: Log<Seen>,
    proxied: Log<ProxyLine>,
    load: Arc<Mutex<LoadReport>>,
    crowd: crowd::Crowd,
}

/// Serves requests until stdin ends.
pub fn run() -> Result<()> {
    let mut server = Server::default();
    let mut stdout = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.context("reading requests from stdin")?;
        let request = serde_json::from_str(&line).with_context(|| format!("reading {line}"))?;
        let reply = server.answer(request);
        serde_json::to_writer(&mut stdout, &reply).context("writing a reply")?;
        stdout
            .write_all(b"\n")
            .and_then(|()| stdout.flush())
            .context("writing a reply")?;
    }
    Ok(())
}

impl Server {
    fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Hello => reply(()),
            Request::Listen(options) => {
                let (socket, addr) = tcp::listen(&options)?;
                reply(self.keep_listener(socket, addr))
            }
            Request::Bind(options) => {
                let socket = tcp::bind(&options)?;
                let addr = tcp::sock_name(&socket)?;
                reply(self.keep_listener(socket, addr))
            }
            Request::StartListening { listener, backlog } => reply(tcp::start_listening(
                find(&self.listeners, listener)?,
                backlog,
            )?),
            Request::CloseListener { listener } => {
                self.listeners.remove(&listener);
                reply(())
            }
            Request::Accept { listener, timeout } => {
                let (socket, peer) = tcp::accept(find(&self.listeners, listener)?, timeout)?;
                self.keep(socket, Some(peer))
            }
            Request::Connect(options) => self.keep(tcp::connect(&options)?, None),
            Request::Conn { conn, request } => answer_conn(conn, find(&self.conns, conn)?, request),
            Request::CloseConn { conn } => {
                self.conns.remove(&conn);
                reply(())
            }
            Request::Datagram(request) => self.answer_datagram(request),
            Request::Background(request) => self.answer_background(request),
            Request::Crowd(request) => self.crowd.answer(&request, &self.listeners),
            Request::Identity(request) => reply(change_identity(&request)?),
        }
    }

    fn answer_datagram(&mut self, request: DatagramRequest) -> Reply {
        match request {
            DatagramRequest::Exchange(exchange) => reply(udp::exchange(&exchange)?),
            DatagramRequest::Echo(addr) => {
                let (server, addr) = udp::EchoServer::start(addr)?;
                let id = self.next_id();
                self.udp_echoes.insert(id, server);
                reply(Listening { id, addr })
            }
            DatagramRequest::EchoLog { server } => reply(find(&self.udp_echoes, server)?.log()),
            DatagramRequest::EchoStop { server } => {
                self.udp_echoes.remove(&server);
                reply(())
            }
            DatagramRequest::Open(options) => {
                let socket = datagram::open(&options)?;
                let id = self.next_id();
                self.conns.insert(id, socket);
                reply(id)
            }
            DatagramRequest::Socket { socket, request } => {
                answer_udp(find(&self.conns, socket)?, request)
            }
            DatagramRequest::Ping { to, timeout } => reply(udp::ping(to, timeout)?),
        }
    }

    fn answer_background(&mut self, request: BackgroundRequest) -> Reply {
        match request {
            BackgroundRequest::ServeEcho(addr) => reply(echo::serve(addr, self.echoed.clone())?),
            BackgroundRequest::EchoLog => reply(snapshot(&self.echoed)),
            BackgroundRequest::ServeProxy(options) => {
                reply(serve_proxy(&options, self.proxied.clone())?)
            }
            BackgroundRequest::ProxyLog => reply(snapshot(&self.proxied)),
            BackgroundRequest::LoadServe { addr, workers } => {
                reply(load::serve(addr, workers, &self.load)?)
            }
            BackgroundRequest::LoadConnect(plan) => reply(load::connect(&plan)?),
            BackgroundRequest::LoadReport => reply(
                self.load
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            ),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn keep_listener(&mut self, socket: Socket, addr: SocketAddr) -> Listening {
        let id = self.next_id();
        self.listeners.insert(id, socket);
        Listening { id, addr }
    }

    fn keep(&mut self, socket: Socket, accepted_from: Option<SocketAddr>) -> Reply {
        let local = tcp::sock_name(&socket)?;
        let peer = match accepted_from {
            Some(peer) => peer,
            None => tcp::peer_name(&socket)?,
        };
        let id = self.next_id();
        self.conns.insert(id, socket);
        reply(Connected { id, local, peer })
    }
}

fn reply(value: impl Serialize) -> Reply {
    serde_json::to_value(value).map_err(|error| OpError::new("reply", error))
}

fn answer_conn(id: u64, socket: &Socket, request: ConnRequest) -> Reply {
    match request {
        ConnRequest::Disconnect => reply(tcp::disconnect(socket)?),
        ConnRequest::Reconnect { to, timeout } => {
            tcp::connect_plain(socket, to, timeout)?;
            let (local, peer) = (tcp::sock_name(socket)?, tcp::peer_name(socket)?);
            reply(Connected { id, local, peer })
        }
        ConnRequest::OriginalDst { level, length } => {
            reply(tcp::original_dst(socket, level, length)?)
        }
        ConnRequest::PeerName => reply(tcp::peer_name(socket)?),
        ConnRequest::SockName => reply(tcp::sock_name(socket)?),
        ConnRequest::Send(bytes) => reply(tcp::send(socket, &bytes)?),
        ConnRequest::Recv { max, timeout } => reply(tcp::recv(socket, max, timeout)?),
        ConnRequest::Echo { timeout } => reply(tcp::echo(socket, timeout)?),
        ConnRequest::Shutdown => reply(tcp::shutdown(socket)?),
    }
}

fn answer_udp(socket: &Socket, request: UdpRequest) -> Reply {
    match request {
        UdpRequest::Connect(to) => reply(datagram::connect(socket, to)?),
        UdpRequest::SendTo { to, from, bytes } => {
            reply(datagram::send_to(socket, &bytes, to, from)?)
        }
        UdpRequest::Receive { timeout } => reply(datagram::receive(socket, timeout)?),
    }
}

fn find<T>(table: &HashMap<u64, T>, id: u64) -> OpResult<&T> {
    table
        .get(&id)
        .ok_or_else(|| OpError::new("dispatch", format!("no socket number {id}")))
}

fn snapshot<T: Clone>(log: &Log<T>) -> Vec<T> {
    log.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn serve_proxy(options: &ProxyOptions, log: Log<ProxyLine>) -> OpResult<()> {
    let (sender, lines) = mpsc::channel();
    proxy::start(options, &sender).map_err(|e| OpError::new("serve proxy", format!("{e:#}")))?;
    thread::spawn(move || {
        for line in lines {
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    });
    Ok(())
}

fn change_identity(request: &IdentityRequest) -> OpResult<()> {
    let name = || format!("{request:?}");
    match *request {
        IdentityRequest::Become { uid, gid } => {
            setgroups(&[]).during(name)?;
            setgid(Gid::from_raw(gid)).during(name)?;
            setuid(Uid::from_raw(uid)).during(name)
        }
        IdentityRequest::SetEffectiveUid(uid) => seteuid(Uid::from_raw(uid)).during(name),
        // These two report nothing; asking again with the same id tells what became of it.
        IdentityRequest::SetFsUid(uid) => {
            setfsuid(Uid::from_raw(uid));
            confirm(name, setfsuid(Uid::from_raw(uid)).as_raw() == uid)
        }
        IdentityRequest::SetFsGid(gid) => {
            setfsgid(Gid::from_raw(gid));
            confirm(name, setfsgid(Gid::from_raw(gid)).as_raw() == gid)
        }
    }
}

fn confirm(name: impl Fn() -> String, done: bool) -> OpResult<()> {
    if done {
        Ok(())
    } else {
        Err(OpError::new(
            name(),
            "the kernel refused it (are you root?)",
        ))
    }
}
