//! What can redirect in an arm, by name, and what it is in the words of the report.

use std::sync::Arc;

use super::{
    crew::NUMBERED,
    further::Further,
    names::{BASE, CALLS, EMPTY, OURS, PATH},
    record::ArmInfo,
};
use crate::{conformance::Backend, pod::POD_IP};

/// What redirects.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing does: every ratio is to this one.
    None,
    /// Nothing does either, but connections take the way that the loader's take, by themselves.
    Path,
    /// The same, with programs that do nothing where the loader's run.
    EmptyPrograms,
    /// Programs redirect that make the calls which no redirect can do without, and nothing else.
    NeededCalls,
    /// Istio's rules.
    Rules(Backend),
    /// The loader.
    Ours,
    /// What a file of the user describes.
    Further(Arc<Further>),
}

impl Kind {
    pub const BUILT_IN: [Self; 5] = [
        Self::None,
        Self::Rules(Backend::Legacy),
        Self::Rules(Backend::Nft),
        Self::Rules(Backend::Native),
        Self::Ours,
    ];

    pub fn name(&self) -> &str {
        match self {
            Self::None => BASE,
            Self::Path => PATH,
            Self::EmptyPrograms => EMPTY,
            Self::NeededCalls => CALLS,
            Self::Rules(backend) => backend.name(),
            Self::Ours => OURS,
            Self::Further(further) => &further.name,
        }
    }

    fn description(&self) -> String {
        match self {
            Self::None => {
                "no redirection: the application connects to 127.0.0.1:15001, the cluster to the \
                 proxy's listener at port 8080 of the pod"
                    .to_owned()
            }
            Self::Path => format!(
                "no redirection and no program: the application connects to {} and its like, from \
                 {POD_IP}, and is answered by lo, as a connection goes that sidecar-ebpf has redirected",
                NUMBERED[0]
            ),
            Self::EmptyPrograms => format!(
                "{PATH}, and a program of two instructions in each place where one of sidecar-ebpf \
                 runs for such a connection: connect4, sk_lookup, getpeername4, getsockopt"
            ),
            Self::NeededCalls => "programs in the same places that make the calls which no redirect \
                can do without, and nothing else: namespace, owner and a counter, and the proxy's \
                port at an address that follows from the destination's; one answer to SO_ORIGINAL_DST"
                .to_owned(),
            Self::Rules(Backend::Legacy) => rules("iptables-legacy-restore"),
            Self::Rules(Backend::Nft) => rules("iptables-nft-restore"),
            Self::Rules(Backend::Native) => rules("nft, translated rule by rule"),
            Self::Ours => "this project's loader with its default settings".to_owned(),
            Self::Further(further) => further.description.clone(),
        }
    }

    pub fn info(&self) -> ArmInfo {
        ArmInfo {
            name: self.name().to_owned(),
            description: self.description(),
        }
    }
}

fn rules(how: &str) -> String {
    format!("the IPv4 rules of Istio's default installation, by {how}")
}
