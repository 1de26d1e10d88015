//! The system's users and groups, by name.

use nix::unistd::{Group, User};

/// Looks up the ids behind names; injected so that tests have their own.
#[derive(Clone, Copy)]
pub struct Accounts<'a> {
    pub user: Lookup<'a>,
    pub group: Lookup<'a>,
}

/// The id behind a name, if there is one; an error if the database cannot be asked.
pub type Lookup<'a> = &'a dyn Fn(&str) -> nix::Result<Option<u32>>;

impl Accounts<'static> {
    /// Those of this process' file system, as iptables asks those of its own.
    pub const SYSTEM: Self = Self {
        user: &|name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())),
        group: &|name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())),
    };
}
