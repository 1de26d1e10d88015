//! The kinds of traffic: what is done, and what each hop is expected to be counted under.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::{
    report::{
        Decision, Fact, Hop, INBOUND, Kind, PASSES_INBOUND, Report, Section, Sight, Want,
        attribute, moved,
    },
    sidecar::Proxied,
    step,
    topology::{
        ADMIN, AGENT_METRICS, APP, APP_METRICS, ISTIOD, Lab, OTHER_ID, OWN_SERVICE, PROXY_METRICS,
        SERVICE, ask, seen_since,
    },
};
use crate::{
    Agent,
    pod::{POD_IP, REMOTE_IP},
    proxy::INBOUND_SOURCE,
};

const POD: Want = Want::From(IpAddr::V4(POD_IP));
const REMOTE: Want = Want::From(IpAddr::V4(REMOTE_IP));
const LOCALHOST: Want = Want::From(IpAddr::V4(Ipv4Addr::LOCALHOST));
/// What the proxy binds when it delivers to the application.
const DELIVERY: Want = Want::From(IpAddr::V4(INBOUND_SOURCE));

/// With a loopback address among the captured ranges Istio leaves rules 3 and 6 out.
const WITH_LOOPBACK: [&str; 2] = ["-i", "127.0.0.1/32,10.0.0.0/8"];

/// Attaches the loader and drives every kind, under all circumstances.
pub(super) fn all(lab: &mut Lab) -> Result<Report> {
    let mut sections = Vec::new();
    lab.attach(&[])?;
    step("driving the six kinds of traffic");
    sections.push(Section {
        title: "The six kinds",
        about: "A default installation: proxy and agent both run as user 1337.".to_owned(),
        loader_arguments: Vec::new(),
        kinds: vec![
            remote_to_app(lab)?,
            app_to_remote(lab)?,
            scrapes(lab)?,
            app_to_own_service(lab)?,
            own(5, &lab.agent, lab)?,
            own(6, &lab.agent, lab)?,
        ],
    });
    step("the same with the agent under another user");
    sections.push(Section {
        title: "The agent under another user",
        about: format!(
            "As above, but the agent runs as user {OTHER_ID}, so that rule 4 is not for it."
        ),
        loader_arguments: Vec::new(),
        kinds: [3, 5, 6]
            .into_iter()
            .map(|number| own(number, &lab.other_agent, lab))
            .collect::<Result<_>>()?,
    });
    lab.attach(&WITH_LOOPBACK)?;
    step("and once more with a loopback address among the captured ranges");
    sections.push(Section {
        title: "The agent under another user, loopback captured",
        about: format!(
            "The agent runs as user {OTHER_ID}, and Istio is told to capture 127.0.0.1 too."
        ),
        loader_arguments: WITH_LOOPBACK.to_vec(),
        kinds: vec![localhost_without_rule_3(lab)?],
    });
    lab.detach()?;
    Ok(Report::new(lab.sidecar.describe(), sections))
}

fn remote_to_app(lab: &Lab) -> Result<Kind> {
    let kind = describe(
        1,
        "remote pod -> own pod",
        "Another pod calls the application. The proxy sees it first, then delivers it.",
        vec![
            hop("remote pod", APP, inbound("inbound-all"), INBOUND),
            hop("proxy", APP, pass("1"), "rule 1"),
        ],
        None,
    );
    watch(lab, kind, || {
        let (app, proxy) = (lab.app.echo_log()?.len(), lab.sidecar.mark()?);
        let conn = ask(&lab.remote, APP)?;
        let client = client("remote pod", conn.peer, APP, conn.local, REMOTE);
        let server = seen_since(&lab.app, app)?;
        conn.close();
        let mut seen = vec![client];
        for it in lab.sidecar.since(proxy, 1)? {
            seen.push(proxied(&it, (REMOTE, APP, APP, DELIVERY)));
        }
        seen.push(served("app", server.peer, DELIVERY));
        Ok(seen)
    })
}

