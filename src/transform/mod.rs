//! A page of JSON → typed record batches, and what was refused. Pure: no clock, no I/O.
//!
//! Guarantees: nothing is lost silently. A value is in its typed cell, or in the row's `_extra` (and counted as drift), or its
//! record is handed back whole as [`Rejected`]; a body that is not a page is a [`PageError`], never an empty page. No record
//! value appears in an error or in `Debug`.
//!
//! A page is decoded in one pass, straight into Arrow builders. If anything in it cannot be decoded, that pass is thrown away
//! and its records are read one by one, so that one bad record never takes the others with it.

mod columns;
mod drift;
mod page;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, StringBuilder, UInt32Array, new_null_array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::catalog::{Column, ColumnType, Mode, Paging, Resource, SYSTEM_COLUMNS, schema};
use crate::names::ResourceName;
use columns::{Child, Col, Ctx, Rows, StructCol};
pub use drift::{Drift, DriftKind, JsonType};
use drift::{Extra, push_string};
use page::{Envelope, Names};

/// Last column of a batch of children: what a row of it stands for ([`KIND_ROW`], [`KIND_READ`], [`KIND_BARE`]).
pub const KIND: &str = "_kind";
/// A child, to be kept.
pub const KIND_ROW: i8 = columns::ROW;
/// The children of this parent were read; the key is null. One for each record whose field was there.
pub const KIND_READ: i8 = columns::READ;
/// An id stood where the child was due: the row that the lake has is to stay.
pub const KIND_BARE: i8 = columns::BARE;

/// Builders begin with room for a page of the usual size.
const ROWS: usize = 100;

/// Decodes the pages of one resource.
#[derive(Debug)]
pub struct Decoder {
    table: Plan,
    children: Vec<ChildPlan>,
    /// For each column of the table the child that takes its objects.
    child_of: Vec<Option<usize>>,
    names: Names,
    /// Of children that are asked for parent by parent: columns filled from the parent, as (own, the parent's by name).
    from_parent: Vec<(usize, String)>,
    /// Of records without a key: how often each content came in this listing.
    contents: Option<Contents>,
}

/// A parent whose children are decoded: one row of a batch of the parent's table, by that table's column names.
#[derive(Clone, Copy)]
pub struct Parent<'a> {
    /// The batch; it has the columns of [`Decoder::parent_columns`].
    pub batch: &'a RecordBatch,
    /// The row.
    pub row: u32,
}

/// Makes keys of contents: equal records of one listing get one number after the other.
#[derive(Debug, Default)]
struct Contents {
    /// The wire name of the key.
    source: String,
    seen: HashMap<u128, u32>,
}

/// What one table needs, apart from its builders.
#[derive(Debug)]
struct Plan {
    columns: Vec<Column>,
    /// Of the declared columns.
    fields: Fields,
    /// Of the batch.
    schema: SchemaRef,
    keys: Vec<usize>,
    keep_extra: bool,
}

#[derive(Debug)]
struct ChildPlan {
    name: ResourceName,
    table: Plan,
    by_parent: bool,
    prefix: String,
    /// Columns filled from the record: (of the child, of the record).
    filled: Vec<(usize, usize)>,
}

impl Plan {
    fn new(resource: &Resource, kind: bool) -> Self {
        let all = schema(resource);
        let extra = SYSTEM_COLUMNS.len() - 1;
        let declared: Fields = all.fields().iter().skip(SYSTEM_COLUMNS.len()).cloned().collect();
        let mut fields: Vec<Arc<Field>> = all.fields().iter().skip(extra).cloned().collect();
        if kind {
            fields.push(Arc::new(Field::new(KIND, DataType::Int8, false)));
        }
        Self {
            fields: declared,
            schema: Arc::new(Schema::new(fields)),
            // What is filled from the parent need not stand in the record.
            keys: (resource.key.iter())
                .filter_map(|k| resource.columns.iter().position(|c| c.name == *k && c.from_parent.is_none()))
                .collect(),
            keep_extra: resource.keep_extra,
            columns: resource.columns.clone(),
        }
    }

