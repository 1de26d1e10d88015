//! Whether this process may do what the loader does.

use anyhow::{Result, bail};
use procfs::process::Process;

/// Bit in `/proc/self/status` `CapEff`, name, and what it is for (include/uapi/linux/capability.h).
const NEEDED: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "network programs and routes"),
    (
        19,
        "CAP_SYS_PTRACE",
        "the proxy's listening sockets and the pod's namespace",
    ),
    (21, "CAP_SYS_ADMIN", "entering the pod's network namespace"),
];

pub fn check() -> Result<()> {
    let effective = Process::myself()?.status()?.capeff;
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(bit, ..)| effective & (1 << bit) == 0)
        .map(|(_, name, purpose)| format!("{name} (for {purpose})"))
        .collect();
    if !missing.is_empty() {
        bail!(
            "not enough privilege: {} missing; run it as root, with sudo",
            missing.join(", ")
        );
    }
    Ok(())
}
