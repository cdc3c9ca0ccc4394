//! The yardstick of a whole sync: a loop that fetches, decodes and writes opportunities, each on a thread of its own, and does
//! nothing else. No windows, no keys, no hashes, no partitions, no order, no commits, no retries, no report; what does not fit
//! a column is lost.
//!
//! usage: bare URL KEY_FILE OUT, with the address up to `/v1`, a file that holds an API key, and the Parquet file to write.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench that cannot go on should stop"
)]

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use arrow::array::{
    ArrayBuilder as _, ArrayRef, BooleanBuilder, Int64Builder, ListArray, NullBufferBuilder, RecordBatch,
    StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use bytes::Bytes;
use hirelake::catalog::{self, SYSTEM_COLUMNS};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Pages that wait between two threads.
const WAITING: usize = 4;
/// Rows that are written at once, rows of a row group, and bytes of a dictionary, as in the lake.
const BATCH_ROWS: usize = 1_024;
const GROUP_ROWS: usize = 16_384;
const DICTIONARY_BYTES: usize = 64 << 10;

fn main() {
    let [_, url, key_file, out] =
        std::env::args().collect::<Vec<_>>().try_into().expect("usage: bare URL KEY_FILE OUT");
    let key = std::fs::read_to_string(key_file).unwrap().trim().to_owned();
    let (pages_in, pages) = sync_channel::<Bytes>(WAITING);
    let (batches_in, batches) = sync_channel::<RecordBatch>(WAITING);
    let schema = schema();
    let written = Arc::clone(&schema);
    let fetching = std::thread::spawn(move || fetch(&url, &key, |page| pages_in.send(page).unwrap()));
    let writing = std::thread::spawn(move || {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_column_dictionary_enabled("id".into(), false)
            .build();
        let mut writer = ArrowWriter::try_new(File::create(out).unwrap(), written, Some(properties)).unwrap();
        batches.iter().for_each(|batch| writer.write(&batch).unwrap());
        writer.close().unwrap()
    });
    let mut rows = Row::new(schema.fields());
    for page in pages {
        let text = std::str::from_utf8(&page).unwrap();
        let mut json = serde_json::Deserializer::from_str(text);
        (&mut json).deserialize_map(Page(&mut rows)).unwrap();
        if rows.nulls.len() >= BATCH_ROWS {
            let full = std::mem::replace(&mut rows, Row::new(schema.fields()));
            batches_in.send(full.batch(&schema)).unwrap();
        }
    }
    batches_in.send(rows.batch(&schema)).unwrap();
    drop(batches_in);
    fetching.join().unwrap();
    let metadata = writing.join().unwrap();
    println!("{} rows", metadata.file_metadata().num_rows());
}

/// Follows one chain of pages. The next one is asked for before anybody looks at the one that came.
fn fetch(url: &str, key: &str, took: impl Fn(Bytes)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().tcp_nodelay(true).no_gzip().build().unwrap();
        let mut next: Option<String> = None;
        loop {
            let mut query = vec![("limit", "100")];
            query.extend(next.as_deref().map(|n| ("offset", n)));
            let request = client.get(format!("{url}/opportunities")).query(&query).basic_auth(key, Some(""));
            let page = request.send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
            next = token(&page);
            took(page);
            if next.is_none() {
                return;
            }
        }
    });
}

/// The token of the next page, which stands in the last bytes.
fn token(page: &[u8]) -> Option<String> {
    // The cut may go through a character.
    let tail = String::from_utf8_lossy(&page[page.len().saturating_sub(400)..]);
    let (_, after) = tail.rsplit_once("\"next\":\"")?;
    after.split('"').next().map(str::to_owned)
}

/// The catalogue's columns, without those of the lake's own.
fn schema() -> Arc<Schema> {
    let provider = catalog::embedded().unwrap();
    let all = catalog::schema(provider.resource("opportunities").unwrap());
    let fields: Vec<FieldRef> = all.fields().iter().skip(SYSTEM_COLUMNS.len()).cloned().collect();
    Arc::new(Schema::new(fields))
}

