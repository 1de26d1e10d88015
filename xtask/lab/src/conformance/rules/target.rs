//! What a rule does with a packet.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use anyhow::{Context, Result};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// No target: it counts, and the next rule is asked.
    Count,
    Return,
    Accept,
    Drop,
    Redirect(u16),
    /// Puts the packet's flow into a zone of connection tracking; the next rule is asked.
    Zone(u16),
    /// Sets the packet's mark.
    Mark(Masked),
    Connmark(Connmark),
    Tproxy {
        port: u16,
        mark: Masked,
    },
    /// Jumps to a user chain.
    Chain(String),
}

impl Target {
    /// Whether it ends the way through its chain, whatever rules follow.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Return | Self::Accept | Self::Drop | Self::Redirect(_) | Self::Tproxy { .. } => {
                true
            }
            Self::Count | Self::Zone(_) | Self::Mark(_) | Self::Connmark(_) | Self::Chain(_) => {
                false
            }
        }
    }
}

/// The whole mark, from the packet to the connection or back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connmark {
    Save,
    Restore,
}

/// A mark, of which only the bits in the mask matter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Masked {
    pub value: u32,
    pub mask: u32,
}

impl FromStr for Masked {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |word: &str| {
            match word.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => word.parse(),
            }
            .with_context(|| format!("{text:?} is no mark"))
        };
        match text.split_once('/') {
            Some((value, mask)) => Ok(Self {
                value: number(value)?,
                mask: number(mask)?,
            }),
            None => Ok(Self {
                value: number(text)?,
                mask: u32::MAX,
            }),
        }
    }
}

impl Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mask == u32::MAX {
            write!(f, "{:#x}", self.value)
        } else {
            write!(f, "{:#x}/{:#x}", self.value, self.mask)
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => Ok(()),
            Self::Return => f.write_str("-j RETURN"),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Drop => f.write_str("-j DROP"),
            Self::Redirect(port) => write!(f, "-j REDIRECT --to-ports {port}"),
            Self::Zone(zone) => write!(f, "-j CT --zone {zone}"),
            Self::Mark(mark) => write!(f, "-j MARK --set-xmark {:#x}/{:#x}", mark.value, mark.mask),
            Self::Connmark(Connmark::Save) => f.write_str("-j CONNMARK --save-mark"),
            Self::Connmark(Connmark::Restore) => f.write_str("-j CONNMARK --restore-mark"),
            Self::Tproxy { port, mark } => write!(
                f,
                "-j TPROXY --on-port {port} --tproxy-mark {:#x}/{:#x}",
                mark.value, mark.mask
            ),
            Self::Chain(name) => write!(f, "-j {name}"),
        }
    }
}
