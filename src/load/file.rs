//! One partition's file: how it is written so that equal rows give equal bytes, and how it is read a little at a time.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use twox_hash::XxHash64;

use super::error::Fault;
use super::rows::{Held, Source, order_columns, retype, type_name};
use crate::catalog::{DELETED_AT, HASH, Table};
use crate::store::{Staged, Store};

/// Rows of a row group: what a merge holds of the old file and of the new one. 16,384 keeps a whole sync near 100 MB.
const GROUP_ROWS: usize = 16_384;
/// Bytes of a row group, whichever comes first: unusually long rows must not break the promise.
const GROUP_BYTES: usize = 32 << 20;
/// Rows handed to the writer and taken from a reader at once. The writer's pages and groups depend on how it is fed, so it
/// is always fed by the same number.
pub(super) const CHUNK_ROWS: usize = 1_024;
/// Bytes of a column's dictionary in a row group: what has more different values is all but unique, and a dictionary of it is made
/// at the cost of hashing every value, to be larger than the values.
const DICTIONARY_BYTES: usize = 64 << 10;
/// Bytes of a column's page: what is written stays as it came until its page is full, in every column of the row group.
const PAGE_BYTES: usize = 128 << 10;
/// Rows of a piece, on the average, from which on pieces are cheaper to copy than rows.
const PIECE_ROWS: usize = 32;
/// Footer key of the layout that a file was written under; only it tells the number of buckets.
pub(super) const LAYOUT_KEY: &str = "hirelake.layout";

/// What the columns of a table are, in one number: names and types in their order.
fn shape(table: &Table) -> String {
    let text: Vec<_> =
        table.schema.fields().iter().map(|f| format!("{}: {}", f.name(), type_name(f.data_type()))).collect();
    format!("{:016x}", XxHash64::oneshot(0, text.join("\n").as_bytes()))
}

/// How many Parquet leaves a type has.
fn leaves(ty: &DataType) -> usize {
    match ty {
        DataType::List(f) => leaves(f.data_type()),
        DataType::Struct(fields) => fields.iter().map(|f| leaves(f.data_type())).sum(),
        _ => 1,
    }
}

fn properties(table: &Table) -> Result<WriterProperties, Fault> {
    let schema = &table.schema;
    let leaf = |i: usize| schema.fields().iter().take(i).map(|f| leaves(f.data_type())).sum::<usize>();
    let path = |i: usize| ColumnPath::from(schema.field(i).name().as_str());
    let sorting = order_columns(table)
        .into_iter()
        .map(|(i, o)| SortingColumn {
            column_idx: i32::try_from(leaf(i)).unwrap_or(i32::MAX),
            descending: o.descending,
            nulls_first: o.nulls_first,
        })
        .collect();
    let entry = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    let mut p = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_created_by("hirelake".to_owned())
        .set_bloom_filter_for_dictionary_encoded_chunks(true)
        .set_sorting_columns(Some(sorting))
        .set_key_value_metadata(Some(vec![
            entry("hirelake.provider", table.provider.to_string()),
            entry("hirelake.resource", table.resource.to_string()),
            entry("hirelake.schema", shape(table)),
            entry(LAYOUT_KEY, table.layout.granularity.to_string()),
        ]))
        // Hashes are all different: a dictionary of them is only built to be thrown away.
        .set_column_dictionary_enabled(ColumnPath::from(HASH), false);
    for &i in &table.order.key {
        p = p.set_column_dictionary_enabled(path(i), false);
    }
    for &i in table.order.key.iter().chain(&table.order.parent) {
        p = p
            .set_column_bloom_filter_enabled(path(i), true)
            .set_column_bloom_filter_fpp(path(i), 0.01)
            .set_column_bloom_filter_max_ndv(path(i), GROUP_ROWS as u64);
    }
    Ok(p.build())
}

/// A new file of a partition. Rows are picked one by one out of batches that stay shared until a chunk of them is full.
pub(super) struct Writer {
    staged: Staged,
    inner: ArrowWriter<File>,
    deleted: usize,
    chunk: u64,
    batches: Vec<RecordBatch>,
    picks: Vec<(usize, usize)>,
    pub(super) rows: u64,
    pub(super) living: u64,
}

