//! System calls that no library wraps, or not safely.
#![expect(unsafe_code, reason = "raw system calls and descriptors")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd},
};

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// The cookie of the network namespace a socket belongs to (`SO_NETNS_COOKIE`, Linux 5.14).
pub(crate) fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to live values of the lengths given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The user namespace that owns a namespace (`NS_GET_USERNS`, Linux 4.9, include/uapi/linux/nsfs.h).
pub(crate) fn owning_userns(namespace: impl AsFd) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: the request takes no argument and returns a new descriptor, or -1.
    let fd = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A ring buffer that can be waited for, within a tokio runtime.
pub(crate) fn wait_for_ring(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring buffer owns its map's descriptor, and never replaces it.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// A map of sockets (`BPF_MAP_TYPE_SOCKMAP` with values of eight bytes): the member of
/// `union bpf_attr` for elements (include/uapi/linux/bpf.h).
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new(map: impl AsFd, key: &u32, value: *mut u64, flags: u64) -> Self {
        Self {
            map_fd: map.as_fd().as_raw_fd() as u32,
            pad: 0,
            key: std::ptr::from_ref(key) as u64,
            value: value as u64,
            flags,
        }
    }

    /// # Safety
    ///
    /// Key and value are live.
    unsafe fn call(mut self, command: libc::c_long) -> io::Result<()> {
        // SAFETY: the structure is live and of that size; the rest is the caller's promise.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut self, size_of::<Self>()) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// The cookie of the socket in that slot, if there is one (Linux 5.6).
pub(crate) fn sockmap_cookie(map: impl AsFd, slot: u32) -> io::Result<Option<u64>> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
    let mut cookie = 0_u64;
    let element = Element::new(map, &slot, &raw mut cookie, 0);
    // SAFETY: key and value are live, and the value has the eight bytes of the map's.
    match unsafe { element.call(BPF_MAP_LOOKUP_ELEM) } {
        Ok(()) => Ok(Some(cookie)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a socket into a slot, if that is free: `EEXIST` if it is not.
pub(crate) fn sockmap_insert(map: impl AsFd, slot: u32, socket: impl AsFd) -> io::Result<()> {
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
    const BPF_NOEXIST: u64 = 1;
    let mut fd = socket.as_fd().as_raw_fd() as u64;
    let element = Element::new(map, &slot, &raw mut fd, BPF_NOEXIST);
    // SAFETY: as above.
    unsafe { element.call(BPF_MAP_UPDATE_ELEM) }
}

/// What is attached to a cgroup itself at one attach type.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Ids of the programs, in the order in which they run.
    pub(crate) programs: Vec<u32>,
    /// `BPF_F_ALLOW_OVERRIDE`, `BPF_F_ALLOW_MULTI`, or 0: nothing may be attached below.
    pub(crate) flags: u32,
}

/// `bpf(BPF_PROG_QUERY)`, Linux 4.15: the `query` member of `union bpf_attr`
/// (include/uapi/linux/bpf.h). The kernel takes a prefix of the structure.
pub(crate) fn query_cgroup(cgroup: impl AsFd, attach_type: u32) -> io::Result<Attached> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    /// `BPF_CGROUP_MAX_PROGS` (include/linux/bpf-cgroup-defs.h).
    const MOST: usize = 64;

    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        zero: u32,
    }

    let mut programs = [0_u32; MOST];
    let mut query = Query {
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: programs.as_mut_ptr() as u64,
        prog_cnt: MOST as u32,
        zero: 0,
    };
    // SAFETY: the pointers are to live memory of the sizes given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Attached {
        programs: programs.into_iter().take(query.prog_cnt as usize).collect(),
        flags: query.attach_flags,
    })
}
