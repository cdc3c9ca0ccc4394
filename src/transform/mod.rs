//! A page of JSON → typed record batches, and what was refused. Pure: no clock, no I/O.
//!
//! Guarantees: nothing is lost silently. A value is in its typed cell, or in the row's `_extra` (and counted as drift), or its
//! record is handed back whole as [`Rejected`]; a body that is not a page is a [`PageError`], never an empty page. No record
//! value appears in an error or in `Debug`.
//!
//! Pages are decoded in one pass, straight into Arrow builders; several of them make a batch ([`Gathering`]). If anything in a page
//! cannot be decoded, what it left in the builders is thrown away and its records are read one by one, so that one bad record never
//! takes the others with it.

mod columns;
mod drift;
mod page;
mod privacy;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, Int64Array, StringArray, StringBuilder, UInt32Array, new_null_array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::catalog::{Column, ColumnType, Mode, Paging, Resource, SYSTEM_COLUMNS, schema};
use crate::names::ResourceName;
use columns::{Child, Ctx, Room, Rows, Sizes, StructCol};
pub use drift::{Drift, DriftKind, JsonType};
use drift::{Extra, push_string};
use page::{Envelope, Names};
pub use privacy::{Pseudonyms, Rules};

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
    state: State,
}

/// What a decoder remembers of the pages before.
#[derive(Debug, Default)]
struct State {
    /// Of records without a key: how often each content came in this listing.
    contents: Option<Contents>,
    hint: Hint,
}

/// How large the builders of a batch became: the table's own, and its children's. Batches of one listing resemble each other.
#[derive(Debug, Default, Clone)]
pub struct Hint(Sizes, Vec<Sizes>);

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

    fn rows<'p>(&'p self, children: &[Option<usize>], prefix: &'p str, mut room: Room<'_>) -> Rows<'p> {
        let rows = room.rows;
        let fields = StructCol::new(&self.columns, &self.fields, children, rows, &mut room);
        Rows::new(fields, &self.keys, self.keep_extra, prefix, rows)
    }
}

impl Hint {
    /// Rows of the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.rows()
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

/// What a page says beside its rows.
#[derive(Debug)]
pub struct Told {
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

/// Rows of several pages: of the listing's table as [`Page::rows`], and of those taken out of it as [`Page::extracted`].
pub struct Gathered {
    /// As [`Page::rows`].
    pub rows: RecordBatch,
    /// As [`Page::extracted`].
    pub extracted: Vec<(ResourceName, RecordBatch)>,
    /// For each page how many rows came of it: of the listing's table, then of the others in their order.
    pub pages: Vec<Vec<usize>>,
    /// What did not fit where rows of one table say something of another's.
    pub drift: Drift,
}

/// Pages of one listing, decoded one after the other into the same builders.
pub struct Gathering<'d> {
    decoder: &'d Decoder,
    state: State,
    parent: Option<Parent<'d>>,
    build: Option<Build<'d>>,
    pages: Vec<Vec<usize>>,
    whole: Vec<Gathered>,
}

/// Builders of a batch.
struct Build<'p> {
    rows: Rows<'p>,
    ctx: Ctx<'p>,
}

