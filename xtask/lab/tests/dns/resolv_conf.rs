//! Files with name servers.

use std::{env, fs, path::PathBuf, process};

use anyhow::Result;

/// A resolv.conf; removed when dropped.
pub(crate) struct ResolvConf(pub(crate) PathBuf);

impl ResolvConf {
    pub(crate) fn new(hint: &str, servers: &[&str]) -> Result<Self> {
        let path = env::temp_dir().join(format!("sidecar-lab-{}-{hint}.conf", process::id()));
        let text: String = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        fs::write(&path, text)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        // A test that removed it itself is no failure.
        let _ = fs::remove_file(&self.0);
    }
}
