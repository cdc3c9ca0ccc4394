//! Is somebody who was erased nowhere? Every value of every file is decoded, every footer and statistic read, every record in
//! quarantine opened.
//!
//! A row belongs to the person by its key, its parent or a reference. In such a row the sensitive columns must be blank. Of
//! who was anonymized, not deleted, what the provider still lists of their children is the provider's own; it counts as
//! left behind only when it was not read again since. A text in a statistic that no row has is left over, whosever it was.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read as _;
use std::sync::Arc;

use arrow::array::{Array as _, RecordBatch};
use object_store::path::Path;
use parquet::errors::ParquetError;

use super::files::{self, Found};
use super::person::{self, Person, is_anonymized, text};
use super::search::{self, Cell, Texts};
use super::{Gathered, Options, PIECE_BYTES};
use crate::auth::Auth;
use crate::auth::vault::Sealed;
use crate::catalog::{ColumnType, DELETED_AT, EXTRA, Mode, Resource, SYSTEM_COLUMNS};
use crate::load::{Bound, Lake, Look, look, unreferenced};
use crate::names::{ResourceName, RunId, Tenant};
use crate::state::{Commit, State};
use crate::store::StoreError;
use crate::sync::{SyncError, World, ledger, left_in_scratch, quarantine};

/// Bytes of one piece that are searched again with the next: longer than any name or address.
const SEAM_BYTES: usize = 4096;
/// An id is looked for inside of other texts when it is no shorter: a short one stands anywhere.
const LONG_ID: usize = 8;

/// What is wrong with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Lives,
    Marked,
    NotBlank,
    NotReread,
    Refers,
    UnknownTable,
    Text,
    Statistic,
    Footer,
    Type,
}

impl What {
    fn says(self) -> &'static str {
        match self {
            Self::Lives => "rows of the person hold values and are not marked deleted or anonymized",
            Self::Marked => "deleted rows of the person hold values",
            Self::NotBlank => "rows of the person, who was anonymized, hold values",
            Self::NotReread => "rows of the person were not read again since the anonymization",
            Self::Refers => "rows that refer to the person hold values",
            Self::UnknownTable => "rows that name the person, in a table that the catalogue does not have",
            Self::Text => "values hold a text that was looked for",
            Self::Statistic => "statistics hold texts that no row has",
            Self::Footer => "the footer holds a text that was looked for",
            Self::Type => "values of this type could not be searched",
        }
    }
    fn hint(self) -> &'static str {
        match self {
            Self::Lives | Self::Refers => {
                "delete or anonymize the person at the provider, and sync when `safety_lag` (a minute unless set) has passed; if that was done, something else put the rows there: `hirelake sync --full` applies every deletion again"
            }
            Self::Marked => {
                "`on_delete = \"mark\"` keeps what rows said: set `redact` or `remove`; rows that were marked before stay as they are until `hirelake disconnect TENANT --erase-lake` and a new load, and rows that were redacted before and hold values again were put there by something else"
            }
            Self::NotBlank => {
                "the provider still sends it, or something else put it there: `hirelake sync --full` brings what the provider has now"
            }
            Self::NotReread => {
                "run `hirelake sync`, and where that leaves any `hirelake sync --full`: whoever is anonymized is taken out of tables that are not read any more, too"
            }
            Self::UnknownTable => {
                "no sync erases there: give the resource back to the catalogue, or remove the table's folder"
            }
            Self::Text => {
                "where it is a row of the person, delete or anonymize it at the provider and sync; where other people wrote it on other records, edit it there"
            }
            Self::Statistic | Self::Footer => {
                "this program wrote no such file: remove it and run `hirelake sync --full` for the resource"
            }
            Self::Type => "this program writes no such column: look who put the file there, and remove it",
        }
    }
}

