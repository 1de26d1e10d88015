//! UDP sockets that ask without connecting, as musl's resolver does.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use sidecar_lab::{Agent, Datagrams, Errno, UdpOptions, pod::PROXY_ID};

use crate::{
    ALL, Dns, KINDS, Kind, SOON, V4, V6, hears, refused_as,
    support::{Rig, canonical},
};

#[test]
fn the_first_server_is_asked_from_the_pods_address() -> Result<()> {
    let dns = Dns::new("dns-first", &ALL)?;
    for kind in KINDS {
        let socket = kind.socket(&dns.rig.app);
        let (server, before) = (kind.server(0), dns.asked());
        for question in [b"one", b"two"] {
            let moved = [(kind.sendmsg, "dns", 1)];
            dns.rig.expect(&moved, || {
                socket.send_to(question, server).unwrap();
                hears(&socket, question, server);
            });
        }
        let local = canonical(socket.sock_name()?);
        let asked = dns.asked();
        for seen in asked.iter().filter(|seen| !before.contains(seen)) {
            assert_eq!(seen.peer, SocketAddr::new(kind.pod, local.port()));
        }
        refused_as(socket.peer_name(), Errno::ENOTCONN);
    }
    assert!(dns.asked_for_real().is_empty());
    Ok(())
}

/// An agent whose answers come when the test says so.
fn slow_agent(rig: &Rig, kind: &Kind) -> Result<Datagrams> {
    let bind = Some(format!("{}:15053", kind.localhost).parse()?);
    let options = UdpOptions {
        ipv6: kind.pod.is_ipv6(),
        bind,
        ..UdpOptions::default()
    };
    Ok(rig.proxy.udp(options)?)
}

#[test]
fn three_servers_answer_in_any_order() -> Result<()> {
    let mut rig = Rig::new("dns-three")?;
    rig.load(&ALL)?;
    for kind in KINDS {
        let agent = slow_agent(&rig, &kind)?;
        // As they come, and with the address that the question was sent to as source, as Istio's
        // agent answers.
        for from in [
            None,
            Some(kind.localhost.trim_matches(['[', ']']).parse::<IpAddr>()?),
        ] {
            let socket = kind.socket(&rig.app);
            let questions: Vec<Vec<u8>> =
                kind.servers.iter().map(|s| s.as_bytes().to_vec()).collect();
            let moved = [(kind.sendmsg, "dns", 3)];
            rig.expect(&moved, || {
                for (server, question) in kind.servers.iter().zip(&questions) {
                    socket.send_to(question, *server).unwrap();
                }
            });
            let mut asked: Vec<_> = (0..3).map(|_| agent.receive().unwrap()).collect();
            let mut seen: Vec<_> = asked.iter().map(|asked| asked.payload.clone()).collect();
            seen.sort();
            let mut wanted = questions.clone();
            wanted.sort();
            assert_eq!(seen, wanted);
            for turn in 0..3 {
                asked.rotate_left(turn);
                asked.swap(0, 2);
                rig.expect(&[], || {
                    for question in &asked {
                        agent
                            .send_from(&question.payload, question.source, from)
                            .unwrap();
                        let server = std::str::from_utf8(&question.payload).unwrap();
                        hears(&socket, &question.payload, server.parse().unwrap());
                    }
                });
            }
        }
    }
    Ok(())
}

#[test]
fn a_bound_socket_hears_the_server_it_asked_last() -> Result<()> {
    let dns = Dns::new("dns-last", &ALL)?;
    for kind in KINDS {
        let bind = Some(SocketAddr::new(kind.pod, 0));
        let options = UdpOptions {
            bind,
            ..UdpOptions::default()
        };
        let socket = kind.socket_with(&dns.rig.app, options);
        for server in [0, 1, 0, 2] {
            let (server, before) = (kind.server(server), dns.asked());
            let question = format!("{server} {}", before.len()).into_bytes();
            dns.rig.expect(&[(kind.sendmsg, "dns", 1)], || {
                socket.send_to(&question, server).unwrap();
                hears(&socket, &question, server);
            });
            let peer = dns.was_asked(&before, &question);
            assert_eq!(peer, canonical(socket.sock_name()?));
        }
    }
    Ok(())
}

