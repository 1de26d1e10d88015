//! From annotations to arguments, the way of the init container and that of the CNI plugin.

use std::{collections::HashMap, path::Path};

use super::{
    Container, Description, FromPod, Said, keys,
    proxy_config::{self, ProxyConfig},
};
use crate::config::{
    flag::{self, Flag, parse_bool},
    problem::{Collector, quote},
    unsupported::UNSUPPORTED,
};

const INIT: &str = "istio-init's defaults";
const CNI: &str = "istio-cni's defaults";
/// Of the proxy, where its container does not say.
const PROXY_ID: u32 = 1337;
const STATUS_PORT: &str = "15020";
/// Two flags that are understood only in order to be refused.
const VIRTUAL_INTERFACES: &str = "kube-virt-interfaces";
const MODE: &str = "istio-inbound-interception-mode";

/// Writes arguments out of what is known of a pod.
pub(super) struct Writer<'a> {
    pod: &'a Description,
    path: &'a Path,
    config: ProxyConfig,
    collector: &'a mut Collector,
    written: FromPod,
}

impl<'a> Writer<'a> {
    pub(super) fn new(pod: &'a Description, path: &'a Path, collector: &'a mut Collector) -> Self {
        let mut writer = Self {
            pod,
            path,
            config: ProxyConfig::default(),
            collector,
            written: FromPod::default(),
        };
        writer.check_keys();
        writer.check_injection();
        if let Some(text) = writer.annotation(keys::PROXY_CONFIG) {
            match proxy_config::parse(&text.value) {
                Ok(config) => writer.config = config,
                Err(problem) => writer
                    .collector
                    .refuse(format!("{}: {problem}", text.source)),
            }
        }
        writer
    }

    /// The arguments and the environment of the container `istio-init`.
    pub(super) fn into_init(mut self) -> FromPod {
        self.common(INIT);
        let uid = self.pod.proxy.as_ref().and_then(|proxy| proxy.uid);
        self.id(&flag::PROXY_UID, "runAsUser", uid, INIT);
        let excluded = self.annotation(keys::EXCLUDE_INBOUND_PORTS);
        let status = self.status_port().unwrap_or(STATUS_PORT.to_owned());
        self.put_ports(excluded, INIT, |excluded| {
            format!("15090,15021,{}", with_port(&status, excluded))
        });
        self.put_if_set(
            &flag::LOCAL_OUTBOUND_PORTS_EXCLUDE,
            keys::EXCLUDE_OUTBOUND_PORTS,
        );
        self.put_if_set(&flag::OUTBOUND_PORTS, keys::INCLUDE_OUTBOUND_PORTS);
        self.put_if_set(&flag::EXCLUDE_INTERFACES, keys::EXCLUDE_INTERFACES);
        if let Some(said) = self.virtual_interfaces() {
            self.written.arguments.insert(VIRTUAL_INTERFACES, said);
        }
        self.written.environment = self.environment("istio-init", self.pod.init.as_ref());
        self.written
    }

    /// What the CNI plugin makes of the pod. It leaves nothing to its own environment but owner
    /// groups and the loopback range.
    pub(super) fn into_cni(mut self) -> FromPod {
        self.common(CNI);
        let proxy = self.pod.proxy.as_ref();
        let ids = proxy.map(|proxy| (proxy.uid, proxy.gid));
        let (uid, gid) = ids.unwrap_or_default();
        self.id(&flag::PROXY_UID, "runAsUser", uid, CNI);
        self.id(&flag::PROXY_GID, "runAsGroup", gid, CNI);
        // The injector has added the status port to the annotation that is read next.
        self.status_port();
        let excluded = self.annotation(keys::EXCLUDE_INBOUND_PORTS);
        self.put_ports(excluded, CNI, |excluded| {
            distinct(&format!(
                "{},15020,15021,15090",
                excluded.unwrap_or(STATUS_PORT)
            ))
        });
        self.put_or(
            &flag::LOCAL_OUTBOUND_PORTS_EXCLUDE,
            keys::EXCLUDE_OUTBOUND_PORTS,
            STATUS_PORT,
            CNI,
        );
        self.put_or(&flag::OUTBOUND_PORTS, keys::INCLUDE_OUTBOUND_PORTS, "", CNI);
        self.put_or(&flag::EXCLUDE_INTERFACES, keys::EXCLUDE_INTERFACES, "", CNI);
        self.put(&flag::INBOUND_TUNNEL_PORT, default("15008", CNI));
        let interfaces = self.virtual_interfaces();
        let interfaces = interfaces.unwrap_or_else(|| default("", CNI));
        self.written
            .arguments
            .insert(VIRTUAL_INTERFACES, interfaces);
        self.switches_of_proxy(proxy);
        self.written
    }

