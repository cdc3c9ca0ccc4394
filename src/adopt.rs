//! What drifted → the catalogue lines that would adopt it.
//!
//! Places, kinds and types come from reports, which hold no value. A field is adopted only where it stands at the top of a
//! record, because a column keeps its type for ever and a struct is one type; its own type is the one that takes all that was
//! seen, `json` where nothing narrower does. [`evolve`] appends such lines to a file of the user's catalogue folder, and never
//! changes or removes one. Knows no provider's answers and no tenant's rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::path::Path;

use futures::StreamExt as _;
use serde::Deserialize;

use crate::catalog::{
    self, CatalogError, Column, ColumnType, Mode, Names, Proposed, Provider, Resource, extension, likely_class,
    may_be_time,
};
use crate::names::{ResourceName, Tenant};
use crate::report::DriftCount;
use crate::state::{State, StateError};

/// The file of the catalogue folder into which evolving tenants write: by its name it is read after others.
pub const EVOLVED: &str = "zz-evolved.toml";
/// Who writes it has this one open and locked.
const LOCK: &str = ".zz-evolved.lock";
/// Where it is written before it is put in place, under the lock.
const STAGED: &str = ".zz-evolved.new";
/// Most columns that a table gets by itself: a provider that uses ids for keys would make one for each.
const MOST_COLUMNS: usize = 50;
/// Reports that are read side by side.
const REPORTS_AT_ONCE: usize = 8;
/// What the file begins with.
const HEADER: &str = "\
# Columns that Hirelake adopted by itself, because `schema = \"evolve\"` is set. It only ever appends here.
# A column keeps its type and its place for ever: do not reorder, retype or remove one whose table is in a lake, keep this file
# with the configuration, and put later columns of your own for these tables at its end. `sensitive` may be taken away: they
# are marked because `_extra`, where they stood, is; those without a `class` go with `extra` in the settings of privacy.
";

/// Counts of surprises by resource, place and kind: which types were found how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<ResourceName, Places>);

/// By place and kind, how often each type was found.
type Places = BTreeMap<(String, String), BTreeMap<String, u64>>;

impl Seen {
    /// Adds what a run counted of a resource.
    pub fn add(&mut self, resource: &ResourceName, drift: &[DriftCount]) {
        for d in drift {
            let places = self.0.entry(resource.clone()).or_default();
            let found = places.entry((d.place.clone(), d.kind.clone())).or_default();
            *found.entry(d.found.clone()).or_default() += d.count;
        }
    }

    /// Whether nothing drifted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anything of this drift could be a column.
    #[must_use]
    pub fn is_adoptable(&self, provider: &Provider, resource: &ResourceName, drift: &[DriftCount]) -> bool {
        let mut own = Self::default();
        own.add(resource, drift);
        propose(provider, &own).iter().any(|a| !a.columns.is_empty())
    }
}

/// What can be done for one resource.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// The resource whose columns they would be.
    pub resource: ResourceName,
    /// Columns, each with what was seen of it.
    pub columns: Vec<Proposed>,
    /// Sentences about what cannot be adopted.
    pub rest: Vec<String>,
}

impl Adoption {
    /// Its `[[extend]]`, or comments alone where there is nothing to extend.
    #[must_use]
    pub fn text(&self) -> String {
        if self.columns.is_empty() {
            let lines: Vec<String> = self.rest.iter().map(|l| format!("#   {l}\n")).collect();
            return format!("# {}: nothing to adopt\n{}", self.resource, lines.concat());
        }
        extension(self.resource.as_str(), &self.columns, &self.rest)
    }
}

