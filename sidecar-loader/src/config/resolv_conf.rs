//! DNS servers out of a resolv.conf.

use std::net::IpAddr;

/// The servers in order and without repetition. Lines are read as Istio's library does
/// (`ClientConfigFromReader` in github.com/miekg/dns): blanks before the keyword are no matter, and
/// a server that is no address is passed over. A scope (`%eth0`) is dropped, and an IPv4-mapped
/// address is the IPv4 one, as which queries to it leave.
pub fn parse(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        // Whatever begins with a comment sign is another word.
        if words.next() != Some("nameserver") {
            continue;
        }
        let server = words.next().and_then(parse_server);
        if let Some(server) = server
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

fn parse_server(word: &str) -> Option<IpAddr> {
    let address = match word.split_once('%') {
        // A scope belongs to IPv6, and is not empty.
        Some((address, scope)) if address.contains(':') && !scope.is_empty() => address,
        Some(_) => return None,
        None => word,
    };
    address.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn servers(text: &str) -> Vec<String> {
        parse(text).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_resolv_conf_as_kubernetes_writes_it() {
        let text = "search default.svc.cluster.local svc.cluster.local\n\
                    nameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(servers(text), ["10.96.0.10"]);
    }

    #[test]
    fn servers_keep_their_order_and_appear_once() {
        let text = "nameserver 9.9.9.9\n  nameserver\t fd00::10 \nnameserver 1.1.1.1\r\n\
                    nameserver 9.9.9.9\nnameserver ::ffff:1.1.1.1\nnameserver 127.0.0.53";
        assert_eq!(
            servers(text),
            ["9.9.9.9", "fd00::10", "1.1.1.1", "127.0.0.53"]
        );
    }

    #[test]
    fn scopes_go_and_mapped_addresses_are_ipv4() {
        let text = "nameserver fe80::1%eth0\nnameserver ::ffff:10.0.0.1\nnameserver ::127.0.0.53";
        assert_eq!(servers(text), ["fe80::1", "10.0.0.1", "::7f00:35"]);
    }

    #[test]
    fn comments_and_other_lines_are_passed_over() {
        let text = "# nameserver 1.1.1.1\n;nameserver 2.2.2.2\n#nameserver 3.3.3.3\n\
                    nameservers 4.4.4.4\nNameserver 5.5.5.5\noptions nameserver 6.6.6.6\n\
                    nameserver\nnameserver dns.example\nnameserver 7.7.7.7#53\n\
                    nameserver 08.8.8.8\nnameserver 9.9.9.9%lo\nnameserver fe80::2%\n\
                    nameserver 8.8.8.8 # the right one\n";
        assert_eq!(servers(text), ["8.8.8.8"]);
        assert_eq!(servers(""), [""; 0]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            listed in prop::collection::vec(any::<IpAddr>(), 0..8),
            between in "(#[ -~]{0,9}\n|options [a-z:0-9]{0,9}\n|\n){0,3}",
        ) {
            let text: String = listed
                .iter()
                .map(|ip| format!("{between}nameserver {ip}\n"))
                .collect();
            let mut expected = Vec::new();
            for ip in listed.iter().map(IpAddr::to_canonical) {
                if !expected.contains(&ip) {
                    expected.push(ip);
                }
            }
            prop_assert_eq!(parse(&text), expected);
        }

        #[test]
        fn nothing_makes_it_panic(text in "(nameserver|#|;|%|[0-9.:a-f]{0,9}| |\n){0,30}") {
            parse(&text);
        }
    }
}