/// What was found in one file.
#[derive(Debug, Default)]
struct Seen {
    rows: u64,
    bounds: u64,
    /// Rows that belong to the person.
    own: u64,
    hits: BTreeMap<(String, What), u64>,
    /// Rows of others that name the person's id, by column.
    mentions: BTreeMap<String, u64>,
    /// Rows that hold what the provider keeps of who was anonymized, by column.
    provided: BTreeMap<String, u64>,
    /// Of the ids asked for, those that were met.
    met: BTreeSet<String>,
}

/// What a file is searched for.
struct Search {
    person: Arc<Person>,
    texts: Texts,
    resource: Option<Resource>,
    /// When each parent's children were read (µs), for children.
    reads: Arc<HashMap<String, i64>>,
}

/// Searches everything that a tenant has for somebody.
pub(super) async fn search(
    world: &World,
    state: &State,
    tenant: &Tenant,
    options: &Options,
    all: &mut Gathered,
) -> Result<(), SyncError> {
    let provider = &world.config.provider;
    let files = files::all(&world.lake, tenant).await?;
    let person = Arc::new(person::find(&world.lake, provider, &files, &options.erased).await);
    let mut reads: BTreeMap<ResourceName, Arc<HashMap<String, i64>>> = BTreeMap::new();
    if !person.anonymized.is_empty() {
        for child in provider.resources.iter().filter(|r| matches!(r.mode, Mode::Children { .. })) {
            reads.insert(child.name.clone(), Arc::new(children_read(world, tenant, child, &person).await?));
        }
    }
    let mut sum = Sum::default();
    for file in &files {
        let resource = file.resource(provider).cloned();
        if !file.name().ends_with(".parquet") {
            other_kind(world, file, &person, &options.texts, all).await?;
            continue;
        }
        let search = Search {
            person: person.clone(),
            texts: options.texts.clone(),
            reads: resource.as_ref().and_then(|r| reads.get(&r.name).cloned()).unwrap_or_default(),
            resource,
        };
        let (table, rest) = (file.table.as_str(), file.rest.as_str());
        match look(&world.lake, &file.path, move |l| search.file(l)).await {
            Ok(None) => {}
            Ok(Some(found)) => {
                all.searched.files += 1;
                all.searched.rows += found.rows;
                all.searched.statistics += found.bounds;
                for ((column, what), count) in &found.hits {
                    all.find((table, rest, column), *count, what.says(), what.hint());
                }
                sum.add(&file.table, found);
            }
            Err(error) => all.unreadable((table, rest, ""), &error),
        }
    }
    in_quarantine(world, state, tenant, &person, &options.texts, all).await?;
    left_over(world, tenant, all)?;
    if !options.erased.is_empty() {
        orphans(world, state, tenant, &person, all).await?;
    }
    sum.tell(&person, options, all);
    Ok(())
}

/// What all files say together.
#[derive(Default)]
struct Sum {
    own: u64,
    tables: BTreeSet<String>,
    mentions: BTreeMap<(String, String), u64>,
    provided: BTreeMap<(String, String), u64>,
    met: BTreeSet<String>,
}

impl Sum {
    fn add(&mut self, table: &str, found: Seen) {
        self.own += found.own;
        if found.own > 0 {
            self.tables.insert(table.to_owned());
        }
        self.met.extend(found.met);
        for (column, n) in found.mentions {
            *self.mentions.entry((table.to_owned(), column)).or_default() += n;
        }
        for (column, n) in found.provided {
            *self.provided.entry((table.to_owned(), column)).or_default() += n;
        }
    }

