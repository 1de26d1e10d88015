//! What tells the proxy: its ports and its owners.

use anyhow::Result;
use sidecar_lab::{
    Agent,
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
