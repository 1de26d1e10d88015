//! What the kernel side (`sidecar-ebpf`) and the user side (`sidecar-loader`) agree on.
//!
//! Read in this order:
//!
//! 1. [`addr`]: addresses and ports as the rules see them;
//! 2. [`policy`]: what the user asked for, as bytes in one map value; [`lists`] and [`interface`]
//!    are parts of it;
//! 3. [`rule`]: every rule, its number or name, its iptables twin, its action;
//! 4. [`facts`]: what the rules look at; [`decide`]: facts in, rule out. Nothing else in the project decides;
//! 5. [`number`]: how a destination travels inside a loopback address;
//! 6. [`counter`]: what is counted, and where in the counter map;
//! 7. [`maps`]: names and capacities of the maps;
//! 8. [`listen`]: what the programs tell of the proxy's listening sockets;
//! 9. [`owner`]: where the kernel keeps whose a socket is;
//! 10. [`usual`]: which way is usual, for the compiler.
//!
//! Every type that lies in a map is `repr(C)` without implicit padding, and its size is asserted
//! beside it. Multi-byte addresses are in network byte order, ports in host byte order.

#![no_std]

pub mod addr;
pub mod counter;
pub mod decide;
pub mod facts;
pub mod interface;
pub mod listen;
pub mod lists;
pub mod maps;
pub mod number;
pub mod owner;
#[cfg(feature = "user")]
mod pod;
pub mod policy;
pub mod rule;
pub mod usual;

/// Changes whenever the meaning or the layout of anything in a map changes.
pub const LAYOUT_VERSION: u32 = 6;
