//! Hands an open socket to another process, over the Unix socket that is its stdin. So the
//! listener is the proxy's, by its user and its cgroup, whoever accepts from it.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

const SPACE: usize = rustix::cmsg_space!(ScmRights(1));

pub(crate) fn send(over: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<()> {
    let sockets = [socket];
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    let byte = [IoSlice::new(&[0])];
    sendmsg(over, &byte, &mut control, SendFlags::empty()).context("handing a socket over")?;
    Ok(())
}

pub(crate) fn receive(over: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        over,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .context("taking a socket over")?;
    let passed = control.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut sockets) = message {
            sockets.next()
        } else {
            None
        }
    });
    passed.context("a message without a socket")
}
