//! Crowds of connections: many that stay open, many that come and go, and requests for a real
//! client. What the benchmark's sweeps ask of an [`Agent`].

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    addr::IntoAddr,
    agent::{Agent, Listener},
    wire::{OpResult, Request},
};

/// Connections that one process opens, accepts and keeps: both ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldPlan {
    /// Where it connects to, in turn, which must lead to its listener.
    pub targets: Vec<SocketAddr>,
    pub connections: u32,
    /// A `connect()` that takes longer has failed.
    pub patience: Duration,
    /// After so many failures in a row it is no use.
    pub give_up_after: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub opened: u32,
    pub failed: u32,
}

/// Connections that come and go, as many as will, from several threads to as many others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChurnPlan {
    pub targets: Vec<SocketAddr>,
    /// On each side.
    pub threads: u32,
    pub time: Duration,
    /// A `connect()` that takes longer has failed.
    pub patience: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Churned {
    /// Connected, accepted, asked for their original destination and closed.
    pub connections: u64,
    /// How many that were accepted have an original destination by `SO_ORIGINAL_DST`.
    pub redirected: u64,
    pub failed: u64,
    pub elapsed: Duration,
}

/// The answer's type stands in brackets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum CrowdRequest {
    /// [`Held`]
    Hold {
        listener: u64,
        plan: HoldPlan,
    },
    Release,
    /// [`Churned`]
    Churn {
        listener: u64,
        plan: ChurnPlan,
    },
    /// [`SocketAddr`]
    ServeHttp(SocketAddr),
}

impl Listener {
    /// Has its process connect to it, and keep the connections until [`Agent::release`] or its end.
    pub fn hold(&self, plan: HoldPlan) -> OpResult<Held> {
        let listener = self.id;
        let request = CrowdRequest::Hold { listener, plan };
        self.agent.ask(&Request::Crowd(request))
    }

    /// Has its process connect to it and close again, for the plan's time.
    pub fn churn(&self, plan: ChurnPlan) -> OpResult<Churned> {
        let listener = self.id;
        let request = CrowdRequest::Churn { listener, plan };
        self.agent.ask(&Request::Crowd(request))
    }
}

impl Agent {
    /// Closes what [`Listener::hold`] has opened.
    pub fn release(&self) -> OpResult<()> {
        self.ask(&Request::Crowd(CrowdRequest::Release))
    }

    /// Answers HTTP requests in the background, for as long as the agent lives.
    pub fn serve_http(&self, addr: impl IntoAddr) -> OpResult<SocketAddr> {
        self.ask(&Request::Crowd(CrowdRequest::ServeHttp(addr.into_addr())))
    }
}
