//! Envoy's configuration: one listener per direction, each with a cluster that connects to the
//! original destination.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use serde_json::{Value, json};

use super::envoy::EnvoyOptions;
use crate::proxy::{
    Direction, INBOUND_PORT, INBOUND_SOURCE, INBOUND_SOURCE6, OUTBOUND_PORT, Route,
};

/// Of every type that the configuration names, where its definition is.
const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// A cluster without an endpoint: whatever is sent there is closed.
const BLACK_HOLE: &str = "black_hole";
/// Above what any test opens at once; the default of 1024 would refuse connections under load.
const NO_LIMIT: u32 = 1_000_000;

/// Where Istio's Envoy answers about itself: to everybody (statistics), and to localhost (all).
const ISTIO_PORTS: [(IpAddr, u16); 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15090),
    (IpAddr::V4(Ipv4Addr::LOCALHOST), 15000),
];
const ADMIN: &str = "admin";

pub(super) fn bootstrap(options: &EnvoyOptions, admin: &Path) -> Value {
    let admin = json!({ "pipe": { "path": admin } });
    let mut listeners = vec![
        listener(options, Direction::Outbound, OUTBOUND_PORT),
        listener(options, Direction::Inbound, INBOUND_PORT),
    ];
    let mut clusters = vec![
        cluster(options, Direction::Outbound, outbound_source(options)),
        cluster(options, Direction::Inbound, Some(inbound_source(options))),
        json!({ "name": BLACK_HOLE, "type": "STATIC" }),
    ];
    for route in &options.routes {
        let Route { endpoint, .. } = route;
        let address = socket_address(options, endpoint.ip(), endpoint.port());
        let mut to_endpoint = static_cluster(&route_name(route), &address);
        to_endpoint["upstream_bind_config"] = json!(outbound_source(options));
        clusters.push(to_endpoint);
    }
    if options.istio_ports {
        listeners.extend(ISTIO_PORTS.map(|(ip, port)| admin_listener(options, ip, port)));
        clusters.push(static_cluster(ADMIN, &admin));
    }
    json!({
        "admin": { "address": admin },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

fn route_name(route: &Route) -> String {
    format!("service {}", route.service)
}

fn static_cluster(name: &str, address: &Value) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

fn admin_listener(options: &EnvoyOptions, ip: IpAddr, port: u16) -> Value {
    let mut to_admin = forward(Direction::Inbound, ADMIN);
    to_admin["typed_config"]["access_log"] = json!([]);
    json!({
        "name": format!("{ADMIN} {port}"),
        "address": socket_address(options, ip, port),
        "filter_chains": [{ "filters": [to_admin] }],
    })
}

fn listener(options: &EnvoyOptions, direction: Direction, port: u16) -> Value {
    let mut addresses = options.addresses.iter().map(|&ip| {
        let mut address = socket_address(options, ip, port);
        if options.v4_mapped && ip.is_ipv6() {
            address["socket_address"]["ipv4_compat"] = json!(true);
        }
        address
    });
    let first = addresses.next();
    let others: Vec<Value> = addresses
        .map(|address| json!({ "address": address }))
        .collect();
    if options.upstreams.is_some() {
        let mut filter = forward(direction, &direction.to_string());
        filter["typed_config"]["access_log"] = json!([]);
        return with_chains(
            direction,
            (first, &others),
            &[json!({ "filters": [filter] })],
        );
    }
    let mut filter_chains = vec![json!({
        "name": "loop",
        "filter_chain_match": { "destination_port": port },
        "filters": [forward(direction, BLACK_HOLE)],
    })];
    if direction == Direction::Outbound {
        filter_chains.extend(options.routes.iter().map(route_chain));
        // Envoy looks at the port first and never comes back: other services of the same port
        // need a chain of their own.
        let ports: BTreeSet<u16> = options.routes.iter().map(|it| it.service.port()).collect();
        filter_chains.extend(ports.iter().map(|port| {
            json!({
                "name": format!("forward {port}"),
                "filter_chain_match": { "destination_port": port },
                "filters": [forward(direction, &direction.to_string())],
            })
        }));
    }
    filter_chains.push(json!({
        "name": "forward",
        "filters": [forward(direction, &direction.to_string())],
    }));
    with_chains(direction, (first, &others), &filter_chains)
}

/// A listener at the first address and the others, which asks for the original destination.
fn with_chains(
    direction: Direction,
    (first, others): (Option<Value>, &[Value]),
    filter_chains: &[Value],
) -> Value {
    json!({
        "name": direction.to_string(),
        "address": first,
        "additional_addresses": others,
        "listener_filters": [{
            "name": "original_dst",
            "typed_config": {
                "@type": format!("{TYPES}.filters.listener.original_dst.v3.OriginalDst"),
            },
        }],
        "filter_chains": filter_chains,
    })
}

fn route_chain(route: &Route) -> Value {
    let Route { service, .. } = route;
    let whole = if service.is_ipv4() { 32 } else { 128 };
    json!({
        "name": route_name(route),
        "filter_chain_match": {
            "prefix_ranges": [{ "address_prefix": service.ip(), "prefix_len": whole }],
            "destination_port": service.port(),
        },
        "filters": [forward(Direction::Outbound, &route_name(route))],
    })
}

fn forward(direction: Direction, cluster: &str) -> Value {
    json!({
        "name": "tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": cluster,
            "cluster": cluster,
            "access_log": [access_log(direction)],
        },
    })
}

/// The names are those of the fields of `AccessEntry`. Envoy writes `null` for what it does not
/// have. A user other than root may not open /dev/stdout as a file, hence the logger for stdout.
fn access_log(direction: Direction) -> Value {
    json!({
        "name": "stdout",
        "typed_config": {
            "@type": format!("{TYPES}.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": { "json_format": {
                "listener": direction.to_string(),
                "original_dst": "%DOWNSTREAM_LOCAL_ADDRESS%",
                "direct_local": "%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%",
                "peer": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
                "upstream": "%UPSTREAM_HOST%",
                "upstream_local": "%UPSTREAM_LOCAL_ADDRESS%",
                "received": "%BYTES_RECEIVED%",
                "sent": "%BYTES_SENT%",
                "flags": "%RESPONSE_FLAGS%",
            } },
        },
    })
}

fn cluster(options: &EnvoyOptions, direction: Direction, source: Option<Value>) -> Value {
    if let Some(upstreams) = options.upstreams {
        let to = upstreams.of(direction);
        let address = socket_address(options, to.ip(), to.port());
        let mut fixed = static_cluster(&direction.to_string(), &address);
        fixed["upstream_bind_config"] = json!(source);
        fixed["circuit_breakers"] = no_limits();
        return fixed;
    }
    json!({
        "name": direction.to_string(),
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "upstream_bind_config": source,
        "circuit_breakers": no_limits(),
    })
}

fn no_limits() -> Value {
    json!({ "thresholds": [{
        "max_connections": NO_LIMIT,
        "max_pending_requests": NO_LIMIT,
    }] })
}

fn inbound_source(options: &EnvoyOptions) -> Value {
    source(options, INBOUND_SOURCE.into(), INBOUND_SOURCE6.into())
}

/// Outbound connections choose their own source, but where the sockets belong elsewhere only a
/// bind address can say so.
fn outbound_source(options: &EnvoyOptions) -> Option<Value> {
    let any = ([0; 4].into(), [0; 16].into());
    options
        .sockets_in
        .is_some()
        .then(|| source(options, any.0, any.1))
}

/// Envoy takes the address whose family is the destination's.
fn source(options: &EnvoyOptions, v4: IpAddr, v6: IpAddr) -> Value {
    let bound = |ip| socket_address(options, ip, 0)["socket_address"].take();
    json!({
        "source_address": bound(v4),
        "extra_source_addresses": [{ "address": bound(v6) }],
    })
}

fn socket_address(options: &EnvoyOptions, ip: IpAddr, port: u16) -> Value {
    let mut address = json!({ "address": ip, "port_value": port });
    if let Some(netns) = &options.sockets_in {
        address["network_namespace_filepath"] = json!(netns);
    }
    json!({ "socket_address": address })
}
