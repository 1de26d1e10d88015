//! The system calls for which no crate has a safe function: `getsockopt` with a level, option and
//! length of the caller's choice, two socket options, and `connect` through io_uring.
#![expect(
    unsafe_code,
    reason = "system calls that no safe crate offers in this form"
)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use io_uring::{IoUring, opcode, types};
use nix::libc;
use socket2::SockAddr;

/// `SO_ORIGINAL_DST` at `SOL_IP` and `IP6T_SO_ORIGINAL_DST` at `SOL_IPV6` share this number.
pub(crate) const ORIGINAL_DST: i32 = 80;

/// `getsockopt` into the buffer; returns the length that the kernel set.
pub(crate) fn get_option(
    socket: BorrowedFd<'_>,
    level: i32,
    option: i32,
    buffer: &mut [u8],
) -> io::Result<u32> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the buffer is writable for `length` bytes, and the kernel writes no more than that.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status == 0 {
        Ok(length)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `setsockopt` of an integer at the TCP level.
pub(crate) fn set_tcp_option(socket: BorrowedFd<'_>, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer is to an i32 that outlives the call, and the length is that of an i32.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Connects through a ring made for this one operation; `ETIME` after the timeout.
pub(crate) fn uring_connect(
    socket: BorrowedFd<'_>,
    to: &SockAddr,
    timeout: Duration,
) -> io::Result<()> {
    let mut ring = IoUring::new(2)?;
    let limit = types::Timespec::from(timeout);
    let connect = opcode::Connect::new(types::Fd(socket.as_raw_fd()), to.as_ptr().cast(), to.len())
        .build()
        .flags(io_uring::squeue::Flags::IO_LINK)
        .user_data(1);
    let deadline = opcode::LinkTimeout::new(&raw const limit)
        .build()
        .user_data(2);
    // SAFETY: `to`, `limit` and the socket outlive both operations: the wait below lasts until
    // both have completed, and the ring is gone when this function returns.
    unsafe { ring.submission().push_multiple(&[connect, deadline]) }.map_err(io::Error::other)?;
    ring.submit_and_wait(2)?;
    let result = ring
        .completion()
        .find(|entry| entry.user_data() == 1)
        .map(|entry| entry.result());
    match result {
        Some(0) => Ok(()),
        Some(code) if -code == libc::ECANCELED => Err(io::Error::from_raw_os_error(libc::ETIME)),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other(
            "the ring returned without the connect's completion",
        )),
    }
}
