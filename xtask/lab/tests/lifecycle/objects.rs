//! What a process holds in the kernel, and whether it is gone.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::PATIENCE;

/// Ids of what a process holds in the kernel. The kernel does not give an id twice in a while.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) maps: BTreeSet<u32>,
    pub(crate) links: BTreeSet<u32>,
}

impl Objects {
    pub(crate) fn of(process: u32) -> Result<Self> {
        let directory = format!("/proc/{process}/fdinfo");
        let mut objects = Self::default();
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {directory}"))? {
            // One that has been closed meanwhile holds nothing.
            let Ok(info) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            let id = |name: &str| {
                info.lines()
                    .find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok())
            };
            objects.maps.extend(id("map_id:"));
            objects.links.extend(id("link_id:"));
            if id("link_id:").is_none() && id("map_id:").is_none() {
                objects.programs.extend(id("prog_id:"));
            }
        }
        Ok(objects)
    }

    /// Those that exist still. What comes or goes elsewhere at this moment is none of them, though
    /// the kernel has no answer about it.
    pub(crate) fn left(&self) -> Self {
        let mut left = Self::default();
        for program in aya::programs::loaded_programs().flatten() {
            left.programs.extend(self.programs.get(&program.id()));
        }
        for map in aya::maps::loaded_maps().flatten() {
            left.maps.extend(self.maps.get(&map.id()));
        }
        for link in aya::programs::loaded_links().flatten() {
            left.links.extend(self.links.get(&link.id()));
        }
        left
    }

    /// The kernel frees some things a little later.
    pub(crate) fn vanish(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left();
            if left == Self::default() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "left in the kernel: {left:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
