//! Whose rows they are: from the ids that somebody asked for to the keys of all rows that belong to the person.
//!
//! A contact's id means every opportunity that refers to it. An opportunity's means what hangs on it, and its contact when no
//! other living opportunity refers to that. A file that cannot be read is passed over here; the search names it.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array as _, AsArray as _, RecordBatch};

use super::files::Found;
use super::search::{id, micros};
use crate::catalog::{DELETED_AT, Mode, Provider, Resource, SYNCED_AT};
use crate::load::look;
use crate::names::ResourceName;
use crate::store::Store;

/// Ids, by the resource whose keys they are.
type Keys = BTreeMap<ResourceName, BTreeSet<String>>;

/// Everything known of who was asked for.
#[derive(Debug, Default)]
pub(super) struct Person {
    /// What was asked for.
    pub(super) asked: BTreeSet<String>,
    /// The ids by which other rows may refer to the person: those asked for, opportunities and contacts.
    pub(super) ids: BTreeSet<String>,
    /// Keys of rows that belong to the person.
    pub(super) keys: Keys,
    /// Of anonymized ones, when that version is from (µs): rows read later are as the provider has them.
    pub(super) anonymized: BTreeMap<String, i64>,
    /// Contacts that stay because another living record refers to them.
    pub(super) kept: u64,
}

impl Person {
    pub(super) fn has(&self, resource: &ResourceName, key: &str) -> bool {
        self.keys.get(resource).is_some_and(|keys| keys.contains(key))
    }
    fn add(&mut self, resource: &ResourceName, keys: impl IntoIterator<Item = String>) {
        self.keys.entry(resource.clone()).or_default().extend(keys);
    }
}

/// What is taken out of a resource's records and shared by them, with the column that refers to it.
fn shared<'p>(provider: &'p Provider, of: &'p Resource) -> Vec<(&'p Resource, &'p str)> {
    let taken = provider.resources.iter().filter(|r| r.parent.is_none());
    let field = |r: &'p Resource| match &r.mode {
        Mode::Extracted { from, field } if *from == of.name => of.columns.iter().find(|c| c.source == *field),
        _ => None,
    };
    taken.filter_map(|r| Some((r, field(r)?.name.as_str()))).collect()
}

/// A row of a resource that has no parent.
struct Record {
    key: String,
    refs: Vec<Option<String>>,
    anonymized: bool,
    version_us: i64,
}

pub(super) async fn find(lake: &Store, provider: &Provider, files: &[Found], asked: &[String]) -> Person {
    let asked: BTreeSet<String> = asked.iter().cloned().collect();
    let mut person = Person { ids: asked.clone(), asked: asked.clone(), ..Person::default() };
    let roots = provider.resources.iter().filter(|r| r.mode.parent().is_none() && r.key.len() == 1);
    for resource in roots.filter(|r| !matches!(r.mode, Mode::Tombstones { .. })) {
        let (key, shared) = (resource.key[0].as_str(), shared(provider, resource));
        let version = resource.cursor_column().unwrap_or(SYNCED_AT);
        let mut columns = vec![key, version, SYNCED_AT, DELETED_AT];
        columns.extend(resource.anonymized.as_deref());
        columns.extend(shared.iter().map(|(_, column)| *column));
        let own: Vec<Record> = scan(lake, provider, files, resource, &columns, {
            let (asked, resource, version) = (asked.clone(), resource.clone(), version.to_owned());
            let refs: Vec<String> = shared.iter().map(|(_, c)| (*c).to_owned()).collect();
            move |batch, i| {
                let key = text(batch, &resource.key[0], i)?;
                let refs: Vec<_> = refs.iter().map(|c| text(batch, c, i)).collect();
                let ours = asked.contains(&key) || refs.iter().flatten().any(|r| asked.contains(r));
                let time = |name: &str| batch.column_by_name(name).and_then(|c| micros(c.as_ref(), i));
                ours.then(|| Record {
                    key,
                    refs,
                    anonymized: is_anonymized(&resource, batch, i),
                    version_us: time(&version).or_else(|| time(SYNCED_AT)).unwrap_or(i64::MAX),
                })
            }
        })
        .await;
        for record in own.iter().filter(|r| r.anonymized) {
            person.anonymized.insert(record.key.clone(), record.version_us);
        }
        let keys: BTreeSet<String> = own.iter().map(|r| r.key.clone()).collect();
        for (n, (other, column)) in shared.iter().enumerate() {
            let refs = own.iter().filter_map(|r| r.refs.get(n).cloned().flatten());
            let mut theirs: BTreeSet<String> = refs.filter(|r| !asked.contains(r)).collect();
            let living = living_refs(lake, provider, files, (resource, column), &theirs, &keys).await;
            person.kept += living.len() as u64;
            theirs.retain(|r| !living.contains(r));
            person.ids.extend(theirs.iter().cloned());
            person.add(&other.name, theirs.into_iter().chain(asked.iter().cloned()));
        }
        if !shared.is_empty() {
            person.ids.extend(keys.iter().cloned());
        }
        person.add(&resource.name, keys);
    }
    children(lake, provider, files, &mut person).await;
    person
}

