//! A process that makes sockets for another one and passes them on, so that a socket's owner and
//! its user differ.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};

use super::sys;

/// Makes `lab-prober` be this.
pub(crate) const ARGUMENT: &str = "make-sockets";

/// Starts one with these ids; it ends when the stream does.
pub(crate) fn start(uid: u32, gid: u32) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().context("making a pair of sockets")?;
    Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .uid(uid)
        .gid(gid)
        .spawn()
        .context("starting a process that makes sockets")?;
    Ok(ours)
}

/// Asks for a socket.
pub(crate) fn ask(maker: &mut UnixStream, is_socket6: bool, is_tcp: bool) -> io::Result<OwnedFd> {
    maker.write_all(&[is_socket6.into(), is_tcp.into()])?;
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(i32);
    let message = recvmsg::<UnixAddr>(
        maker.as_raw_fd(),
        &mut buffers,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(&descriptor) = descriptors.first()
        {
            return Ok(sys::own(descriptor));
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Two bytes ask for a socket, one byte brings it.
pub(crate) fn run() -> Result<()> {
    let asker: UnixStream = io::stdin().as_fd().try_clone_to_owned()?.into();
    let mut question = [0; 2];
    while (&asker).read_exact(&mut question).is_ok() {
        let domain = if question[0] == 1 {
            Domain::IPV6
        } else {
            Domain::IPV4
        };
        let (kind, protocol) = if question[1] == 1 {
            (Type::STREAM, Protocol::TCP)
        } else {
            (Type::DGRAM, Protocol::UDP)
        };
        let socket = Socket::new(domain, kind, Some(protocol))?;
        sendmsg::<UnixAddr>(
            asker.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &[ControlMessage::ScmRights(&[socket.as_raw_fd()])],
            MsgFlags::empty(),
            None,
        )?;
    }
    Ok(())
}
