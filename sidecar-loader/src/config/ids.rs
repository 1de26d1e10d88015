//! Lists of users and groups.

use sidecar_ebpf_common::lists::IdList;

use super::{
    accounts::{Accounts, Lookup},
    flag::Setting,
    problem::{Collector, quote},
};

/// What the items of a list name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    User,
    Group,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
        }
    }

    const fn database(self) -> &'static str {
        match self {
            Self::User => "/etc/passwd",
            Self::Group => "/etc/group",
        }
    }

    const fn lookup<'a>(self, accounts: Accounts<'a>) -> Lookup<'a> {
        match self {
            Self::User => accounts.user,
            Self::Group => accounts.group,
        }
    }
}

/// The ids of a list in its order. A repeated one repeats rules that can no longer match.
pub(super) fn parse<const N: usize>(
    setting: &Setting,
    kind: Kind,
    accounts: Accounts<'_>,
    collector: &mut Collector,
) -> IdList<N> {
    let mut distinct = Vec::new();
    for id in collector.items(setting, |item| parse_id(item, kind, accounts)) {
        if !distinct.contains(&id) {
            distinct.push(id);
        }
    }
    IdList::new(&distinct).unwrap_or_else(|| {
        collector.refuse(format!(
            "{setting}: {} different ids, but at most {N} are possible; drop some, or give the \
             processes a common id",
            distinct.len()
        ));
        IdList::EMPTY
    })
}

/// A number, or a name that this system knows. Unlike iptables, which would take a name made of
/// digits first for a name.
fn parse_id(item: &str, kind: Kind, accounts: Accounts<'_>) -> Result<u32, String> {
    let what = kind.name();
    if item == "*" {
        return Err("\"*\" is not possible here or beside other items; expected ids".to_owned());
    }
    if is_number_like(item) {
        return parse_number(item).ok_or_else(|| {
            format!(
                "{} is not an id; expected a decimal number from 0 to {}, as `id` prints it, or \
                 the name of a {what} (ranges are not supported)",
                quote(item),
                u32::MAX - 1
            )
        });
    }
    match kind.lookup(accounts)(item) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(format!(
            "{} is not the name of a {what} where the loader runs ({}); give the number, as `id` \
             prints it in the pod",
            quote(item),
            kind.database()
        )),
        Err(error) => Err(format!(
            "looking up the {what} {}: {error}; give the number, as `id` prints it in the pod",
            quote(item)
        )),
    }
}

/// Whether it can only be meant as a number or a range of numbers: no account is named like that.
fn is_number_like(item: &str) -> bool {
    let mut parts = item.split('-');
    parts.all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn parse_number(item: &str) -> Option<u32> {
    if !is_plain_number(item) {
        return None;
    }
    // The last number means "no id" to the kernel.
    item.parse().ok().filter(|&id| id != u32::MAX)
}

/// Digits without a sign, and without a leading zero, which iptables would take for octal.
pub(super) fn is_plain_number(item: &str) -> bool {
    item.bytes().all(|byte| byte.is_ascii_digit()) && (item == "0" || !item.starts_with('0'))
}
