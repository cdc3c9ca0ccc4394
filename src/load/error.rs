//! What can go wrong while a table is loaded, always with the table, the partition and what was tried.

use std::fmt;
use std::io;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use crate::state::StateError;
use crate::store::StoreError;

/// Where something went wrong: a table, and a partition of it or a file that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) table: Box<str>,
    pub(super) partition: Box<str>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table)?;
        if !self.partition.is_empty() {
            write!(f, " ({})", self.partition)?;
        }
        Ok(())
    }
}

/// Why a table could not be loaded, read or changed. Nothing that was in place before is harmed by any of these.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The lake could not be read or written.
    #[error("{at}: cannot {doing}")]
    Store {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: Box<StoreError>,
    },
    /// The tenant's lease no longer covers a write; another run may have taken over.
    #[error("{at}: cannot {doing}: the lease does not cover it\nhint: run again; finished windows are kept")]
    Lease {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: Box<StateError>,
    },
    /// A local file (the spill, a staged file, a local copy) could not be read or written.
    #[error("{at}: cannot {doing}{}", io_hint(source))]
    Io {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Arrow refused the data.
    #[error("{at}: cannot {doing}")]
    Arrow {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: ArrowError,
    },
    /// A Parquet file could not be read or written.
    #[error(
        "{at}: cannot {doing}\nhint: if a file of this table is damaged, move it away and run `hirelake sync --full` for the resource"
    )]
    Parquet {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: ParquetError,
    },
    /// A file's columns are not the table's: a column keeps its name, type and position for ever.
    #[error(
        "{at}: cannot {doing}: column {column} is ({found}) in the file and ({expected}) in the catalogue\nhint: a column keeps its name, type and position for ever: put the catalogue's old column back and append the new one under a new name"
    )]
    Shape {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
        /// The column's position from 1, or its name.
        column: Box<str>,
        /// What the file has.
        found: Box<str>,
        /// What the catalogue says.
        expected: Box<str>,
    },
    /// The table lies in folders of another granularity than the configured one.
    #[error(
        "{at}: cannot {doing}: the folder is not of a table cut by {expected}\nhint: set the granularity back, or run `hirelake relay` for the resource"
    )]
    Layout {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
        /// The configured granularity.
        expected: String,
    },
    /// Incoming rows are not of the table's shape: a bug.
    #[error("{at}: cannot {doing}: {why}\nhint: this is a bug of hirelake; please report it")]
    Batch {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
        /// What is wrong with them; never a value.
        why: String,
    },
    /// The work died: a bug.
    #[error("{at}: the work died while trying to {doing}\nhint: this is a bug of hirelake; please report it")]
    Died {
        /// Where.
        at: Place,
        /// What was tried.
        doing: &'static str,
    },
}

fn io_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\nhint: the disk is full: free some space and run again; what was in place is unharmed"
        }
        io::ErrorKind::PermissionDenied => "\nhint: the user of this process may not write there",
        _ => "",
    }
}

/// A failure before it knows where it happened; [`Fault::at`] tells it.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Arrow(ArrowError),
    Parquet(ParquetError),
    Store(StoreError),
    Lease(StateError),
    Shape { column: String, found: String, expected: String },
    Batch(String),
}

impl Fault {
    /// Says where it happened. An operating system's error is dug out of its wrappings, for the sake of its hint.
    pub(super) fn at(self, at: &Place, doing: &'static str) -> LoadError {
        let at = at.clone();
        match self {
            Self::Io(source) | Self::Arrow(ArrowError::IoError(_, source)) => LoadError::Io { at, doing, source },
            Self::Arrow(ArrowError::ExternalError(e)) | Self::Parquet(ParquetError::External(e)) => {
                match e.downcast::<io::Error>() {
                    Ok(source) => LoadError::Io { at, doing, source: *source },
                    Err(e) => LoadError::Parquet { at, doing, source: ParquetError::External(e) },
                }
            }
            Self::Arrow(source) => LoadError::Arrow { at, doing, source },
            Self::Parquet(source) => LoadError::Parquet { at, doing, source },
            Self::Store(source) => LoadError::Store { at, doing, source: Box::new(source) },
            Self::Lease(source) => LoadError::Lease { at, doing, source: Box::new(source) },
            Self::Shape { column, found, expected } => {
                LoadError::Shape { at, doing, column: column.into(), found: found.into(), expected: expected.into() }
            }
            Self::Batch(why) => LoadError::Batch { at, doing, why },
        }
    }
}

impl From<StateError> for Fault {
    fn from(e: StateError) -> Self {
        match e {
            StateError::Store(e) => Self::Store(e),
            e => Self::Lease(e),
        }
    }
}

macro_rules! fault_from {
    ($($source:ty => $variant:ident),*) => {$(
        impl From<$source> for Fault {
            fn from(e: $source) -> Self {
                Self::$variant(e)
            }
        }
    )*};
}
fault_from!(io::Error => Io, ArrowError => Arrow, ParquetError => Parquet, StoreError => Store);