    fn tell(&self, person: &Person, options: &Options, all: &mut Gathered) {
        let places = |of: &BTreeMap<(String, String), u64>| {
            of.iter().map(|((t, c), n)| format!("{t}.{c} ({n})")).collect::<Vec<_>>().join(", ")
        };
        let mut note = |text: String| {
            all.notes.insert(text);
        };
        if !options.erased.is_empty() {
            note("what other people wrote about someone in free text on other records is not looked for, unless texts are given (--texts FILE)".into());
            for id in person.asked.difference(&self.met) {
                note(format!("no row has the id {id}: nothing of it is there"));
            }
            if self.own > 0 {
                note(format!("rows that belong to who was asked for: {}, in {} tables", self.own, self.tables.len()));
            }
        }
        if person.kept > 0 {
            note(format!(
                "contacts that stay because another living opportunity refers to them: {}; their own ids say all about them",
                person.kept
            ));
        }
        if !self.provided.is_empty() {
            note(format!(
                "what the provider still lists of who was anonymized, read again since: {}",
                places(&self.provided)
            ));
        }
        if !self.mentions.is_empty() {
            note(format!("rows of other records that have the id in them: {}", places(&self.mentions)));
        }
        note("copies elsewhere (backups, former versions that a bucket keeps) are not looked at".into());
    }
}

/// When the children of anonymized parents were read (µs), by the parent.
async fn children_read(
    world: &World,
    tenant: &Tenant,
    child: &Resource,
    person: &Arc<Person>,
) -> Result<HashMap<String, i64>, SyncError> {
    let folder = Path::from_iter([ledger::FOLDER, child.name.as_str(), &format!("tenant={tenant}")]);
    let mut all = HashMap::new();
    for entry in world.state.list(&folder).await? {
        let person = person.clone();
        let read = look(&world.state, &entry.path, move |l| {
            let mut found = Vec::new();
            for group in 0..l.groups() {
                for batch in l.read(group, Some(&["id", "read_at"]))? {
                    let batch = batch?;
                    let time = |i| batch.column_by_name("read_at").and_then(|c| search::micros(c.as_ref(), i));
                    let parents = (0..batch.num_rows()).filter_map(|i| Some((text(&batch, "id", i)?, time(i)?)));
                    found.extend(parents.filter(|(id, _)| person.anonymized.contains_key(id)));
                }
            }
            Ok(found)
        });
        for (id, us) in read.await?.into_iter().flatten() {
            let latest = all.entry(id).or_insert(us);
            *latest = us.max(*latest);
        }
    }
    Ok(all)
}

/// How a row is the person's.
enum Owner {
    /// By its key, or as a part of a record.
    Own {
        anonymized: bool,
    },
    /// As a child of a parent that was anonymized; whether it was read again since.
    OfAnonymized {
        read_since: bool,
    },
    Refers,
    UnknownTable,
}

impl Search {
    fn file(&self, look: &Look) -> Result<Seen, ParquetError> {
        let mut found = Seen::default();
        if look.footer().iter().any(|text| self.texts.are_in(text)) {
            *found.hits.entry((String::new(), What::Footer)).or_default() += 1;
        }
        let mut names = Vec::new();
        let mut first = Vec::new();
        for field in look.schema().fields() {
            first.push(names.len());
            search::leaf_names(field.name(), field.data_type(), &mut names);
            if !search::is_known(field.data_type()) {
                *found.hits.entry((field.name().clone(), What::Type)).or_default() += 1;
            }
        }
        for group in 0..look.groups() {
            let bounds = look.bounds(group);
            found.bounds += bounds.len() as u64;
            for bound in &bounds {
                if self.texts.are_in(&String::from_utf8_lossy(&bound.text)) {
                    let column = names.get(bound.leaf).cloned().unwrap_or_default();
                    *found.hits.entry((format!("{column} (statistics)"), What::Text)).or_default() += 1;
                }
            }
            let mut open: BTreeMap<usize, Vec<Bound>> = BTreeMap::new();
            for bound in bounds {
                open.entry(bound.leaf).or_default().push(bound);
            }
            for batch in look.read(group, None)? {
                self.batch(&batch?, &names, &first, &mut open, &mut found);
            }
            for (leaf, left) in open.iter().filter(|(_, left)| !left.is_empty()) {
                let column = names.get(*leaf).cloned().unwrap_or_default();
                *found.hits.entry((column, What::Statistic)).or_default() += left.len() as u64;
            }
        }
        Ok(found)
    }

