//! The physical table of a resource: its Arrow schema, its sort order, and how it is cut into files.
//!
//! System columns stand first and declared ones behind them, so that a column keeps its position for ever and a new one
//! comes at the end.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use super::{Column, ColumnType, Mode, Resource};
use crate::clock::Timestamp;
use crate::names::ResourceName;

/// When this version of the row was first seen.
pub const SYNCED_AT: &str = "_synced_at";
/// When the row was deleted at the provider; null while it lives.
pub const DELETED_AT: &str = "_deleted_at";
/// 64 bits of the row's content.
pub const HASH: &str = "_row_hash";
/// JSON text of what the catalogue does not declare, or null. Counts as sensitive.
pub const EXTRA: &str = "_extra";
/// Names of the system columns, in their order at the start of every table.
pub const SYSTEM_COLUMNS: [&str; 4] = [SYNCED_AT, DELETED_AT, HASH, EXTRA];

/// How finely a table is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Granularity {
    /// One file.
    None,
    /// A file for each year (UTC).
    Year,
    /// A file for each month (UTC).
    Month,
    /// A number of files (2 to 1024), by the hash of the key.
    Bucket(u16),
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Year => f.write_str("year"),
            Self::Month => f.write_str("month"),
            Self::Bucket(n) => write!(f, "bucket({n})"),
        }
    }
}

impl From<Granularity> for String {
    fn from(g: Granularity) -> Self {
        g.to_string()
    }
}

impl TryFrom<String> for Granularity {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Granularity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "year" => Ok(Self::Year),
            "month" => Ok(Self::Month),
            _ => text
                .strip_prefix("bucket(")
                .and_then(|t| t.strip_suffix(')'))
                .and_then(|n| n.parse().ok())
                .filter(|n| (2..=1024).contains(n))
                .map(Self::Bucket)
                .ok_or_else(|| {
                    format!("expected `none`, `year`, `month` or `bucket(n)` with n from 2 to 1024, not `{text}`")
                }),
        }
    }
}

/// The value of a partition. Its `Display` is the folder's value, as hive readers expect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartitionValue {
    /// The one file of a table that is not cut.
    Whole,
    /// A year (UTC).
    Year(i16),
    /// A year and a month from 1 to 12 (UTC).
    Month(i16, i8),
    /// A bucket, from 0.
    Bucket(u16),
    /// The record has no partition time.
    Null,
}

impl PartitionValue {
    /// The time that it stands for (UTC, the end left out), where it stands for one.
    #[must_use]
    pub fn span(self) -> Option<(Timestamp, Timestamp)> {
        let ((year, month), (next_year, next_month)) = match self {
            Self::Year(y) => ((y, 1), (y.checked_add(1)?, 1)),
            Self::Month(y, 12) => ((y, 12), (y.checked_add(1)?, 1)),
            Self::Month(y, m) => ((y, m), (y, m + 1)),
            Self::Whole | Self::Bucket(_) | Self::Null => return None,
        };
        let begin = |year, month| {
            let first = jiff::civil::Date::new(year, month, 1).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
            Some(Timestamp::from_ms(first.timestamp().as_millisecond()))
        };
        Some((begin(year, month)?, begin(next_year, next_month)?))
    }
}

impl fmt::Display for PartitionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Year(y) => write!(f, "{y:04}"),
            Self::Month(y, m) => write!(f, "{y:04}-{m:02}"),
            Self::Bucket(b) => write!(f, "{b:04}"),
            Self::Null => f.write_str("__HIVE_DEFAULT_PARTITION__"),
        }
    }
}

/// How a table is cut into files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// First half of the folder's name, such as `created`.
    pub label: String,
    /// How finely.
    pub granularity: Granularity,
    /// Index (in the table's schema) of the timestamp column that decides, for `year` and `month`.
    pub column: Option<usize>,
}

