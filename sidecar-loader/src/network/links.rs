//! The pod's interfaces, and which of them a name means.

use anyhow::Result;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::LinkAttribute;
use sidecar_ebpf_common::interface::Interface;

use super::{Network, View};

impl Network {
    pub(super) async fn read_links(&self, view: &mut View) -> Result<()> {
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await? {
            let name = message.attributes.into_iter().find_map(|attribute| {
                if let LinkAttribute::IfName(name) = attribute {
                    Some(name)
                } else {
                    None
                }
            });
            if let Some(name) = name {
                view.links.push((Interface(message.header.index), name));
            }
        }
        view.links.sort_unstable();
        Ok(())
    }
}

impl View {
    /// The interfaces that these names mean, in the order of their indices.
    pub fn interfaces_named(&self, patterns: &[String]) -> Vec<(Interface, &str)> {
        self.links
            .iter()
            .filter(|(_, name)| patterns.iter().any(|pattern| matches_name(pattern, name)))
            .map(|(interface, name)| (*interface, name.as_str()))
            .collect()
    }
}

/// What `-i` and `-o` of iptables match: this name, or with a `+` at its end every name that begins
/// so (`xtables_parse_interface`).
pub fn matches_name(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_with_iptables() {
        for (pattern, name, expected) in [
            ("eth1", "eth1", true),
            ("eth1", "eth10", false),
            ("eth1+", "eth1", true),
            ("eth1+", "eth10", true),
            ("eth+", "net1", false),
            ("+", "lo", true),
            ("e+h", "eth", false),
            ("e+h", "e+h", true),
        ] {
            assert_eq!(matches_name(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn an_interface_that_two_names_mean_counts_once() {
        let view = View {
            links: [(1, "lo"), (2, "eth0"), (5, "net1"), (9, "net2")]
                .map(|(index, name)| (Interface(index), name.to_owned()))
                .to_vec(),
            ..View::default()
        };
        let named = view.interfaces_named(&["net1".to_owned(), "net+".to_owned()]);
        assert_eq!(named, [(Interface(5), "net1"), (Interface(9), "net2")]);
        assert!(view.interfaces_named(&[]).is_empty());
    }
}