    fn rows<'p>(&'p self, children: &[Option<usize>], prefix: &'p str, rows: usize) -> Rows<'p> {
        let fields = StructCol::new(&self.columns, &self.fields, children, rows);
        Rows::new(fields, &self.keys, self.keep_extra, prefix, rows)
    }
}

/// What a page holds.
pub struct Page {
    /// `_extra`, then the declared columns: the order and types of [`schema`] without `_synced_at`, `_deleted_at`, `_row_hash`.
    pub rows: RecordBatch,
    /// The same of each resource taken out of this one; one that has a parent ends with [`KIND`].
    pub extracted: Vec<(ResourceName, RecordBatch)>,
    /// Elements of the listing, rejected ones included.
    pub records: usize,
    /// The token of the next page.
    pub next: Option<String>,
    /// Whether there is more.
    pub more: bool,
    /// Records that could not be decoded, whole.
    pub rejected: Vec<Rejected>,
    /// What did not fit.
    pub drift: Drift,
}

impl fmt::Debug for Page {
    /// Counts only: a batch would print its values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("records", &self.records)
            .field("rows", &self.rows.num_rows())
            .field("rejected", &self.rejected.len())
            .field("more", &self.more)
            .finish_non_exhaustive()
    }
}

/// A record that is not in the batch.
pub struct Rejected {
    /// Why.
    pub why: RejectReason,
    /// Its exact bytes: to be sealed, never printed.
    pub raw: Vec<u8>,
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rejected({}, {} bytes)", self.why, self.raw.len())
    }
}

/// Why a record was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// It is not an object.
    NotAnObject,
    /// It lacks its key, or the key is not of the declared type.
    KeyMissing,
    /// It nests deeper than can be read again.
    TooDeep,
    /// Anything else.
    Undecodable,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnObject => "not an object",
            Self::KeyMissing => "without its key",
            Self::TooDeep => "nested too deep",
            Self::Undecodable => "cannot be decoded",
        })
    }
}

/// The body is not a page: it goes back to the request loop, which may ask again.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Not JSON, or cut short.
    #[error("the body is not JSON: {what} at line {line}, column {column} of {bytes} bytes")]
    NotJson {
        /// What is wrong with it.
        what: &'static str,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// Length of the body.
        bytes: usize,
    },
    /// JSON, but not a listing.
    #[error("the body is not a page of a listing: {what}")]
    NotAPage {
        /// What is wrong with it.
        what: String,
    },
    /// A bug of ours: columns of different lengths or types.
    #[error("the decoded columns do not make a batch")]
    Columns(#[source] ArrowError),
}

/// Builders of a page.
struct Build<'p> {
    rows: Rows<'p>,
    ctx: Ctx<'p>,
}

impl Decoder {
    /// A decoder of `resource`. `extract`: the enabled resources taken out of this one's expanded fields; others are ignored.
    #[must_use]
    pub fn new(resource: &Resource, extract: &[&Resource]) -> Self {
        let mut child_of = vec![None; resource.columns.len()];
        let mut children = Vec::new();
        for child in extract {
            let Mode::Extracted { from, field } = &child.mode else { continue };
            let holder = resource.columns.iter().position(|c| c.source == *field);
            let Some(holder) = holder.filter(|_| *from == resource.name) else { continue };
            let mut prefix = String::new();
            match &resource.columns[holder].ty {
                ColumnType::Ref => {}
                ColumnType::List(item) if **item == ColumnType::Ref => prefix.push_str("/*"),
                _ => continue,
            }
            child_of[holder] = Some(children.len());
            let place = |source: &str| resource.columns.iter().position(|c| c.source == source);
            let filled = child.columns.iter().enumerate();
            children.push(ChildPlan {
                name: child.name.clone(),
                table: Plan::new(child, child.parent.is_some()),
                by_parent: child.parent.is_some(),
                prefix: format!("/{field}{prefix}"),
                filled: filled.filter_map(|(i, c)| Some((i, place(c.from_parent.as_deref()?)?))).collect(),
            });
        }
        let path = || resource.records.split('.').filter(|k| !k.is_empty()).map(str::to_owned).collect();
        let names = match &resource.paging {
            Paging::Token { next, more, .. } => {
                Names { records: path(), next: Some(next.clone()), more: Some(more.clone()) }
            }
            Paging::Single => Names { records: path(), next: None, more: None },
        };
        let contents = resource.content_key.as_ref().and_then(|key| resource.column(key));
        Self {
            table: Plan::new(resource, false),
            children,
            child_of,
            names,
            from_parent: Vec::new(),
            contents: contents.map(|c| Contents { source: c.source.clone(), seen: HashMap::new() }),
        }
    }

