//! Every rule, once: its label, its iptables twin, its action. Tables, metrics and documentation
//! are made from these lists.
//!
//! The order is that of Istio's chains (tools/istio-iptables/pkg/capture/run.go at commit
//! 86c9f01fd735). The nine rules of a default `ISTIO_OUTPUT` keep their numbers; the rules that
//! settings put in between have names.

/// What happens to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It goes where it was going.
    Pass,
    /// To the proxy's outbound port (15001).
    ToOutbound,
    /// To the proxy's inbound port (15006).
    ToInbound,
    /// To the DNS port of the proxy's agent (15053).
    ToDns,
}

impl Action {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::ToOutbound => "redirect-outbound",
            Self::ToInbound => "redirect-inbound",
            Self::ToDns => "redirect-dns",
        }
    }
}

/// Declares a chain: an enum whose variants are its rules in order.
macro_rules! chain {
    (
        $(#[$meta:meta])* $chain:ident;
        $($rule:ident $label:literal $action:ident $iptables:literal $help:literal;)*
    ) => {
        $(#[$meta])*
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[must_use = "a rule is a verdict: count it and apply its action"]
        pub enum $chain {
            $(#[doc = concat!($help, "\n\n`", $iptables, "`")] $rule,)*
        }

        impl $chain {
            pub const ALL: &'static [Self] = &[$(Self::$rule),*];
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The rule's number in the default chain, or its name.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$rule => $label,)* }
            }

            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$rule => Action::$action,)* }
            }

            /// The rule it stands for, as `iptables-save` writes it with default settings. Lists
            /// appear as `<…>`.
            pub const fn iptables(self) -> &'static str {
                match self { $(Self::$rule => $iptables,)* }
            }

            /// What the rule is for, in a sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$rule => $help,)* }
            }
        }
    };
}

chain! {
    /// Outbound: the chain `ISTIO_OUTPUT`, asked at `connect()`, and for DNS at `sendto()`.
    OutboundRule;
    NoIpv6Rules "no-ipv6-rules" Pass "(no ip6tables rules)"
        "The pod's first address is IPv4 and dual stack is off, so IPv6 has no rules.";
    ExcludedInterface "excluded-interface" Pass "-o <interface> -j RETURN"
        "The destination lies behind an interface that is excluded.";
    ExcludedPort "excluded-port" Pass "-p tcp --dport <port> -j RETURN"
        "The port is excluded from outbound capture.";
    FromInboundPassthrough "1" Pass "-o lo -s 127.0.0.6/32 -j RETURN"
        "The proxy delivers an inbound connection to the application.";
    ProxyToOwnPodByUid "2" ToInbound
        "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"
        "The proxy (by uid) calls its own pod: in through the inbound port.";
    LocalNotProxyByUid "3" Pass "-o lo -m owner ! --uid-owner 1337 -j RETURN"
        "The application talks to an address of its own pod.";
    ProxyByUid "4" Pass "-m owner --uid-owner 1337 -j RETURN"
        "The proxy's own traffic (by uid).";
    ProxyToOwnPodByGid "5" ToInbound
        "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT"
        "The proxy (by gid) calls its own pod: in through the inbound port.";
    LocalNotProxyByGid "6" Pass "-o lo -m owner ! --gid-owner 1337 -j RETURN"
        "The application talks to an address of its own pod.";
    ProxyByGid "7" Pass "-m owner --gid-owner 1337 -j RETURN"
        "The proxy's own traffic (by gid).";
    ExcludedGroup "excluded-group" Pass "-m owner --gid-owner <group> -j RETURN"
        "The group is excluded from outbound capture.";
    NotIncludedGroup "not-included-group" Pass "-m owner ! --gid-owner <group> -j RETURN"
        "Outbound capture is for other groups only.";
    Dns "dns" ToDns "-p udp --dport 53 -j REDIRECT --to-ports 15053"
        "A DNS query: to the proxy's agent.";
    Localhost "8" Pass "-d 127.0.0.1/32 -j RETURN"
        "Anything to localhost.";
    ExcludedRange "excluded-range" Pass "-d <range> -j RETURN"
        "The address is excluded from outbound capture.";
    IncludedPort "included-port" ToOutbound "-p tcp --dport <port> -j ISTIO_REDIRECT"
        "The port is captured whatever the address.";
    Everything "9" ToOutbound "-j ISTIO_REDIRECT"
        "All outbound traffic is captured.";
    IncludedRange "included-range" ToOutbound "-d <range> -j ISTIO_REDIRECT"
        "The address is in a captured range.";
    EndOfChain "end-of-chain" Pass "(end of ISTIO_OUTPUT)"
        "No rule matched: not captured.";
}

chain! {
    /// Inbound: `PREROUTING` and the chain `ISTIO_INBOUND`, asked when a SYN looks for a listener.
    InboundRule;
    NoIpv6Rules "no-ipv6-rules" Pass "(no ip6tables rules)"
        "The pod's first address is IPv4 and dual stack is off, so IPv6 has no rules.";
    ExcludedInterface "inbound-excluded-interface" Pass "-i <interface> -j RETURN"
        "It comes in through an interface that is excluded.";
    Off "inbound-off" Pass "(no jump to ISTIO_INBOUND)"
        "Inbound capture is off.";
    Tunnel "inbound-tunnel" Pass "-p tcp --dport 15008 -j RETURN"
        "The tunnel (HBONE) port is the proxy's own.";
    ExcludedPort "inbound-excluded-port" Pass "-p tcp --dport <port> -j RETURN"
        "The port is excluded from inbound capture.";
    Everything "inbound-all" ToInbound "-p tcp -j ISTIO_IN_REDIRECT"
        "All inbound ports are captured.";
    IncludedPort "inbound-included-port" ToInbound "-p tcp --dport <port> -j ISTIO_IN_REDIRECT"
        "The port is captured.";
    EndOfChain "inbound-end-of-chain" Pass "(end of ISTIO_INBOUND)"
        "No rule matched: not captured.";
}