    /// What the CNI plugin takes from the proxy's environment. It asks for every DNS query or none.
    fn switches_of_proxy(&mut self, proxy: Option<&Container>) {
        let environment = self.environment("istio-proxy", proxy);
        for (flag, variable) in [
            (&flag::REDIRECT_DNS, "ISTIO_META_DNS_CAPTURE"),
            (&flag::CAPTURE_ALL_DNS, "ISTIO_META_DNS_CAPTURE"),
            (&flag::DROP_INVALID, "INVALID_DROP"),
            (&flag::DUAL_STACK, "ISTIO_DUAL_STACK"),
        ] {
            let said = environment.get(variable).cloned();
            self.put(flag, said.unwrap_or_else(|| default("false", CNI)));
        }
    }

    /// What both ways have in common.
    fn common(&mut self, defaults: &str) {
        self.put(&flag::ENVOY_PORT, default("15001", defaults));
        self.put(&flag::INBOUND_CAPTURE_PORT, default("15006", defaults));
        self.interception(defaults);
        self.put_or(
            &flag::SERVICE_CIDR,
            keys::INCLUDE_OUTBOUND_RANGES,
            "*",
            defaults,
        );
        self.put_or(
            &flag::SERVICE_EXCLUDE_CIDR,
            keys::EXCLUDE_OUTBOUND_RANGES,
            "",
            defaults,
        );
        self.put_or(
            &flag::INBOUND_PORTS,
            keys::INCLUDE_INBOUND_PORTS,
            "*",
            defaults,
        );
    }

    /// The newer name of the annotation outranks the older.
    fn virtual_interfaces(&self) -> Option<Said> {
        let newer = self.annotation(keys::REROUTE_INTERFACES);
        newer.or_else(|| self.annotation(keys::KUBEVIRT_INTERFACES))
    }

    /// Whether the pod is redirected at all, and how.
    fn interception(&mut self, defaults: &str) {
        let of_config = || {
            let value = self.config.interception_mode.clone()?;
            let source = format!("interceptionMode in {}", self.source(keys::PROXY_CONFIG));
            Some(Said { value, source })
        };
        let Some(said) = self.annotation(keys::INTERCEPTION_MODE).or_else(of_config) else {
            return self.put_mode(default("REDIRECT", defaults));
        };
        match said.value.as_str() {
            "REDIRECT" | "TPROXY" => self.put_mode(said),
            "NONE" => self.collector.refuse(format!(
                "{}: the pod is to be left alone, so there is nothing to redirect",
                said.source
            )),
            other => self.collector.refuse(format!(
                "{}: {} is not a mode; expected REDIRECT",
                said.source,
                quote(other)
            )),
        }
    }

    fn put_mode(&mut self, mode: Said) {
        self.written.arguments.insert(MODE, mode);
    }

    /// The annotation with the port for the proxy's health, checked.
    fn status_port(&mut self) -> Option<String> {
        let said = self.annotation(keys::STATUS_PORT)?;
        let port = said.value.trim().to_owned();
        if port.parse::<u16>().is_err() {
            self.collector.refuse(format!(
                "{}: {} is not a port; expected one number from 1 to 65535, or 0 for none",
                said.source,
                quote(&port)
            ));
            return None;
        }
        Some(port)
    }

    /// The inbound ports that are left out, of which a part is always there.
    fn put_ports(
        &mut self,
        annotation: Option<Said>,
        defaults: &str,
        complete: impl Fn(Option<&str>) -> String,
    ) {
        let value = complete(annotation.as_ref().map(|said| said.value.as_str()));
        let source = annotation.map_or_else(|| defaults.to_owned(), |said| said.source);
        self.put(&flag::LOCAL_EXCLUDE_PORTS, Said { value, source });
    }

    /// An id out of a container's security context; 0 counts as none.
    fn id(&mut self, flag: &Flag, field: &str, id: Option<u32>, defaults: &str) {
        let said = match id.filter(|&id| id != 0) {
            Some(id) => Said {
                value: id.to_string(),
                source: format!(
                    "{field} of container istio-proxy in {}",
                    self.path.display()
                ),
            },
            None => default(&PROXY_ID.to_string(), defaults),
        };
        self.put(flag, said);
    }

