//! A table, as Markdown and for the terminal.

/// The first column is text; the others are numbers, if nothing else is said.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    is_words: bool,
}

impl Table {
    pub(super) fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self {
            head: head.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
            is_words: false,
        }
    }

    /// All columns are text.
    pub(super) fn words<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self {
            is_words: true,
            ..Self::new(head)
        }
    }

    pub(super) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.head.len(), "a cell for each column");
        self.rows.push(cells);
    }

    pub(super) fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = line(&self.head);
        text.push_str("|---|");
        let column = if self.is_words { "---|" } else { "---:|" };
        text.push_str(&column.repeat(self.head.len().saturating_sub(1)));
        text.push('\n');
        self.rows.iter().for_each(|row| text.push_str(&line(row)));
        text
    }

    pub(super) fn text(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            lines()
                .map(|line| plain(&line[column]).chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| width(column).unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in lines() {
            let cells = line.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, &width))| match column {
                _ if column == 0 || self.is_words => format!("{:<width$}", plain(cell)),
                _ => format!("{:>width$}", plain(cell)),
            });
            let cells: Vec<String> = cells.collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Without Markdown's marks.
pub(super) fn plain(markdown: &str) -> String {
    markdown.replace(['`', '*'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["arm", "µs"]);
        table.row(["a|b", "**1**"]);
        table.row(["longer", "12"]);
        table
    }

    #[test]
    fn as_markdown() {
        let expected = "| arm | µs |\n|---|---:|\n| a\\|b | **1** |\n| longer | 12 |\n";
        assert_eq!(table().markdown(), expected);
    }

    #[test]
    fn as_text() {
        assert_eq!(table().text(), "arm     µs\na|b      1\nlonger  12\n");
    }
}