    /// A decoder of `resource`, whose pages are asked for parent by parent; `carrier` is the parents' resource.
    #[must_use]
    pub fn of_children(resource: &Resource, carrier: &Resource) -> Self {
        let name = |source: &str| carrier.columns.iter().find(|c| c.source == source).map(|c| c.name.clone());
        let filled = resource.columns.iter().enumerate();
        let from_parent = filled.filter_map(|(i, c)| Some((i, name(c.from_parent.as_deref()?)?))).collect();
        Self { table: Plan::new(resource, true), from_parent, ..Self::new(resource, &[]) }
    }

    /// The parent's columns (by table name) that the children's rows are filled from.
    pub fn parent_columns(&self) -> impl Iterator<Item = &str> {
        self.from_parent.iter().map(|(_, name)| name.as_str())
    }

    /// Decodes a page of one parent's children; its rows end with [`KIND`].
    ///
    /// # Errors
    ///
    /// As [`Decoder::page`].
    pub fn children_of(&mut self, parent: Parent<'_>, body: &[u8]) -> Result<Page, PageError> {
        let text = self.text(body)?;
        let mut build = self.build(false, ROWS);
        if !self.names.records.is_empty()
            && let Ok(envelope) = page::fast(&self.names, text, &mut build)
        {
            return self.finish(build, envelope, Vec::new(), Some(parent));
        }
        drop(build);
        self.slow(text, Some(parent))
    }

    /// The row that says of a parent that its children were read: [`KIND_READ`], without a key.
    ///
    /// # Errors
    ///
    /// [`PageError::Columns`] when the parent lacks a column.
    pub fn read_marker(&self, parent: Parent<'_>) -> Result<RecordBatch, PageError> {
        let mut columns: Vec<ArrayRef> =
            self.table.schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
        let row = UInt32Array::from(vec![parent.row]);
        for (own, name) in &self.from_parent {
            if let (Some(place), Some(value)) = (columns.get_mut(own + 1), parent.batch.column_by_name(name)) {
                *place = take(value, &row, None).map_err(PageError::Columns)?;
            }
        }
        if let Some(kind) = columns.last_mut() {
            *kind = Arc::new(Int8Array::from(vec![KIND_READ]));
        }
        batch(&self.table.schema, columns).map_err(PageError::Columns)
    }

