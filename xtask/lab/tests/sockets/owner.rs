//! Whose socket it is: the same cases in a pod with the loader and in one with Istio's iptables
//! rules, and the same rule must have counted.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::{fs, thread, time::Duration};

use sidecar_lab::{
    Agent, Child, ConnectOptions, Loader, Placement, Pod,
    iptables::{Backend, IstioRules, OUTPUT_CHAIN, install_istio_rules},
    pod::PROXY_ID,
    process,
};

use crate::{SERVICE, support::Rig, with};

const OWN_POD: &str = "10.244.0.5:8080";
const USER: u32 = 1000;

/// A connection by a process that begins as root.
struct Case {
    name: &'static str,
    to: &'static str,
    /// What it does to its credentials before it makes the socket …
    before: fn(&Agent),
    /// … and with the socket at hand: then it connects, disconnects, does this, and connects again.
    between: Option<fn(&Agent)>,
    how: fn(&mut ConnectOptions),
}

const ROOT: Case = Case {
    name: "root",
    to: SERVICE,
    before: |_| {},
    between: None,
    how: |_| {},
};

const SET_UID: fn(&Agent) = |agent| agent.become_user(PROXY_ID, PROXY_ID).unwrap();
const SET_FSUID: fn(&Agent) = |agent| agent.set_fs_uid(PROXY_ID).unwrap();

const CASES: &[Case] = &[
    ROOT,
    Case {
        name: "setuid before socket()",
        before: SET_UID,
        ..ROOT
    },
    Case {
        name: "setuid after socket()",
        between: Some(SET_UID),
        ..ROOT
    },
    Case {
        name: "effective uid",
        before: |agent| agent.set_effective_uid(PROXY_ID).unwrap(),
        ..ROOT
    },
    Case {
        name: "uid without the gid",
        before: |agent| agent.become_user(PROXY_ID, USER).unwrap(),
        ..ROOT
    },
    Case {
        name: "setfsuid before socket()",
        before: SET_FSUID,
        ..ROOT
    },
    Case {
        name: "setfsuid around socket()",
        before: SET_FSUID,
        between: Some(|agent| agent.set_fs_uid(0).unwrap()),
        ..ROOT
    },
    Case {
        name: "setfsgid before socket()",
        before: |agent| agent.set_fs_gid(PROXY_ID).unwrap(),
        ..ROOT
    },
    Case {
        name: "setfsuid to the own pod",
        to: OWN_POD,
        before: SET_FSUID,
        ..ROOT
    },
    Case {
        name: "MPTCP",
        before: SET_FSUID,
        how: |options| options.mptcp = true,
        ..ROOT
    },
    Case {
        name: "io_uring",
        before: SET_FSUID,
        how: |options| options.io_uring = true,
        ..ROOT
    },
];

fn connect(case: &Case, agent: &Agent) {
    (case.before)(agent);
    let mut conn = agent.connect_with(with(case.to, case.how)).unwrap();
    if let Some(between) = case.between {
        conn.disconnect().unwrap();
        between(agent);
        conn.reconnect(case.to).unwrap();
    }
}

/// How often each of the nine rules counted while the case ran.
type Counted = [u64; 9];

fn run(case: &Case, rig: &Rig, counted: impl Fn() -> Counted) -> Counted {
    let agent = Agent::spawn(&rig.pod.app().user(0, 0)).unwrap();
    let before = counted();
    connect(case, &agent);
    let after = counted();
    std::array::from_fn(|rule| after[rule] - before[rule])
}

fn by_loader(rig: &Rig) -> Counted {
    let counters = rig.counters().unwrap();
    std::array::from_fn(|rule| counters.get("connect4", &(rule + 1).to_string()))
}

fn by_iptables(rules: &IstioRules) -> Counted {
    rules.counters(OUTPUT_CHAIN).unwrap().try_into().unwrap()
}

#[test]
fn the_owner_is_the_one_iptables_sees() {
    let mut ours = Rig::new("owner").unwrap();
    ours.load(&[]).unwrap();
    let theirs = Rig::on(Pod::new("owner-iptables").unwrap()).unwrap();
    let rules = install_istio_rules(&theirs.pod, Backend::Nft, false).unwrap();
    for case in CASES {
        let expected = run(case, &theirs, || by_iptables(&rules));
        assert_ne!(expected, [0; 9], "{}: iptables counted nothing", case.name);
        let counted = run(case, &ours, || by_loader(&ours));
        assert_eq!(
            counted, expected,
            "{}: rules 1 to 9, ours and iptables'",
            case.name
        );
    }
}

/// A process in a user and a network namespace of its own, in which the ids from 0 on are those
/// from `MAPPED` on outside, as with Kubernetes' `hostUsers: false`.
fn own_user_namespace(pod: &Pod) -> Child {
    let place = Placement {
        cgroup: Some(pod.app_cgroup()),
        ..Placement::default()
    };
    let holder = place
        .spawn("unshare", ["--user", "--net", "sleep", "60"])
        .unwrap();
    let pid = holder.pid();
    // Until unshare has made the namespaces, it is still in those of this process.
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    for _ in 0..500 {
        if fs::read_link(format!("/proc/{pid}/ns/user")).unwrap() != own {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    for kind in ["uid", "gid"] {
        fs::write(
            format!("/proc/{pid}/{kind}_map"),
            format!("0 {MAPPED} 65536"),
        )
        .unwrap();
    }
    holder
}

const MAPPED: u32 = 100_000;

/// Connects as this user of the namespace; there is no route, so whatever passes fails later.
fn connect_inside(pod: &Pod, holder: &Child, uid: u32) {
    let place = Placement {
        cgroup: Some(pod.app_cgroup()),
        ..Placement::default()
    };
    let (pid, id) = (holder.pid().to_string(), uid.to_string());
    let enter = ["-t", &pid, "--user", "--net", "-S", &id, "-G", &id, "--"];
    let connect = ["bash", "-c", "exec 3<>/dev/tcp/10.96.0.10/80"];
    let child = place
        .spawn("nsenter", enter.into_iter().chain(connect))
        .unwrap();
    child.wait(Duration::from_secs(5)).unwrap();
}

#[test]
fn ids_are_those_of_the_pod_s_user_namespace() {
    let pod = Pod::new("userns").unwrap();
    let holder = own_user_namespace(&pod);
    let link = [
        "-t",
        &holder.pid().to_string(),
        "--user",
        "--net",
        "ip",
        "link",
        "set",
        "lo",
        "up",
    ];
    process::run("nsenter", link, "").unwrap();
    let netns = holder.pid().to_string();
    let loader = Loader::start(&pod, &["--netns", &netns]).unwrap();
    let counted = |uid| {
        let before = loader.counters().unwrap();
        connect_inside(&pod, &holder, uid);
        (before, loader.counters().unwrap())
    };
    let (before, after) = counted(PROXY_ID);
    after
        .expect_delta(&before, &[("connect4", "4", 1)])
        .unwrap();
    let (before, after) = counted(USER);
    // Redirected, and nobody listens.
    let redirected = [
        ("connect4", "9", 1),
        ("sk_lookup", "refusal:no-listener", 1),
    ];
    after.expect_delta(&before, &redirected).unwrap();
}