    /// The environment of a container. It has the metadata of the proxy's configuration, and that
    /// alone is known where the file does not have the container.
    fn environment(&mut self, name: &str, container: Option<&Container>) -> HashMap<String, Said> {
        let Some(container) = container else {
            let source = self.source(keys::PROXY_CONFIG);
            let metadata = self.config.proxy_metadata.take().unwrap_or_default();
            let said = metadata.into_iter().map(|(name, value)| {
                let source = format!("{name} in {source}");
                (name, Said { value, source })
            });
            return said.collect();
        };
        let mut known = HashMap::new();
        for (variable, value) in &container.environment {
            let source = format!(
                "variable {variable} of container {name} in {}",
                self.path.display()
            );
            if let Some(value) = value.clone() {
                known.insert(variable.clone(), Said { value, source });
            } else if let Some(flag) = flag_of(variable) {
                self.collector.note(format!(
                    "{source}: its value is kept elsewhere, so it is not looked at; give {flag} \
                     instead"
                ));
            }
        }
        known
    }

    fn check_keys(&mut self) {
        if self.pod.annotations.is_empty() {
            self.collector
                .note(format!("--annotations: {} has none", self.path.display()));
        }
        for key in self
            .pod
            .annotations
            .keys()
            .filter(|key| keys::is_misspelt(key))
        {
            let source = self.source(key);
            self.collector.note(format!(
                "{source}: there is no such annotation, so it changes nothing"
            ));
        }
    }

    fn check_injection(&mut self) {
        let key = keys::INJECT;
        let (what, value) = match (&self.pod.inject, self.pod.annotations.get(key)) {
            (Some(label), _) => (format!("label {key} in {}", self.path.display()), label),
            (None, Some(annotation)) => (self.source(key), annotation),
            (None, None) => return,
        };
        if parse_bool(value) == Some(false) {
            self.collector.refuse(format!(
                "{what}: {} means that the pod has no sidecar, so nothing can be redirected to it",
                quote(value)
            ));
        }
    }

    fn annotation(&self, key: &str) -> Option<Said> {
        let value = self.pod.annotations.get(key)?.clone();
        Some(Said {
            value,
            source: self.source(key),
        })
    }

    fn source(&self, key: &str) -> String {
        format!("annotation {key} in {}", self.path.display())
    }

    fn put(&mut self, flag: &Flag, said: Said) {
        self.written.arguments.insert(flag.long, said);
    }

    fn put_if_set(&mut self, flag: &Flag, key: &str) {
        if let Some(said) = self.annotation(key) {
            self.put(flag, said);
        }
    }

    fn put_or(&mut self, flag: &Flag, key: &str, value: &str, defaults: &str) {
        let said = self.annotation(key);
        self.put(flag, said.unwrap_or_else(|| default(value, defaults)));
    }
}

fn default(value: &str, defaults: &str) -> Said {
    Said {
        value: value.to_owned(),
        source: defaults.to_owned(),
    }
}

/// `excludeInboundPort` in pkg/kube/inject/template.go: the port behind the list, unless it is in
/// it or zero.
fn with_port(port: &str, list: Option<&str>) -> String {
    let list = list.unwrap_or_default();
    let mut items = list
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    if port == "0" || items.clone().any(|item| item == port) {
        return list.to_owned();
    }
    let mut ports: Vec<_> = items.by_ref().collect();
    ports.push(port);
    ports.join(",")
}

/// A list without its empty and its repeated items (`dedupPorts` of the CNI plugin).
fn distinct(list: &str) -> String {
    let mut items = Vec::new();
    for item in list.split(',').map(str::trim) {
        if !item.is_empty() && !items.contains(&item) {
            items.push(item);
        }
    }
    items.join(",")
}

/// The flag that a variable stands for.
fn flag_of(variable: &str) -> Option<String> {
    let supported = flag::SUPPORTED
        .iter()
        .find(|flag| flag.env.contains(&variable))
        .map(|flag| flag.to_string());
    supported.or_else(|| {
        let setting = UNSUPPORTED.iter().find(|it| it.env.contains(&variable))?;
        Some(format!("--{}", setting.long))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_port_is_appended_once_and_never_as_zero() {
        assert_eq!(with_port("15020", None), "15020");
        assert_eq!(with_port("15020", Some("80, 81,")), "80,81,15020");
        assert_eq!(with_port("81", Some("80, 81,")), "80, 81,");
        assert_eq!(with_port("0", Some("80")), "80");
        assert_eq!(with_port("0", None), "");
    }

    #[test]
    fn lists_are_made_distinct_in_order() {
        assert_eq!(distinct("2,1, 2,,1,3,"), "2,1,3");
        assert_eq!(distinct(""), "");
    }

    #[test]
    fn variables_have_flags() {
        let flag = |variable| flag_of(variable);
        assert_eq!(flag("INVALID_DROP").as_deref(), Some("--drop-invalid"));
        assert_eq!(
            flag("KUBE_VIRT_INTERFACES").as_deref(),
            Some("--kube-virt-interfaces")
        );
        assert_eq!(flag("PATH"), None);
    }
}