fn app_to_remote(lab: &Lab) -> Result<Kind> {
    let kind = describe(
        2,
        "own pod -> remote pod",
        "The application calls a service elsewhere. It is taken to the proxy, which calls it.",
        vec![
            hop("app", SERVICE, outbound("9"), "rule 9 -> 15001"),
            hop("proxy", SERVICE, pass("4"), "rule 4"),
        ],
        None,
    );
    watch(lab, kind, || {
        let (remote, proxy) = (lab.remote.echo_log()?.len(), lab.sidecar.mark()?);
        let conn = ask(&lab.app, SERVICE)?;
        let client = client("app", conn.peer, SERVICE, conn.local, POD);
        let server = seen_since(&lab.remote, remote)?;
        conn.close();
        let mut seen = vec![client];
        for it in lab.sidecar.since(proxy, 1)? {
            seen.push(proxied(&it, (POD, SERVICE, SERVICE, POD)));
        }
        seen.push(served("remote pod", server.peer, POD));
        Ok(seen)
    })
}

fn scrapes(lab: &Lab) -> Result<Kind> {
    let excluded = || Decision::new("sk_lookup", "inbound-excluded-port", "pass");
    let kind = describe(
        3,
        "Prometheus -> own pod",
        "Prometheus asks agent and proxy for metrics; the agent asks the application.",
        vec![
            hop("Prometheus", AGENT_METRICS, excluded(), PASSES_INBOUND),
            hop("Prometheus", PROXY_METRICS, excluded(), PASSES_INBOUND),
            hop("agent", APP_METRICS, pass("4"), "rule 3"),
        ],
        Some(
            "The agent runs as user 1337. Rule 3 is for everybody but that user; rule 4 is for it. \
             The article names the ports 15002 and 15090; today's Istio excludes 15020, 15021 and \
             15090.",
        ),
    );
    watch(lab, kind, || {
        let (agent, app) = (lab.agent.echo_log()?.len(), lab.app.echo_log()?.len());
        let proxy = mark_server(lab)?;
        let to_agent = ask(&lab.prometheus, AGENT_METRICS)?;
        let to_proxy = ask(&lab.prometheus, PROXY_METRICS)?;
        let to_app = ask(&lab.agent, APP_METRICS)?;
        let mut seen = vec![
            client(
                "Prometheus",
                to_agent.peer,
                AGENT_METRICS,
                to_agent.local,
                REMOTE,
            ),
            client(
                "Prometheus",
                to_proxy.peer,
                PROXY_METRICS,
                to_proxy.local,
                REMOTE,
            ),
            served("agent", seen_since(&lab.agent, agent)?.peer, REMOTE),
        ];
        seen.extend(proxy_served(lab, proxy, REMOTE)?);
        seen.push(client(
            "agent",
            to_app.peer,
            APP_METRICS,
            to_app.local,
            LOCALHOST,
        ));
        seen.push(served("app", seen_since(&lab.app, app)?.peer, LOCALHOST));
        Ok(seen)
    })
}

fn app_to_own_service(lab: &Lab) -> Result<Kind> {
    let kind = describe(
        4,
        "own pod -> own service",
        "The application calls a service whose only endpoint is its own pod: twice through.",
        vec![
            hop("app", OWN_SERVICE, outbound("9"), "rule 9 -> 15001"),
            hop("proxy", APP, inbound_from_pod("2"), "rule 2 -> 15006"),
            hop("proxy", APP, pass("1"), "rule 1"),
        ],
        None,
    );
    watch(lab, kind, || {
        let (app, proxy) = (lab.app.echo_log()?.len(), lab.sidecar.mark()?);
        let conn = ask(&lab.app, OWN_SERVICE)?;
        let mut seen = vec![client("app", conn.peer, OWN_SERVICE, conn.local, POD)];
        let server = seen_since(&lab.app, app)?;
        conn.close();
        let wants = [(POD, OWN_SERVICE, APP, POD), (POD, APP, APP, DELIVERY)];
        for (it, wants) in lab.sidecar.since(proxy, wants.len())?.iter().zip(wants) {
            seen.push(proxied(it, wants));
        }
        seen.push(served("app", server.peer, DELIVERY));
        Ok(seen)
    })
}