    fn batch(
        &self,
        batch: &RecordBatch,
        names: &[String],
        first: &[usize],
        open: &mut BTreeMap<usize, Vec<Bound>>,
        found: &mut Seen,
    ) {
        let schema = batch.schema();
        let personal: Vec<bool> = schema.fields().iter().map(|f| self.is_personal(f.name())).collect();
        let feed = self.resource.as_ref().is_some_and(|r| matches!(r.mode, Mode::Tombstones { .. }));
        found.rows += batch.num_rows() as u64;
        for i in 0..batch.num_rows() {
            // Leaves of this row that hold a text that is looked for, and that name the person.
            let (mut texts, mut named) = (BTreeSet::new(), BTreeSet::new());
            for (column, leaf) in batch.columns().iter().zip(first) {
                search::each(column.as_ref(), i, *leaf, &mut |leaf, cell| {
                    if let Cell::Text(text) = cell {
                        if let Some(bounds) = open.get_mut(&leaf) {
                            bounds.retain(|b| !b.is_of(text.as_bytes()));
                        }
                        for id in self.person.ids.iter().filter(|id| is_in(id, text)) {
                            named.insert(leaf);
                            if self.person.asked.contains(id) && !found.met.contains(id) {
                                found.met.insert(id.clone());
                            }
                        }
                    }
                    if cell.holds(&self.texts) {
                        texts.insert(leaf);
                    }
                });
            }
            let name = |leaf: &usize| names.get(*leaf).cloned().unwrap_or_default();
            for leaf in &texts {
                *found.hits.entry((name(leaf), What::Text)).or_default() += 1;
            }
            let owner = self.owner(batch, i, !named.is_empty());
            let Some(owner) = owner else {
                if !feed {
                    named.iter().for_each(|leaf| *found.mentions.entry(name(leaf)).or_default() += 1);
                }
                continue;
            };
            found.own += 1;
            let deleted = batch.column_by_name(DELETED_AT).is_some_and(|c| c.is_valid(i));
            let what = match owner {
                Owner::OfAnonymized { read_since: true } if !deleted => None,
                Owner::OfAnonymized { read_since: false } if !deleted => Some(What::NotReread),
                Owner::OfAnonymized { .. } => Some(What::Marked),
                Owner::Own { anonymized: true } => Some(What::NotBlank),
                Owner::UnknownTable => Some(What::UnknownTable),
                _ if deleted => Some(What::Marked),
                Owner::Own { .. } => Some(What::Lives),
                Owner::Refers => Some(What::Refers),
            };
            for ((field, column), _) in schema.fields().iter().zip(batch.columns()).zip(&personal).filter(|(_, p)| **p)
            {
                let holds = match what {
                    // Which of its columns are somebody's is not known: all that say more than an id.
                    Some(What::UnknownTable) => self.says_more_than_ids(column.as_ref(), i),
                    _ => !search::is_blank(column.as_ref(), i),
                };
                if holds {
                    match what {
                        Some(what) => *found.hits.entry((field.name().clone(), what)).or_default() += 1,
                        None => *found.provided.entry(field.name().clone()).or_default() += 1,
                    }
                }
            }
        }
    }

    /// Whether a column may hold something of a person: those that the catalogue says so of, and those it does not have.
    fn is_personal(&self, name: &str) -> bool {
        if SYSTEM_COLUMNS.contains(&name) {
            return name == EXTRA;
        }
        self.resource.as_ref().and_then(|r| r.column(name)).is_none_or(|c| c.sensitive)
    }

    fn says_more_than_ids(&self, column: &dyn arrow::array::Array, i: usize) -> bool {
        let mut more = false;
        search::each(column, i, 0, &mut |_, cell| {
            if let Cell::Text(text) = cell {
                more |= !text.trim().is_empty() && !self.person.ids.contains(text);
            }
        });
        more
    }

