//! Manifests.

use super::*;

const POD: &str = r#"# The pod, as kubectl shows it.
---
apiVersion: v1
kind: Pod
metadata:
  name: reviews
  labels: {app: reviews, sidecar.istio.io/inject: "true"}
  annotations:
    traffic.sidecar.istio.io/excludeOutboundPorts: "5432,6379"
    traffic.sidecar.istio.io/includeInboundPorts: ''
    proxy.istio.io/config: |
      proxyMetadata:
        ISTIO_META_DNS_CAPTURE: "true"
spec:
  initContainers:
  - name: istio-init
    args: ["istio-iptables", "-p", "15001"]
    env:
    - {name: INVALID_DROP, value: "true"}
    - {name: EMPTY}
    securityContext: {runAsUser: 0, runAsGroup: 0}
  containers:
  - name: app
    image: reviews
    securityContext: {runAsUser: 1000}
  - name: istio-proxy
    env:
    - {name: TWICE, value: first}
    - {name: TWICE, value: second}
    - name: POD_NAME
      valueFrom:
        fieldRef: {fieldPath: metadata.name}
    securityContext:
      runAsUser: 1338
      runAsGroup: 1339
status:
  phase: Running
"#;

#[test]
fn a_pod_has_annotations_and_containers() {
    let pod = described(POD).unwrap();
    let expected = [
        pair(
            "proxy.istio.io/config",
            "proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n",
        ),
        pair("traffic.sidecar.istio.io/excludeOutboundPorts", "5432,6379"),
        pair("traffic.sidecar.istio.io/includeInboundPorts", ""),
    ];
    assert_eq!(pod.annotations, expected.into());
    assert_eq!(pod.inject.as_deref(), Some("true"));
    let value = |value: &str| Some(value.to_owned());
    let init = Container {
        uid: Some(0),
        gid: Some(0),
        environment: [
            ("INVALID_DROP".to_owned(), value("true")),
            ("EMPTY".to_owned(), value("")),
        ]
        .into(),
    };
    let proxy = Container {
        uid: Some(1338),
        gid: Some(1339),
        environment: [
            ("TWICE".to_owned(), value("second")),
            ("POD_NAME".to_owned(), None),
        ]
        .into(),
    };
    assert_eq!((pod.init, pod.proxy), (Some(init), Some(proxy)));
}

#[test]
fn json_is_read_too_and_the_proxy_may_be_a_native_sidecar() {
    let text = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"annotations":
        {"traffic.sidecar.istio.io/excludeInterfaces":"eth1","a\/b":"\u00e9\n"}},
        "spec":{"initContainers":[{"name":"istio-proxy","restartPolicy":"Always",
        "securityContext":{"runAsUser":7}}],"containers":[]}}"#;
    let pod = described(text).unwrap();
    assert_eq!(
        annotations(text),
        [
            pair("a/b", "é\n"),
            pair("traffic.sidecar.istio.io/excludeInterfaces", "eth1"),
        ]
    );
    let proxy = pod.proxy.unwrap();
    assert_eq!((proxy.uid, proxy.gid), (Some(7), None));
    assert_eq!(pod.init, None);
}

#[test]
fn workloads_have_a_template() {
    let template = "template: {metadata: {annotations: {a: x}}, spec: {containers: \
                    [{name: istio-proxy, securityContext: {runAsGroup: 5}}]}}";
    for text in [
        format!(
            "kind: Deployment\nmetadata: {{annotations: {{b: y}}}}\n\
             spec: {{replicas: 2, {template}}}"
        ),
        format!("kind: StatefulSet\nspec: {{{template}}}"),
        format!("kind: CronJob\nspec: {{jobTemplate: {{spec: {{{template}}}}}}}"),
        format!("kind: PodTemplate\n{template}"),
    ] {
        assert_eq!(annotations(&text), [pair("a", "x")], "{text}");
        assert_eq!(described(&text).unwrap().proxy.unwrap().gid, Some(5));
    }
}

#[test]
fn nothing_need_be_there() {
    for text in [
        "kind: Pod",
        "kind: Pod\nmetadata: null\nspec: null",
        "kind: Pod\nmetadata: {annotations: null, labels: null}\nspec: {containers: null}",
        "kind: Pod\nspec: {containers: [{name: istio-init2}, {}]}",
        "kind: Deployment\nspec: {template: {}}",
        "---\nkind: Pod\n...\n",
    ] {
        assert_eq!(described(text).unwrap(), Description::default(), "{text}");
    }
}

#[test]
fn what_is_not_one_pod_is_refused_by_name() {
    for (text, words) in [
        ("kind: Pod\n---\nkind: Pod\n", "several documents"),
        ("kind: List\nitems: []", "\"List\" has several objects"),
        (
            r#"{"kind":"PodList","items":[]}"#,
            "\"PodList\" has several objects",
        ),
        (
            "kind: Service\nspec: {ports: []}",
            "\"Service\" is not a pod",
        ),
        ("metadata: {}", "no `kind`"),
        ("# nothing", "no `kind`"),
        ("kind: Pod\nmetadata: [", "line 2"),
        ("kind: Pod\nmetadata:\n  annotations: [a]", "line 3"),
        (
            "kind: Pod\nmetadata:\n  annotations: {a: x, a: y}",
            "duplicate",
        ),
        (
            "kind: Pod\nspec: {containers: [{name: a, securityContext: {runAsUser: -1}}]}",
            "line 2",
        ),
        ("just text", "line 1"),
        ("key=value", "line 1"),
    ] {
        let problem = described(text).unwrap_err();
        assert!(
            problem.starts_with("the-file: ") && problem.contains(words),
            "{text}: {problem}"
        );
        assert_eq!(problem.lines().count(), 1, "{problem}");
    }
}
