//! The small transparent proxy as a program: one JSON line per connection on stdout.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process,
    sync::mpsc,
};

use anyhow::{Context, Result};
use clap::Parser;
use sidecar_lab::proxy::{self, ProxyOptions, Route};

/// A transparent proxy: sends each connection on to where it wanted to go.
#[derive(Parser)]
struct Args {
    /// Where redirected outbound connections arrive; may be given several times.
    #[arg(long, default_values = ["0.0.0.0:15001", "[::]:15001"])]
    outbound: Vec<SocketAddr>,
    /// Where redirected inbound connections arrive; may be given several times.
    #[arg(long, default_values = ["0.0.0.0:15006", "[::]:15006"])]
    inbound: Vec<SocketAddr>,
    /// Send outbound connections to a service on to its endpoint; may be given several times.
    #[arg(long, value_name = "SERVICE=ENDPOINT")]
    route: Vec<Route>,
}

fn main() {
    let args = Args::parse();
    let options = ProxyOptions {
        outbound: args.outbound,
        inbound: args.inbound,
        routes: args.route,
    };
    if let Err(error) = run(&options) {
        eprintln!("lab-proxy: {error:#}");
        process::exit(2);
    }
}

fn run(options: &ProxyOptions) -> Result<()> {
    let (log, lines) = mpsc::channel();
    proxy::start(options, &log)?;
    eprintln!("ready: {options:?}");
    let mut stdout = io::stdout().lock();
    for line in lines {
        let text = serde_json::to_string(&line).context("writing a log line")?;
        writeln!(stdout, "{text}").context("writing to stdout")?;
    }
    Ok(())
}
