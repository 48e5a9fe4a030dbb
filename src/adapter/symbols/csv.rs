//! Delimited text, one row a line, columns found by name.
//!
//! No field of these files holds a line break, so each line is parsed alone: a stray quote costs its row and not the rest of
//! the file. A line longer than [`LINE_BYTES_MAX`] is passed over without being kept. Memory: one line.

use super::RowError;
use csv_core::{ReadRecordResult, Reader};
use std::io::{self, BufRead, Read};

/// A line, bytes; real ones are below 300.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;
/// Fields of a row; what follows is ignored.
const FIELDS_MAX: usize = 64;

/// The lines of a file, split into fields.
pub(super) struct Rows<R> {
    reader: R,
    number: u64,
    line: Vec<u8>,
    fields: Vec<u8>,
    ends: [usize; FIELDS_MAX],
}

/// One row's fields; they live until the next row is read.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    text: &'a str,
    ends: &'a [usize],
}

impl<R: BufRead> Rows<R> {
    /// `lines` were read before.
    pub(super) fn after(reader: R, lines: u64) -> Self {
        Rows { reader, number: lines, line: Vec::new(), fields: vec![0; LINE_BYTES_MAX], ends: [0; FIELDS_MAX] }
    }

    /// The number of the last line read, from 1.
    pub(super) fn line(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank, with its number from 1; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Result<Fields<'_>, RowError>)>> {
        loop {
            self.line.clear();
            let limit = LINE_BYTES_MAX as u64;
            let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read == LINE_BYTES_MAX && self.line.last() != Some(&b'\n') {
                self.reader.skip_until(b'\n')?;
                return Ok(Some((self.number, Err(RowError::Unreadable))));
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(Some((self.number, split(&self.line, &mut self.fields, &mut self.ends))))
    }
}

fn split<'a>(line: &[u8], fields: &'a mut [u8], ends: &'a mut [usize; FIELDS_MAX]) -> Result<Fields<'a>, RowError> {
    let mut reader = Reader::new();
    let (mut read, mut written, mut count) = (0, 0, 0);
    // The second call, with no input left, ends a last field that no line break ended.
    loop {
        let (result, taken, put, ended) = reader.read_record(&line[read..], &mut fields[written..], &mut ends[count..]);
        (read, written, count) = (read + taken, written + put, count + ended);
        match result {
            ReadRecordResult::InputEmpty => continue,
            ReadRecordResult::Record | ReadRecordResult::End | ReadRecordResult::OutputEndsFull => break,
            ReadRecordResult::OutputFull => return Err(RowError::Unreadable),
        }
    }
    let text = std::str::from_utf8(&fields[..written]).map_err(|_| RowError::Unreadable)?;
    // A field may end inside a character only in text that is not UTF-8 as a whole.
    if ends[..count].iter().any(|&end| !text.is_char_boundary(end)) {
        return Err(RowError::Unreadable);
    }
    Ok(Fields { text, ends: &ends[..count] })
}

impl<'a> Fields<'a> {
    /// The field at `index`, without blanks around it; empty if the row is shorter.
    pub(super) fn at(self, index: usize) -> &'a str {
        let Some(&end) = self.ends.get(index) else { return "" };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.text[start..end].trim()
    }

    /// The field of a column; empty if there is no such column or the row is shorter.
    pub(super) fn of(self, column: Option<usize>) -> &'a str {
        column.map_or("", |index| self.at(index))
    }

    /// The field of a column that must not be empty.
    pub(super) fn needed(self, column: usize, name: &'static str) -> Result<&'a str, RowError> {
        Some(self.at(column)).filter(|text| !text.is_empty()).ok_or(RowError::Missing(name))
    }

    pub(super) fn len(self) -> usize {
        self.ends.len()
    }
}

/// The column names of a file.
pub(super) struct Header(Vec<String>);

impl Header {
    pub(super) fn new(fields: Fields<'_>) -> Self {
        Header((0..fields.len()).map(|index| fields.at(index).to_ascii_lowercase()).collect())
    }

    /// Where a column is, by the first of `names` there is; letter case does not count.
    pub(super) fn column(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.0.iter().position(|column| column == name))
    }

    pub(super) fn has(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.column(&[name]).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<(u64, Option<Vec<String>>)> {
        let mut rows = Rows::after(text, 0);
        let mut all = Vec::new();
        while let Some((line, fields)) = rows.next().expect("memory") {
            let texts = |fields: Fields<'_>| (0..fields.len()).map(|index| fields.at(index).to_owned()).collect();
            all.push((line, fields.ok().map(texts)));
        }
        all
    }

    fn row(line: u64, fields: &[&str]) -> (u64, Option<Vec<String>>) {
        (line, Some(fields.iter().map(|field| (*field).to_owned()).collect()))
    }

    #[test]
    fn lines_end_either_way_blank_ones_are_skipped_and_quotes_hold_commas() {
        let text = b"a, b ,c\r\n\n1,\"x, \"\"y\"\"\",\n  \n4,5";
        assert_eq!(all(text), [row(1, &["a", "b", "c"]), row(3, &["1", "x, \"y\"", ""]), row(5, &["4", "5"])]);
    }

    #[test]
    fn a_bad_line_costs_itself_only() {
        let mut text = b"a,b\n1,\"never closed\n\xff\xfe,2\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 3 * LINE_BYTES_MAX));
        text.extend(b"\n3,4\n");
        let rows = all(&text);
        assert_eq!(rows[1].0, 2, "an open quote ends with its line");
        assert_eq!(rows[2..4], [(3, None), (4, None)]);
        assert_eq!(rows[4], row(5, &["3", "4"]));
    }
}