#[test]
fn other_datagrams_are_left_alone() -> Result<()> {
    let dns = Dns::new("dns-others", &ALL)?;
    for kind in KINDS {
        let socket = kind.socket(&dns.rig.app);
        let other = SocketAddr::new(kind.server(0).ip(), 5353);
        let _echo = dns.rig.remote.udp_echo(other)?;
        dns.rig.expect(&[], || {
            socket.send_to(b"not DNS", other).unwrap();
            hears(&socket, b"not DNS", other);
        });
        // And the agent by its own name, also after a query.
        let agent: SocketAddr = format!("{}:15053", kind.localhost).parse()?;
        for asks in [false, true] {
            if asks {
                socket.send_to(b"DNS", kind.server(0))?;
                hears(&socket, b"DNS", kind.server(0));
            }
            dns.rig.expect(&[], || {
                socket.send_to(b"by name", agent).unwrap();
                hears(&socket, b"by name", agent);
            });
        }
    }
    Ok(())
}

#[test]
fn the_agents_own_queries_pass() -> Result<()> {
    let dns = Dns::new("dns-upstream", &ALL)?;
    let by_gid = Agent::spawn(&dns.rig.pod.app().user(1000, PROXY_ID))?;
    let mut questions = 0;
    for kind in KINDS {
        for (agent, rule) in [(&dns.rig.proxy, "4"), (&by_gid, "7")] {
            let server = kind.server(1);
            let socket = kind.socket(agent);
            dns.rig.expect(&[(kind.sendmsg, rule, 1)], || {
                socket.send_to(b"upstream", server).unwrap();
                hears(&socket, b"upstream", server);
            });
            dns.rig.expect(&[(kind.connect, rule, 1)], || {
                socket.connect(server).unwrap();
                socket.send(b"upstream").unwrap();
                hears(&socket, b"upstream", server);
                socket.send_to(b"by name", server).unwrap();
                hears(&socket, b"by name", server);
            });
            questions += 3;
        }
    }
    assert!(dns.asked().is_empty());
    assert_eq!(dns.asked_for_real().len(), questions);
    Ok(())
}

#[test]
fn without_the_agent_nothing_passes() -> Result<()> {
    let mut rig = Rig::new("dns-silent")?;
    rig.load(&ALL)?;
    for kind in KINDS {
        let real = rig.remote.udp_echo(kind.server(0))?;
        let socket = kind.socket(&rig.app);
        rig.expect(&[(kind.sendmsg, "dns", 1)], || {
            socket.send_to(b"anybody?", kind.server(0)).unwrap();
            refused_as(socket.receive_within(SOON), Errno::ETIME);
        });
        assert!(real.log()?.is_empty());
    }
    Ok(())
}

#[test]
fn nobody_else_reaches_the_redirects_own_addresses() -> Result<()> {
    let dns = Dns::new("dns-range", &ALL)?;
    for (kind, addr) in [
        (V4, "127.128.0.1:15053"),
        (V4, "127.128.0.1:53"),
        (crate::MAPPED, "127.128.0.1:4000"),
        (V6, "[fd73:6964:6563:6172::1]:15053"),
    ] {
        for agent in [&dns.rig.app, &dns.rig.proxy] {
            let socket = kind.socket(agent);
            let by = |hook| [(hook, "refusal:redirect-range", 1)];
            refused_as(
                dns.rig
                    .expect(&by(kind.sendmsg), || socket.send_to(b"x", addr)),
                Errno::EPERM,
            );
            refused_as(
                dns.rig.expect(&by(kind.connect), || socket.connect(addr)),
                Errno::EPERM,
            );
        }
    }
    Ok(())
}

#[test]
fn a_socket_bound_to_a_device_never_gets_past_the_agent() -> Result<()> {
    let dns = Dns::new("dns-device", &ALL)?;
    for kind in KINDS {
        for device in ["eth0", "lo"] {
            let options = UdpOptions {
                bind_to_device: Some(device.to_owned()),
                ..UdpOptions::default()
            };
            let socket = kind.socket_with(&dns.rig.app, options);
            let server = kind.server(0);
            for (hook, refused) in [(kind.sendmsg, true), (kind.connect, false)] {
                let by = [(hook, "dns", 1), (hook, "refusal:bound-to-device", 1)];
                let result = dns.rig.expect(&by, || {
                    if refused {
                        socket.send_to(b"x", server)
                    } else {
                        socket.connect(server)
                    }
                });
                refused_as(result, Errno::EPERM);
            }
        }
    }
    assert!(dns.asked().is_empty() && dns.asked_for_real().is_empty());
    Ok(())
}
