//! `getsockopt` with a level, an option and a length of the caller's choice.
#![expect(unsafe_code, reason = "no safe crate offers the call in this form")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::libc;

/// Asks into a buffer of that length; returns what the kernel filled in.
pub(crate) fn get(socket: impl AsFd, level: i32, option: i32, length: u32) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0xaa; length as usize];
    let mut length = length;
    // SAFETY: the buffer is writable for `length` bytes, and the kernel writes no more than that.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    buffer.truncate(length as usize);
    Ok(buffer)
}
