//! A pod without a cluster: its network namespace, the rest of the world in a second one, a veth
//! between them, and its cgroups.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};

use crate::{
    cgroup::{self, cgroup2_mount},
    cleanup::Cleanup,
    netns::{self, ip},
    process::Placement,
};

/// Begins the name of every namespace and cgroup made here; the process id follows.
const PREFIX: &str = "sidecar-lab-";

/// The pod's own addresses, on its eth0.
pub const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
pub const POD_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 5);
/// The other end of the veth: the rest of the cluster, and the pod's gateway.
pub const REMOTE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
pub const REMOTE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);
/// The networks of which the remote owns every single address: services, and the internet.
pub const SERVICE_NETS: [&str; 2] = ["10.96.0.0/12", "203.0.113.0/24"];
pub const SERVICE_NET6: &str = "fd00:96::/64";
/// The pod's addresses on its second interface, if it has one.
pub const SECOND_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub const SECOND_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
/// The remote's end of it.
pub const SECOND_REMOTE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const SECOND_REMOTE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
/// What the pod reaches through it; the remote owns every address.
pub const SECOND_NET: &str = "192.0.2.0/24";
pub const SECOND_NET6: &str = "2001:db8:77::/48";
/// The user and group of Istio's proxy.
pub const PROXY_ID: u32 = 1337;
/// The user and group of the application.
pub const APP_ID: u32 = 1000;

static COUNTER: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

#[derive(Clone, Copy, Debug)]
pub struct PodOptions {
    /// Without it both namespaces have IPv6 disabled, as on a single-stack cluster.
    pub ipv6: bool,
    /// A second interface, net1, as with Multus: a veth of its own to the remote, with addresses and
    /// routes of its own.
    pub net1: bool,
}

impl Default for PodOptions {
    fn default() -> Self {
        Self {
            ipv6: true,
            net1: false,
        }
    }
}

impl PodOptions {
    pub fn ipv4_only() -> Self {
        Self {
            ipv6: false,
            ..Self::default()
        }
    }

    pub fn two_interfaces() -> Self {
        Self {
            net1: true,
            ..Self::default()
        }
    }
}

/// One pod and its surroundings; dropping it removes both, and kills what still runs in them.
///
/// Several pods may exist at once. They have the same addresses and do not see each other.
#[derive(Debug)]
pub struct Pod {
    name: String,
    options: PodOptions,
    mount: PathBuf,
    _cleanup: Cleanup,
}

impl Pod {
    /// A pod with IPv4 and IPv6. The hint ends its name, so that a person recognises it.
    pub fn new(hint: &str) -> Result<Self> {
        Self::with(hint, PodOptions::default())
    }

