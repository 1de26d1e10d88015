//! Outbound ports, captured or not whatever the address.

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    OUTSIDE, SERVICE, SERVICE6, own,
    support::{Front, Rig, connect4, connect6, sk_lookup, to},
};

#[test]
fn outbound_ports() -> Result<()> {
    let mut rig = Rig::new("q")?;
    for flag in ["-q", "--istio-outbound-ports"] {
        rig.load(&[flag, "8443,9000:9001", "-i", "10.96.0.0/16", "--dual-stack"])?;
        let Rig {
            app,
            proxy,
            outbound,
            service,
            ..
        } = &rig;
        for port in [8443, 9000, 9001] {
            let outside = to((IpAddr::from([203, 0, 113, 9]), port));
            rig.delivered(connect4("included-port"), app, outside, outbound);
        }
        let secure6 = to("[fd00:96::10]:8443");
        rig.delivered(connect6("included-port"), app, secure6, outbound);
        rig.delivered(connect4("included-range"), app, to(SERVICE), outbound);
        rig.delivered(connect4("end-of-chain"), app, to(OUTSIDE), service);
        rig.delivered(connect6("end-of-chain"), app, to(SERVICE6), service);
        rig.delivered(connect4("4"), proxy, to(SERVICE), service);

        // Local traffic has been let go before.
        rig.load(&[flag, "8080"])?;
        rig.delivered(connect4("3"), &rig.app, own(8080), &rig.application);
    }
    Ok(())
}

#[test]
fn outbound_ports_exclude() -> Result<()> {
    let mut rig = Rig::new("o")?;
    let database = Front::outside(&rig.remote, 5432)?;
    let secure = Front::outside(&rig.remote, 6001)?;
    let own_database = Front::open(&rig.app, 5432)?;
    for flag in ["-o", "--istio-local-outbound-ports-exclude"] {
        rig.load(&[flag, "5432, 6000:6002,", "-q", "5432", "--dual-stack"])?;
        let excluded = connect4("excluded-port");
        let excluded6 = connect6("excluded-port");
        rig.delivered(excluded, &rig.app, to("10.96.0.10:5432"), &database);
        rig.delivered(excluded, &rig.app, to("10.96.0.10:6001"), &secure);
        rig.delivered(excluded6, &rig.app, to("[fd00:96::10]:5432"), &database);
        // The first rule of all, so also for the proxy and for local traffic.
        rig.delivered(excluded, &rig.proxy, to("10.96.0.10:5432"), &database);
        rig.delivered(excluded, &rig.proxy, own(5432), &own_database);
        rig.delivered(excluded, &rig.app, own(5432), &own_database);
        for port in [5431, 5433, 5999, 6003] {
            let other = to((IpAddr::from([10, 96, 0, 10]), port));
            rig.delivered(connect4("9"), &rig.app, other, &rig.outbound);
        }
        // It is about traffic that leaves.
        rig.delivered(
            sk_lookup("inbound-all"),
            &rig.remote,
            own(5432),
            &rig.inbound,
        );
    }
    Ok(())
}
