//! Who makes the socket of a probe: every way in which a process comes by its ids.

use sidecar_ebpf_common::facts::Owner;

/// What a prober does to its ids once, when it starts as root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    /// Real, effective and saved user id.
    pub uids: [u32; 3],
    /// The same of the group.
    pub gids: [u32; 3],
    pub supplementary: &'static [u32],
}

/// What a prober does for each single socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trick {
    None,
    /// `setfsuid` before `socket()`, and back after it.
    FsUid(u32),
    /// The effective uid changes between `socket()` and `connect()`.
    UidAfterwards(u32),
    /// Another process makes the socket with these ids and passes it on.
    Passed(u32, u32),
    /// `fchown` on the socket.
    Fchown(u32, u32),
}

/// One way to come by a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OwnerCase {
    /// Stands in a probe's text.
    pub name: &'static str,
    pub identity: Identity,
    pub trick: Trick,
    /// What iptables takes for its owner: fsuid and fsgid when the socket was made.
    pub owner: Owner,
}

const fn plain(name: &'static str, uid: u32, gid: u32) -> OwnerCase {
    OwnerCase {
        name,
        identity: Identity {
            uids: [uid; 3],
            gids: [gid; 3],
            supplementary: &[],
        },
        trick: Trick::None,
        owner: Owner { uid, gid },
    }
}

const fn by_root(name: &'static str, trick: Trick, uid: u32, gid: u32) -> OwnerCase {
    OwnerCase {
        trick,
        owner: Owner { uid, gid },
        ..plain(name, 0, 0)
    }
}

const fn ids(name: &'static str, uids: [u32; 3], owner: u32) -> OwnerCase {
    let case = plain(name, 1000, 1000);
    OwnerCase {
        identity: Identity {
            uids,
            ..case.identity
        },
        owner: Owner {
            uid: owner,
            gid: 1000,
        },
        ..case
    }
}

const SUPPLEMENTARY: OwnerCase = {
    let case = plain("supplementary", 1000, 1000);
    OwnerCase {
        identity: Identity {
            supplementary: &[1337],
            ..case.identity
        },
        ..case
    }
};

const PASSED: OwnerCase = OwnerCase {
    trick: Trick::Passed(1337, 1337),
    owner: Owner {
        uid: 1337,
        gid: 1337,
    },
    ..plain("passed", 1000, 1000)
};

/// Every case, measured for iptables. The first is the application.
pub(super) const CASES: &[OwnerCase] = &[
    plain("app", 1000, 1000),
    plain("proxy", 1337, 1337),
    plain("root", 0, 0),
    plain("proxy-uid", 1337, 1000),
    plain("proxy-gid", 1000, 1337),
    plain("one", 1, 1),
    plain("two", 2, 2),
    plain("three", 3, 3),
    plain("four", 4, 4),
    plain("group-888", 1000, 888),
    plain("group-889", 1001, 889),
    ids("effective", [1000, 1337, 1337], 1337),
    ids("real", [1337, 1000, 1000], 1000),
    by_root("fsuid", Trick::FsUid(1337), 1337, 0),
    by_root("afterwards", Trick::UidAfterwards(1337), 0, 0),
    PASSED,
    by_root("fchown", Trick::Fchown(1337, 1337), 0, 0),
    SUPPLEMENTARY,
];

pub(super) fn case(name: &str) -> Option<&'static OwnerCase> {
    CASES.iter().find(|case| case.name == name)
}