    fn text<'t>(&self, body: &'t [u8]) -> Result<&'t str, PageError> {
        std::str::from_utf8(body).map_err(|e| {
            let before = &body[..e.valid_up_to()];
            let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let line = 1 + before.iter().filter(|b| **b == b'\n').count();
            PageError::NotJson {
                what: "bytes that are not UTF-8",
                line,
                column: before.len() - start + 1,
                bytes: body.len(),
            }
        })
    }

    /// Decodes the body of a page.
    ///
    /// # Errors
    ///
    /// [`PageError`] when the body is not a page; a bad record is not an error, but in [`Page::rejected`].
    pub fn page(&mut self, body: &[u8]) -> Result<Page, PageError> {
        let text = self.text(body)?;
        let mut build = self.build(false, ROWS);
        if self.contents.is_none()
            && !self.names.records.is_empty()
            && let Ok(envelope) = page::fast(&self.names, text, &mut build)
        {
            return self.finish(build, envelope, Vec::new(), None);
        }
        drop(build);
        self.slow(text, None)
    }

    fn build(&self, exact: bool, rows: usize) -> Build<'_> {
        let children = self.children.iter().map(|c| {
            Some(Box::new(Child {
                rows: c.table.rows(&[], &c.prefix, rows),
                by_parent: c.by_parent,
                parents: Vec::with_capacity(rows),
                kinds: Vec::with_capacity(rows),
            }))
        });
        Build { rows: self.table.rows(&self.child_of, "", rows), ctx: Ctx::new(exact, children.collect()) }
    }

    /// Record by record. Each is tried on builders that may be spoiled before it touches those that are kept.
    fn slow(&mut self, text: &str, parent: Option<Parent<'_>>) -> Result<Page, PageError> {
        let (envelope, records) = page::split(&self.names, text)?;
        let mut contents = self.contents.take();
        let page = self.one_by_one(envelope, &records, parent, contents.as_mut());
        self.contents = contents;
        page
    }

    fn one_by_one(
        &self,
        envelope: Envelope,
        records: &[&RawValue],
        parent: Option<Parent<'_>>,
        mut contents: Option<&mut Contents>,
    ) -> Result<Page, PageError> {
        let mut kept = self.build(true, ROWS);
        let mut tried = self.build(true, 1);
        let mut rejected = Vec::new();
        let mut reject =
            |why, record: &RawValue| rejected.push(Rejected { why, raw: record.get().as_bytes().to_vec() });
        for record in records {
            if !record.get().starts_with('{') {
                reject(RejectReason::NotAnObject, record);
                continue;
            }
            let keyed = contents.as_mut().and_then(|c| c.keyed(record.get()));
            let text = keyed.as_deref().unwrap_or(record.get());
            if page::record(text, &mut tried).is_err() {
                reject(tried.ctx.refused.unwrap_or(RejectReason::Undecodable), record);
                tried = self.build(true, 1);
                continue;
            }
            if page::record(text, &mut kept).is_err() {
                // The same input took the same path a moment ago.
                return Err(PageError::NotAPage { what: "a record was read in two ways".to_owned() });
            }
        }
        self.finish(kept, envelope, rejected, parent)
    }

    fn finish(
        &self,
        build: Build<'_>,
        envelope: Envelope,
        rejected: Vec<Rejected>,
        parent: Option<Parent<'_>>,
    ) -> Result<Page, PageError> {
        let Build { rows, mut ctx } = build;
        let records = rows.len as usize + rejected.len();
        let (mut extra, mut columns) = arrays(rows).map_err(PageError::Columns)?;
        if let Some(parent) = parent {
            let rows = UInt32Array::from(vec![parent.row; extra.len()]);
            for (own, name) in &self.from_parent {
                let value = parent.batch.column_by_name(name);
                let filled = value.map(|v| take(v, &rows, None)).transpose().map_err(PageError::Columns)?;
                if let (Some(filled), Some(place)) = (filled, columns.get_mut(*own)) {
                    extra =
                        self.table.fill(*own, filled, place, &extra, "", &mut ctx.drift).map_err(PageError::Columns)?;
                }
            }
            let kinds = Int8Array::from(vec![KIND_ROW; extra.len()]);
            columns.push(Arc::new(kinds));
        }
        let mut extracted = Vec::with_capacity(self.children.len());
        for (plan, child) in self.children.iter().zip(ctx.children) {
            let Some(child) = child else { continue };
            let batch = plan.batch(*child, &columns, &mut ctx.drift).map_err(PageError::Columns)?;
            extracted.push((plan.name.clone(), batch));
        }
        let mut all = vec![extra];
        all.extend(columns);
        let rows = batch(&self.table.schema, all).map_err(PageError::Columns)?;
        Ok(Page { rows, extracted, records, next: envelope.next, more: envelope.more, rejected, drift: ctx.drift })
    }
}