    fn owner(&self, batch: &RecordBatch, i: usize, named: bool) -> Option<Owner> {
        let person = &self.person;
        let Some(resource) = &self.resource else { return named.then_some(Owner::UnknownTable) };
        if matches!(resource.mode, Mode::Tombstones { .. }) {
            return None;
        }
        let key = match resource.key.as_slice() {
            [one] => text(batch, one, i),
            _ => None,
        };
        let parent = resource.parent.as_deref().and_then(|p| text(batch, p, i));
        let of = parent.filter(|p| resource.mode.parent().is_some_and(|r| person.has(r, p)));
        let blank_since = of.as_ref().and_then(|p| person.anonymized.get(p));
        if let (Some(since), Mode::Children { .. }) = (blank_since, &resource.mode) {
            let read = of.as_ref().and_then(|p| self.reads.get(p));
            return Some(Owner::OfAnonymized { read_since: read.is_some_and(|r| r >= since) });
        }
        if of.is_some() || key.is_some_and(|k| person.has(&resource.name, &k)) {
            let anonymized = blank_since.is_some() || is_anonymized(resource, batch, i);
            return Some(Owner::Own { anonymized });
        }
        let refers = resource.is_personal()
            && resource
                .columns
                .iter()
                .filter(|c| c.ty == ColumnType::Ref)
                .any(|c| text(batch, &c.name, i).is_some_and(|r| person.ids.contains(&r)));
        refers.then_some(Owner::Refers)
    }
}

fn is_in(id: &str, text: &str) -> bool {
    if id.len() < LONG_ID { text == id } else { text.contains(id) }
}

/// A file that is no table: whose it is shows in its path, and its bytes are searched as they are.
async fn other_kind(
    world: &World,
    file: &Found,
    person: &Person,
    texts: &Texts,
    all: &mut Gathered,
) -> Result<(), StoreError> {
    let place = (file.table.as_str(), file.rest.as_str(), "");
    let hint = "`hirelake sync` removes documents that no living row names; remove any other file yourself";
    let ids: BTreeSet<&String> = person.ids.iter().chain(person.keys.values().flatten()).collect();
    let parts = file.rest.split(['/', '.', '=']);
    if parts.into_iter().any(|part| ids.iter().any(|id| id.as_str() == part)) {
        all.find(place, 1, "a file that is called by an id of the person", hint);
    }
    let Some(opened) = world.lake.open_file(&file.path).await? else { return Ok(()) };
    all.searched.files += 1;
    all.notes.insert(
        "files that are no tables are searched as bytes: what is compressed inside of them (PDF, DOCX) is not read"
            .into(),
    );
    let (texts, ids, path) = (texts.clone(), person.ids.clone(), file.path.clone());
    let searched = tokio::task::spawn_blocking(move || bytes(opened.file, &texts, &ids)).await;
    let failed = |source| StoreError::Io { op: "read", path: path.as_ref().into(), source };
    if searched.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)? {
        all.find(place, 1, "a file holds an id of the person or a text that was looked for", hint);
    }
    Ok(())
}

fn bytes(mut file: std::fs::File, texts: &Texts, ids: &BTreeSet<String>) -> std::io::Result<bool> {
    let mut piece: Vec<u8> = Vec::new();
    loop {
        let seam = piece.len().saturating_sub(SEAM_BYTES);
        piece.drain(..seam);
        if file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)? == 0 {
            return Ok(false);
        }
        let text = String::from_utf8_lossy(&piece);
        if texts.are_in(&text) || ids.iter().any(|id| id.len() >= LONG_ID && text.contains(id.as_str())) {
            return Ok(true);
        }
    }
}

