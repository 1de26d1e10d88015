//! Sockets as the work needs them.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::order::Accepted;
use crate::raw;

const BACKLOG: i32 = 4096;
/// Nothing here takes as long, unless a connection went elsewhere.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn listen(port: u16) -> Result<Socket> {
    let listener = tcp()?;
    listener.set_reuse_address(true)?;
    let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listening = listener
        .bind(&addr.into())
        .and_then(|()| listener.listen(BACKLOG));
    listening.with_context(|| format!("listening at {addr}"))?;
    Ok(listener)
}

pub(super) fn tcp() -> Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).context("making a socket")
}

pub(super) fn connect(to: &SockAddr) -> Result<Socket> {
    let client = tcp()?;
    client.connect(to).with_context(|| {
        let to = to.as_socket();
        format!(
            "connecting to {}",
            to.map_or_else(String::new, |to| to.to_string())
        )
    })?;
    Ok(client)
}

/// A reset leaves no TIME_WAIT behind, so ports never run out.
pub(super) fn reset(socket: Socket) -> Result<()> {
    socket
        .set_linger(Some(Duration::ZERO))
        .context("SO_LINGER")?;
    drop(socket);
    Ok(())
}

/// The next connection.
pub(super) fn accept(listener: &Socket) -> Result<Socket> {
    match listener.accept() {
        Ok((socket, _)) => Ok(socket),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            bail!("the connection has not arrived at the proxy: did it go elsewhere?")
        }
        Err(error) => Err(error).context("accept"),
    }
}

/// Asks as a proxy does; without redirection it is an error, and asked all the same.
pub(super) fn ask_original_dst(socket: &Socket, accepted: &mut Accepted) -> Result<()> {
    let mut bytes = [0; 16];
    accepted.connections += 1;
    match raw::get_option(socket.as_fd(), libc::SOL_IP, raw::ORIGINAL_DST, &mut bytes) {
        Ok(_) => {
            accepted.redirected += 1;
            let ip = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
            let port = u16::from_be_bytes([bytes[2], bytes[3]]);
            accepted.example = Some(SocketAddrV4::new(ip, port).into());
            Ok(())
        }
        Err(error) => {
            let code = error.raw_os_error();
            ensure!(
                [libc::ENOENT, libc::ENOPROTOOPT].map(Some).contains(&code),
                "SO_ORIGINAL_DST: {error}"
            );
            Ok(())
        }
    }
}
