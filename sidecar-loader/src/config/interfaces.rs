//! Names of network interfaces.

use super::{
    flag::Setting,
    problem::{Collector, quote},
};

/// The longest name that Linux gives an interface (`IFNAMSIZ` in include/uapi/linux/if.h, less the
/// byte that ends it).
const MAX_NAME: usize = 15;

/// The names of a list in its order, without repetition.
pub(super) fn parse(setting: &Setting, collector: &mut Collector) -> Vec<String> {
    let mut distinct = Vec::new();
    for name in collector.items(setting, parse_name) {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

/// A name as `iptables -i` reads it. It would take what no interface can be called with a warning
/// at most; such a rule matches nothing, so it is a mistake.
fn parse_name(item: &str) -> Result<String, String> {
    let unusable = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if item.len() > MAX_NAME || item.contains(unusable) {
        return Err(format!(
            "{} is not an interface; expected a name of at most {MAX_NAME} bytes without blank and \
             slash, like eth0, or a beginning and a plus sign, like eth+",
            quote(item)
        ));
    }
    Ok(item.to_owned())
}
