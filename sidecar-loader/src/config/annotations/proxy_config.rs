//! The annotation `proxy.istio.io/config`: YAML within YAML.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The parts of a `ProxyConfig` (mesh/v1alpha1/proxy.proto in istio/api) that have to do with
/// redirection.
#[derive(Deserialize, Default, Debug)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ProxyConfig {
    pub(super) interception_mode: Option<String>,
    /// Environment variables of the pod's Istio containers.
    pub(super) proxy_metadata: Option<BTreeMap<String, String>>,
}

pub(super) fn parse(text: &str) -> Result<ProxyConfig, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet().to_string();
        format!("{}; expected YAML", error.replace('\n', " "))
    })
}