/// The lines that would adopt what was seen, by resource. What the catalogue knows by now is left out.
#[must_use]
pub fn propose(provider: &Provider, seen: &Seen) -> Vec<Adoption> {
    // Several places may concern one table: its own records, and those in its parent's.
    let mut tables: BTreeMap<&ResourceName, Places> = BTreeMap::new();
    for (name, places) in &seen.0 {
        let Some(listed) = provider.resource(name.as_str()) else { continue };
        for ((place, kind), found) in places {
            let (owner, place) = owner(provider, listed, place);
            let there = tables.entry(&owner.name).or_default().entry((place, kind.clone())).or_default();
            for (ty, n) in found {
                *there.entry(ty.clone()).or_default() += n;
            }
        }
    }
    let mut all = Vec::new();
    for (name, places) in tables {
        let Some(resource) = provider.resource(name.as_str()) else { continue };
        let mut names = Names::of(resource);
        let mut adoption = Adoption { resource: name.clone(), columns: Vec::new(), rest: Vec::new() };
        for ((place, kind), found) in places {
            match judged(resource, &place, &kind, &found) {
                None => {}
                Some(Judged::Column(source, ty)) => {
                    let class = likely_class(provider, &source, &ty);
                    let column = Column { sensitive: true, class, ..Column::plain(&names.name(&source), ty) };
                    let column = Column { source: source.clone(), ..column };
                    adoption.columns.push(Proposed { column, note: said(&found) });
                }
                Some(Judged::Rest(why)) => adoption.rest.push(format!("{place}: {}; {why}", said(&found))),
            }
        }
        if !adoption.columns.is_empty() || !adoption.rest.is_empty() {
            all.push(adoption);
        }
    }
    all
}

/// The table to whose rows a place belongs, and the place in these.
fn owner<'p>(provider: &'p Provider, listed: &'p Resource, place: &str) -> (&'p Resource, String) {
    for r in &provider.resources {
        let Mode::Extracted { from, field } = &r.mode else { continue };
        let Some(column) = listed.columns.iter().find(|c| c.source == *field).filter(|_| *from == listed.name) else {
            continue;
        };
        let many = if matches!(column.ty, ColumnType::List(_)) { "/*" } else { "" };
        if let Some(rest) = place.strip_prefix(&format!("/{field}{many}")).filter(|rest| rest.starts_with('/')) {
            return (r, rest.to_owned());
        }
    }
    (listed, place.to_owned())
}

enum Judged {
    Column(String, ColumnType),
    Rest(String),
}

/// What can be done about one place; `None` where it is done by now.
fn judged(resource: &Resource, place: &str, kind: &str, found: &BTreeMap<String, u64>) -> Option<Judged> {
    let tokens: Vec<String> = place.split('/').skip(1).map(|t| t.replace("~1", "/").replace("~0", "~")).collect();
    let top = tokens.first().map_or("", String::as_str);
    let declared = resource.columns.iter().find(|c| c.source == top);
    let stays = "it stays in `_extra`";
    if kind != "undeclared" {
        let ty =
            declared.map_or_else(|| "declared otherwise".to_owned(), |c| format!("declared in `{}`: {}", c.name, c.ty));
        return Some(Judged::Rest(format!(
            "{ty}, and a column keeps its type for ever: {stays}, where `json_extract` finds it; a resource of your own, under another name, may declare `json`"
        )));
    }
    if place == "/*" {
        return Some(Judged::Rest(format!("more places than are told apart; are ids used for keys? {stays}")));
    }
    Some(match (declared, tokens.as_slice()) {
        (Some(c), [_]) if found.keys().any(|f| f == "object") && matches!(c.ty, ColumnType::Ref) => Judged::Rest(
            format!("an object where `{}` takes an id: its id is in the column, the rest of {stays}", c.name),
        ),
        // Adopted since that report. (Or twice in one record: then the second is in `_extra`, and no line changes that.)
        (Some(_), [_]) => return None,
        (Some(c), _) => Judged::Rest(format!(
            "inside `{}`, whose fields are one type for ever, so it cannot be added there: {stays}",
            c.name
        )),
        (None, [source]) if !source.ends_with('…') => match adopted_type(source, found) {
            Some(ty) => Judged::Column(source.clone(), ty),
            None => Judged::Rest(format!("never with a value, so its type is not known: {stays}")),
        },
        (None, _) => Judged::Rest(format!("its key is too long to be told: {stays}")),
    })
}

/// The narrowest type that takes all that was found; `None` when that was nothing but null.
fn adopted_type(source: &str, found: &BTreeMap<String, u64>) -> Option<ColumnType> {
    let types: BTreeSet<&str> = found.keys().map(String::as_str).filter(|t| *t != "null").collect();
    let all = |known: &[&str]| types.iter().all(|t| known.contains(t));
    Some(match () {
        () if types.is_empty() => return None,
        () if all(&["bool"]) => ColumnType::Bool,
        () if all(&["epoch"]) && may_be_time(source) => ColumnType::Timestamp { lenient: true },
        () if all(&["epoch", "integer"]) => ColumnType::Int { lenient: false },
        // Also what older reports call by one name.
        () if all(&["epoch", "integer", "number"]) => ColumnType::Float,
        () if all(&["string"]) => ColumnType::Text,
        () => ColumnType::Json,
    })
}

