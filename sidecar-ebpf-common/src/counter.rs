//! What is counted, and where in the counter map.

use crate::rule::{InboundRule, OutboundRule};

/// A place in the kernel that counts. The name is that of the attach type.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hook {
    Bind4,
    Bind6,
    Connect4,
    Connect6,
    Getsockopt,
    Getpeername4,
    Getpeername6,
    Sendmsg4,
    Sendmsg6,
    Recvmsg4,
    Recvmsg6,
    SockOps,
    SkLookup,
}

impl Hook {
    pub const ALL: &'static [Self] = &[
        Self::Bind4,
        Self::Bind6,
        Self::Connect4,
        Self::Connect6,
        Self::Getsockopt,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::SockOps,
        Self::SkLookup,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Bind4 => "bind4",
            Self::Bind6 => "bind6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Getsockopt => "getsockopt",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::SockOps => "sock_ops",
            Self::SkLookup => "sk_lookup",
        }
    }
}

/// Why something was left alone without asking the rules, or not done although the rules said so.
/// The first kind is harmless; every other refuses, never passes.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// The socket belongs to another network namespace: left alone.
    OtherNetns,
    /// More than half a ring of new destinations within the hold time: refused.
    TableFull,
    /// A connection or a bind aimed at the address range of the redirect itself: refused.
    RedirectRange,
    /// A kernel helper or a map failed: refused.
    HelperFailed,
    /// No listener of the proxy is registered: refused.
    NoListener,
    /// The number was given to another destination meanwhile: unanswered.
    StaleNumber,
    /// A packet for the redirect range that does not come from the pod: dropped.
    ForeignSource,
    /// All slots for the proxy's listeners are taken: another one carries its share.
    SlotsFull,
    /// The socket is bound to a device that does not lead to the proxy: refused.
    BoundToDevice,
    /// The redirect's IPv6 range is not routed in the pod's namespace (yet): refused.
    NotReady,
}

/// What a [`Reason`] means for the traffic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Effect {
    /// The rules were not asked and nothing was changed.
    Bypass,
    /// The connection or the question was refused.
    Refusal,
}

impl Reason {
    pub const ALL: &'static [Self] = &[
        Self::OtherNetns,
        Self::TableFull,
        Self::RedirectRange,
        Self::HelperFailed,
        Self::NoListener,
        Self::StaleNumber,
        Self::ForeignSource,
        Self::SlotsFull,
        Self::BoundToDevice,
        Self::NotReady,
    ];
    const COUNT: u32 = Self::ALL.len() as u32;

    pub const fn name(self) -> &'static str {
        match self {
            Self::OtherNetns => "other-netns",
            Self::TableFull => "table-full",
            Self::RedirectRange => "redirect-range",
            Self::HelperFailed => "helper-failed",
            Self::NoListener => "no-listener",
            Self::StaleNumber => "stale-number",
            Self::ForeignSource => "foreign-source",
            Self::SlotsFull => "slots-full",
            Self::BoundToDevice => "bound-to-device",
            Self::NotReady => "not-ready",
        }
    }

    pub const fn effect(self) -> Effect {
        match self {
            Self::OtherNetns | Self::SlotsFull => Effect::Bypass,
            Self::TableFull
            | Self::RedirectRange
            | Self::HelperFailed
            | Self::NoListener
            | Self::StaleNumber
            | Self::ForeignSource
            | Self::BoundToDevice
            | Self::NotReady => Effect::Refusal,
        }
    }

    /// The hooks at which it can happen.
    pub const fn hooks(self) -> &'static [Hook] {
        use Hook::{
            Bind4, Bind6, Connect4, Connect6, Getpeername4, Getpeername6, Getsockopt, Recvmsg4,
            Recvmsg6, Sendmsg4, Sendmsg6, SkLookup, SockOps,
        };
        match self {
            Self::OtherNetns => &[Bind4, Bind6, Connect4, Connect6, Sendmsg4, Sendmsg6],
            Self::TableFull | Self::BoundToDevice => &[Connect4, Connect6, Sendmsg4, Sendmsg6],
            Self::RedirectRange => &[
                Bind4, Bind6, Connect4, Connect6, Sendmsg4, Sendmsg6, SkLookup,
            ],
            Self::HelperFailed => &[Connect4, Connect6, Sendmsg4, Sendmsg6],
            Self::NoListener | Self::ForeignSource => &[SkLookup],
            Self::StaleNumber => &[Getsockopt, Getpeername4, Getpeername6, Recvmsg4, Recvmsg6],
            Self::SlotsFull => &[SockOps],
            Self::NotReady => &[Connect6, Sendmsg6],
        }
    }
}

/// A hook that asks the outbound rules: `connect()`, or a DNS query without it.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutboundHook {
    Connect4,
    Connect6,
    Sendmsg4,
    Sendmsg6,
}

impl OutboundHook {
    pub const ALL: &'static [Self] = &[
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
    ];
    const COUNT: u32 = Self::ALL.len() as u32;

    #[inline(always)]
    pub const fn hook(self) -> Hook {
        match self {
            Self::Connect4 => Hook::Connect4,
            Self::Connect6 => Hook::Connect6,
            Self::Sendmsg4 => Hook::Sendmsg4,
            Self::Sendmsg6 => Hook::Sendmsg6,
        }
    }

    /// The rules that can count here. A DNS query that is sent without `connect()` is UDP, which
    /// those for TCP do not meet.
    pub fn rules(self) -> impl Iterator<Item = OutboundRule> {
        use OutboundRule as Rule;
        let is_udp = matches!(self, Self::Sendmsg4 | Self::Sendmsg6);
        let is_for_tcp = |rule| {
            matches!(
                rule,
                Rule::ProxyToOwnPodByUid
                    | Rule::LocalNotProxyByUid
                    | Rule::ProxyToOwnPodByGid
                    | Rule::LocalNotProxyByGid
                    | Rule::IncludedPort
                    | Rule::Everything
                    | Rule::IncludedRange
            )
        };
        let rules = OutboundRule::ALL.iter().copied();
        rules.filter(move |&rule| !is_udp || !is_for_tcp(rule))
    }
}

/// One counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    Outbound(OutboundHook, OutboundRule),
    Inbound(InboundRule),
    Other(Hook, Reason),
}

const INBOUND_BASE: u32 = OutboundHook::COUNT * OutboundRule::COUNT;
const OTHER_BASE: u32 = INBOUND_BASE + InboundRule::COUNT;

impl Counter {
    /// How many counters there are: the capacity of the counter map.
    pub const COUNT: u32 = OTHER_BASE + Hook::ALL.len() as u32 * Reason::COUNT;

    /// Its index in the counter map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Outbound(hook, rule) => hook as u32 * OutboundRule::COUNT + rule as u32,
            Self::Inbound(rule) => INBOUND_BASE + rule as u32,
            Self::Other(hook, reason) => OTHER_BASE + hook as u32 * Reason::COUNT + reason as u32,
        }
    }

    /// Every counter that can move, in the order in which they are shown.
    pub fn all() -> impl Iterator<Item = Self> {
        let outbound = OutboundHook::ALL
            .iter()
            .flat_map(|&hook| hook.rules().map(move |rule| Self::Outbound(hook, rule)));
        let inbound = InboundRule::ALL.iter().map(|&rule| Self::Inbound(rule));
        let other = Reason::ALL.iter().flat_map(|&reason| {
            reason
                .hooks()
                .iter()
                .map(move |&hook| Self::Other(hook, reason))
        });
        outbound.chain(inbound).chain(other)
    }
}