impl Build<'_> {
    /// Rows so far: of the listing's table, then of those taken out of it.
    fn lengths(&self) -> Vec<usize> {
        let children = self.ctx.children.iter().map(|c| c.as_ref().map_or(0, |c| c.kinds.len()));
        std::iter::once(self.rows.len as usize).chain(children).collect()
    }

    /// Makes the builders even again, after an error in the middle of a record.
    fn pad(&mut self) {
        self.rows.pad();
        self.ctx.children.iter_mut().flatten().for_each(|c| c.rows.pad());
        self.ctx.forget();
    }
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
            state: State {
                contents: contents.map(|c| Contents { source: c.source.clone(), seen: HashMap::new() }),
                hint: Hint::default(),
            },
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
        self.alone(body, Some(parent))
    }

    /// A row that is made here and not decoded: text and number cells by column name, the rest from the parent or null.
    ///
    /// # Errors
    ///
    /// [`PageError::Columns`] when a cell is of another type than its column.
    pub fn made_row(
        &self,
        parent: Parent<'_>,
        texts: &[(&str, Option<&str>)],
        numbers: &[(&str, Option<i64>)],
    ) -> Result<RecordBatch, PageError> {
        let marker = self.read_marker(parent)?;
        let mut columns = marker.columns().to_vec();
        let made = texts.iter().map(|(n, t)| (*n, Arc::new(StringArray::from(vec![*t])) as ArrayRef));
        let made = made.chain(numbers.iter().map(|(n, v)| (*n, Arc::new(Int64Array::from(vec![*v])) as ArrayRef)));
        for (name, cell) in made.chain([(KIND, Arc::new(Int8Array::from(vec![KIND_ROW])) as ArrayRef)]) {
            if let Some(place) = marker.schema().index_of(name).ok().and_then(|i| columns.get_mut(i)) {
                *place = cell;
            }
        }
        batch(&self.table.schema, columns).map_err(PageError::Columns)
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
        self.alone(body, None)
    }

    /// Decodes a page that is a batch of its own.
    fn alone(&mut self, body: &[u8], parent: Option<Parent<'_>>) -> Result<Page, PageError> {
        let state = std::mem::take(&mut self.state);
        let mut gathering = Gathering { state, parent, ..Gathering::new(self, Hint::default()) };
        let page = gathering.page(body).and_then(|told| Ok((told, gathering.take()?)));
        self.state = gathering.state;
        let (Told { records, next, more, rejected, mut drift }, batches) = page?;
        let Some(Gathered { rows, extracted, drift: more_drift, .. }) = batches.into_iter().next() else {
            return Err(PageError::NotAPage { what: "nothing came of it".to_owned() });
        };
        drift.merge(more_drift);
        Ok(Page { rows, extracted, records, next, more, rejected, drift })
    }

    fn build(&self, hint: &Hint, exact: bool, rows: usize) -> Build<'_> {
        let unknown = Sizes::default();
        let children = self.children.iter().enumerate().map(|(i, c)| {
            let room = Room::like(hint.1.get(i).unwrap_or(&unknown), rows);
            Some(Box::new(Child {
                by_parent: c.by_parent,
                parents: Vec::with_capacity(room.rows),
                kinds: Vec::with_capacity(room.rows),
                rows: c.table.rows(&[], &c.prefix, room),
            }))
        });
        let room = Room::like(&hint.0, rows);
        Build { rows: self.table.rows(&self.child_of, "", room), ctx: Ctx::new(exact, children.collect()) }
    }

    /// Record by record. Each is tried on builders that may be spoiled before it touches those that are kept.
    fn one_by_one(&self, records: &[&RawValue], state: &mut State) -> Result<(Build<'_>, Vec<Rejected>), PageError> {
        let mut kept = self.build(&state.hint, true, ROWS);
        // One row is made to be thrown away.
        let one = || self.build(&Hint::default(), true, 1);
        let mut tried = one();
        let mut rejected = Vec::new();
        let mut reject =
            |why, record: &RawValue| rejected.push(Rejected { why, raw: record.get().as_bytes().to_vec() });
        for record in records {
            if !record.get().starts_with('{') {
                reject(RejectReason::NotAnObject, record);
                continue;
            }
            let keyed = state.contents.as_mut().and_then(|c| c.keyed(record.get()));
            let text = keyed.as_deref().unwrap_or(record.get());
            if page::record(text, &mut tried).is_err() {
                reject(tried.ctx.refused.unwrap_or(RejectReason::Undecodable), record);
                tried = one();
                continue;
            }
            if page::record(text, &mut kept).is_err() {
                // The same input took the same path a moment ago.
                return Err(PageError::NotAPage { what: "a record was read in two ways".to_owned() });
            }
        }
        Ok((kept, rejected))
    }

    /// The rows of those pages, without what an error left behind them.
    fn finish(
        &self,
        build: Build<'_>,
        pages: Vec<Vec<usize>>,
        parent: Option<Parent<'_>>,
    ) -> Result<(Gathered, Hint), PageError> {
        let total = |table: usize| pages.iter().filter_map(|p| p.get(table)).sum();
        let Build { rows, mut ctx } = build;
        let (mut extra, mut columns, own) = arrays(rows, total(0)).map_err(PageError::Columns)?;
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
        let mut theirs = Vec::with_capacity(self.children.len());
        for (i, (plan, child)) in self.children.iter().zip(ctx.children).enumerate() {
            let Some(child) = child else { continue };
            let made = plan.batch(*child, total(i + 1), &columns, &mut ctx.drift);
            let (batch, sizes) = made.map_err(PageError::Columns)?;
            extracted.push((plan.name.clone(), batch));
            theirs.push(sizes);
        }
        let mut all = vec![extra];
        all.extend(columns);
        let rows = batch(&self.table.schema, all).map_err(PageError::Columns)?;
        Ok((Gathered { rows, extracted, pages, drift: ctx.drift }, Hint(own, theirs)))
    }
}

