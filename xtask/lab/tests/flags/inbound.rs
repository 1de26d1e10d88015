//! Which inbound ports are captured.

use anyhow::Result;

use crate::{
    SERVICE, own, own6,
    support::{Front, Rig, connect4, sk_lookup, to},
};

#[test]
fn inbound_ports() -> Result<()> {
    let mut rig = Rig::new("b")?;
    let more = Front::open(&rig.app, 8081)?;
    let tunnel = Front::open(&rig.proxy, 15008)?;
    for flag in ["-b", "--istio-inbound-ports"] {
        rig.load(&[flag, "", "--dual-stack"])?;
        for own in [own(8080), own6(8080)] {
            rig.delivered(sk_lookup("inbound-off"), &rig.remote, own, &rig.application);
        }
        // Outbound does not care.
        rig.delivered(connect4("9"), &rig.app, to(SERVICE), &rig.outbound);
        rig.delivered(connect4("2"), &rig.proxy, own(8080), &rig.inbound);

        // The exclude list counts beside the asterisk only, the tunnel port always.
        rig.load(&[flag, "8080,9000:9002,15008", "-d", "8080", "--dual-stack"])?;
        let included = sk_lookup("inbound-included-port");
        for own in [own(8080), own(9000), own(9001), own(9002), own6(8080)] {
            rig.delivered(included, &rig.remote, own, &rig.inbound);
        }
        for own in [own(8081), own6(8081)] {
            rig.delivered(sk_lookup("inbound-end-of-chain"), &rig.remote, own, &more);
        }
        let to_tunnel = sk_lookup("inbound-tunnel");
        rig.delivered(to_tunnel, &rig.remote, own(15008), &tunnel);

        rig.load(&[flag, "*"])?;
        for port in [8080, 8081, 15001, 15006] {
            let all = sk_lookup("inbound-all");
            rig.delivered(all, &rig.remote, own(port), &rig.inbound);
        }
    }
    Ok(())
}

#[test]
fn local_exclude_ports() -> Result<()> {
    let mut rig = Rig::new("d")?;
    let more = Front::open(&rig.app, 8082)?;
    for flag in ["-d", "--istio-local-exclude-ports"] {
        rig.load(&[flag, "8080,8082:8083"])?;
        let excluded = sk_lookup("inbound-excluded-port");
        rig.delivered(excluded, &rig.remote, own(8080), &rig.application);
        rig.delivered(excluded, &rig.remote, own(8082), &more);
        // A list replaces the default one.
        for port in [8081, 8084, 15020] {
            let all = sk_lookup("inbound-all");
            rig.delivered(all, &rig.remote, own(port), &rig.inbound);
        }
        // It is about traffic from outside.
        rig.delivered(connect4("2"), &rig.proxy, own(8080), &rig.inbound);
    }
    Ok(())
}
