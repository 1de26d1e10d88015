//! A directory for one proxy: its configuration and its control socket.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

use crate::{cleanup::Cleanup, process::Placement};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Belongs to the user of the placement; removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    owner: (Option<u32>, Option<u32>),
    _cleanup: Cleanup,
}

impl Scratch {
    pub(crate) fn new(hint: &str, placement: &Placement) -> Result<Self> {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sidecar-lab-{}-{number}-{hint}", process::id());
        let path = env::temp_dir().join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("making the directory {}", path.display()))?;
        let cleanup = Cleanup::register({
            let path = path.clone();
            move || {
                if let Err(error) = fs::remove_dir_all(&path) {
                    eprintln!("removing {}: {error}", path.display());
                }
            }
        });
        let scratch = Self {
            path,
            owner: (placement.uid, placement.gid),
            _cleanup: cleanup,
        };
        scratch.give(&scratch.path)?;
        Ok(scratch)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        self.give(&path)?;
        Ok(path)
    }

    fn give(&self, path: &Path) -> Result<()> {
        let (uid, gid) = self.owner;
        chown(path, uid, gid)
            .with_context(|| format!("giving {} to {uid:?} (are you root?)", path.display()))
    }
}