/// Of `values`, those to which a living row refers whose key is not among `except`. One that was anonymized keeps nobody.
async fn living_refs(
    lake: &Store,
    provider: &Provider,
    files: &[Found],
    (resource, column): (&Resource, &str),
    values: &BTreeSet<String>,
    except: &BTreeSet<String>,
) -> BTreeSet<String> {
    if values.is_empty() {
        return BTreeSet::new();
    }
    let key = resource.key[0].clone();
    let columns: Vec<&str> =
        [key.as_str(), column, DELETED_AT].into_iter().chain(resource.anonymized.as_deref()).collect();
    let (key, column, values, except) = (key.clone(), column.to_owned(), values.clone(), except.clone());
    let of = resource.clone();
    let found = scan(lake, provider, files, resource, &columns, move |batch, i| {
        let value = text(batch, &column, i).filter(|v| values.contains(v))?;
        let living = batch.column_by_name(DELETED_AT).is_none_or(|c| c.is_null(i)) && !is_anonymized(&of, batch, i);
        (living && text(batch, &key, i).is_none_or(|k| !except.contains(&k))).then_some(value)
    });
    found.await.into_iter().collect()
}

/// The rows that hang on others of the person, generation by generation.
async fn children(lake: &Store, provider: &Provider, files: &[Found], person: &mut Person) {
    let mut left: Vec<&Resource> = provider.resources.iter().filter(|r| r.parent.is_some()).collect();
    while !left.is_empty() {
        let names: BTreeSet<&ResourceName> = left.iter().map(|r| &r.name).collect();
        let waits = |r: &&Resource| r.mode.parent().is_some_and(|p| names.contains(p));
        let (later, now): (Vec<_>, Vec<_>) = left.iter().copied().partition(waits);
        if now.is_empty() {
            return;
        }
        for resource in now {
            let (Some(column), Some(parent)) = (resource.parent.clone(), resource.mode.parent()) else { continue };
            let parents = person.keys.get(parent).cloned().unwrap_or_default();
            let key = resource.key.first().filter(|_| resource.key.len() == 1).cloned();
            let columns: Vec<&str> = [column.as_str()].into_iter().chain(key.as_deref()).collect();
            let asked = person.asked.clone();
            let found = scan(lake, provider, files, resource, &columns, {
                let (column, key) = (column.clone(), key.clone());
                move |batch, i| {
                    let own = key.as_ref().and_then(|k| text(batch, k, i));
                    let theirs = text(batch, &column, i).is_some_and(|p| parents.contains(&p));
                    own.filter(|k| theirs || asked.contains(k))
                }
            });
            let found = found.await;
            person.add(&resource.name, found);
        }
        left = later;
    }
}

/// Whether the row says of itself that it is anonymized.
pub(super) fn is_anonymized(resource: &Resource, batch: &RecordBatch, i: usize) -> bool {
    let marks = resource.anonymized.as_deref().and_then(|c| batch.column_by_name(c)).and_then(|c| c.as_boolean_opt());
    marks.is_some_and(|m| m.is_valid(i) && m.value(i))
}

pub(super) fn text(batch: &RecordBatch, column: &str, i: usize) -> Option<String> {
    batch.column_by_name(column).and_then(|c| id(c.as_ref(), i)).map(std::borrow::Cow::into_owned)
}

/// Goes through some columns of all of a resource's files; `row` says what is kept of each.
pub(super) async fn scan<T: Send + 'static>(
    lake: &Store,
    provider: &Provider,
    files: &[Found],
    resource: &Resource,
    columns: &[&str],
    row: impl Fn(&RecordBatch, usize) -> Option<T> + Clone + Send + 'static,
) -> Vec<T> {
    let mut all = Vec::new();
    for file in files.iter().filter(|f| f.resource(provider).is_some_and(|r| r.name == resource.name)) {
        let (columns, row) = (columns.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>(), row.clone());
        let found = look(lake, &file.path, move |look| {
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let mut found = Vec::new();
            for group in 0..look.groups() {
                for batch in look.read(group, Some(&columns))? {
                    let batch = batch?;
                    found.extend((0..batch.num_rows()).filter_map(|i| row(&batch, i)));
                }
            }
            Ok(found)
        });
        match found.await {
            Ok(found) => all.extend(found.into_iter().flatten()),
            Err(error) => tracing::debug!(%error, "a file was passed over"),
        }
    }
    all
}
