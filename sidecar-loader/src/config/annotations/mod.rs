//! What a pod's annotations ask for, as the arguments and the environment that istio-iptables would
//! get: from the template of the injected init container
//! (manifests/charts/istio-control/istio-discovery/files/injection-template.yaml), or from the CNI
//! plugin (cni/pkg/plugin/sidecar_redirect.go).
//!
//! - [`downward`], [`manifest`]: the two kinds of file;
//! - [`keys`]: the annotations; [`proxy_config`]: one that has settings of its own in it;
//! - [`arguments`]: what becomes of them.

mod arguments;
mod downward;
mod keys;
mod manifest;
mod proxy_config;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use self::arguments::Writer;
use super::{file, problem::Collector};
use crate::cli::{AnnotationArgs, AnnotationDefaults};

/// What a pod says, in istio-iptables' words. Says nothing where no file was given.
#[derive(Default, Debug)]
pub(super) struct FromPod {
    /// By the flag's long name.
    arguments: HashMap<&'static str, Said>,
    environment: HashMap<String, Said>,
}

/// A value, and where in the file it is from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Said {
    pub(super) value: String,
    pub(super) source: String,
}

/// What a file tells of a pod.
#[derive(Default, PartialEq, Eq, Debug)]
struct Description {
    annotations: BTreeMap<String, String>,
    /// The label that says whether the pod has a sidecar; it outranks the annotation.
    inject: Option<String>,
    /// The container `istio-proxy`, be it a native sidecar.
    proxy: Option<Container>,
    /// The container `istio-init`.
    init: Option<Container>,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Container {
    uid: Option<u32>,
    gid: Option<u32>,
    /// `None` is the value of a variable that is kept outside the file.
    environment: BTreeMap<String, Option<String>>,
}

impl FromPod {
    pub(super) fn read(args: &AnnotationArgs, collector: &mut Collector) -> Self {
        let Some(path) = &args.file else {
            return Self::default();
        };
        let description = match file::read(path).and_then(|text| describe(&text, path)) {
            Ok(description) => description,
            Err(problem) => {
                collector.refuse(format!("--annotations: {problem}"));
                return Self::default();
            }
        };
        let writer = Writer::new(&description, path, collector);
        match args.defaults {
            AnnotationDefaults::Init => writer.into_init(),
            AnnotationDefaults::Cni => writer.into_cni(),
        }
    }

    /// What is said for a flag, or else for the last of its variables of which something is said.
    pub(super) fn says(&self, long: &str, variables: &[&str]) -> Option<&Said> {
        let variable = || {
            let mut variables = variables.iter().rev();
            variables.find_map(|&name| self.environment.get(name))
        };
        self.arguments.get(long).or_else(variable)
    }
}

/// The kind of file shows in its first line that says something.
fn describe(text: &str, path: &Path) -> Result<Description, String> {
    let described = if downward::is_one(text) {
        downward::parse(text).map(|annotations| Description {
            annotations,
            ..Description::default()
        })
    } else {
        manifest::parse(text)
    };
    described.map_err(|problem| {
        format!(
            "{}: {problem}; expected a pod's annotations as the downward API writes them, or its \
             manifest",
            path.display()
        )
    })
}