fn said(found: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = found.iter().map(|(ty, n)| format!("{ty} ×{n}")).collect();
    each.join(", ")
}

/// A report, as far as it is about drift.
#[derive(Debug, Deserialize)]
struct Told {
    tenants: BTreeMap<Tenant, ToldTenant>,
}

#[derive(Debug, Deserialize)]
struct ToldTenant {
    #[serde(default)]
    resources: BTreeMap<ResourceName, ToldResource>,
}

#[derive(Debug, Deserialize)]
struct ToldResource {
    #[serde(default)]
    drift: Vec<DriftCount>,
}

/// What the newest reports of the state tell, of all tenants or of some; and how many reports there were.
///
/// # Errors
///
/// When the state cannot be read.
pub async fn seen(state: &State, newest: usize, only: &[Tenant]) -> Result<(Seen, usize), StateError> {
    let (mut seen, mut read) = (Seen::default(), 0);
    let paths = state.newest_reports(newest).await?;
    let mut reports = futures::stream::iter(&paths).map(|path| state.report(path)).buffered(REPORTS_AT_ONCE);
    while let Some(report) = reports.next().await {
        let Some(report) = report? else { continue };
        let told: Told = match serde_json::from_slice(&report) {
            Ok(told) => told,
            Err(error) => {
                // Its text may be anything, and serde's error would quote it.
                tracing::warn!(line = error.line(), "a report in the state cannot be read, and is left out");
                continue;
            }
        };
        read += 1;
        for (_, t) in told.tenants.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
            t.resources.iter().for_each(|(name, r)| seen.add(name, &r.drift));
        }
    }
    Ok((seen, read))
}

/// A field that became a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Its table.
    pub resource: ResourceName,
    /// Its name there.
    pub column: String,
    /// Its name on the wire.
    pub source: String,
    /// Its type.
    pub ty: ColumnType,
    /// The listing and place where it was met.
    met: BTreeSet<(ResourceName, String)>,
}

impl Adopted {
    /// Whether it is among what a listing met.
    #[must_use]
    pub fn was_met(&self, listing: &ResourceName, drift: &[DriftCount]) -> bool {
        drift.iter().any(|d| d.kind == "undeclared" && self.met.contains(&(listing.clone(), d.place.clone())))
    }
}

impl fmt::Display for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} {}", self.resource, self.column, self.ty)
    }
}

/// Why nothing was adopted.
#[derive(Debug, thiserror::Error)]
pub enum EvolveError {
    /// The folder's files, or what would be added to them, do not hold together.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// What would be written is no catalogue.
    #[error("what would be written to {EVOLVED} is refused: {0}")]
    Refused(String),
    /// A file cannot be written.
    #[error("{path} cannot be written: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Another run writes it now.
    #[error("another run writes {EVOLVED} now; the next one adopts what is left")]
    Busy,
}