impl Layout {
    /// The hive folder of a partition, such as `created_year=2026`; empty for [`PartitionValue::Whole`].
    #[must_use]
    pub fn folder(&self, value: PartitionValue) -> String {
        match self.granularity {
            Granularity::None => String::new(),
            Granularity::Year => format!("{}_year={value}", self.label),
            Granularity::Month => format!("{}_month={value}", self.label),
            Granularity::Bucket(_) => format!("bucket={value}"),
        }
    }
    /// The inverse of [`Layout::folder`]; `None` for a folder that is not of this layout.
    #[must_use]
    pub fn parse_folder(&self, folder: &str) -> Option<PartitionValue> {
        if folder.is_empty() {
            return (self.granularity == Granularity::None).then_some(PartitionValue::Whole);
        }
        let (name, value) = folder.split_once('=')?;
        let null = value == "__HIVE_DEFAULT_PARTITION__";
        let parsed = match self.granularity {
            Granularity::None => return None,
            Granularity::Year if name == format!("{}_year", self.label) => {
                if null {
                    PartitionValue::Null
                } else {
                    PartitionValue::Year(value.parse().ok()?)
                }
            }
            Granularity::Month if name == format!("{}_month", self.label) => {
                if null {
                    PartitionValue::Null
                } else {
                    let (y, m) = value.rsplit_once('-')?;
                    PartitionValue::Month(y.parse().ok()?, m.parse().ok()?)
                }
            }
            Granularity::Bucket(_) if name == "bucket" => PartitionValue::Bucket(value.parse().ok()?),
            _ => return None,
        };
        (self.folder(parsed) == folder).then_some(parsed)
    }
    /// The partition of a time in epoch microseconds (for `year` and `month`).
    #[must_use]
    pub fn of_time(&self, us: Option<i64>) -> PartitionValue {
        let Some(us) = us else { return PartitionValue::Null };
        let Ok(t) = jiff::Timestamp::from_microsecond(us) else { return PartitionValue::Null };
        let date = t.to_zoned(jiff::tz::TimeZone::UTC).date();
        match self.granularity {
            Granularity::Year => PartitionValue::Year(date.year()),
            Granularity::Month => PartitionValue::Month(date.year(), date.month()),
            Granularity::None | Granularity::Bucket(_) => PartitionValue::Whole,
        }
    }
}

/// What rows are sorted by, as column indices of the table's schema: what never changes in a row's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The partition time, sorted first (records only).
    pub time: Option<usize>,
    /// The parent's id, sorted first (children only).
    pub parent: Option<usize>,
    /// The key.
    pub key: Vec<usize>,
}

/// The table that a resource becomes under a configured granularity.
#[derive(Debug, Clone)]
pub struct Table {
    /// First folder below the lake.
    pub provider: ResourceName,
    /// Second folder.
    pub resource: ResourceName,
    /// System columns, then declared ones. All nullable but `_synced_at` and `_row_hash`.
    pub schema: SchemaRef,
    /// Sort order, and what identifies a row.
    pub order: Order,
    /// How it is cut into files.
    pub layout: Layout,
    /// Index of the column that orders two versions of a row (`updated_at`), null being oldest.
    pub version: Option<usize>,
    /// Indices of the columns that are nulled when a person is deleted; `_extra` among them.
    pub sensitive: Vec<usize>,
    /// Indices of the columns left out of `_row_hash`: the volatile ones, and the system columns but `_extra`.
    pub unhashed: Vec<usize>,
    /// Whether rows of a parent are replaced together.
    pub by_parent: bool,
}

impl Table {
    /// The table of `resource`; `granularity` overrides the catalogue's own.
    ///
    /// # Errors
    ///
    /// A sentence when the granularity needs a partition time that the resource lacks.
    pub fn new(provider: &ResourceName, resource: &Resource, granularity: Option<Granularity>) -> Result<Self, String> {
        let schema = Arc::new(schema(resource));
        let index =
            |name: &str| schema.index_of(name).map_err(|_| format!("resource {}: no column `{name}`", resource.name));
        let partition = resource.partition.as_ref();
        let granularity = granularity.or(partition.map(|p| p.granularity)).unwrap_or(Granularity::None);
        let column = match granularity {
            Granularity::Year | Granularity::Month => {
                let name = partition.and_then(|p| p.column.as_deref()).ok_or_else(|| {
                    format!(
                        "resource {} has no partition time: use `none` or `bucket(n)`, not `{granularity}`",
                        resource.name
                    )
                })?;
                Some(index(name)?)
            }
            Granularity::None | Granularity::Bucket(_) => None,
        };
        // One row a parent is its own replacement.
        let by_parent = resource.parent.as_ref().is_some_and(|p| resource.key != [p.clone()]);
        // Whatever the granularity, the order stays the same, so that `relay` is a copy without a sort.
        let time = match partition.and_then(|p| p.column.as_deref()) {
            Some(name) if !by_parent => Some(index(name)?),
            _ => None,
        };
        let parent = resource.parent.as_deref().filter(|_| by_parent).map(index).transpose()?;
        // Among children of one parent, what is left of the key beside it tells them apart; a parent's marker has none of it.
        let key = resource.key.iter().filter(|k| !(by_parent && resource.parent.as_ref() == Some(k)));
        let key = key.map(|k| index(k)).collect::<Result<Vec<_>, _>>()?;
        let version = match &resource.mode {
            Mode::Incremental { cursor, .. } | Mode::Tombstones { cursor, .. } => Some(index(&cursor.column)?),
            Mode::Full | Mode::Extracted { .. } | Mode::Children { .. } => None,
        };
        let mut sensitive = vec![index(EXTRA)?];
        let mut unhashed = vec![index(SYNCED_AT)?, index(DELETED_AT)?, index(HASH)?];
        for c in &resource.columns {
            if c.sensitive {
                sensitive.push(index(&c.name)?);
            }
            if c.volatile {
                unhashed.push(index(&c.name)?);
            }
        }
        let label = partition.map_or_else(|| "created".to_owned(), |p| p.label.clone());
        Ok(Self {
            provider: provider.clone(),
            resource: resource.name.clone(),
            schema,
            order: Order { time, parent, key },
            layout: Layout { label, granularity, column },
            version,
            sensitive,
            unhashed,
            by_parent,
        })
    }
}