/// Kind 3, 5 or 6, as far as it is the agent's: under the proxy's user or under another.
fn own(number: u8, agent: &Agent, lab: &Lab) -> Result<Kind> {
    let as_proxy = agent.pid() == lab.agent.pid();
    match number {
        3 => {
            let about = "The agent asks the application for its metrics, over localhost.";
            let hops = vec![hop("agent", APP_METRICS, pass("3"), "rule 3")];
            let kind = describe(3, "agent -> application's metrics", about, hops, None);
            watch(lab, kind, || local(lab, agent, APP_METRICS))
        }
        5 => {
            let (rule, why) = if as_proxy {
                (
                    "4",
                    "Both ends run as user 1337, and rule 4 comes before rule 8.",
                )
            } else {
                (
                    "3",
                    "Rule 3 takes everything over loopback that is not user 1337's, rule 4 takes \
                     the rest: in a default installation nothing is left for rule 8.",
                )
            };
            let about = "The agent asks the proxy's administration, over localhost.";
            let hops = vec![hop("agent", ADMIN, pass(rule), "rule 8")];
            let kind = describe(5, "between the proxy's processes", about, hops, Some(why));
            watch(lab, kind, || local(lab, agent, ADMIN))
        }
        _ => agent_to_istiod(lab, agent, as_proxy),
    }
}

fn agent_to_istiod(lab: &Lab, agent: &Agent, as_proxy: bool) -> Result<Kind> {
    let (about, hops, why) = if as_proxy {
        (
            "The agent calls the control plane. It needs no proxy for that.",
            vec![hop("agent", ISTIOD, pass("4"), "rule 9, then 4")],
            Some(
                "The agent runs as user 1337 like the proxy: rule 4 passes it before rule 9 could \
                 redirect it, so the proxy has nothing to pass on.",
            ),
        )
    } else {
        (
            "The agent calls the control plane, and is redirected like any application.",
            vec![
                hop("agent", ISTIOD, outbound("9"), "rule 9 -> 15001"),
                hop("proxy", ISTIOD, pass("4"), "rule 4"),
            ],
            None,
        )
    };
    let kind = describe(6, "agent -> Istiod", about, hops, why);
    watch(lab, kind, || {
        let (istiod, proxy) = (lab.istiod.echo_log()?.len(), lab.sidecar.mark()?);
        let conn = ask(agent, ISTIOD)?;
        let mut seen = vec![client("agent", conn.peer, ISTIOD, conn.local, POD)];
        let server = seen_since(&lab.istiod, istiod)?;
        conn.close();
        for it in lab.sidecar.since(proxy, usize::from(!as_proxy))? {
            seen.push(proxied(&it, (POD, ISTIOD, ISTIOD, POD)));
        }
        seen.push(served("Istiod", server.peer, POD));
        Ok(seen)
    })
}

fn localhost_without_rule_3(lab: &Lab) -> Result<Kind> {
    let kind = describe(
        5,
        "between the proxy's processes",
        "The agent asks the proxy's administration, over localhost.",
        vec![hop("agent", ADMIN, pass("8"), "rule 8")],
        Some(
            "A loopback address among the captured ranges makes Istio leave rule 3 out. Then the \
             article's rule 8 decides, and keeps localhost from being captured after all.",
        ),
    );
    watch(lab, kind, || local(lab, &lab.other_agent, ADMIN))
}

