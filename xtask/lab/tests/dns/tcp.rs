//! Queries over TCP: as any other connection, to another port of the proxy.

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions, Errno,
    pod::{POD_IP, PROXY_ID},
};

use crate::{
    ALL, Dns, KINDS, LOCALHOST, V4, V6,
    support::{Front, Rig, connect4, connect6, sk_lookup, to},
};

#[test]
fn queries_over_tcp_go_to_the_agent() -> Result<()> {
    let dns = Dns::new("dns-tcp", &ALL)?;
    for kind in KINDS {
        let options = ConnectOptions {
            mapped: kind.ipv6 && kind.pod.is_ipv4(),
            ..to(kind.server(0))
        };
        let ends = dns
            .rig
            .delivered((kind.connect, "dns", 1), &dns.rig.app, options, &dns.tcp);
        assert_eq!(ends.server.peer.ip(), kind.pod);
        assert_eq!(ends.server.local.port(), 15053);
    }
    // Other ports go where they always go.
    let Rig {
        app, proxy, remote, ..
    } = &dns.rig;
    let own = (POD_IP, 8080);
    dns.rig
        .delivered(connect4("9"), app, to("10.96.0.10:80"), &dns.rig.outbound);
    dns.rig
        .delivered(connect4("3"), app, to(own), &dns.rig.application);
    dns.rig
        .delivered(connect4("2"), proxy, to(own), &dns.rig.inbound);
    dns.rig
        .delivered(connect4("4"), proxy, to("10.96.0.10:80"), &dns.rig.service);
    dns.rig
        .delivered(sk_lookup("inbound-all"), remote, to(own), &dns.rig.inbound);
    Ok(())
}

#[test]
fn an_agent_that_listens_already_is_found() -> Result<()> {
    let mut rig = Rig::new("dns-late")?;
    let front = Front::on(&rig.proxy, LOCALHOST, 15053)?;
    rig.load(&ALL)?;
    rig.delivered(connect4("dns"), &rig.app, to(V4.server(0)), &front);
    rig.delivered(connect6("dns"), &rig.app, to(V6.server(0)), &front);
    Ok(())
}

#[test]
fn without_the_agent_queries_over_tcp_are_refused() -> Result<()> {
    let mut rig = Rig::new("dns-none")?;
    rig.load(&ALL)?;
    let _real = Front::outside(&rig.remote, 53)?;
    for kind in [V4, V6] {
        let moved = [(kind.connect, "dns", 1), sk_lookup("refusal:no-listener")];
        let refused = rig.expect(&moved, || rig.app.connect(kind.server(0)));
        assert_eq!(refused.unwrap_err().errno(), Errno::ECONNREFUSED);
    }
    Ok(())
}

#[test]
fn the_agents_own_queries_pass() -> Result<()> {
    let dns = Dns::new("dns-own", &ALL)?;
    let by_gid = Agent::spawn(&dns.rig.pod.app().user(1000, PROXY_ID))?;
    for kind in [V4, V6] {
        for (agent, rule) in [(&dns.rig.proxy, "4"), (&by_gid, "7")] {
            let server = to(kind.server(0));
            dns.rig
                .delivered((kind.connect, rule, 1), agent, server, &dns.real_tcp);
        }
    }
    Ok(())
}

/// Rules 2 and 3 leave queries to addresses of the pod to the rules behind them.
#[test]
fn queries_to_the_pod_itself_go_to_the_agent() -> Result<()> {
    let dns = Dns::new("dns-self", &ALL)?;
    for server in ["10.244.0.5:53", "127.0.0.1:53", "127.0.0.53:53"] {
        dns.rig
            .delivered(connect4("dns"), &dns.rig.app, to(server), &dns.tcp);
    }
    for server in ["[fd00:10:244::5]:53", "[::1]:53"] {
        dns.rig
            .delivered(connect6("dns"), &dns.rig.app, to(server), &dns.tcp);
    }
    Ok(())
}