/// Records that could not be decoded: each is opened with the vault.
async fn in_quarantine(
    world: &World,
    state: &State,
    tenant: &Tenant,
    person: &Person,
    texts: &Texts,
    all: &mut Gathered,
) -> Result<(), SyncError> {
    let kept = state.quarantined(tenant).await?;
    if kept.is_empty() {
        return Ok(());
    }
    let auth = Auth::new(world.config.clone(), state.clone(), world.clock, RunId::new())?;
    let (mut closed, mut naming): (BTreeMap<String, u64>, BTreeMap<String, u64>) = Default::default();
    for what in kept {
        let Some(bytes) = state.read_quarantined(&what).await? else { continue };
        all.searched.quarantined += 1;
        let sealed = serde_json::from_slice::<Sealed>(&bytes).ok();
        let Some(plain) = sealed.and_then(|s| auth.vault().open(&what.place, &s).ok()) else {
            *closed.entry(what.resource).or_default() += 1;
            continue;
        };
        let is = |text: &str| person.ids.iter().any(|id| is_in(id, text)) || texts.are_in(text);
        let found = match serde_json::from_slice::<serde_json::Value>(&plain) {
            Ok(record) => quarantine::names(&record, &is),
            Err(_) => is(&String::from_utf8_lossy(&plain)),
        };
        if found {
            *naming.entry(what.resource).or_default() += 1;
        }
    }
    for (resource, count) in naming {
        let hint = "the next sync after the deletion removes it; else it ends with `quarantine_keep`, or with `hirelake disconnect TENANT --erase-lake`";
        all.find(
            ("quarantine", &resource, ""),
            count,
            "sealed records name the person or hold a text that was looked for",
            hint,
        );
    }
    for (resource, count) in closed {
        let hint = "give back the key that sealed them (`previous` of [vault]), so that they can be searched";
        all.find(
            ("quarantine", &resource, ""),
            count,
            "sealed records do not open, so they could not be searched",
            hint,
        );
    }
    Ok(())
}

/// What killed runs left behind: whoever reads here holds the lease, so no run is writing it.
fn left_over(world: &World, tenant: &Tenant, all: &mut Gathered) -> Result<(), StoreError> {
    let lake = world.lake.owned_by(tenant.as_str()).staged()?;
    let state = world.state.owned_by(tenant.as_str()).staged()?;
    let (_, scratch) = left_in_scratch(world, tenant)?;
    let hint = "run `hirelake sync`: it removes them before anything else";
    for (place, left) in [("lake/_staging", lake), ("state/_staging", state), ("scratch", scratch)] {
        if !left.is_empty() {
            all.find(
                (place, "", ""),
                left.len() as u64,
                "unfinished files of a killed run, which may hold anything",
                hint,
            );
        }
    }
    Ok(())
}

/// When an id's record is gone, so is what it referred to; a shared thing that nothing refers to may be what was left of it.
async fn orphans(
    world: &World,
    state: &State,
    tenant: &Tenant,
    person: &Person,
    all: &mut Gathered,
) -> Result<(), SyncError> {
    let provider = &world.config.provider;
    let lake = Lake::new(world.lake.clone(), tenant.clone(), world.config.scratch.clone());
    for resource in provider.resources.iter().filter(|r| r.parent.is_none() && r.is_personal()) {
        let Mode::Extracted { from, field } = &resource.mode else { continue };
        let Some(carrier) = provider.resource(from.as_str()) else { continue };
        let Some(column) = carrier.columns.iter().find(|c| c.source == *field) else { continue };
        let gone = person.asked.iter().any(|id| !person.has(from, id));
        let loaded = state.commits(tenant, from).last::<Commit>().await?.is_some_and(|c| c.body.load_done);
        if !gone || !loaded {
            continue;
        }
        let (table, carriers) = (world.config.table(resource)?, world.config.table(carrier)?);
        // Tables that cannot be read were named already.
        let Ok(left) = unreferenced(&lake, &table, &carriers, &column.name).await else { continue };
        let left = left.difference(&person.asked).count() as u64;
        if left > 0 {
            let name = format!("{}/{}", provider.name, resource.name);
            let what = format!("rows to which no living row of {from} refers: one of them may be the person's");
            let hint = format!("run `hirelake sync --full --resource {from}`: what nothing refers to goes then");
            all.find((&name, "", ""), left, what, hint);
        }
    }
    Ok(())
}
