//! Names and capacities of the maps, for both sides.

/// 1 × [`Policy`](crate::policy::Policy), a global of the programs.
pub const POLICY: &str = ".data.policy";
/// Array, [`PortGroup::GROUPS`](crate::policy::PortGroup::GROUPS) × `PortGroup`.
pub const PORTS: &str = "PORTS";
/// Trie of [`Prefix`](crate::addr::Prefix): outbound ranges that are captured.
pub const INCLUDED: &str = "INCLUDED";
/// Trie of [`Prefix`](crate::addr::Prefix): outbound ranges that are not captured.
pub const EXCLUDED: &str = "EXCLUDED";
/// Trie of [`Prefix`](crate::addr::Prefix) → [`Interface`](crate::interface::Interface): what
/// `-o lo` means, the local addresses of the pod, and the interface that each belongs to.
pub const LOCALS: &str = "LOCALS";
/// Trie of [`Prefix`](crate::addr::Prefix) → [`Route`](crate::interface::Route): where addresses
/// outside the pod lead. Empty unless [`Switches`](crate::policy::Switches) ask for it.
pub const ROUTES: &str = "ROUTES";
/// Hash of [`Ip`](crate::addr::Ip): the DNS servers whose queries are captured, if not all are.
pub const DNS_SERVERS: &str = "DNS_SERVERS";
/// Socket storage: the server that a UDP socket has asked, an [`OrigDst`](crate::addr::OrigDst).
pub const ASKED: &str = "ASKED";
/// Hash, [`OrigDst`](crate::addr::OrigDst) → [`Number`](crate::number::Number).
pub const NUMBERS: &str = "NUMBERS";
/// Array, ring slot → [`Destination`](crate::number::Destination).
pub const DESTINATIONS: &str = "DESTINATIONS";
/// 1 × [`Dealt`](crate::number::Dealt), a global of the programs.
pub const DEALT: &str = ".data.numbers";
/// Sockmap of the proxy's listening sockets, see [`Listeners`]. A look from user space tells a
/// socket's cookie.
pub const LISTENERS: &str = "LISTENERS";
/// Array, [`Listeners::index`] → 1 if the proxy has a listening socket that no slot takes.
pub const UNREGISTERED: &str = "UNREGISTERED";
/// 1 × [`Binds`](crate::listen::Binds), a global of the programs.
pub const BINDS: &str = ".data.binds";
/// 1 × [`NormalLookup`](crate::listen::NormalLookup), a global of the programs.
pub const NORMAL_LOOKUP: &str = ".data.lookup";
/// Ring buffer of [`Event`](crate::listen::Event).
pub const EVENTS: &str = "EVENTS";
/// Array, 1 × u32: 1 if the loader wants to be told of a connection for which there is no listener.
pub const ASLEEP: &str = "ASLEEP";
/// Per-CPU array of u64, see [`counter`](crate::counter).
pub const COUNTERS: &str = "COUNTERS";

/// Global of the programs: [`SocketOffsets`](crate::owner::SocketOffsets).
pub const SOCKET_OFFSETS: &str = "SOCKET_OFFSETS";
/// Global of the programs: u64, how many nanoseconds a jiffy is.
pub const JIFFY: &str = "JIFFY";
/// Global of the programs: [`ProxyPorts`](crate::listen::ProxyPorts).
pub const PROXY_PORTS: &str = "PROXY_PORTS";
/// Global of the programs: the [`Switches`](crate::policy::Switches) that may ever be on while they are
/// loaded.
pub const FEATURES: &str = "FEATURES";

/// Ranges per list. Tries allocate entries as they are added, so the bound costs nothing.
pub const MAX_RANGES: u32 = 65_536;
/// Local addresses and local prefixes of one network namespace.
pub const MAX_LOCALS: u32 = 16_384;

/// Prefixes in the route map.
pub const MAX_ROUTES: u32 = 16_384;
/// Servers in resolv.conf; the resolver of the C library reads three.
pub const MAX_DNS_SERVERS: u32 = 64;

/// Slots in the number ring unless told otherwise.
pub const DEFAULT_DESTINATIONS: u32 = 16_384;
/// The fewest slots that make sense, and the most that leave at least one bit to tell laps apart.
pub const MIN_DESTINATIONS: u32 = 2;
pub const MAX_DESTINATIONS: u32 = 1 << (crate::number::NUMBER_BITS - 1);

/// Which of the proxy's listening ports a slot of the listener map is for. Each has
/// [`Listeners::SLOTS`] slots: one per worker, because a slot empties when its socket closes
/// although other workers may still listen on the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listeners {
    Outbound,
    Inbound,
    /// DNS over TCP.
    Dns,
}

impl Listeners {
    /// More sockets than this are served through the registered ones' reuseport group. An Envoy with
    /// 16 workers has 32 (IPv4 and IPv6), and twice that during a hot restart.
    pub const SLOTS: u32 = 64;
    pub const ALL: [Self; 3] = [Self::Outbound, Self::Inbound, Self::Dns];

    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Dns => "dns",
        }
    }

    #[inline(always)]
    pub const fn first_slot(self) -> u32 {
        self.index() * Self::SLOTS
    }
}
