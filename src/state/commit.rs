//! What a commit says: which windows of a resource are in the lake, and how the lake's files looked then.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Intervals, Window};
use crate::catalog::Granularity;
use crate::clock::Timestamp;
use crate::names::{ResourceName, RunId};
use crate::store::Version;

/// Why a commit was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitKind {
    /// Windows of a first (or `--full`) load.
    Load,
    /// An increment, or a feed of deletions.
    Increment,
    /// A complete listing.
    Listing,
    /// Children of parents that changed, or whose turn it was.
    Children,
    /// `--from/--to`: planning ignores what it covered.
    Backfill,
    /// The table was laid anew, or brought forward to a newer catalogue.
    Relay,
    /// The tenant's rows were erased: nothing is covered any more.
    Erased,
}

/// What is covered, by the filter that covered it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Covered {
    /// By the first load's filter on the creation time.
    #[serde(default, skip_serializing_if = "Intervals::is_empty")]
    pub created: Intervals,
    /// By the increments' filter on the change (or deletion) time.
    #[serde(default, skip_serializing_if = "Intervals::is_empty")]
    pub updated: Intervals,
    /// When the last complete unfiltered listing began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<Timestamp>,
}

/// A partition file as a commit left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionFigures {
    /// Rows, deleted ones included.
    pub rows: u64,
    /// Rows that live.
    pub living: u64,
    /// The file's version, size included; `None` when there is no file.
    pub version: Option<Version>,
}

/// How far the parents of a table of children were read; when each was stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentsRead {
    /// Up to when the shares of dormant parents were read that did not change: the moment moves as far as their share was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled: Option<Timestamp>,
    /// The same of active parents; where it is missing, as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled_active: Option<Timestamp>,
    /// When a full read began that is not complete: parents read before it are due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_since: Option<Timestamp>,
    /// Changed parents that were left for the next run.
    pub left: u64,
    /// When that living parent was read whose read is the longest ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalest: Option<Timestamp>,
    /// Requests that children of a parent cost, in thousandths: what a plan reckons with.
    pub milli_requests: u64,
}

impl Default for ParentsRead {
    fn default() -> Self {
        Self {
            reconciled: None,
            reconciled_active: None,
            full_since: None,
            left: 0,
            stalest: None,
            milli_requests: 1000,
        }
    }
}

/// What former runs met, for forecasts only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Habits {
    /// Records that increments brought, reckoned for a day.
    pub rows_a_day: f64,
    /// Bytes of an answer.
    pub request_bytes: u64,
}

/// The newest commit of a resource is the whole truth about it: each is cumulative.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The run that made it.
    pub run: RunId,
    /// Why it was made.
    pub kind: CommitKind,
    /// When the load began that `covered.created` or `covered.full` belongs to: increments begin there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_started: Option<Timestamp>,
    /// Whether that load is complete.
    pub load_done: bool,
    /// What is covered.
    pub covered: Covered,
    /// How the table is cut into files.
    pub granularity: Granularity,
    /// Hash of the table's column names and types.
    pub schema: String,
    /// Every file of the table, by its hive folder (empty for a table of one file).
    pub partitions: BTreeMap<String, PartitionFigures>,
    /// The tables taken out of this one that were read along: one that is missing here has fallen behind.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub along: BTreeSet<ResourceName>,
    /// Of children: how far their parents were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parents: Option<ParentsRead>,
    /// What former runs met, for forecasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub habits: Option<Habits>,
    /// Under which privacy settings the rows of this table and of those taken out of it were written, by table; one that is
    /// missing was written under none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub privacy: BTreeMap<ResourceName, String>,
    /// The same of the load under way, which writes every row anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_of_load: Option<BTreeMap<ResourceName, String>>,
    /// Whether everything was read with confidential records.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confidential: bool,
    /// Whether files were replaced by a late run and what is known to be deleted was not yet taken out of them again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unhealed: bool,
    /// Whether shared things taken out of it (contacts) may be alive that nothing refers to: looked for once the load is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orphans_due: bool,
    /// When the first of the people arrived anonymized, here or in what is taken out of it, of whom other tables may still hold
    /// something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymized_since: Option<Timestamp>,
    /// What a backfill read; informative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfilled: Option<Window>,
}

impl Commit {
    /// A commit that covers nothing yet.
    #[must_use]
    pub fn empty(run: RunId, kind: CommitKind, granularity: Granularity, schema: String) -> Self {
        Self {
            run,
            kind,
            load_started: None,
            load_done: false,
            covered: Covered::default(),
            granularity,
            schema,
            partitions: BTreeMap::new(),
            along: BTreeSet::new(),
            parents: None,
            habits: None,
            privacy: BTreeMap::new(),
            privacy_of_load: None,
            confidential: false,
            unhealed: false,
            orphans_due: false,
            anonymized_since: None,
            backfilled: None,
        }
    }
    /// Rows of all partitions, deleted ones included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.partitions.values().fold(0, |all, p| all.saturating_add(p.rows))
    }
    /// Living rows of all partitions.
    #[must_use]
    pub fn living(&self) -> u64 {
        self.partitions.values().fold(0, |all, p| all.saturating_add(p.living))
    }
    /// Where the next increment begins (before the overlap is taken off): the end of what increments covered, or the start of
    /// the load.
    #[must_use]
    pub fn cursor(&self) -> Option<Timestamp> {
        self.covered.updated.end().max(self.load_started)
    }
}