impl Table {
    /// A short text that differs when a column's name, type or position does: tells a commit's table from today's.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let columns: Vec<String> =
            self.schema.fields().iter().map(|f| format!("{}:{}", f.name(), f.data_type())).collect();
        format!("{:016x}", twox_hash::XxHash64::oneshot(0, columns.join(",").as_bytes()))
    }
}

/// The columns of a resource's table, whatever its granularity: the system ones, then the declared ones.
#[must_use]
pub fn schema(resource: &Resource) -> Schema {
    let utc = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut ids = 0;
    let mut fields = vec![
        Field::new(SYNCED_AT, utc(), false),
        Field::new(DELETED_AT, utc(), true),
        Field::new(HASH, DataType::Int64, false),
        Field::new(EXTRA, DataType::Utf8, true),
    ];
    for f in &mut fields {
        ids += 1;
        *f = f.clone().with_metadata(field_id(ids));
    }
    fields.extend(resource.columns.iter().map(|c| field(c, &mut ids)));
    Schema::new(fields)
}

fn field_id(id: i32) -> HashMap<String, String> {
    HashMap::from([("PARQUET:field_id".to_owned(), id.to_string())])
}

/// Ids are handed out top level first come, nested ones right behind their column: stable as long as columns are only appended
/// and a column's own type never changes.
fn field(column: &Column, ids: &mut i32) -> Field {
    *ids += 1;
    let id = *ids;
    Field::new(&column.name, arrow_type_with(&column.ty, ids), true).with_metadata(field_id(id))
}

fn arrow_type_with(ty: &ColumnType, ids: &mut i32) -> DataType {
    match ty {
        ColumnType::Text | ColumnType::Json | ColumnType::Ref => DataType::Utf8,
        ColumnType::Int { .. } => DataType::Int64,
        ColumnType::Float => DataType::Float64,
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Timestamp { .. } => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ColumnType::List(item) => {
            *ids += 1;
            let id = *ids;
            DataType::List(Arc::new(
                Field::new("element", arrow_type_with(item, ids), true).with_metadata(field_id(id)),
            ))
        }
        ColumnType::Struct(fields) => DataType::Struct(fields.iter().map(|c| field(c, ids)).collect::<Fields>()),
    }
}

/// The Arrow type of a column type, without field ids.
#[must_use]
pub fn arrow_type(ty: &ColumnType) -> DataType {
    arrow_type_with(ty, &mut 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_back() {
        for (granularity, values) in [
            (Granularity::None, vec![PartitionValue::Whole]),
            (Granularity::Year, vec![PartitionValue::Year(2026), PartitionValue::Year(1999), PartitionValue::Null]),
            (Granularity::Month, vec![PartitionValue::Month(2026, 3), PartitionValue::Null]),
            (Granularity::Bucket(16), vec![PartitionValue::Bucket(7)]),
        ] {
            let layout = Layout { label: "created".into(), granularity, column: None };
            for value in values {
                assert_eq!(layout.parse_folder(&layout.folder(value)), Some(value));
            }
            assert_eq!(layout.parse_folder("created_week=2026-01"), None);
        }
        let layout = Layout { label: "created".into(), granularity: Granularity::Month, column: None };
        assert_eq!(layout.folder(PartitionValue::Month(2026, 3)), "created_month=2026-03");
        assert_eq!(layout.parse_folder("created_month=2026-3"), None, "one spelling a partition");
    }

    #[test]
    fn a_granularity_is_read_back() {
        for g in [Granularity::None, Granularity::Year, Granularity::Month, Granularity::Bucket(32)] {
            assert_eq!(g.to_string().parse::<Granularity>().unwrap(), g);
        }
        assert!("bucket(1)".parse::<Granularity>().is_err());
        assert!("week".parse::<Granularity>().is_err());
    }
}
