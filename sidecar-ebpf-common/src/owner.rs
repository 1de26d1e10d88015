//! Where the kernel keeps whose a socket is.

/// Byte offsets of the members on the way from a socket to its network namespace, and to the credentials
/// its file was made with. They differ from kernel to kernel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketOffsets {
    /// 1 if the others hold.
    pub known: u32,
    /// `sk_net` (`__sk_common.skc_net`) in `struct sock`.
    pub sock_net: u32,
    /// `net_cookie` in `struct net`.
    pub net_cookie: u32,
    /// `sk_socket` in `struct sock`.
    pub sock_sk_socket: u32,
    /// `file` in `struct socket`.
    pub socket_file: u32,
    /// `f_cred` in `struct file`.
    pub file_f_cred: u32,
    /// `fsuid` in `struct cred`; `fsgid` follows it.
    pub cred_fsuid: u32,
}

const _: () = assert!(size_of::<SocketOffsets>() == 28);

impl SocketOffsets {
    /// The kernel says nothing about its types.
    pub const UNKNOWN: Self = Self {
        known: 0,
        sock_net: 0,
        net_cookie: 0,
        sock_sk_socket: 0,
        socket_file: 0,
        file_f_cred: 0,
        cred_fsuid: 0,
    };

    #[inline(always)]
    pub const fn are_known(&self) -> bool {
        self.known == 1
    }
}
