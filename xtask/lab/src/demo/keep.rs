//! `--keep`: everything stays for somebody to look around, until Ctrl-C.

use std::{
    env,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{
    step,
    topology::{APP, ISTIOD, Lab, OWN_SERVICE, SERVICE},
};
use crate::{
    Cleanup,
    loader::binary,
    pod::{APP_ID, PROXY_ID},
    process::program,
};

const POLL: Duration = Duration::from_millis(100);
/// Longer than anybody looks.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long a loader may take to detach.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How the demo ends at a signal. Made before everything else, so that its action comes last: by
/// then a thread of [`Cleanup`] has removed whatever was registered.
///
/// Meanwhile the main thread runs into errors, because its helpers are gone, and drops guards of
/// its own. Neither thread may end the process before the other is done.
#[derive(Debug)]
pub(super) struct Ending {
    state: Arc<State>,
    _last: Cleanup,
}

#[derive(Debug)]
struct State {
    signalled: Arc<AtomicBool>,
    /// Whether the main thread has nothing left to remove.
    settled: AtomicBool,
    /// The exit code of a demo that waits for Ctrl-C; before that, a signal ends the process as
    /// signals do.
    code: AtomicU8,
}

const NOT_WAITING: u8 = 255;

impl Ending {
    pub(super) fn prepare() -> Result<Self> {
        let state = Arc::new(State {
            signalled: Arc::default(),
            settled: AtomicBool::new(false),
            code: AtomicU8::new(NOT_WAITING),
        });
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, state.signalled.clone())
                .context("watching for Ctrl-C")?;
        }
        let last = Cleanup::register({
            let state = state.clone();
            move || state.end()
        });
        Ok(Self { state, _last: last })
    }

    /// Everything of the main thread's is removed. Returns unless a signal came: then the process
    /// ends elsewhere.
    pub(super) fn settle(&self) {
        self.state.settled.store(true, Ordering::SeqCst);
        if self.state.signalled.load(Ordering::SeqCst) {
            loop {
                thread::park();
            }
        }
    }

    /// From now on a signal is the good end.
    fn wait_with(&self, code: u8) {
        self.state.code.store(code, Ordering::SeqCst);
    }
}

impl State {
    fn end(&self) {
        let code = self.code.load(Ordering::SeqCst);
        let deadline = Instant::now() + STOP_PATIENCE;
        while self.signalled.load(Ordering::SeqCst)
            && !self.settled.load(Ordering::SeqCst)
            && Instant::now() < deadline
        {
            thread::sleep(POLL);
        }
        if code != NOT_WAITING {
            step("everything is removed");
            std::process::exit(code.into());
        }
    }
}

/// Says how to look around, then waits until the loader ends, by Ctrl-C or by itself.
pub(super) fn wait(mut lab: Lab, ending: &Ending, code: u8, live_table: bool) -> Result<()> {
    lab.attach(&[])?;
    let metrics = lab
        .loader
        .as_ref()
        .context("no loader is attached")?
        .metrics_addr();
    eprint!("{}", guide(&lab, metrics, live_table)?);
    ending.wait_with(code);
    // Ctrl-C reaches the loader as well, and its end is a good one then.
    if live_table {
        lab.detach()?;
        let loader = LiveLoader::start(&lab.pod.cgroup(), metrics)?;
        loader.wait()?;
    } else {
        let loader = lab.loader.as_ref().context("no loader is attached")?;
        // Its last event, or an error when it ends without one: either way it is over.
        loader
            .wait_for_event("final", FOREVER)
            .context("the loader has ended")?;
    }
    Ok(())
}

