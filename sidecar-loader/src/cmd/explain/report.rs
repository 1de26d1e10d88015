//! What `loader explain` writes.

use serde::Serialize;
use sidecar_ebpf_common::rule::Action;

use crate::{
    cmd::{chain::Rule, subject::Answer},
    config::{Config, DNS_PORT},
};

/// Changes whenever a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

#[derive(Serialize, Debug)]
pub(super) struct Report {
    schema: u32,
    pub(super) connection: String,
    pub(super) action: &'static str,
    /// The proxy's port that it is redirected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
    pub(super) rule: &'static str,
    pub(super) iptables: String,
    traffic: &'static str,
    pub(super) not_matched: Vec<Passed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) assumed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<&'static str>,
}

/// A rule that comes first and does not decide.
#[derive(Serialize, Debug)]
pub(super) struct Passed {
    pub(super) rule: &'static str,
    iptables: String,
    pub(super) why: String,
}

impl Report {
    pub(super) fn new<R: Rule>(connection: String, answer: &Answer<R>, config: &Config) -> Self {
        let rule = answer.decided.rule;
        let passed = answer.passed.iter().map(|(listed, why)| Passed {
            rule: listed.rule.label(),
            iptables: listed.iptables(),
            why: why.clone(),
        });
        Self {
            schema: SCHEMA,
            connection,
            action: rule.action().name(),
            port: match rule.action() {
                Action::Pass => None,
                Action::ToOutbound => Some(config.outbound_port.0),
                Action::ToInbound => Some(config.inbound_port.0),
                Action::ToDns => Some(DNS_PORT.0),
            },
            rule: rule.label(),
            iptables: answer.decided.line(),
            traffic: rule.help(),
            not_matched: passed.collect(),
            assumed: None,
            note: None,
        }
    }
}

pub(super) fn table(report: &Report) -> String {
    let verdict = match report.port {
        None => "pass".to_owned(),
        Some(port) => format!("redirect to the proxy's port {port} ({})", report.action),
    };
    let mut text = format!(
        "{}\n\nverdict   {verdict}\nrule      {}\niptables  {}\ntraffic   {}\n",
        report.connection, report.rule, report.iptables, report.traffic
    );
    if let Some(assumed) = &report.assumed {
        text += &format!("assumed   {assumed}\n");
    }
    if let Some(note) = report.note {
        text += &format!("note      {note}\n");
    }
    if !report.not_matched.is_empty() {
        text += "\nRules before it, and why they do not match\n";
    }
    for passed in &report.not_matched {
        text += &format!("{}: {}\n", passed.rule, passed.why);
    }
    text
}
