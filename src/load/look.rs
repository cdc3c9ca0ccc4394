//! A Parquet file looked at as it is, whatever the catalogue says of it: its rows a little at a time, what its footer says,
//! and the texts that its statistics hold. For `verify`; nothing here writes.

use std::fs::File;

use arrow::datatypes::SchemaRef;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;

use super::blocking;
use super::error::{Fault, LoadError, Place};
use super::file::CHUNK_ROWS;
use crate::store::Store;

/// The writer cuts statistics at 64 bytes, at a character's end: what is shorter than this was not cut.
const UNCUT_BYTES: usize = 60;

/// A text that a file's statistics or page index hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Bound {
    /// Which leaf of the schema, depth first.
    pub leaf: usize,
    /// Whether it is a least value, else a greatest.
    pub least: bool,
    /// Whether it is a value as it is; else it may be the beginning of one, cut and (a greatest) rounded up.
    pub exact: bool,
    /// The text's bytes.
    pub text: Vec<u8>,
}

impl std::fmt::Debug for Bound {
    /// Without the value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("leaf", &self.leaf).field("least", &self.least).finish_non_exhaustive()
    }
}

impl Bound {
    /// Whether `value` explains it: it is that value, or was cut from it.
    #[must_use]
    pub fn is_of(&self, value: &[u8]) -> bool {
        if self.text == value {
            return true;
        }
        if self.exact || self.text.len() > value.len() {
            return false;
        }
        if self.least {
            return value.starts_with(&self.text);
        }
        // A greatest value that was cut had its last character raised by one.
        let mut text = std::str::from_utf8(&self.text).unwrap_or_default().chars();
        text.next_back().is_some() && value.starts_with(text.as_str().as_bytes())
    }
}

/// An open file.
pub struct Look {
    file: File,
    meta: ArrowReaderMetadata,
}

impl Look {
    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        self.meta.schema()
    }
    /// How many row groups it has.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.meta.metadata().num_row_groups()
    }
    /// Keys and values of its footer, who made it, and the names of its columns as Parquet has them.
    #[must_use]
    pub fn footer(&self) -> Vec<String> {
        let file = self.meta.metadata().file_metadata();
        let mut all: Vec<String> = file.created_by().map(str::to_owned).into_iter().collect();
        for entry in file.key_value_metadata().into_iter().flatten() {
            all.push(entry.key.clone());
            all.extend(entry.value.clone());
        }
        all.extend(file.schema_descr().columns().iter().map(|c| c.path().string()));
        all
    }
    /// Batches of one row group, of `columns` (by name, in the file's order) or of all.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read(&self, group: usize, columns: Option<&[&str]>) -> Result<ParquetRecordBatchReader, ParquetError> {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.try_clone()?, self.meta.clone());
        let roots = self.schema().fields().iter().enumerate();
        let wanted = roots.filter(|(_, f)| columns.is_none_or(|c| c.contains(&f.name().as_str()))).map(|(i, _)| i);
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.collect::<Vec<_>>());
        builder.with_projection(mask).with_row_groups(vec![group]).with_batch_size(CHUNK_ROWS).build()
    }
    /// The texts that the statistics and the page index of one row group hold.
    #[must_use]
    pub fn bounds(&self, group: usize) -> Vec<Bound> {
        let meta = self.meta.metadata();
        let mut all = Vec::new();
        let index = meta.page_index_for_row_group(group);
        let Some(chunks) = meta.row_groups().get(group).map(|g| g.columns()) else { return all };
        for (leaf, chunk) in chunks.iter().enumerate() {
            let mut add = |least, exact, text: Option<&[u8]>| {
                all.extend(text.map(|t| Bound { leaf, least, exact, text: t.to_vec() }));
            };
            if let Some(stats @ Statistics::ByteArray(_)) = chunk.statistics() {
                add(true, stats.min_is_exact(), stats.min_bytes_opt());
                add(false, stats.max_is_exact(), stats.max_bytes_opt());
            }
            if let Some(ColumnIndexMetaData::BYTE_ARRAY(pages)) = index.column_index(leaf) {
                for page in 0..usize::try_from(pages.num_pages()).unwrap_or(0) {
                    // A page index does not tell whether it was cut; what is short was not.
                    for (least, text) in [(true, pages.min_value(page)), (false, pages.max_value(page))] {
                        add(least, text.is_some_and(|t| t.len() < UNCUT_BYTES), text);
                    }
                }
            }
        }
        all
    }
}

/// Opens a file and has `work` look at it, off the async threads; `None` when it is not there.
///
/// # Errors
///
/// [`LoadError`], of the file or of `work`.
pub async fn look<T: Send + 'static>(
    store: &Store,
    path: &Path,
    work: impl FnOnce(&Look) -> Result<T, ParquetError> + Send + 'static,
) -> Result<Option<T>, LoadError> {
    let doing = "read the file";
    let at = Place { table: path.as_ref().into(), partition: "".into() };
    let opened = store.open_file(path).await.map_err(|e| Fault::Store(e).at(&at, doing))?;
    let Some(opened) = opened else { return Ok(None) };
    let work = move || {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let meta = ArrowReaderMetadata::load(&opened.file, options)?;
        Ok(work(&Look { file: opened.file.try_clone()?, meta })?)
    };
    blocking(&at, doing, work).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statistic_is_explained_by_the_value_that_it_was_cut_from() {
        let bound = |least, exact, text: &str| Bound { leaf: 0, least, exact, text: text.as_bytes().to_vec() };
        let long = "a".repeat(80);
        assert!(bound(true, true, "ada").is_of(b"ada"));
        assert!(!bound(true, true, "ada").is_of(b"ada lovelace"));
        assert!(bound(true, false, &long[..64]).is_of(long.as_bytes()));
        assert!(!bound(true, false, &long[..64]).is_of(b"ada"));
        assert!(bound(false, false, &format!("{}b", &long[..63])).is_of(long.as_bytes()));
        assert!(
            bound(false, false, &format!("{}\u{e2}", &long[..62])).is_of(format!("{}\u{e1}x", &long[..62]).as_bytes())
        );
        assert!(!bound(false, false, &format!("{}b", "c".repeat(63))).is_of(long.as_bytes()));
        assert_eq!(format!("{:?}", bound(true, true, "ada")), "Bound { leaf: 0, least: true, .. }");
    }
}
