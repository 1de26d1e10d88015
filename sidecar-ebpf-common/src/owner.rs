//! Where the kernel keeps the credentials of a socket's owner.

/// Byte offsets of the members on the way from a socket to the credentials its file was made with.
/// They differ from kernel to kernel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CredentialOffsets {
    /// 1 if the others hold.
    known: u32,
    /// `sk_socket` in `struct sock`.
    pub sock_sk_socket: u32,
    /// `file` in `struct socket`.
    pub socket_file: u32,
    /// `f_cred` in `struct file`.
    pub file_f_cred: u32,
    /// `fsuid` in `struct cred`; `fsgid` follows it.
    pub cred_fsuid: u32,
}

const _: () = assert!(size_of::<CredentialOffsets>() == 20);

impl CredentialOffsets {
    /// The kernel says nothing about its types.
    pub const UNKNOWN: Self = Self::new_with(0, 0, 0, 0, 0);

    pub const fn new(
        sock_sk_socket: u32,
        socket_file: u32,
        file_f_cred: u32,
        cred_fsuid: u32,
    ) -> Self {
        Self::new_with(1, sock_sk_socket, socket_file, file_f_cred, cred_fsuid)
    }

    const fn new_with(
        known: u32,
        sock_sk_socket: u32,
        socket_file: u32,
        file_f_cred: u32,
        cred_fsuid: u32,
    ) -> Self {
        Self {
            known,
            sock_sk_socket,
            socket_file,
            file_f_cred,
            cred_fsuid,
        }
    }

    #[inline(always)]
    pub const fn are_known(&self) -> bool {
        self.known == 1
    }
}
