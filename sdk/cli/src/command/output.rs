//! What commands print: results on standard output, errors on standard error. A reader that has
//! gone, as `head` does, is no error.

use std::io::{self, Write as _, stderr, stdout};
use std::process::ExitCode;

use comfy_table::{Cell, CellAlignment, presets};
use serde_json::Value;

use super::Failure;

/// A table for people: columns, no lines.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    /// A table with this head.
    pub(crate) fn new(head: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(head.iter().map(|name| Cell::new(name.to_uppercase())));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }

    /// How a column stands.
    pub(crate) fn align(&mut self, column: usize, alignment: CellAlignment) {
        if let Some(column) = self.0.column_mut(column) {
            column.set_cell_alignment(alignment);
        }
    }

    /// One more row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells);
    }

    /// The table with two spaces in front of each line.
    pub(crate) fn text(&self) -> String {
        let lines = self.0.lines();
        lines
            .map(|line| format!("  {}\n", line.trim_end()))
            .collect()
    }
}

/// A number with commas between thousands.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints a text that ends its own lines.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut output = stdout().lock();
    let written = output.write_all(text.as_bytes());
    match written.and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::System {
            what: "write the answer",
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Prints one line, and that is all there is to do.
pub(crate) fn line(line: &str) -> Result<ExitCode, Failure> {
    text(&format!("{line}\n")).map(|()| ExitCode::SUCCESS)
}

/// Prints a value for programs.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    text(&format!("{value:#}\n"))
}

/// Prints an error.
pub(crate) fn error(message: &str) {
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(stderr().lock(), "{message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let shown = [0, 7, 999, 1_000, 12_345, 1_234_567].map(number);
        assert_eq!(shown, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn tables_have_a_head_and_columns() {
        let mut table = Table::new(&["node", "calls"]);
        table.align(1, CellAlignment::Right);
        table.row(["a".to_owned(), "10".to_owned()]);
        table.row(["longer".to_owned(), "7".to_owned()]);
        assert_eq!(
            table.text(),
            "  NODE    CALLS\n  a          10\n  longer      7\n"
        );
    }
}
