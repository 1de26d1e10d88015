//! Socket addresses as tests like to write them.

use std::net::{IpAddr, SocketAddr};

/// Anything that names a socket address: `"10.0.0.1:80"`, `(ip, 80)`, a `SocketAddr`.
pub trait IntoAddr {
    /// # Panics
    /// If a string is not an address and a port: addresses are written by tests, by hand.
    fn into_addr(self) -> SocketAddr;
}

impl IntoAddr for SocketAddr {
    fn into_addr(self) -> SocketAddr {
        self
    }
}

impl IntoAddr for &str {
    fn into_addr(self) -> SocketAddr {
        self.parse()
            .unwrap_or_else(|_| panic!("{self:?} is not an address and a port"))
    }
}

impl IntoAddr for &String {
    fn into_addr(self) -> SocketAddr {
        self.as_str().into_addr()
    }
}

impl<I: Into<IpAddr>> IntoAddr for (I, u16) {
    fn into_addr(self) -> SocketAddr {
        SocketAddr::new(self.0.into(), self.1)
    }
}