/// Appends the lines that adopt what was seen to [`EVOLVED`] in `folder`. What other runs wrote there meanwhile is read first,
/// and the file is put in place whole, only when the catalogue with it holds together.
///
/// # Errors
///
/// [`EvolveError`]; the file is as it was then.
pub fn evolve(folder: &Path, provider: &Provider, seen: &Seen) -> Result<Vec<Adopted>, EvolveError> {
    if propose(provider, seen).iter().all(|a| a.columns.is_empty()) {
        return Ok(Vec::new());
    }
    let path = folder.join(EVOLVED);
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| EvolveError::Io { path, source }
    };
    let lock_path = folder.join(LOCK);
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.map_err(io(&lock_path))?;
    if lock.try_lock().is_err() {
        return Err(EvolveError::Busy);
    }
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => HEADER.to_owned(),
        Err(e) => return Err(io(&path)(e)),
    };
    let now = catalog::load(Some(folder))?;
    let (mut text, mut adopted) = (before, Vec::new());
    for mut adoption in propose(&now, seen) {
        let there = catalog::columns_in(&text, adoption.resource.as_str());
        adoption.columns.truncate(MOST_COLUMNS.saturating_sub(there));
        if adoption.columns.is_empty() {
            continue;
        }
        adoption.rest.clear();
        text.push('\n');
        text.push_str(&adoption.text());
        for p in adoption.columns {
            let met = met(&now, seen, &adoption.resource, &p.column.source);
            let Column { name, source, ty, .. } = p.column;
            adopted.push(Adopted { resource: adoption.resource.clone(), column: name, source, ty, met });
        }
    }
    if adopted.is_empty() {
        return Ok(adopted);
    }
    let linted = catalog::lint_text(EVOLVED, &text, Some(folder))?;
    if let Some(mistake) = linted.iter().flat_map(|l| &l.mistakes).next() {
        return Err(EvolveError::Refused(format!("{}: {}", mistake.place, mistake.message)));
    }
    let staged_path = folder.join(STAGED);
    let mut staged = std::fs::File::create(&staged_path).map_err(io(&staged_path))?;
    staged.write_all(text.as_bytes()).map_err(io(&staged_path))?;
    staged.sync_all().map_err(io(&staged_path))?;
    std::fs::rename(&staged_path, &path).map_err(io(&path))?;
    Ok(adopted)
}

