//! Users and groups.

use super::*;

fn groups(config: &Config) -> (&'static str, Vec<u32>) {
    match &config.owner_groups {
        OwnerGroups::All => ("all", vec![]),
        OwnerGroups::Included(groups) => ("only", groups.iter().collect()),
        OwnerGroups::Excluded(groups) => ("not", groups.iter().collect()),
    }
}

#[test]
fn the_proxy_can_be_named() {
    let config = good(&["-u", "envoy,1337,77", "-g", "java,ftp,21"]);
    assert_eq!(ids(config.uids), [77, 1337]);
    assert_eq!(ids(config.gids), [101, 21]);
}

#[test]
fn without_gids_the_uids_text_is_taken_for_groups() {
    let config = good(&["-u", "java,1337"]);
    assert_eq!(
        (ids(config.uids), ids(config.gids)),
        (vec![5, 1337], vec![101, 1337])
    );
    let error = resolve(&[], &[("PROXY_UID", "envoy")])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--proxy-gid (-g) from $PROXY_UID: \"envoy\" is not the name of a group"),
        "{error}"
    );
}

#[test]
fn an_unknown_name_is_refused_and_the_number_suggested() {
    for (args, item, name, kind, database) in [
        (
            ["-u=ftp", "-g=1"],
            "ftp",
            "--proxy-uid (-u)",
            "user",
            "/etc/passwd",
        ),
        (
            ["-g=envoy", "-u=1"],
            "envoy",
            "--proxy-gid (-g)",
            "group",
            "/etc/group",
        ),
    ] {
        let error = refused(&args);
        assert!(
            error.starts_with(&format!("{name}: {item:?} is not the name of a {kind}")),
            "{error}"
        );
        assert!(
            error.contains(database) && error.contains("the number"),
            "{error}"
        );
    }
    let error = refused(&["--outbound-owner-groups", "java,nobody-has-this"]);
    assert!(
        error.contains("\"nobody-has-this\" is not the name of a group"),
        "{error}"
    );
    let error = refused(&["-u", "broken", "-g", "1"]);
    assert!(
        error.contains("looking up the user \"broken\"") && error.contains("EIO"),
        "{error}"
    );
}

#[test]
fn ranges_of_ids_are_refused_by_name() {
    for range in ["1000-2000", "1-2-3", "01-2"] {
        let error = refused(&["-u", range, "-g", "1"]);
        assert!(
            error.starts_with(&format!("--proxy-uid (-u): {range:?} is not an id"))
                && error.contains("ranges are not supported"),
            "{error}"
        );
    }
}

#[test]
fn without_an_id_it_is_the_proxy_s_user_if_there_is_one() {
    // No user istio-proxy, which is nothing to speak of.
    assert_eq!(good(&[]).notes, [""; 0]);
    let named = [("ENVOY_USER", "envoy")];
    let config = resolve(&[], &named).unwrap();
    assert_eq!(ids(config.uids), [77]);
    assert_eq!(config.gids, config.uids);
    assert!(
        config.notes[0].contains("ENVOY_USER: \"envoy\" is a user"),
        "{:?}",
        config.notes
    );
    for given in [vec!["-u", ""], vec![]] {
        let variables = [("ENVOY_USER", "nobody-has-this"), ("PROXY_UID", "")];
        let config = resolve(&given, &variables).unwrap();
        assert_eq!(ids(config.uids), [1337]);
        assert!(
            config.notes[0].contains("is no user") && config.notes[0].contains("--proxy-uid (-u)"),
            "{:?}",
            config.notes
        );
    }
    assert_eq!(resolve(&[], &[("ENVOY_USER", "")]).unwrap(), good(&[]));
    // An id that was given needs no user.
    assert_eq!(resolve(&["-u", "1337"], &named).unwrap(), good(&[]));
    let variables = [named[0], ("PROXY_UID", "1337")];
    assert_eq!(resolve(&[], &variables).unwrap(), good(&[]));
}

#[test]
fn a_user_istio_proxy_is_the_default_and_told_if_unusual() {
    let here = |uid| {
        let user = move |name: &str| Ok((name == "istio-proxy").then_some(uid));
        let accounts = Accounts {
            user: &user,
            group: ACCOUNTS.group,
        };
        resolve_with(&[], &[], accounts).unwrap()
    };
    assert_eq!(here(1337), good(&[]));
    let config = here(998);
    assert_eq!(ids(config.uids), [998]);
    assert!(
        config.notes[0].contains("\"istio-proxy\" is a user"),
        "{:?}",
        config.notes
    );
}

#[test]
fn the_system_s_own_accounts_are_asked() {
    assert_eq!((Accounts::SYSTEM.user)("root"), Ok(Some(0)));
    assert_eq!((Accounts::SYSTEM.group)("root"), Ok(Some(0)));
    assert_eq!((Accounts::SYSTEM.user)("no such user"), Ok(None));
    assert_eq!((Accounts::SYSTEM.group)("no such group"), Ok(None));
}

#[test]
fn groups_are_included_or_excluded() {
    let both = |include, exclude| {
        good(&[
            "--outbound-owner-groups",
            include,
            "--outbound-owner-groups-exclude",
            exclude,
        ])
    };
    assert_eq!(groups(&both("*", "")), ("all", vec![]));
    assert_eq!(
        groups(&both("*", "java,1000,101, 0")),
        ("not", vec![101, 1000, 0])
    );
    assert_eq!(groups(&both("java,,ftp,101", "")), ("only", vec![101, 21]));
    assert_eq!(groups(&both("", "")), ("only", vec![]), "nobody");
    assert_eq!(groups(&both(",", ",")), ("only", vec![]));
    let ignored = both("ftp", "java");
    assert_eq!(groups(&ignored), ("only", vec![21]));
    assert!(
        ignored.notes[0].starts_with("--outbound-owner-groups-exclude: changes nothing"),
        "{:?}",
        ignored.notes
    );
    let empty = resolve(&[], &[("ISTIO_OUTBOUND_OWNER_GROUPS", "")]).unwrap();
    assert_eq!(groups(&empty), ("only", vec![]));
}

#[test]
fn groups_have_a_bound_and_no_wildcard_among_them() {
    let list = |count: u32| {
        (0..count)
            .map(|id| id.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    for flag in ["--outbound-owner-groups", "--outbound-owner-groups-exclude"] {
        assert_eq!(groups(&good(&[flag, &list(64)])).1.len(), 64);
        let error = refused(&[flag, &list(65)]);
        assert!(
            error.starts_with(&format!("{flag}: 65 different ids, but at most 64")),
            "{error}"
        );
        let error = refused(&[flag, "1,*"]);
        assert!(
            error.starts_with(&format!("{flag}: \"*\" is not possible here")),
            "{error}"
        );
    }
    assert!(refused(&["--outbound-owner-groups-exclude", "*"]).contains("\"*\""));
}
