//! Socket options that no safe crate knows.
#![expect(
    unsafe_code,
    reason = "system calls that no safe crate offers in this form"
)]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::libc;

/// From linux/in.h, since Linux 6.3.
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// The kernel will choose this local port, although the socket is not bound to any.
pub(crate) fn choose_port(socket: BorrowedFd<'_>, port: u16) -> io::Result<()> {
    let range = u32::from(port) << 16 | u32::from(port);
    set(socket, libc::SOL_IP, IP_LOCAL_PORT_RANGE, range)
}

/// ICMP errors are reported to sockets that are not connected, too.
pub(crate) fn report_errors(socket: BorrowedFd<'_>, is_socket6: bool) -> io::Result<()> {
    if is_socket6 {
        set(socket, libc::SOL_IPV6, libc::IPV6_RECVERR, 1)?;
    }
    set(socket, libc::SOL_IP, libc::IP_RECVERR, 1)
}

fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: u32) -> io::Result<()> {
    // SAFETY: the pointer is to a u32 that outlives the call, and the length is that of a u32.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes over a descriptor that another process has just passed.
pub(crate) fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has opened it for this message, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