fn guide(lab: &Lab, metrics: SocketAddr, live_table: bool) -> Result<String> {
    let pod = &lab.pod;
    let own = env::current_exe().context("finding this program's own path")?;
    let exec = program("lab-exec")?;
    let enter = |netns: &Path, cgroup: &Path, id: u32| {
        let (exec, netns, cgroup) = (exec.display(), netns.display(), cgroup.display());
        format!(
            "sudo {exec} \\\n      --netns {netns} \\\n      --cgroup {cgroup} \\\n      \
             --uid {id} --gid {id} -- bash"
        )
    };
    let netns = pod.netns_path();
    let app = enter(&netns, &pod.app_cgroup(), APP_ID);
    let proxy = enter(&netns, &pod.proxy_cgroup(), PROXY_ID);
    let remote = enter(&pod.remote_netns_path(), &pod.remote_cgroup(), 0);
    let table = if live_table {
        "The loader's live table follows below; its counters start again from zero."
    } else {
        "On a terminal with --output text, the loader would show its live table of rules here."
    };
    Ok(format!(
        "
Everything keeps running ({own}, process {pid}; proxy: process {proxy_pid}).

  A shell of the application (what it connects to is redirected):
    {app}
  A shell of the proxy (rule 4 passes whatever it does):
    {proxy}
  A shell elsewhere in the cluster:
    {remote}

  In such a shell (every server sends back what it is sent):
    exec 3<>/dev/tcp/{service}; echo hello >&3; head -1 <&3; ss -tn; exec 3>&-
    others: {own_service} (the own service), {istiod} (Istiod), {app_addr} (the app)
    ss shows the destination the kernel really uses: a number in 127.128.0.0/10, port 15001

  From outside, as root:
    curl -s http://{metrics}/metrics | grep '^[^#].*decisions' | grep -v ' 0$'
      every rule that has decided something
    ip -n {name} route show table local
      the route of the redirect: 127.128.0.0/10
    nsenter --net={netns} ss -tlnp
      who listens in the pod (the same with iptables-save: no rule at all)
    bpftool cgroup tree {cgroup}
    bpftool link list

  {table}
  Stop with Ctrl-C (or kill {pid}): everything is removed.

",
        own = own.display(),
        pid = std::process::id(),
        proxy_pid = lab.sidecar.pid(),
        service = slashed(SERVICE),
        own_service = slashed(OWN_SERVICE),
        istiod = slashed(ISTIOD),
        app_addr = slashed(APP),
        name = pod.name(),
        netns = netns.display(),
        cgroup = pod.cgroup().display(),
    ))
}

/// As bash's /dev/tcp wants it.
fn slashed(addr: SocketAddr) -> String {
    format!("{}/{}", addr.ip(), addr.port())
}

/// A loader that has the terminal for its table.
struct LiveLoader {
    process: Arc<Mutex<Child>>,
    _cleanup: Cleanup,
}

impl LiveLoader {
    fn start(cgroup: &Path, metrics: SocketAddr) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.arg("--cgroup").arg(cgroup);
        command.args(["--metrics-addr", &metrics.to_string(), "--output", "table"]);
        let process = command
            .stdin(Stdio::null())
            .spawn()
            .context("starting the loader")?;
        let process = Arc::new(Mutex::new(process));
        let cleanup = Cleanup::register({
            let process = process.clone();
            move || {
                if let Err(error) = end(&process) {
                    eprintln!("ending the loader: {error:#}");
                }
            }
        });
        Ok(Self {
            process,
            _cleanup: cleanup,
        })
    }

    fn wait(&self) -> Result<()> {
        loop {
            if let Some(status) = lock(&self.process)
                .try_wait()
                .context("asking after the loader")?
            {
                ensure!(
                    status.success(),
                    "the loader has ended with {status}, see above"
                );
                return Ok(());
            }
            thread::sleep(POLL);
        }
    }
}

/// SIGTERM, and SIGKILL if that does not help.
fn end(process: &Mutex<Child>) -> Result<()> {
    let mut process = lock(process);
    let deadline = Instant::now() + STOP_PATIENCE;
    if process.try_wait()?.is_none() {
        kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
    }
    while process.try_wait()?.is_none() {
        if Instant::now() > deadline {
            process.kill()?;
            process.wait()?;
            bail!("it did not end within {STOP_PATIENCE:?} and was killed");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn lock(process: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}