    pub fn with(hint: &str, options: PodOptions) -> Result<Self> {
        SWEPT.call_once(|| {
            if let Err(error) = sweep() {
                eprintln!("sweeping what earlier runs left: {error:#}");
            }
        });
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{hint}", process::id());
        let mount = cgroup2_mount()?;
        let cleanup = Cleanup::register({
            let (name, mount) = (name.clone(), mount.clone());
            move || {
                if let Err(error) = remove(&name, &mount) {
                    eprintln!("removing the pod {name}: {error:#}");
                }
            }
        });
        let pod = Self {
            name,
            options,
            mount,
            _cleanup: cleanup,
        };
        pod.make_cgroups()?;
        pod.make_network()
            .context("building the pod's network (are you root?)")?;
        Ok(pod)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's cgroup, parent of the containers' cgroups.
    pub fn cgroup(&self) -> PathBuf {
        self.mount.join(&self.name)
    }

    pub fn app_cgroup(&self) -> PathBuf {
        self.cgroup().join("app")
    }

    pub fn proxy_cgroup(&self) -> PathBuf {
        self.cgroup().join("proxy")
    }

    /// A cgroup outside the pod's, for a proxy that serves the node (such as ztunnel).
    pub fn node_cgroup(&self) -> PathBuf {
        self.mount.join(format!("{}-node", self.name))
    }

    /// The cgroup of the processes elsewhere in the cluster.
    pub fn remote_cgroup(&self) -> PathBuf {
        self.mount.join(format!("{}-remote", self.name))
    }

    pub fn netns_path(&self) -> PathBuf {
        netns::path(&self.name)
    }

    pub fn remote_netns_path(&self) -> PathBuf {
        netns::path(&self.remote_name())
    }

    /// The application's container: its cgroup, the pod's network, a user of its own.
    pub fn app(&self) -> Placement {
        Placement::new(self.netns_path(), self.app_cgroup()).user(APP_ID, APP_ID)
    }

    /// The sidecar's container, with the sidecar's user.
    pub fn proxy(&self) -> Placement {
        Placement::new(self.netns_path(), self.proxy_cgroup()).user(PROXY_ID, PROXY_ID)
    }

    /// A proxy of the node, as root: sockets in the pod's network, process outside its cgroup.
    pub fn node_proxy(&self) -> Placement {
        Placement::new(self.netns_path(), self.node_cgroup())
    }

    /// Anybody else in the cluster, as root.
    pub fn remote(&self) -> Placement {
        Placement::new(self.remote_netns_path(), self.remote_cgroup())
    }

    /// Gives the pod a further address on eth0.
    pub fn add_address(&self, addr: IpAddr) -> Result<()> {
        ip(Some(&self.name), &address_command("add", addr))
    }

    /// Takes an address from eth0 again.
    pub fn remove_address(&self, addr: IpAddr) -> Result<()> {
        ip(Some(&self.name), &address_command("del", addr))
    }

    /// Gives the pod its second interface, where it does not begin with it.
    pub fn add_net1(&self) -> Result<()> {
        let (pod, remote) = (&self.name, self.remote_name());
        ip(
            None,
            &format!("link add net1 netns {pod} type veth peer name net1 netns {remote}\n"),
        )?;
        ip(Some(&remote), &self.net1_remote_commands())?;
        ip(Some(pod), &self.net1_commands())
    }

    /// Runs commands of iproute2 in the pod's network, one a line, as `ip -batch` reads them.
    pub fn ip(&self, commands: &str) -> Result<()> {
        ip(Some(&self.name), commands)
    }

    /// Sets a sysctl of the pod's network, for example `net.ipv4.tcp_fastopen`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        set_sysctl(&self.netns_path(), key, value)
    }

    fn remote_name(&self) -> String {
        format!("{}-remote", self.name)
    }

    fn make_cgroups(&self) -> Result<()> {
        cgroup::make(&self.cgroup())?;
        cgroup::make(&self.app_cgroup())?;
        cgroup::make(&self.proxy_cgroup())?;
        cgroup::make(&self.node_cgroup())?;
        cgroup::make(&self.remote_cgroup())
    }

    fn make_network(&self) -> Result<()> {
        let (pod, remote) = (&self.name, self.remote_name());
        ip(None, &format!("netns add {pod}\nnetns add {remote}\n"))?;
        for namespace in [self.netns_path(), self.remote_netns_path()] {
            self.set_sysctls(&namespace)?;
        }
        ip(
            None,
            &format!("link add eth0 netns {pod} type veth peer name eth0 netns {remote}\n"),
        )?;
        if self.options.ipv6 {
            // A local route is enough for IPv4 to bind to one of its addresses, not for IPv6.
            set_sysctl(&self.remote_netns_path(), "net.ipv6.ip_nonlocal_bind", "1")?;
        }
        ip(Some(&remote), &self.remote_commands())?;
        ip(Some(pod), &self.pod_commands())?;
        if self.options.net1 {
            self.add_net1().context("adding the second interface")?;
        }
        if self.options.ipv6 {
            netns::await_local(&remote, REMOTE_IP6)?;
            netns::await_local(pod, POD_IP6)?;
        }
        Ok(())
    }

