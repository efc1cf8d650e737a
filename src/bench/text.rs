//! A report for people.

use std::io::{self, Write};

use super::{report::Report, words};

/// A table: the first column to the left, the others to the right.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new<const N: usize>(heads: [&str; N]) -> Self {
        Self(vec![heads.map(str::to_owned).to_vec()])
    }

    pub(super) fn push(&mut self, row: Vec<String>) {
        self.0.push(row);
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|n| self.0.iter().filter_map(|row| row.get(n)).map(|c| c.chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        for row in &self.0 {
            let mut line = String::new();
            for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
                if n == 0 {
                    line.push_str(&format!("{cell}{gap}"));
                } else {
                    line.push_str(&format!("  {gap}{cell}"));
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        writeln!(out)
    }
}

impl Report {
    /// Prints it for people.
    ///
    /// # Errors
    /// `out` does not take it.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", words::load(self))?;
        writeln!(out, "{}\n", words::machine(&self.machine))?;
        self.print_ops(out)?;
        self.print_ceilings(out)?;
        self.print_shares(out)?;
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        for failure in &self.failures {
            let (op, code) = (failure.op, &failure.code);
            writeln!(out, "failed: {op} {}: {code}: {}", failure.image, failure.message)?;
        }
        for id in &self.left {
            let store = &self.store.id;
            writeln!(out, "left behind: remove it with `imaged delete {store} {id}`")?;
        }
        Ok(())
    }

    fn print_ops(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(words::OP_HEADS);
        table.0.extend(self.ops.iter().map(words::op));
        table.print(out)
    }

    fn print_ceilings(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(words::CEILING_HEADS);
        table.0.extend(words::ceilings(&self.ceilings));
        table.print(out)
    }

    fn print_shares(&self, out: &mut dyn Write) -> io::Result<()> {
        let stages = ["digest", "disk", "socket", "cores"];
        let mut table = Table::new(["reached of", "digest", "disk", "socket", "cores", "limit"]);
        for op in self.ops.iter().filter(|op| !op.stages.is_empty()) {
            let mut row = vec![op.op.to_string()];
            row.extend(stages.map(|name| {
                let stage = op.stages.iter().find(|stage| stage.stage == name);
                stage.map_or_else(|| "-".to_owned(), |stage| words::share(stage.share))
            }));
            row.push(words::limit(op.limit, self.machine.cores));
            table.push(row);
        }
        if table.0.len() > 1 { table.print(out) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use crate::bench::report::tests::report;

    #[test]
    fn people_get_aligned_columns_and_what_failed() {
        let mut out = Vec::new();
        report().print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<_> = text
            .lines()
            .filter(|line| line.ends_with("RSS peak") || line.ends_with("90 MiB"))
            .collect();
        assert_eq!(rows.len(), 3, "{text}");
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
        assert!(text.contains("80 %") && text.contains("2 cores"), "{text}");
        assert!(text.contains("failed: get bench-1: Broken: it <broke>"), "{text}");
    }
}
