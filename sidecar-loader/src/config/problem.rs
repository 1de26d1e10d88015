//! What is wrong with the settings of one start, all of it at once.

use std::fmt;

use super::flag::Setting;

/// Everything that was refused; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return f.write_str(only);
        }
        write!(f, "{} settings are refused:", self.0.len())?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Gathers problems while settings are read, so that one start reports them all.
#[derive(Default)]
pub(super) struct Collector {
    problems: Vec<String>,
    notes: Vec<String>,
}

impl Collector {
    pub(super) fn refuse(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Something worth a warning that is no reason to refuse.
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Parses each item of a list. Of several bad items the first is named and the others counted:
    /// a list may have thousands.
    pub(super) fn items<T>(
        &mut self,
        setting: &Setting,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut good = Vec::new();
        let mut first = None;
        let mut more = 0usize;
        for item in setting.items() {
            match parse(item) {
                Ok(value) => good.push(value),
                Err(problem) if first.is_none() => first = Some(problem),
                Err(_) => more += 1,
            }
        }
        if let Some(problem) = first {
            let others = match more {
                0 => String::new(),
                more => format!(" (and {more} more in this list)"),
            };
            self.refuse(format!("{setting}: {problem}{others}"));
        }
        good
    }

    /// The notes if nothing was refused.
    pub(super) fn finish(self) -> Result<Vec<String>, Problems> {
        if self.problems.is_empty() {
            Ok(self.notes)
        } else {
            Err(Problems(self.problems))
        }
    }
}

/// An item as messages show it: quoted, without control characters, of bounded length.
pub(super) fn quote(item: &str) -> String {
    const SHOWN: usize = 60;
    if item.chars().count() <= SHOWN {
        return format!("{item:?}");
    }
    format!("{:?}…", item.chars().take(SHOWN).collect::<String>())
}
