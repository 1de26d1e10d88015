//! Every flag of istio-iptables that the loader knows, by what it does to real connections. Needs
//! root; leaves nothing behind.

mod inbound;
mod ports;
mod proxy;
mod ranges;
#[path = "../support/mod.rs"]
mod support;

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions, Loader,
    pod::{APP_ID, POD_IP, POD_IP6},
};
use support::{Front, Rig, connect4, connect6, sk_lookup, to};

const SERVICE: &str = "10.96.0.10:80";

const SERVICE6: &str = "[fd00:96::10]:80";

const OUTSIDE: &str = "203.0.113.9:80";

fn own(port: u16) -> ConnectOptions {
    to((POD_IP, port))
}

fn own6(port: u16) -> ConnectOptions {
    to((POD_IP6, port))
}

#[test]
fn dual_stack() -> Result<()> {
    let mut rig = Rig::new("dual")?;
    for args in [&["--dual-stack"][..], &["--dual-stack=true"]] {
        rig.load(args)?;
        rig.delivered(connect6("9"), &rig.app, to(SERVICE6), &rig.outbound);
        rig.delivered(
            sk_lookup("inbound-all"),
            &rig.remote,
            own6(8080),
            &rig.inbound,
        );
    }
    for args in [&[][..], &["--dual-stack=false"]] {
        rig.load(args)?;
        rig.delivered(
            connect6("no-ipv6-rules"),
            &rig.app,
            to(SERVICE6),
            &rig.service,
        );
        let no_rules = sk_lookup("no-ipv6-rules");
        rig.delivered(no_rules, &rig.remote, own6(8080), &rig.application);
        rig.delivered(connect4("9"), &rig.app, to(SERVICE), &rig.outbound);
    }
    // A pod whose first address is an IPv6 one has both families without being told.
    rig.pod.remove_address(POD_IP.into())?;
    rig.load(&[])?;
    rig.delivered(connect6("9"), &rig.app, to(SERVICE6), &rig.outbound);
    rig.delivered(
        connect4("3"),
        &rig.app,
        to("127.0.0.1:8080"),
        &rig.application,
    );
    Ok(())
}

const ENVIRONMENT: [(&str, &str); 12] = [
    // Istio shows it in its help and does not read it.
    ("ENVOY_PORT", "15101"),
    ("INBOUND_CAPTURE_PORT", "15106"),
    ("INBOUND_TUNNEL_PORT", "15108"),
    ("PROXY_UID", "2000"),
    ("PROXY_GID", "3000"),
    ("ISTIO_INBOUND_PORTS", "*"),
    ("ISTIO_LOCAL_EXCLUDE_PORTS", "8080"),
    ("ISTIO_SERVICE_CIDR", "10.96.0.0/16,fd00:96::/64"),
    ("ISTIO_SERVICE_EXCLUDE_CIDR", "10.96.5.0/24"),
    ("ISTIO_OUTBOUND_PORTS", "8443"),
    ("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "5432"),
    ("ISTIO_DUAL_STACK", "true"),
];

#[test]
fn environment() -> Result<()> {
    let mut rig = Rig::new("env")?;
    let agent = |uid, gid| Agent::spawn(&rig.pod.proxy().user(uid, gid));
    let (by_uid, by_gid) = (agent(2000, APP_ID)?, agent(APP_ID, 3000)?);
    let other_inbound = Front::open(&rig.proxy, 15106)?;
    let tunnel = Front::open(&rig.proxy, 15108)?;
    let database = Front::outside(&rig.remote, 5432)?;
    rig.loader = Some(Loader::start_with_env(&rig.pod, &[], &ENVIRONMENT)?);
    let Rig {
        app,
        remote,
        outbound,
        application,
        service,
        ..
    } = &rig;
    rig.delivered(sk_lookup("inbound-all"), remote, own(8081), &other_inbound);
    rig.delivered(sk_lookup("inbound-tunnel"), remote, own(15108), &tunnel);
    rig.delivered(
        sk_lookup("inbound-excluded-port"),
        remote,
        own(8080),
        application,
    );
    rig.delivered(connect4("2"), &by_uid, own(8080), &other_inbound);
    rig.delivered(connect4("4"), &by_uid, to(SERVICE), service);
    rig.delivered(connect4("7"), &by_gid, to(SERVICE), service);
    rig.delivered(connect4("included-range"), app, to(SERVICE), outbound);
    rig.delivered(connect6("included-range"), app, to(SERVICE6), outbound);
    rig.delivered(connect4("end-of-chain"), app, to(OUTSIDE), service);
    rig.delivered(connect4("excluded-range"), app, to("10.96.5.1:80"), service);
    rig.delivered(
        connect4("included-port"),
        app,
        to("203.0.113.9:8443"),
        outbound,
    );
    rig.delivered(
        connect4("excluded-port"),
        app,
        to("10.96.0.10:5432"),
        &database,
    );

    // The command line wins; DUAL_STACK is the first name, ISTIO_DUAL_STACK the one that counts.
    let args = ["-i", "*", "-d", "", "-u", "1337"];
    let env = [("DUAL_STACK", "true"), ("ISTIO_DUAL_STACK", "false")];
    let env: Vec<_> = ENVIRONMENT
        .into_iter()
        .filter(|(name, _)| *name != env[1].0)
        .chain(env)
        .collect();
    rig.loader = None;
    rig.loader = Some(Loader::start_with_env(&rig.pod, &args, &env)?);
    let Rig {
        app,
        proxy,
        remote,
        outbound,
        service,
        ..
    } = &rig;
    rig.delivered(connect4("9"), app, to(OUTSIDE), outbound);
    rig.delivered(connect6("no-ipv6-rules"), app, to(SERVICE6), service);
    rig.delivered(sk_lookup("inbound-all"), remote, own(8080), &other_inbound);
    rig.delivered(connect4("4"), proxy, to(SERVICE), service);

    rig.loader = None;
    rig.loader = Some(Loader::start_with_env(
        &rig.pod,
        &[],
        &[("DUAL_STACK", "true")],
    )?);
    rig.delivered(connect6("9"), &rig.app, to(SERVICE6), &rig.outbound);
    // Empty is not absent.
    rig.loader = None;
    let off = [("ISTIO_SERVICE_CIDR", ""), ("ISTIO_INBOUND_PORTS", "")];
    rig.loader = Some(Loader::start_with_env(&rig.pod, &[], &off)?);
    rig.delivered(
        connect4("end-of-chain"),
        &rig.app,
        to(SERVICE),
        &rig.service,
    );
    let inbound_off = sk_lookup("inbound-off");
    rig.delivered(inbound_off, &rig.remote, own(8080), &rig.application);
    Ok(())
}
