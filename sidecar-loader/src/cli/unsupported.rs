//! The flags of istio-iptables that are refused.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::unsupported::{UNSUPPORTED, Unsupported};

/// Flags of istio-iptables that are parsed only to be refused with a reason: long name and value.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct UnsupportedArgs {
    pub given: Vec<(&'static str, String)>,
}

impl Args for UnsupportedArgs {
    fn augment_args(command: Command) -> Command {
        command.args(UNSUPPORTED.iter().map(hidden_arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for UnsupportedArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = UNSUPPORTED.iter().filter_map(|setting| {
            let long = setting.long;
            Some((long, matches.get_one::<String>(long)?.clone()))
        });
        Ok(Self {
            given: given.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn hidden_arg(setting: &Unsupported) -> Arg {
    let arg = Arg::new(setting.long)
        .long(setting.long)
        .short(setting.short)
        .hide(true)
        .action(ArgAction::Set);
    if setting.is_switch() {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    } else {
        arg
    }
}
