//! Files that a flag names.

use std::{fs::File, io::Read as _, path::Path};

/// More than any manifest can have: Kubernetes keeps none above 1.5 MiB.
const MAX_LEN: u64 = 4 << 20;

/// The text of a file, which may be a pipe. Bytes that are no text are replaced.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(format!("cannot read {}: {error}", path.display()));
    }
    if bytes.len() as u64 > MAX_LEN {
        return Err(format!(
            "{} is larger than {} MiB",
            path.display(),
            MAX_LEN >> 20
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
