//! Loads and attaches the eBPF programs.

use std::{
    fs::File,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, CgroupSockAddr, CgroupSockopt, ProgramError, SkLookup, SockOps,
        cgroup_sock_addr::CgroupSockAddrLink, cgroup_sockopt::CgroupSockoptLink,
        sk_lookup::SkLookupLink, sock_ops::SockOpsLink,
    },
};
use rustix::time::{ClockId, clock_getres};
use sidecar_ebpf_common::{counter::Hook, listen::ProxyPorts, maps, policy::Switches};

use crate::{
    cgroup::Cgroup,
    events::Events,
    netns::Netns,
    object::OBJECT,
    owner::Source,
    sys,
    tables::{Tables, lock},
};

/// What the kernel calls a hook, and since when it has it.
struct Spec {
    program: &'static str,
    /// `enum bpf_attach_type` (include/uapi/linux/bpf.h).
    attach_type: u32,
    since: &'static str,
}

fn spec(hook: Hook) -> Spec {
    let (program, attach_type, since) = match hook {
        Hook::Bind4 => ("sidecar_bind4", 8, "4.17"),
        Hook::Bind6 => ("sidecar_bind6", 9, "4.17"),
        Hook::Connect4 => ("sidecar_connect4", 10, "5.12 (atomic fetch-and-add)"),
        Hook::Connect6 => ("sidecar_connect6", 11, "5.12 (atomic fetch-and-add)"),
        Hook::Getsockopt => (
            "sidecar_getsockopt",
            21,
            "5.15 (namespace cookie in getsockopt)",
        ),
        Hook::Getpeername4 => ("sidecar_getpeername4", 29, "5.8"),
        Hook::Getpeername6 => ("sidecar_getpeername6", 30, "5.8"),
        Hook::Sendmsg4 => ("sidecar_sendmsg4", 14, "5.12 (atomic fetch-and-add)"),
        Hook::Sendmsg6 => ("sidecar_sendmsg6", 15, "5.12 (atomic fetch-and-add)"),
        Hook::Recvmsg4 => ("sidecar_recvmsg4", 19, "5.7 (namespace cookie)"),
        Hook::Recvmsg6 => ("sidecar_recvmsg6", 20, "5.7 (namespace cookie)"),
        Hook::SockOps => ("sidecar_sock_ops", 3, "5.15 (namespace cookie in sock_ops)"),
        Hook::SkLookup => ("sidecar_sk_lookup", 36, "5.9"),
    };
    Spec {
        program,
        attach_type,
        since,
    }
}

/// `enum bpf_attach_type` of a hook.
pub(crate) fn attach_type(hook: Hook) -> u32 {
    spec(hook).attach_type
}

/// aya-log's ring buffer. It is 128 KiB unless told otherwise, an eighth of all this takes for an
/// idle pod, and the programs log a line when the proxy begins to listen.
const LOG_MAP: &str = "AYA_LOGS";
const LOG_BYTES: u32 = 16 * 1024;

/// The hooks that only DNS capture needs.
pub const DNS: [Hook; 4] = [
    Hook::Recvmsg4,
    Hook::Recvmsg6,
    Hook::Sendmsg4,
    Hook::Sendmsg6,
];

/// What `sendmsg` does for a proxy that is not in the pod's cgroup.
const ANSWERS: [(Hook, &str); 2] = [
    (Hook::Sendmsg4, "sidecar_answer4"),
    (Hook::Sendmsg6, "sidecar_answer6"),
];

/// Where queries and answers of UDP sockets pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsHooks {
    /// They are not looked at.
    Off,
    /// The agent's answers pass the pod's cgroup, too.
    Pod,
    /// The agent runs elsewhere.
    PodAndProxy,
}

/// The loaded programs and their links; dropping it detaches all.
pub struct Programs {
    /// In the order of attachment. Before `ebpf`, so that links go before programs.
    links: Vec<HeldLink>,
    ebpf: Ebpf,
    attached: Arc<Mutex<Vec<Hook>>>,
}

