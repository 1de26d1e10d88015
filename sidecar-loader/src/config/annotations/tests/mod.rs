//! Files, as far as reading them goes. What becomes of them is tested with the settings.

mod downward;
mod manifest;

use std::path::Path;

use super::*;

fn described(text: &str) -> Result<Description, String> {
    describe(text, Path::new("the-file"))
}

fn annotations(text: &str) -> Vec<(String, String)> {
    let description = described(text).unwrap_or_else(|problem| panic!("{problem}"));
    description.annotations.into_iter().collect()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}
