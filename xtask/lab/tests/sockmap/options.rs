//! The few socket options that no crate has a function for, and the waits.

use std::{
    fs,
    net::TcpStream,
    time::{Duration, Instant},
};

use nix::{
    getsockopt_impl, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{getsockopt, setsockopt},
    unistd::Pid,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The head of `struct tcp_info` (include/uapi/linux/tcp.h), in words of 64 bits.
type Info = [u64; 17];
const BYTES_ACKED: usize = 15;
const BYTES_RECEIVED: usize = 16;

/// `SK_MEMINFO_*` (include/uapi/linux/sock_diag.h).
type MemoryInfo = [u32; 9];
const RMEM_ALLOC: usize = 0;
const RCVBUF: usize = 1;

sockopt_impl!(
    /// What TCP knows about the connection.
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, Info
);
sockopt_impl!(
    /// What the socket holds in memory.
    MemInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, MemoryInfo
);
sockopt_impl!(
    /// Whether `MSG_ZEROCOPY` is wanted.
    ZeroCopy, SetOnly, libc::SOL_SOCKET, libc::SO_ZEROCOPY, bool
);
sockopt_impl!(
    /// As many bytes make a socket readable.
    ReceiveLowWater, SetOnly, libc::SOL_SOCKET, libc::SO_RCVLOWAT, i32
);

/// Bytes that TCP has had acknowledged of those sent by this socket.
pub(crate) fn acknowledged(socket: &TcpStream) -> u64 {
    getsockopt(socket, TcpInfo).unwrap()[BYTES_ACKED]
}

/// Bytes that this socket has received, as TCP knows.
pub(crate) fn received(socket: &TcpStream) -> u64 {
    getsockopt(socket, TcpInfo).unwrap()[BYTES_RECEIVED]
}

/// What is queued for the reader, and the bound that `SO_RCVBUF` sets.
pub(crate) fn queued_and_bound(socket: &TcpStream) -> (u64, u64) {
    let memory = getsockopt(socket, MemInfo).unwrap();
    (memory[RMEM_ALLOC].into(), memory[RCVBUF].into())
}

pub(crate) fn want_zero_copy(socket: &TcpStream) {
    setsockopt(socket, ZeroCopy, &true).unwrap();
}

pub(crate) fn set_low_water(socket: &TcpStream, bytes: i32) {
    setsockopt(socket, ReceiveLowWater, &bytes).unwrap();
}

/// Whether any of these comes about in time.
pub(crate) fn comes(socket: &TcpStream, what: PollFlags, within: Duration) -> bool {
    let mut polled = [PollFd::new(socket, what)];
    poll(&mut polled, Some(&Timespec::try_from(within).unwrap())).unwrap();
    polled[0].revents().intersects(what)
}

/// Whether there is something to read within a while.
pub(crate) fn readable(socket: &TcpStream) -> bool {
    comes(socket, PollFlags::IN, Duration::from_millis(300))
}

/// Waits until that thread of this process is blocked in `recv`; false if it never is.
pub(crate) fn blocks_in_recv(thread: Pid, within: Duration) -> bool {
    let file = format!("/proc/self/task/{thread}/syscall");
    let recv = format!("{} ", libc::SYS_recvfrom);
    let begun = Instant::now();
    while begun.elapsed() < within {
        // The file of a thread that is gone is gone as well.
        if fs::read_to_string(&file).is_ok_and(|call| call.starts_with(&recv)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
