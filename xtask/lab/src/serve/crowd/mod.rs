//! Crowds of connections, from the inside of the process that makes them.

mod churn;
mod hold;
mod http;

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Reply, find, reply};
use crate::{
    crowd::CrowdRequest,
    wire::{During as _, OpResult},
};

/// What is kept from one request to the next.
#[derive(Default)]
pub(super) struct Crowd {
    held: Vec<Socket>,
}

impl Crowd {
    pub(super) fn answer(
        &mut self,
        request: &CrowdRequest,
        listeners: &HashMap<u64, Socket>,
    ) -> Reply {
        match request {
            CrowdRequest::Hold { listener, plan } => {
                let listener = find(listeners, *listener)?;
                reply(hold::hold(listener, plan, &mut self.held)?)
            }
            CrowdRequest::Release => {
                self.held.clear();
                reply(())
            }
            CrowdRequest::Churn { listener, plan } => {
                reply(churn::churn(find(listeners, *listener)?, plan)?)
            }
            CrowdRequest::ServeHttp(addr) => reply(http::serve(*addr)?),
        }
    }
}

fn tcp(addr: SocketAddr) -> OpResult<Socket> {
    Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))
        .during(|| "socket".to_owned())
}

/// A connection that closes by a reset: that leaves no TIME_WAIT behind, so ports never run out.
/// `None` if it does not come about in time.
fn connect(to: SocketAddr, patience: Duration) -> OpResult<Option<Socket>> {
    let socket = tcp(to)?;
    socket
        .set_linger(Some(Duration::ZERO))
        .during(|| "SO_LINGER".to_owned())?;
    // What bounds a send also bounds a connect.
    socket
        .set_write_timeout(Some(patience))
        .during(|| "SO_SNDTIMEO".to_owned())?;
    Ok(socket.connect(&SockAddr::from(to)).ok().map(|()| socket))
}