/// A connection over localhost, which reaches the application or the proxy's own port.
fn local(lab: &Lab, agent: &Agent, to: SocketAddr) -> Result<Vec<Sight>> {
    let (app, proxy) = (lab.app.echo_log()?.len(), mark_server(lab)?);
    let conn = ask(agent, to)?;
    let mut seen = vec![client("agent", conn.peer, to, conn.local, LOCALHOST)];
    if to == APP_METRICS {
        seen.push(served("app", seen_since(&lab.app, app)?.peer, LOCALHOST));
    } else {
        seen.extend(proxy_served(lab, proxy, LOCALHOST)?);
    }
    Ok(seen)
}

fn mark_server(lab: &Lab) -> Result<usize> {
    let server = lab.sidecar.server();
    Ok(server.map_or(Ok(0), |it| it.echo_log().map(|log| log.len()))?)
}

fn proxy_served(lab: &Lab, mark: usize, from: Want) -> Result<Option<Sight>> {
    let server = lab.sidecar.server();
    let seen = server.map(|it| seen_since(it, mark)).transpose()?;
    Ok(seen.map(|it| served("proxy", it.peer, from)))
}

/// Counts what moves while the kind is driven.
fn watch(lab: &Lab, mut kind: Kind, drive: impl FnOnce() -> Result<Vec<Sight>>) -> Result<Kind> {
    let before = lab.counters()?;
    let driven = drive();
    kind.moved = moved(&before, &lab.counters()?);
    match driven {
        Ok(seen) => kind.seen = seen,
        Err(error) => kind.failure = Some(format!("{error:#}")),
    }
    let counted = attribute(&mut kind.hops, &kind.moved);
    let mut facts = kind.seen.iter().flat_map(|sight| &sight.facts);
    kind.as_expected = counted && kind.failure.is_none() && facts.all(|fact| fact.as_expected);
    Ok(kind)
}

fn describe(
    number: u8,
    title: &'static str,
    about: &'static str,
    hops: Vec<Hop>,
    why: Option<&'static str>,
) -> Kind {
    Kind {
        number,
        title,
        about,
        hops,
        moved: Vec::new(),
        seen: Vec::new(),
        why,
        failure: None,
        as_expected: false,
    }
}

fn hop(from: &'static str, to: SocketAddr, expected: Decision, article: &'static str) -> Hop {
    Hop {
        from,
        to,
        article,
        expected,
        counted: None,
    }
}

fn pass(rule: &str) -> Decision {
    Decision::new("connect4", rule, "pass")
}

fn outbound(rule: &str) -> Decision {
    Decision::new("connect4", rule, "redirect-outbound")
}

fn inbound_from_pod(rule: &str) -> Decision {
    Decision::new("connect4", rule, "redirect-inbound")
}

fn inbound(rule: &str) -> Decision {
    Decision::new("sk_lookup", rule, "redirect-inbound")
}

/// What a client is told about its own connection.
fn client(
    who: &'static str,
    peer: SocketAddr,
    to: SocketAddr,
    own: SocketAddr,
    from: Want,
) -> Sight {
    let facts = vec![
        Fact::new("getpeername", Some(peer), Want::Exactly(to)),
        Fact::new("getsockname", Some(own), from),
    ];
    Sight { who, facts }
}

fn served(who: &'static str, peer: SocketAddr, from: Want) -> Sight {
    let facts = vec![Fact::new("peer", Some(peer), from)];
    Sight { who, facts }
}

/// Wanted: its peer, the original destination, where it goes on to, and from where.
fn proxied(it: &Proxied, wants: (Want, SocketAddr, SocketAddr, Want)) -> Sight {
    let (peer, original, upstream, source) = wants;
    let facts = vec![
        Fact::new("peer", Some(it.peer), peer),
        Fact::new(
            "original destination",
            it.original_dst,
            Want::Exactly(original),
        ),
        Fact::new("goes on to", it.upstream, Want::Exactly(upstream)),
        Fact::new("from", it.upstream_local, source),
    ];
    Sight {
        who: "proxy",
        facts,
    }
}