impl<'d> Gathering<'d> {
    /// Nothing gathered yet. `hint`: how large the batches of this listing became.
    #[must_use]
    pub fn new(decoder: &'d Decoder, hint: Hint) -> Self {
        let contents =
            decoder.state.contents.as_ref().map(|c| Contents { source: c.source.clone(), seen: HashMap::new() });
        let state = State { contents, hint };
        Self { decoder, state, parent: None, build: None, pages: Vec::new(), whole: Vec::new() }
    }

    /// Adds the body of a page.
    ///
    /// # Errors
    ///
    /// [`PageError`] when the body is not a page: it adds nothing then. A bad record is not an error, but in [`Told::rejected`].
    pub fn page(&mut self, body: &[u8]) -> Result<Told, PageError> {
        let text = self.decoder.text(body)?;
        if self.state.contents.is_none() && !self.decoder.names.records.is_empty() {
            let build = self.build.get_or_insert_with(|| self.decoder.build(&self.state.hint, false, ROWS));
            let before = build.lengths();
            match page::fast(&self.decoder.names, text, build) {
                Ok(Envelope { next, more }) => {
                    let rows: Vec<usize> = build.lengths().iter().zip(&before).map(|(now, then)| now - then).collect();
                    let records = rows.first().copied().unwrap_or_default();
                    self.pages.push(rows);
                    let drift = std::mem::take(&mut build.ctx.drift);
                    return Ok(Told { records, next, more, rejected: Vec::new(), drift });
                }
                Err(()) => {
                    build.pad();
                    self.close()?;
                }
            }
        }
        self.slow(text)
    }

    /// Adds a page record by record.
    fn slow(&mut self, text: &str) -> Result<Told, PageError> {
        let (Envelope { next, more }, records) = page::split(&self.decoder.names, text)?;
        self.close()?;
        let (mut build, rejected) = self.decoder.one_by_one(&records, &mut self.state)?;
        let drift = std::mem::take(&mut build.ctx.drift);
        self.pages.push(build.lengths());
        self.build = Some(build);
        self.close()?;
        Ok(Told { records: records.len(), next, more, rejected, drift })
    }

    /// Rows of the listing's table that were not taken yet.
    #[must_use]
    pub fn rows(&self) -> usize {
        let open: usize = self.pages.iter().filter_map(|p| p.first()).sum();
        open + self.whole.iter().map(|w| w.rows.num_rows()).sum::<usize>()
    }

    /// Takes what was gathered, and says how large it became.
    ///
    /// # Errors
    ///
    /// [`PageError::Columns`].
    pub fn take(&mut self) -> Result<Vec<Gathered>, PageError> {
        self.close()?;
        Ok(std::mem::take(&mut self.whole))
    }

    /// How large the last batch became.
    #[must_use]
    pub fn hint(&self) -> Hint {
        self.state.hint.clone()
    }

    /// Ends the batch.
    fn close(&mut self) -> Result<(), PageError> {
        let (Some(build), pages) = (self.build.take(), std::mem::take(&mut self.pages)) else { return Ok(()) };
        if !pages.is_empty() {
            let (gathered, hint) = self.decoder.finish(build, pages, self.parent)?;
            self.whole.push(gathered);
            self.state.hint = hint;
        }
        Ok(())
    }
}

/// `_extra` and the columns of the first `keep` rows.
fn arrays(rows: Rows<'_>, keep: usize) -> Result<(ArrayRef, Vec<ArrayRef>, Sizes), ArrowError> {
    let mut extra = rows.extra;
    let mut sizes = Sizes::of(keep);
    let cut = |column: ArrayRef| if column.len() > keep { column.slice(0, keep) } else { column };
    let columns = rows.fields.cols.into_iter().map(|c| Ok(cut(c.finish(&mut sizes)?)));
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    Ok((cut(Arc::new(extra.finish())), columns, sizes))
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let rows = columns.first().map_or(0, |c| c.len());
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

impl ChildPlan {
    /// The batch of the children, its columns that come from the record filled.
    fn batch(
        &self,
        mut child: Child<'_>,
        keep: usize,
        records: &[ArrayRef],
        drift: &mut Drift,
    ) -> Result<(RecordBatch, Sizes), ArrowError> {
        child.parents.truncate(keep);
        child.kinds.truncate(keep);
        let parents = UInt32Array::from(child.parents);
        let (mut extra, mut columns, sizes) = arrays(child.rows, keep)?;
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
        Ok((batch(&self.table.schema, all)?, sizes))
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
