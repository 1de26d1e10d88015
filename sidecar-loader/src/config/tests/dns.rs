//! DNS capture.

use super::*;

fn dns(args: &[&str]) -> Dns {
    good(args).dns
}

#[test]
fn it_is_off_for_listed_servers_or_for_all() {
    assert_eq!(dns(&[]), Dns::Off);
    assert_eq!(dns(&["--redirect-dns"]), Dns::ServersOfPod);
    assert_eq!(dns(&["--redirect-dns", "--capture-all-dns"]), Dns::All);
    assert_eq!(dns(&["--redirect-dns=false"]), Dns::Off);
    let both = [("ISTIO_META_DNS_CAPTURE", "true"), ("CAPTURE_ALL_DNS", "1")];
    assert_eq!(resolve(&[], &both).unwrap().dns, Dns::All);
    assert_eq!(
        resolve(&["--capture-all-dns=0"], &both).unwrap().dns,
        Dns::ServersOfPod
    );
    assert_eq!(
        resolve(&["--redirect-dns=false"], &both[..1]).unwrap(),
        good(&[])
    );
}

#[test]
fn the_later_variable_counts() {
    let dns = |one, two| {
        let given = [("REDIRECT_DNS", one), ("ISTIO_META_DNS_CAPTURE", two)];
        resolve(&[], &given).unwrap().dns
    };
    assert_eq!(dns("false", "true"), Dns::ServersOfPod);
    assert_eq!(dns("true", "false"), Dns::Off);
}

#[test]
fn all_without_any_changes_nothing_and_says_so() {
    let config = good(&["--capture-all-dns"]);
    assert!(
        config.notes[0].contains("--capture-all-dns: changes nothing without --redirect-dns"),
        "{:?}",
        config.notes
    );
    assert_eq!(quiet(config), good(&[]));
}

#[test]
fn servers_are_read_from_a_file() {
    let file = Scratch::new("nameserver 10.96.0.10\nsearch svc\nnameserver fd00::a\n");
    let servers = ["10.96.0.10", "fd00::a"].map(|server| server.parse().unwrap());
    assert_eq!(
        dns(&["--redirect-dns", "--resolv-conf", file.path()]),
        Dns::Servers(servers.to_vec())
    );
    let unused = good(&["--resolv-conf", file.path()]);
    assert!(unused.notes[0].contains("--resolv-conf: changes nothing without --redirect-dns"));
    assert_eq!(unused.dns, Dns::Off);
    let all = [
        "--redirect-dns",
        "--capture-all-dns",
        "--resolv-conf",
        file.path(),
    ];
    let unused = good(&all);
    assert!(unused.notes[0].contains("changes nothing with --capture-all-dns"));
    assert_eq!(unused.dns, Dns::All);
}

#[test]
fn no_server_means_no_capture_and_no_file_an_error() {
    let file = Scratch::new("search svc\n");
    let config = good(&["--redirect-dns", "--resolv-conf", file.path()]);
    assert_eq!(config.dns, Dns::Off);
    assert!(config.notes[0].contains(file.path()), "{:?}", config.notes);
    let missing = format!("{}.missing", file.path());
    let error = refused(&["--redirect-dns", "--resolv-conf", &missing]);
    assert!(
        error.starts_with("--resolv-conf: cannot read") && error.contains(&missing),
        "{error}"
    );
    // Nobody needs it.
    assert_eq!(dns(&["--resolv-conf", &missing]), Dns::Off);
    let directory = env::temp_dir();
    let directory = directory.to_str().unwrap();
    assert!(refused(&["--redirect-dns", "--resolv-conf", directory]).contains(directory));
}