enum Col {
    Text(StringBuilder),
    Int(Int64Builder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
    List { field: FieldRef, item: Box<Col>, offsets: Vec<i32>, nulls: NullBufferBuilder },
    Object(Box<Row>),
}

/// The fields of an object, or of a record.
struct Row {
    fields: Fields,
    /// By the names on the wire.
    names: Vec<String>,
    cols: Vec<Col>,
    nulls: NullBufferBuilder,
}

impl Col {
    fn new(field: &Field) -> Self {
        match field.data_type() {
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Int64 => Self::Int(Int64Builder::new()),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Timestamp(..) => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            DataType::List(item) => Self::List {
                field: Arc::clone(item),
                item: Box::new(Self::new(item)),
                offsets: vec![0],
                nulls: NullBufferBuilder::new(BATCH_ROWS),
            },
            DataType::Struct(fields) => Self::Object(Box::new(Row::new(fields))),
            other => panic!("no column of type {other}"),
        }
    }
    fn null(&mut self) {
        match self {
            Self::Text(b) => b.append_null(),
            Self::Int(b) => b.append_null(),
            Self::Bool(b) => b.append_null(),
            Self::Time(b) => b.append_null(),
            Self::List { offsets, nulls, .. } => {
                offsets.push(*offsets.last().unwrap());
                nulls.append_null();
            }
            Self::Object(row) => {
                row.cols.iter_mut().for_each(Self::null);
                row.nulls.append_null();
            }
        }
    }
    fn len(&self) -> usize {
        match self {
            Self::Text(b) => b.len(),
            Self::Int(b) => b.len(),
            Self::Bool(b) => b.len(),
            Self::Time(b) => b.len(),
            Self::List { nulls, .. } => nulls.len(),
            Self::Object(row) => row.nulls.len(),
        }
    }
    fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut b) => Arc::new(b.finish()),
            Self::Int(mut b) => Arc::new(b.finish()),
            Self::Bool(mut b) => Arc::new(b.finish()),
            Self::Time(mut b) => Arc::new(b.finish()),
            Self::List { field, item, offsets, mut nulls } => Arc::new(
                ListArray::try_new(field, OffsetBuffer::new(offsets.into()), item.finish(), nulls.finish()).unwrap(),
            ),
            Self::Object(row) => {
                let Row { fields, cols, mut nulls, .. } = *row;
                let cols = cols.into_iter().map(Self::finish).collect();
                Arc::new(StructArray::try_new(fields, cols, nulls.finish()).unwrap())
            }
        }
    }
}

impl Row {
    fn new(fields: &Fields) -> Self {
        Self {
            fields: fields.clone(),
            names: fields.iter().map(|f| camel(f.name())).collect(),
            cols: fields.iter().map(|f| Col::new(f)).collect(),
            nulls: NullBufferBuilder::new(BATCH_ROWS),
        }
    }
    fn batch(self, schema: &Arc<Schema>) -> RecordBatch {
        RecordBatch::try_new(Arc::clone(schema), self.cols.into_iter().map(Col::finish).collect()).unwrap()
    }
}

/// `created_at` as the provider writes it.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| name + &part[..1].to_uppercase() + &part[1..])
}

struct Page<'a>(&'a mut Row);

impl<'de> Visitor<'de> for Page<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a page")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<&str>()? {
            match key {
                "data" => map.next_value_seed(Records(self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Records<'a>(&'a mut Row);

impl<'de> DeserializeSeed<'de> for Records<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("records")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Object(self.0))?.is_some() {}
        Ok(())
    }
}

struct Object<'a>(&'a mut Row);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Row { names, cols, nulls, .. } = self.0;
        let mut hint = 0;
        while let Some(key) = map.next_key::<&str>()? {
            // The order of keys is stable: the one that came next the last time is looked at first.
            let after = names.iter().enumerate().skip(hint).find(|(_, n)| *n == key);
            match after.or_else(|| names.iter().enumerate().take(hint).find(|(_, n)| *n == key)) {
                Some((i, _)) if cols[i].len() == nulls.len() => {
                    hint = i + 1;
                    map.next_value_seed(Value(&mut cols[i]))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        nulls.append_non_null();
        cols.iter_mut().filter(|c| c.len() < nulls.len()).for_each(Col::null);
        Ok(())
    }
}

struct Value<'a>(&'a mut Col);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.null();
        Ok(())
    }
    fn visit_bool<E>(self, v: bool) -> Result<(), E> {
        match self.0 {
            Col::Bool(b) => b.append_value(v),
            other => other.null(),
        }
        Ok(())
    }
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        match self.0 {
            Col::Int(b) => b.append_value(v),
            Col::Time(b) => b.append_value(v * 1000),
            other => other.null(),
        }
        Ok(())
    }
    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<(), E> {
        self.visit_i64(v.cast_signed())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.null();
        Ok(())
    }
    fn visit_str<E>(self, v: &str) -> Result<(), E> {
        match self.0 {
            Col::Text(b) => b.append_value(v),
            other => other.null(),
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Col::List { item, offsets, nulls, .. } = self.0 else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            self.0.null();
            return Ok(());
        };
        while seq.next_element_seed(Value(item))?.is_some() {}
        offsets.push(i32::try_from(item.len()).unwrap());
        nulls.append_non_null();
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.0 {
            Col::Object(row) => Object(row).visit_map(map),
            other => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                other.null();
                Ok(())
            }
        }
    }
}
