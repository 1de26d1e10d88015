//! Lists of user and group ids.

use sidecar_ebpf_common::lists::{Ids, MAX_IDS};

use super::{
    flag::Setting,
    problem::{Collector, quote},
};

pub(super) fn parse(setting: &Setting, collector: &mut Collector) -> Ids {
    let mut distinct = Vec::new();
    // A repeated id repeats rules that can no longer match.
    for id in collector.items(setting, parse_id) {
        if !distinct.contains(&id) {
            distinct.push(id);
        }
    }
    Ids::new(&distinct).unwrap_or_else(|| {
        collector.refuse(format!(
            "{setting}: {} different ids, but at most {MAX_IDS} are possible; drop some, or give \
             the proxy's processes a common id",
            distinct.len()
        ));
        Ids::EMPTY
    })
}

fn parse_id(item: &str) -> Result<u32, String> {
    let id = if is_plain_number(item) {
        item.parse().ok()
    } else {
        None
    };
    // The last number means "no id" to the kernel.
    id.filter(|&id| id != u32::MAX).ok_or_else(|| {
        format!(
            "{} is not an id; expected a decimal number from 0 to {}, as `id` prints it (names and \
             ranges are not supported)",
            quote(item),
            u32::MAX - 1
        )
    })
}

/// Digits without a sign, and without a leading zero, which iptables would take for octal.
pub(super) fn is_plain_number(item: &str) -> bool {
    item.bytes().all(|byte| byte.is_ascii_digit()) && (item == "0" || !item.starts_with('0'))
}
