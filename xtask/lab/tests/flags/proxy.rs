//! What tells the proxy: its ports and its owners.

use std::fs;

use anyhow::{Context as _, Result};
use sidecar_lab::{
    Agent, Level,
    pod::{APP_ID, PROXY_ID},
};

use crate::{
    SERVICE, SERVICE6, own, own6,
    support::{Front, Rig, connect4, connect6, sk_lookup, to},
};

#[test]
fn envoy_port() -> Result<()> {
    let mut rig = Rig::new("p")?;
    let other = Front::open(&rig.proxy, 15101)?;
    for flag in ["-p", "--envoy-port"] {
        rig.load(&[flag, "15101", "--dual-stack"])?;
        rig.delivered(connect4("9"), &rig.app, to(SERVICE), &other);
        rig.delivered(connect6("9"), &rig.app, to(SERVICE6), &other);
        rig.delivered(
            sk_lookup("inbound-all"),
            &rig.remote,
            own(8080),
            &rig.inbound,
        );
    }
    Ok(())
}

#[test]
fn inbound_capture_port() -> Result<()> {
    let mut rig = Rig::new("z")?;
    let other = Front::open(&rig.proxy, 15106)?;
    for flag in ["-z", "--inbound-capture-port"] {
        rig.load(&[flag, "15106", "--dual-stack"])?;
        for (hook, own) in [("connect4", own(8080)), ("connect6", own6(8080))] {
            rig.delivered(sk_lookup("inbound-all"), &rig.remote, own.clone(), &other);
            rig.delivered((hook, "2", 1), &rig.proxy, own, &other);
        }
        rig.delivered(connect4("9"), &rig.app, to(SERVICE), &rig.outbound);
    }
    Ok(())
}

#[test]
fn inbound_tunnel_port() -> Result<()> {
    let mut rig = Rig::new("e")?;
    let other = Front::open(&rig.proxy, 15108)?;
    for flag in ["-e", "--inbound-tunnel-port"] {
        rig.load(&[flag, "15108"])?;
        rig.delivered(sk_lookup("inbound-tunnel"), &rig.remote, own(15108), &other);
        rig.delivered(
            sk_lookup("inbound-all"),
            &rig.remote,
            own(15008),
            &rig.inbound,
        );
        rig.delivered(connect4("4"), &rig.proxy, own(15108), &other);
        rig.delivered(connect4("2"), &rig.proxy, own(15008), &rig.inbound);
    }
    Ok(())
}

#[test]
fn proxy_uid() -> Result<()> {
    let mut rig = Rig::new("u")?;
    let agent = |uid, gid| Agent::spawn(&rig.pod.proxy().user(uid, gid));
    let (first, second) = (agent(1_000_660_000, APP_ID)?, agent(2001, APP_ID)?);
    let by_gid = agent(APP_ID, 2001)?;
    for flag in ["-u", "--proxy-uid"] {
        rig.load(&[flag, "1000660000,2001,"])?;
        let Rig {
            app,
            proxy,
            service,
            outbound,
            inbound,
            application,
            ..
        } = &rig;
        rig.delivered(connect4("4"), &first, to(SERVICE), service);
        rig.delivered(connect4("4"), &second, to(SERVICE), service);
        rig.delivered(connect4("9"), app, to(SERVICE), outbound);
        // 1337 is nobody in particular now.
        rig.delivered(connect4("9"), proxy, to(SERVICE), outbound);
        // Only the first uid comes back in: the first's third rule takes the second's local traffic.
        rig.delivered(connect4("2"), &first, own(8080), inbound);
        rig.delivered(connect4("3"), &second, own(8080), application);
        // The gids are the uids unless told otherwise.
        rig.delivered(connect4("7"), &by_gid, to(SERVICE), service);
    }
    Ok(())
}

#[test]
fn proxy_gid() -> Result<()> {
    let mut rig = Rig::new("g")?;
    let agent = |uid, gid| Agent::spawn(&rig.pod.proxy().user(uid, gid));
    let (first, second) = (agent(APP_ID, 3000)?, agent(APP_ID, 3001)?);
    let (by_uid, by_old_gid) = (agent(PROXY_ID, APP_ID)?, agent(APP_ID, PROXY_ID)?);
    for flag in ["-g", "--proxy-gid"] {
        rig.load(&[flag, "3000,3001"])?;
        let Rig {
            service,
            outbound,
            application,
            ..
        } = &rig;
        rig.delivered(connect4("7"), &first, to(SERVICE), service);
        rig.delivered(connect4("7"), &second, to(SERVICE), service);
        rig.delivered(connect4("4"), &by_uid, to(SERVICE), service);
        rig.delivered(connect4("9"), &by_old_gid, to(SERVICE), outbound);
        rig.delivered(connect4("3"), &first, own(8080), application);
    }
    Ok(())
}

#[test]
fn proxy_cgroup_in_the_pod() -> Result<()> {
    let mut rig = Rig::new("container")?;
    let cgroup = rig.pod.proxy_cgroup();
    // Goes with the pod.
    let below = cgroup.join("below");
    fs::create_dir(&below)?;
    let impostor = Agent::spawn(&rig.pod.app().user(PROXY_ID, PROXY_ID))?;
    let by_gid = Agent::spawn(&rig.pod.app().user(APP_ID, PROXY_ID))?;
    let worker = Agent::spawn(&rig.pod.proxy().in_cgroup(below))?;
    let other_user = Agent::spawn(&rig.pod.proxy().user(APP_ID, APP_ID))?;

    rig.load(&["--dual-stack"])?;
    rig.delivered(connect4("4"), &impostor, to(SERVICE), &rig.service);

    let cgroup = cgroup.to_str().context("not UTF-8")?;
    rig.load(&["--dual-stack", "--proxy-cgroup", cgroup])?;
    let Rig {
        service,
        outbound,
        inbound,
        application,
        ..
    } = &rig;
    for agent in [&impostor, &by_gid] {
        rig.delivered(connect4("9"), agent, to(SERVICE), outbound);
        rig.delivered(connect6("9"), agent, to(SERVICE6), outbound);
        // Questions of the application for an original destination are not looked at any more.
        let client = rig.expect(&[connect4("3")], || agent.connect_with(own(8080)))?;
        let server = application.accept(&client);
        assert!(server.original_dst(Level::Ip, 16).is_err());
    }
    for agent in [&rig.proxy, &worker] {
        rig.delivered(connect4("4"), agent, to(SERVICE), service);
        rig.delivered(connect6("4"), agent, to(SERVICE6), service);
        rig.delivered(connect4("2"), agent, own(8080), inbound);
    }
    // The cgroup alone makes nobody the proxy.
    rig.delivered(connect4("9"), &other_user, to(SERVICE), outbound);
    rig.delivered(sk_lookup("inbound-all"), &rig.remote, own(8080), inbound);
    Ok(())
}