fn arrays(rows: Rows<'_>) -> Result<(ArrayRef, Vec<ArrayRef>), ArrowError> {
    let mut extra = rows.extra;
    let columns = rows.fields.cols.into_iter().map(Col::finish).collect::<Result<Vec<_>, _>>()?;
    Ok((Arc::new(extra.finish()), columns))
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let rows = columns.first().map_or(0, |c| c.len());
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

impl ChildPlan {
    /// The batch of the children, its columns that come from the record filled.
    fn batch(&self, child: Child<'_>, records: &[ArrayRef], drift: &mut Drift) -> Result<RecordBatch, ArrowError> {
        let parents = UInt32Array::from(child.parents);
        let (mut extra, mut columns) = arrays(child.rows)?;
        for (own, from) in &self.filled {
            let (Some(column), Some(record)) = (columns.get_mut(*own), records.get(*from)) else { continue };
            let taken = take(record, &parents, None)?;
            extra = self.table.fill(*own, taken, column, &extra, &self.prefix, drift)?;
        }
        let mut all = vec![extra];
        all.extend(columns);
        if self.by_parent {
            all.push(Arc::new(Int8Array::from(child.kinds)));
        }
        batch(&self.table.schema, all)
    }
}

impl Plan {
    /// Puts what comes from the parent into a column. What the child itself said under that name is kept where it says
    /// something else. Gives the rows' `_extra`.
    fn fill(
        &self,
        own: usize,
        taken: ArrayRef,
        column: &mut ArrayRef,
        extra: &ArrayRef,
        prefix: &str,
        drift: &mut Drift,
    ) -> Result<ArrayRef, ArrowError> {
        let own_values = std::mem::replace(column, taken);
        if own_values.null_count() < own_values.len() && self.keep_extra {
            return self.contradictions(own, &own_values, column, extra, prefix, drift);
        }
        Ok(Arc::clone(extra))
    }

    fn contradictions(
        &self,
        column: usize,
        own: &ArrayRef,
        taken: &ArrayRef,
        extra: &ArrayRef,
        prefix: &str,
        drift: &mut Drift,
    ) -> Result<ArrayRef, ArrowError> {
        let differs = distinct(own, taken)?;
        let Some(texts) = extra.as_any().downcast_ref::<arrow::array::StringArray>() else {
            return Ok(Arc::clone(extra));
        };
        if !(0..own.len()).any(|i| own.is_valid(i) && differs.value(i)) {
            return Ok(Arc::clone(extra));
        }
        let mut rebuilt = StringBuilder::with_capacity(texts.len(), 64);
        for i in 0..texts.len() {
            let there = texts.is_valid(i).then(|| texts.value(i));
            if own.is_valid(i) && differs.value(i) {
                let mut object = there.and_then(|t| t.strip_suffix('}')).unwrap_or_default().to_owned();
                let source = &self.columns[column].source;
                let value = json_of(own, i);
                Extra::at(source, value, Some(DriftKind::Misfit)).put(prefix, drift, &mut object);
                object.push('}');
                rebuilt.append_value(object);
            } else {
                rebuilt.append_option(there);
            }
        }
        Ok(Arc::new(rebuilt.finish()))
    }
}

impl Contents {
    /// The record with a key that its content makes: equal ones differ by their number in the listing.
    fn keyed(&mut self, record: &str) -> Option<String> {
        // Another order of fields or other blanks are the same content.
        let content = serde_json::from_str::<serde_json::Value>(record).ok()?.to_string();
        let digest = Sha256::digest(content);
        let hash = digest.iter().take(16).fold(0_u128, |h, b| h << 8 | u128::from(*b));
        let seen = self.seen.entry(hash).or_default();
        *seen += 1;
        let rest = record.trim_start().strip_prefix('{')?;
        let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
        let mut keyed = String::from("{");
        push_string(&mut keyed, &self.source);
        keyed.push_str(&format!(":\"{hash:032x}-{seen}\"{comma}{rest}"));
        Some(keyed)
    }
}

/// A scalar cell as JSON again.
fn json_of(array: &ArrayRef, i: usize) -> String {
    use arrow::array::AsArray as _;
    use arrow::datatypes::{Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
    match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().value(i).to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            (array.as_primitive::<TimestampMicrosecondType>().value(i) / 1000).to_string()
        }
        DataType::Float64 => serde_json::Value::from(array.as_primitive::<Float64Type>().value(i)).to_string(),
        DataType::Boolean => array.as_boolean().value(i).to_string(),
        DataType::Utf8 => {
            let mut json = String::new();
            push_string(&mut json, array.as_string::<i32>().value(i));
            json
        }
        _ => "null".to_owned(),
    }
}
