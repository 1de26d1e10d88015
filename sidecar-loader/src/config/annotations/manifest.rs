//! A pod's manifest, or that of an object with a template for pods, in YAML. JSON is YAML.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Container, Description, keys};
use crate::config::problem::quote;

const PROXY: &str = "istio-proxy";
const INIT: &str = "istio-init";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    kind: Option<String>,
    metadata: Option<Metadata>,
    spec: Option<Spec>,
    /// Of a `PodTemplate`.
    template: Option<Template>,
}

/// The `spec` of a pod, or of what makes pods.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    template: Option<Template>,
    job_template: Option<JobTemplate>,
    containers: Option<Vec<Listed>>,
    init_containers: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
struct JobTemplate {
    spec: Option<JobSpec>,
}

#[derive(Deserialize)]
struct JobSpec {
    template: Option<Template>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Template {
    metadata: Option<Metadata>,
    spec: Option<PodSpec>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    containers: Option<Vec<Listed>>,
    init_containers: Option<Vec<Listed>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Listed {
    name: Option<String>,
    env: Option<Vec<Variable>>,
    security_context: Option<SecurityContext>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Variable {
    name: Option<String>,
    value: Option<String>,
    value_from: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct SecurityContext {
    run_as_user: Option<u32>,
    run_as_group: Option<u32>,
}

pub(super) fn parse(text: &str) -> Result<Description, String> {
    let object: Object = serde_saphyr::from_str(text).map_err(|error| explain(&error))?;
    let Some(kind) = object.kind.clone() else {
        return Err("it has no `kind`".to_owned());
    };
    if kind.ends_with("List") {
        return Err(format!(
            "{} has several objects; give the one of the pod",
            quote(&kind)
        ));
    }
    let Some(pod) = pod_of(&kind, object) else {
        return Err(format!(
            "{} is not a pod, and has no template for one",
            quote(&kind)
        ));
    };
    Ok(description(pod))
}

/// What is wrong, in one line.
fn explain(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    if matches!(error, serde_saphyr::Error::MultipleDocuments { .. }) {
        return "it has several documents; give the one of the pod".to_owned();
    }
    error.to_string().replace('\n', " ")
}

/// The pod itself, or the template that all workloads have somewhere.
fn pod_of(kind: &str, object: Object) -> Option<Template> {
    let spec = object.spec.unwrap_or_default();
    if kind == "Pod" {
        return Some(Template {
            metadata: object.metadata,
            spec: Some(PodSpec {
                containers: spec.containers,
                init_containers: spec.init_containers,
            }),
        });
    }
    let of_job = || spec.job_template?.spec?.template;
    object.template.or(spec.template).or_else(of_job)
}

fn description(pod: Template) -> Description {
    let metadata = pod.metadata.unwrap_or_default();
    let spec = pod.spec.unwrap_or_default();
    let mut listed = spec.containers.unwrap_or_default();
    listed.extend(spec.init_containers.unwrap_or_default());
    let find = |name: &str| {
        let found = listed.iter().find(|it| it.name.as_deref() == Some(name));
        found.map(container)
    };
    Description {
        annotations: metadata.annotations.unwrap_or_default(),
        inject: metadata.labels.unwrap_or_default().remove(keys::INJECT),
        proxy: find(PROXY),
        init: find(INIT),
    }
}

fn container(listed: &Listed) -> Container {
    let security = listed.security_context.as_ref();
    let variables = listed.env.iter().flatten().filter_map(|variable| {
        let value = match (&variable.value, &variable.value_from) {
            (None, Some(_)) => None,
            (value, _) => Some(value.clone().unwrap_or_default()),
        };
        Some((variable.name.clone()?, value))
    });
    Container {
        uid: security.and_then(|context| context.run_as_user),
        gid: security.and_then(|context| context.run_as_group),
        environment: variables.collect(),
    }
}
