//! Names and capacities of the maps, for both sides.

/// Array, 1 × [`Policy`](crate::policy::Policy).
pub const POLICY: &str = "POLICY";
/// Array, [`PortGroup::GROUPS`](crate::policy::PortGroup::GROUPS) × `PortGroup`.
pub const PORTS: &str = "PORTS";
/// Trie of [`Prefix`](crate::addr::Prefix): outbound ranges that are captured.
pub const INCLUDED: &str = "INCLUDED";
/// Trie of [`Prefix`](crate::addr::Prefix): outbound ranges that are not captured.
pub const EXCLUDED: &str = "EXCLUDED";
/// Trie of [`Prefix`](crate::addr::Prefix): what `-o lo` means, the local addresses of the pod.
pub const LOCALS: &str = "LOCALS";
/// Hash, [`OrigDst`](crate::addr::OrigDst) → [`Number`](crate::number::Number).
pub const NUMBERS: &str = "NUMBERS";
/// Array, ring slot → [`Destination`](crate::number::Destination).
pub const DESTINATIONS: &str = "DESTINATIONS";
/// Array, 1 × u64: how many numbers have been handed out.
pub const HANDED_OUT: &str = "HANDED_OUT";
/// Sockmap of the proxy's listening sockets, see [`Listeners`].
pub const LISTENERS: &str = "LISTENERS";
/// Array, [`Listeners::index`] → 1 if the proxy has a listening socket that no slot takes.
pub const UNREGISTERED: &str = "UNREGISTERED";
/// Per-CPU array of u64, see [`counter`](crate::counter).
pub const COUNTERS: &str = "COUNTERS";

/// Global of the programs: [`CredentialOffsets`](crate::owner::CredentialOffsets).
pub const CREDENTIAL_OFFSETS: &str = "CREDENTIAL_OFFSETS";

/// Ranges per list. Tries allocate entries as they are added, so the bound costs nothing.
pub const MAX_RANGES: u32 = 65_536;
/// Local addresses and local prefixes of one network namespace.
pub const MAX_LOCALS: u32 = 16_384;

/// Slots in the number ring unless told otherwise.
pub const DEFAULT_DESTINATIONS: u32 = 16_384;
/// The fewest slots that make sense, and the most that leave at least one bit to tell laps apart.
pub const MIN_DESTINATIONS: u32 = 2;
pub const MAX_DESTINATIONS: u32 = 1 << (crate::number::NUMBER_BITS - 1);

/// Which of the proxy's two listening ports a slot of the listener map is for. Each has
/// [`Listeners::SLOTS`] slots: one per worker, because a slot empties when its socket closes
/// although other workers may still listen on the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listeners {
    Outbound,
    Inbound,
}

impl Listeners {
    /// More sockets than this are served through the registered ones' reuseport group. An Envoy with
    /// 16 workers has 32 (IPv4 and IPv6), and twice that during a hot restart.
    pub const SLOTS: u32 = 64;
    pub const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];

    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    #[inline(always)]
    pub const fn first_slot(self) -> u32 {
        match self {
            Self::Outbound => 0,
            Self::Inbound => Self::SLOTS,
        }
    }
}