impl Programs {
    /// Loads into the kernel what will be attached; nothing is yet. Within a tokio runtime.
    ///
    /// `features`: the switches that the policy may ever have.
    pub fn load(
        destinations: u32,
        ports: ProxyPorts,
        owner: Source,
        dns: DnsHooks,
        features: Switches,
    ) -> Result<(Self, Tables, Events)> {
        let reads_ingress = features.has(Switches::INTERFACES);
        let mut ebpf = EbpfLoader::new()
            .override_global(maps::SOCKET_OFFSETS, &owner.offsets(), true)
            .override_global(maps::JIFFY, &jiffy(), true)
            .override_global(maps::FEATURES, &features, true)
            .override_global(maps::PROXY_PORTS, &ports, true)
            .map_max_entries(maps::NUMBERS, destinations)
            .map_max_entries(maps::DESTINATIONS, destinations)
            .map_max_entries(LOG_MAP, LOG_BYTES)
            .load(OBJECT)
            .map_err(Error::from)
            .with_context(|| format!("creating the eBPF maps on Linux {}", kernel_release()))?;
        for &hook in Hook::ALL {
            let since = if hook == Hook::SkLookup && reads_ingress {
                "5.17, because interfaces are excluded (-c, --istio-exclude-interfaces)"
            } else {
                spec(hook).since
            };
            if dns != DnsHooks::Off || !DNS.contains(&hook) {
                load(&mut ebpf, hook, spec(hook).program, since)?;
            }
        }
        if dns == DnsHooks::PodAndProxy {
            for (hook, program) in ANSWERS {
                load(&mut ebpf, hook, program, spec(hook).since)?;
            }
        }
        let tables = Tables::take(&mut ebpf, destinations)?;
        let events = Events::take(&mut ebpf)?;
        Ok((
            Self {
                links: Vec::new(),
                ebpf,
                attached: Arc::default(),
            },
            tables,
            events,
        ))
    }

    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The hooks that are attached now.
    pub fn attached(&self) -> Arc<Mutex<Vec<Hook>>> {
        Arc::clone(&self.attached)
    }

    pub fn attach_to_cgroup(&mut self, hook: Hook, cgroup: &Cgroup) -> Result<()> {
        let link = self.link_to_cgroup(hook, spec(hook).program, cgroup)?;
        self.links.push(link);
        lock(&self.attached).push(hook);
        Ok(())
    }

    /// Attaches to one more cgroup.
    pub fn attach_also(&mut self, hook: Hook, cgroup: &Cgroup) -> Result<()> {
        let link = self.link_to_cgroup(hook, spec(hook).program, cgroup)?;
        self.links.push(link);
        Ok(())
    }

    /// Has the agent's answers told apart in the proxy's own cgroup.
    pub fn attach_answers(&mut self, cgroup: &Cgroup) -> Result<()> {
        for (hook, program) in ANSWERS {
            let link = self.link_to_cgroup(hook, program, cgroup)?;
            self.links.push(link);
        }
        Ok(())
    }

    fn link_to_cgroup(&mut self, hook: Hook, program: &str, cgroup: &Cgroup) -> Result<HeldLink> {
        // A link is always one of many, and "allow multiple" is an invalid flag for a link
        // (`cgroup_bpf_link_attach`, kernel/bpf/cgroup.c).
        let mode = CgroupAttachMode::Single;
        let link = match hook_program(&mut self.ebpf, hook, program)? {
            HookProgram::SockAddr(program) => program
                .attach(cgroup, mode)
                .and_then(|id| program.take_link(id))
                .map(HeldLink::SockAddr),
            HookProgram::Sockopt(program) => program
                .attach(cgroup, mode)
                .and_then(|id| program.take_link(id))
                .map(HeldLink::Sockopt),
            HookProgram::SockOps(program) => program
                .attach(cgroup, mode)
                .and_then(|id| program.take_link(id))
                .map(HeldLink::SockOps),
            HookProgram::SkLookup(_) => bail!("{} does not attach to a cgroup", hook.name()),
        };
        link.map_err(|error| explain_attach(error, hook, cgroup))
    }

    pub fn attach_to_netns(&mut self, netns: &Netns) -> Result<()> {
        let hook = Hook::SkLookup;
        let HookProgram::SkLookup(program) =
            hook_program(&mut self.ebpf, hook, spec(hook).program)?
        else {
            bail!("{} does not attach to a network namespace", hook.name());
        };
        let link = program
            .attach(netns)
            .and_then(|id| program.take_link(id))
            .with_context(|| format!("attaching {} to {netns}", hook.name()))?;
        self.links.push(HeldLink::SkLookup(link));
        lock(&self.attached).push(hook);
        Ok(())
    }

    /// Detaches what was attached last first; the programs stay loaded.
    pub fn detach(&mut self) {
        lock(&self.attached).clear();
        while self.links.pop().is_some() {}
    }

