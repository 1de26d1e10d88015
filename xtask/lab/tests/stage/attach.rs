//! Somebody else's program on a cgroup, attached as tools without links do it, and what the kernel
//! says is attached.
#![expect(
    unsafe_code,
    reason = "no safe crate attaches a program without a link"
)]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use anyhow::{Context, Result};
use nix::libc;

/// `enum bpf_cmd`, `bpf_prog_type` and `bpf_attach_type` (include/uapi/linux/bpf.h).
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_QUERY: libc::c_long = 16;
const TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const CONNECT4: u32 = 10;
const SK_LOOKUP: u32 = 36;
/// sock_ops, bind4 and 6, connect4 and 6, sendmsg4 and 6, recvmsg4 and 6, getsockopt, getpeername4
/// and 6.
const CGROUP_HOOKS: [u32; 12] = [3, 8, 9, CONNECT4, 11, 14, 15, 19, 20, 21, 29, 30];

/// A connect4 program that only ever gives one answer. Dropping it detaches it.
pub(crate) struct Foreign {
    cgroup: File,
    program: OwnedFd,
}

impl Foreign {
    /// The flags are 0, which keeps all others out of the cgroup and of those below, or
    /// `BPF_F_ALLOW_OVERRIDE` or `BPF_F_ALLOW_MULTI`.
    pub(crate) fn attach(cgroup: &Path, flags: u32, allows: bool) -> Result<Self> {
        let cgroup = File::open(cgroup).with_context(|| format!("opening {}", cgroup.display()))?;
        let program = load(allows).context("loading a program of two instructions")?;
        let attach = Attach::new(&cgroup, &program, flags);
        call(PROG_ATTACH, &attach).context("attaching a program without a link")?;
        Ok(Self { cgroup, program })
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // The cgroup's end would detach it too.
        let _: io::Result<RawFd> = call(PROG_DETACH, &Attach::new(&self.cgroup, &self.program, 0));
    }
}

/// How many programs are attached to the cgroup at the loader's hooks, and to the network
/// namespace.
pub(crate) fn attached_programs(cgroup: &Path, netns: &Path) -> Result<u32> {
    let mut count = query(netns, SK_LOOKUP)?;
    for hook in CGROUP_HOOKS {
        count += query(cgroup, hook)?;
    }
    Ok(count)
}

fn query(target: &Path, attach_type: u32) -> Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        program_ids: u64,
        program_count: u32,
        zero: u32,
    }
    let file = File::open(target).with_context(|| format!("opening {}", target.display()))?;
    let mut query = Query {
        target_fd: file.as_raw_fd() as u32,
        attach_type,
        ..Query::default()
    };
    // SAFETY: the pointer is to a live structure of that size, which names no buffer.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    // ENOSPC: there are programs, and no room for their ids was given.
    let error = io::Error::last_os_error();
    if status < 0 && error.raw_os_error() != Some(libc::ENOSPC) {
        return Err(error).with_context(|| format!("asking what is attached to {target:?}"));
    }
    Ok(query.program_count)
}

/// The member of `union bpf_attr` for attaching and detaching.
#[repr(C)]
struct Attach {
    target_fd: u32,
    program_fd: u32,
    attach_type: u32,
    flags: u32,
    replace_fd: u32,
}

impl Attach {
    fn new(cgroup: &File, program: &OwnedFd, flags: u32) -> Self {
        Self {
            target_fd: cgroup.as_raw_fd() as u32,
            program_fd: program.as_raw_fd() as u32,
            attach_type: CONNECT4,
            flags,
            replace_fd: 0,
        }
    }
}

fn load(allows: bool) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 4],
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        expected_attach_type: u32,
    }
    // r0 = 0 or 1; exit.
    let instructions: [[u8; 8]; 2] = [
        [0xb7, 0, 0, 0, u8::from(allows), 0, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    let license = c"GPL";
    let attributes = Load {
        program_type: TYPE_CGROUP_SOCK_ADDR,
        instruction_count: 2,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log: [0; 4],
        kernel_version: 0,
        flags: 0,
        name: *b"somebody_else\0\0\0",
        ifindex: 0,
        expected_attach_type: CONNECT4,
    };
    let fd = call(PROG_LOAD, &attributes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the structure is live and of that size, the kernel only reads it, and so are the
    // buffers that it names.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}