/// Where a field was met.
fn met(provider: &Provider, seen: &Seen, resource: &ResourceName, source: &str) -> BTreeSet<(ResourceName, String)> {
    let escaped = format!("/{}", source.replace('~', "~0").replace('/', "~1"));
    let mut met = BTreeSet::new();
    for (name, places) in &seen.0 {
        let Some(listed) = provider.resource(name.as_str()) else { continue };
        for (place, _) in places.keys() {
            let (owner, rest) = owner(provider, listed, place);
            if owner.name == *resource && rest == escaped {
                met.insert((name.clone(), place.clone()));
            }
        }
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(counts: &[(&str, &str, &str, &str)]) -> Seen {
        let mut seen = Seen::default();
        for (resource, kind, place, found) in counts {
            let d = DriftCount { place: (*place).into(), kind: (*kind).into(), found: (*found).into(), count: 2 };
            seen.add(&resource.parse().unwrap(), &[d]);
        }
        seen
    }

    #[test]
    fn what_drifted_becomes_lines_or_a_sentence_says_why_not() {
        let provider = catalog::embedded().unwrap();
        let seen = seen(&[
            ("opportunities", "undeclared", "/favouriteColour", "string"),
            ("opportunities", "undeclared", "/favouriteColour", "null"),
            ("opportunities", "undeclared", "/nextStepAt", "epoch"),
            ("opportunities", "undeclared", "/size", "epoch"),
            ("opportunities", "undeclared", "/score", "integer"),
            ("opportunities", "undeclared", "/score", "number"),
            ("opportunities", "undeclared", "/isHot", "bool"),
            ("opportunities", "undeclared", "/mixed", "bool"),
            ("opportunities", "undeclared", "/mixed", "string"),
            ("opportunities", "undeclared", "/list", "array"),
            ("opportunities", "undeclared", "/nothing", "null"),
            ("opportunities", "undeclared", "/created_at", "string"),
            ("opportunities", "undeclared", "/a~1b", "string"),
            ("opportunities", "undeclared", "/*", "string"),
            ("opportunities", "undeclared", "/archived/mood", "string"),
            ("opportunities", "undeclared", "/owner", "object"),
            ("opportunities", "undeclared", "/contact/pronouns", "array"),
            ("opportunities", "undeclared", "/applications/*/source", "string"),
            ("opportunities", "misfit", "/headline", "object"),
            ("users", "misfit", "/email", "array"),
            ("gone", "undeclared", "/x", "string"),
        ]);
        let text: Vec<String> = propose(&provider, &seen).iter().map(Adoption::text).collect();
        let text = text.join("\n");
        assert_eq!(catalog::lint_text("drift.toml", &text, None).unwrap()[0].mistakes, []);
        insta::assert_snapshot!(text, @r#"
        [[extend]]
        name = "applications"
        columns = [
          { name = "source", type = "text", sensitive = true }, # string ×2
        ]

        [[extend]]
        name = "contacts"
        columns = [
          { name = "pronouns", type = "json", sensitive = true }, # array ×2
        ]

        [[extend]]
        name = "opportunities"
        columns = [
          { name = "a_b", type = "text", source = "a/b", sensitive = true }, # string ×2
          { name = "created_at_2", type = "text", source = "created_at", sensitive = true }, # string ×2
          { name = "favourite_colour", type = "text", sensitive = true }, # null ×2, string ×2
          { name = "is_hot", type = "bool", sensitive = true }, # bool ×2
          { name = "list", type = "json", sensitive = true }, # array ×2
          { name = "mixed", type = "json", sensitive = true }, # bool ×2, string ×2
          { name = "next_step_at", type = "timestamp(lenient)", sensitive = true }, # epoch ×2
          { name = "score", type = "float", sensitive = true }, # integer ×2, number ×2
          { name = "size", type = "int", sensitive = true }, # epoch ×2
          # /*: string ×2; more places than are told apart; are ids used for keys? it stays in `_extra`
          # /archived/mood: string ×2; inside `archived`, whose fields are one type for ever, so it cannot be added there: it stays in `_extra`
          # /headline: object ×2; declared in `headline`: text, and a column keeps its type for ever: it stays in `_extra`, where `json_extract` finds it; a resource of your own, under another name, may declare `json`
          # /nothing: null ×2; never with a value, so its type is not known: it stays in `_extra`
          # /owner: object ×2; an object where `owner` takes an id: its id is in the column, the rest of it stays in `_extra`
        ]

        # users: nothing to adopt
        #   /email: array ×2; declared in `email`: text, and a column keeps its type for ever: it stays in `_extra`, where `json_extract` finds it; a resource of your own, under another name, may declare `json`
        "#);
    }

    #[test]
    fn what_is_evolved_is_only_ever_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(EVOLVED);
        let load = || catalog::load(Some(folder.path())).unwrap();
        let first = seen(&[("users", "undeclared", "/desk", "integer"), ("users", "misfit", "/email", "array")]);
        let adopted = evolve(folder.path(), &load(), &first).unwrap();
        assert_eq!(adopted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["users.desk int"]);
        let text = std::fs::read_to_string(&path).unwrap();
        insta::assert_snapshot!(text, @r#"
        # Columns that Hirelake adopted by itself, because `schema = "evolve"` is set. It only ever appends here.
        # A column keeps its type and its place for ever: do not reorder, retype or remove one whose table is in a lake, keep this file
        # with the configuration, and put later columns of your own for these tables at its end. `sensitive` may be taken away: they
        # are marked because `_extra`, where they stood, is; those without a `class` go with `extra` in the settings of privacy.

        [[extend]]
        name = "users"
        columns = [
          { name = "desk", type = "int", sensitive = true }, # integer ×2
        ]
        "#);
        assert_eq!(evolve(folder.path(), &load(), &first).unwrap(), [], "once is enough");

        // Of another type meanwhile: what there is stays. A run whose catalogue is older than the file adopts nothing twice.
        let stale = catalog::embedded().unwrap();
        let second = seen(&[("users", "undeclared", "/desk", "string"), ("users", "undeclared", "/floor", "string")]);
        assert_eq!(evolve(folder.path(), &stale, &second).unwrap().len(), 1);
        let later = std::fs::read_to_string(&path).unwrap();
        assert!(later.starts_with(&text));
        let columns = load().resource("users").unwrap().columns.clone();
        let last: Vec<String> = columns.iter().rev().take(2).map(|c| format!("{} {}", c.name, c.ty)).collect();
        assert_eq!(last, ["floor text", "desk int"]);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn ids_for_keys_make_no_thousand_columns() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Seen::default();
        for i in 0..80 {
            let d = DriftCount { place: format!("/k{i}"), kind: "undeclared".into(), found: "string".into(), count: 1 };
            seen.add(&"users".parse().unwrap(), &[d]);
        }
        let provider = catalog::embedded().unwrap();
        assert_eq!(evolve(folder.path(), &provider, &seen).unwrap().len(), MOST_COLUMNS);
        assert_eq!(evolve(folder.path(), &provider, &seen).unwrap().len(), 0);
        assert!(catalog::load(Some(folder.path())).is_ok());
    }
}