    /// Detaches the program that registers listening sockets.
    pub fn detach_sock_ops(&mut self) {
        lock(&self.attached).retain(|&hook| hook != Hook::SockOps);
        self.links
            .retain(|link| !matches!(link, HeldLink::SockOps(_)));
    }

    /// Detaches what was attached to a network namespace.
    pub fn detach_from_netns(&mut self) {
        lock(&self.attached).retain(|&hook| hook != Hook::SkLookup);
        self.links
            .retain(|link| !matches!(link, HeldLink::SkLookup(_)));
    }
}

/// A link that detaches when it is dropped.
#[expect(dead_code, reason = "held for what dropping it does")]
enum HeldLink {
    SockAddr(CgroupSockAddrLink),
    Sockopt(CgroupSockoptLink),
    SockOps(SockOpsLink),
    SkLookup(SkLookupLink),
}

/// The program for a hook, by the type that hook has.
enum HookProgram<'a> {
    SockAddr(&'a mut CgroupSockAddr),
    Sockopt(&'a mut CgroupSockopt),
    SockOps(&'a mut SockOps),
    SkLookup(&'a mut SkLookup),
}

fn hook_program<'a>(ebpf: &'a mut Ebpf, hook: Hook, name: &str) -> Result<HookProgram<'a>> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the eBPF object has no program {name}"))?;
    Ok(match hook {
        Hook::Bind4
        | Hook::Bind6
        | Hook::Connect4
        | Hook::Connect6
        | Hook::Getpeername4
        | Hook::Getpeername6
        | Hook::Sendmsg4
        | Hook::Sendmsg6
        | Hook::Recvmsg4
        | Hook::Recvmsg6 => HookProgram::SockAddr(program.try_into()?),
        Hook::Getsockopt => HookProgram::Sockopt(program.try_into()?),
        Hook::SockOps => HookProgram::SockOps(program.try_into()?),
        Hook::SkLookup => HookProgram::SkLookup(program.try_into()?),
    })
}

fn load(ebpf: &mut Ebpf, hook: Hook, program: &str, since: &str) -> Result<()> {
    let result = match hook_program(ebpf, hook, program)? {
        HookProgram::SockAddr(program) => program.load(),
        HookProgram::Sockopt(program) => program.load(),
        HookProgram::SockOps(program) => program.load(),
        HookProgram::SkLookup(program) => program.load(),
    };
    result.map_err(|error| explain_load(error, hook, since))
}

fn explain_load(error: ProgramError, hook: Hook, since: &str) -> Error {
    let refused = matches!(
        &error,
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM)
    );
    let hint = if refused {
        "the kernel refuses for lack of privilege: run as root, or with CAP_BPF and CAP_NET_ADMIN"
            .to_owned()
    } else {
        format!(
            "needs Linux {since}, this is {}; if that is new enough, the verifier says why not",
            kernel_release()
        )
    };
    Error::from(error).context(format!("loading the program for {}: {hint}", hook.name()))
}

fn explain_attach(error: ProgramError, hook: Hook, cgroup: &Cgroup) -> Error {
    let mut text = format!("attaching {} to {}", hook.name(), cgroup.path().display());
    if let Some(culprit) = exclusive_program(spec(hook).attach_type, cgroup) {
        text += &format!("; {culprit}");
    }
    Error::from(error).context(text)
}

/// A program that was attached without "allow multiple" keeps others out of its cgroup and of all
/// below it.
fn exclusive_program(attach_type: u32, cgroup: &Cgroup) -> Option<String> {
    const ALLOW_OVERRIDE: u32 = 1;
    const ALLOW_MULTI: u32 = 2;
    cgroup.ancestry().find_map(|path| {
        let attached = sys::query_cgroup(File::open(path).ok()?, attach_type).ok()?;
        let here = path == cgroup.path();
        let blocks = attached.flags & ALLOW_MULTI == 0
            && (here || attached.flags & ALLOW_OVERRIDE == 0);
        (!attached.programs.is_empty() && blocks).then(|| {
            format!(
                "another program is attached exclusively to {path}; \
                 `bpftool cgroup show {path}` names it: detach it, or have it attached with the flag multi",
                path = path.display()
            )
        })
    })
}

/// How many nanoseconds a jiffy is: the coarse clocks move once in each
/// (`posix_get_coarse_res`, kernel/time/posix-timers.c).
fn jiffy() -> u64 {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    resolution.tv_nsec.unsigned_abs()
}

pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}