impl Writer {
    pub(super) fn new(store: &Store, table: &Table) -> Result<Self, Fault> {
        let mut staged = store.stage()?;
        let file = staged.file().try_clone()?;
        let inner = ArrowWriter::try_new(file, Arc::clone(&table.schema), Some(properties(table)?))?;
        let deleted = table.schema.index_of(DELETED_AT)?;
        Ok(Self {
            staged,
            inner,
            deleted,
            chunk: 1,
            batches: Vec::new(),
            picks: Vec::with_capacity(CHUNK_ROWS),
            rows: 0,
            living: 0,
        })
    }
    /// Appends one row.
    pub(super) fn pick(&mut self, source: &Source, row: usize) -> Result<(), Fault> {
        let (chunk, mut slot) = source.slot.get();
        if chunk != self.chunk {
            slot = self.batches.len();
            self.batches.push(source.batch.clone());
            source.slot.set((self.chunk, slot));
        }
        self.picks.push((slot, row));
        if self.picks.len() == CHUNK_ROWS {
            self.flush()?;
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<(), Fault> {
        if self.picks.is_empty() {
            return Ok(());
        }
        let batch = gather(&self.batches, &self.picks)?;
        self.rows += batch.num_rows() as u64;
        self.living += batch.column(self.deleted).null_count() as u64;
        self.inner.write(&batch)?;
        self.batches.clear();
        self.picks.clear();
        self.chunk += 1;
        Ok(())
    }
    /// Writes the footer. Nothing is in place yet.
    pub(super) fn finish(mut self) -> Result<Written, Fault> {
        self.flush()?;
        self.inner.close()?;
        Ok(Written { staged: self.staged, rows: self.rows, living: self.living })
    }
}

/// The rows of `picks`. Where they stand side by side, as most rows of an old file do, pieces are copied and not rows.
fn gather(batches: &[RecordBatch], picks: &[(usize, usize)]) -> Result<RecordBatch, ArrowError> {
    let mut pieces: Vec<(usize, usize, usize)> = Vec::new();
    for &(batch, row) in picks {
        let many = pieces.len() > picks.len() / PIECE_ROWS;
        match pieces.last_mut() {
            Some((b, from, rows)) if *b == batch && *from + *rows == row => *rows += 1,
            _ if many => return interleave_record_batch(&batches.iter().collect::<Vec<_>>(), picks),
            _ => pieces.push((batch, row, 1)),
        }
    }
    let pieces = pieces.into_iter().filter_map(|(b, from, rows)| Some(batches.get(b)?.slice(from, rows)));
    match pieces.collect::<Vec<_>>().as_slice() {
        [one] => Ok(one.clone()),
        pieces => concat_batches(&batches[0].schema(), pieces),
    }
}

/// A complete file that is not in place yet.
pub(super) struct Written {
    pub(super) staged: Staged,
    pub(super) rows: u64,
    pub(super) living: u64,
}

/// A file of a partition that is there, with its footer read and its shape found to be the table's.
pub(super) struct Existing {
    file: File,
    pub(super) meta: ArrowReaderMetadata,
    /// Columns that it has: the table's first ones. Less than the table's when the catalogue has grown since.
    pub(super) columns: usize,
}

impl Existing {
    /// # Errors
    ///
    /// [`Fault::Shape`] when a column is not what the table says.
    pub(super) fn open(file: &File, table: &Table) -> Result<Self, Fault> {
        let file = file.try_clone()?;
        let meta = ArrowReaderMetadata::load(&file, Default::default())?;
        let found = meta.schema().fields();
        for (i, f) in found.iter().enumerate() {
            let expected = table.schema.fields().get(i);
            let have = format!("`{}`, {}", f.name(), type_name(f.data_type()));
            let want =
                expected.map_or("absent".to_owned(), |e| format!("`{}`, {}", e.name(), type_name(e.data_type())));
            if have != want {
                return Err(Fault::Shape { column: (i + 1).to_string(), found: have, expected: want });
            }
        }
        let columns = found.len();
        Ok(Self { file, meta, columns })
    }
    /// The value of a footer key.
    pub(super) fn footer(&self, key: &str) -> Option<&str> {
        let entries = self.meta.metadata().file_metadata().key_value_metadata()?;
        entries.iter().find(|e| e.key == key)?.value.as_deref()
    }
    /// Rows in the file.
    pub(super) fn rows(&self) -> u64 {
        u64::try_from(self.meta.metadata().file_metadata().num_rows()).unwrap_or(0)
    }
    /// Rows that are not deleted, by the statistics of `_deleted_at`; a group without them counts as living.
    pub(super) fn living(&self) -> u64 {
        let groups = self.meta.metadata().row_groups();
        let living = groups.iter().map(|g| {
            let column = g.columns().iter().find(|c| c.column_path().parts() == [DELETED_AT]);
            let nulls = column.and_then(|c| c.statistics()).and_then(|s| s.null_count_opt());
            nulls.unwrap_or_else(|| u64::try_from(g.num_rows()).unwrap_or(0))
        });
        living.sum()
    }
    /// Reads all columns.
    pub(super) fn read(&self, table: &Table) -> Result<Reader, Fault> {
        let all: Vec<_> = (0..table.schema.fields().len()).collect();
        self.read_some(table, &all, None)
    }
    /// Reads `columns` (sorted table indices) of `groups` (all without).
    pub(super) fn read_some(
        &self,
        table: &Table,
        columns: &[usize],
        groups: Option<Vec<usize>>,
    ) -> Result<Reader, Fault> {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.try_clone()?, self.meta.clone());
        let there: Vec<_> = columns.iter().copied().filter(|&c| c < self.columns).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), there);
        let mut builder = builder.with_projection(mask).with_batch_size(CHUNK_ROWS);
        if let Some(groups) = groups {
            builder = builder.with_row_groups(groups);
        }
        Ok(Reader {
            inner: builder.build()?,
            schema: Arc::new(table.schema.project(columns)?),
            held: Held::only(table, columns),
        })
    }
    /// The row groups that may hold one of `wanted` in the column of that table index, by their bloom filters.
    pub(super) fn groups_with<'a>(
        &self,
        table: &Table,
        column: usize,
        wanted: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Vec<usize>, Fault> {
        let meta = self.meta.metadata();
        let groups = 0..meta.num_row_groups();
        let field = table.schema.field(column);
        if *field.data_type() != DataType::Utf8 {
            return Ok(groups.collect());
        }
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.try_clone()?, self.meta.clone());
        let leaves = builder.parquet_schema().columns();
        let Some(leaf) = leaves.iter().position(|c| c.path().parts() == [field.name().as_str()]) else {
            return Ok(groups.collect());
        };
        let mut maybe = Vec::new();
        for g in groups {
            let filter = builder.get_row_group_column_bloom_filter(g, leaf)?;
            if filter.is_none_or(|f| wanted.clone().any(|w| f.check(w))) {
                maybe.push(g);
            }
        }
        Ok(maybe)
    }
}

/// Batches of an existing file, in the table's shape: columns that the file does not have yet are null.
pub(super) struct Reader {
    inner: ParquetRecordBatchReader,
    schema: SchemaRef,
    pub(super) held: Held,
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, Fault>;
    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.inner.next()? {
            Ok(batch) => adapt(&batch, &self.schema),
            Err(e) => Err(e.into()),
        })
    }
}

/// `batch` with exactly the columns of `schema`, by name; what it lacks is null.
fn adapt(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Fault> {
    let columns = schema.fields().iter().map(|f| match batch.column_by_name(f.name()) {
        None => Ok(new_null_array(f.data_type(), batch.num_rows())),
        Some(c) => retype(c, f.data_type()).ok_or_else(|| Fault::Shape {
            column: format!("`{}`", f.name()),
            found: type_name(c.data_type()),
            expected: type_name(f.data_type()),
        }),
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>, Fault>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