    fn set_sysctls(&self, namespace: &Path) -> Result<()> {
        // As container runtimes do: everybody may ping and listen on low ports. And TCP Fast
        // Open works both ways for those who ask for it.
        set_sysctl(namespace, "net.ipv4.ping_group_range", "0 2147483647")?;
        set_sysctl(namespace, "net.ipv4.ip_unprivileged_port_start", "0")?;
        set_sysctl(namespace, "net.ipv4.tcp_fastopen", "3")?;
        if !self.options.ipv6 {
            set_sysctl(namespace, "net.ipv6.conf.all.disable_ipv6", "1")?;
            set_sysctl(namespace, "net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        Ok(())
    }

    fn pod_commands(&self) -> String {
        let mut commands = format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {POD_IP}/24 dev eth0\n\
             route add default via {REMOTE_IP}\n"
        );
        if self.options.ipv6 {
            commands += &format!(
                "addr add {POD_IP6}/64 dev eth0 nodad\n\
                 route add default via {REMOTE_IP6}\n"
            );
        }
        commands
    }

    fn remote_commands(&self) -> String {
        let mut commands = format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {REMOTE_IP}/24 dev eth0\n"
        );
        // A local route makes every address of the network the remote's own, so that one
        // listener on the wildcard address answers for all services.
        for net in SERVICE_NETS {
            commands += &format!("route add local {net} dev lo\n");
        }
        if self.options.ipv6 {
            commands += &format!(
                "addr add {REMOTE_IP6}/64 dev eth0 nodad\n\
                 route add local {SERVICE_NET6} dev lo\n"
            );
        }
        commands
    }
}

impl Pod {
    fn net1_commands(&self) -> String {
        let mut commands = format!(
            "link set net1 up\n\
             addr add {SECOND_IP}/24 dev net1\n\
             route add {SECOND_NET} via {SECOND_REMOTE_IP}\n"
        );
        if self.options.ipv6 {
            commands += &format!(
                "addr add {SECOND_IP6}/64 dev net1 nodad\n\
                 route add {SECOND_NET6} via {SECOND_REMOTE_IP6}\n"
            );
        }
        commands
    }

    fn net1_remote_commands(&self) -> String {
        let mut commands = format!(
            "link set net1 up\n\
             addr add {SECOND_REMOTE_IP}/24 dev net1\n\
             route add local {SECOND_NET} dev lo\n"
        );
        if self.options.ipv6 {
            commands += &format!(
                "addr add {SECOND_REMOTE_IP6}/64 dev net1 nodad\n\
                 route add local {SECOND_NET6} dev lo\n"
            );
        }
        commands
    }
}

fn address_command(verb: &str, addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(v4) => format!("addr {verb} {v4}/24 dev eth0\n"),
        IpAddr::V6(v6) if verb == "add" => format!("addr add {v6}/64 dev eth0 nodad\n"),
        IpAddr::V6(v6) => format!("addr {verb} {v6}/64 dev eth0\n"),
    }
}

fn set_sysctl(namespace: &Path, key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
    netns::inside(namespace, || fs::write(&path, value))?
        .with_context(|| format!("writing {value:?} to {}", path.display()))
}

fn remove(name: &str, mount: &Path) -> Result<()> {
    // Every step is tried, whatever became of the ones before.
    let cgroups =
        ["", "-node", "-remote"].map(|end| cgroup::remove(&mount.join(format!("{name}{end}"))));
    let namespaces = ["", "-remote"].map(|end| netns::delete(&format!("{name}{end}")));
    cgroups.into_iter().chain(namespaces).collect()
}

/// Removes the pods of processes that have ended without doing so.
pub fn sweep() -> Result<()> {
    let mount = cgroup2_mount()?;
    for name in netns::names().iter().filter(|name| is_orphan(name)) {
        netns::delete(name)?;
    }
    let entries = mount
        .read_dir()
        .with_context(|| format!("listing {}", mount.display()))?;
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_orphan) {
            cgroup::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn is_orphan(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next())
        .and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_orphans() {
        let ours = format!("{PREFIX}{}-0-x", process::id());
        assert!(!is_orphan(&ours));
        // Above the largest pid that Linux allows.
        assert!(is_orphan("sidecar-lab-4194305-0-x"));
        assert!(is_orphan("sidecar-lab-4194305-0-x-remote"));
        assert!(!is_orphan("sidecar-lab-"));
        assert!(!is_orphan("sidecar-lab-x-0"));
        assert!(!is_orphan("something-4194305-0"));
    }
}
