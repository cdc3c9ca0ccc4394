//! A catalogue file looked at as if it lay in the user's folder: every mistake in it, and what is likely not meant.
//!
//! Where the reader of a whole catalogue stops at the first mistake, this one leaves out what is wrong and goes on: a key, a
//! column, in the end a resource. What follows only from something left out is not told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::parse::{CatalogError, Entry, Faults, RawFile, Source, examine_all, resource, toml_files};
use super::privacy::held_by;
use super::propose::{is_personal, is_time_like, likely_class};
use super::{Class, Column, ColumnType, Mode, Provider, Resource, describe};

/// Mistakes of one file after which it is read no further: somebody has enough to do by then.
const MOST_MISTAKES: usize = 200;
/// Tables inside each other in which mistakes are looked for: structs may be six deep, each a list and a table.
const MOST_DEPTH: usize = 40;

/// Something found in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `FILE:LINE:COLUMN`, or the file alone.
    pub place: String,
    /// What it is, in a sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Finding {
    /// Line and column.
    fn order(&self) -> (usize, usize) {
        let mut numbers = self.place.rsplit(':').map(|n| n.parse().unwrap_or_default());
        let (column, line) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        (line, column)
    }
}

/// What was found in one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Linted {
    /// The file, as it was named.
    pub file: String,
    /// Resources that it has.
    pub resources: usize,
    /// Resources that it extends.
    pub extends: usize,
    /// Columns that it has, without nested ones.
    pub columns: usize,
    /// What each of its resources becomes.
    pub described: Vec<String>,
    /// Why it would be refused.
    pub mistakes: Vec<Finding>,
    /// What is likely not meant.
    pub warnings: Vec<Finding>,
}

/// Looks at `files` as if they lay in `folder`, beside its other files and on top of the embedded catalogue. Files of the folder
/// that have mistakes of their own are in the answer too.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn lint(files: &[PathBuf], folder: Option<&Path>) -> Result<Vec<Linted>, CatalogError> {
    let mut linted = BTreeMap::new();
    let mut sources = vec![Source::embedded()];
    let whole = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let given: BTreeSet<PathBuf> = files.iter().map(|f| whole(f)).collect();
    let mut others: Vec<PathBuf> = match folder {
        Some(folder) => toml_files(folder)?.into_iter().filter(|p| !given.contains(&whole(p))).collect(),
        None => Vec::new(),
    };
    let mut seen = BTreeSet::new();
    others.extend(files.iter().filter(|f| seen.insert(whole(f))).cloned());
    others.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let mut asked = Vec::new();
    for path in others {
        let is_asked = given.contains(&whole(&path));
        let name = path.display().to_string();
        match Source::read(&path) {
            Ok(source) => sources.push(source),
            Err(e) => {
                let mistakes = vec![finding(e)];
                linted.insert(name.clone(), Linted { file: name.clone(), mistakes, ..Linted::default() });
            }
        }
        if is_asked {
            asked.push(name);
        }
    }
    Ok(look(&sources, &asked, linted))
}

/// The same of a text that is in no file yet; it is called `name`, which also says where among the folder's files it lies.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn lint_text(name: &str, text: &str, folder: Option<&Path>) -> Result<Vec<Linted>, CatalogError> {
    let mut sources = vec![Source::embedded()];
    let mut files = folder.map(toml_files).transpose()?.unwrap_or_default();
    files.retain(|p| p.file_name().is_none_or(|n| n != name));
    let later = files.iter().position(|p| p.file_name().is_some_and(|n| *n > *std::ffi::OsStr::new(name)));
    let after = files.split_off(later.unwrap_or(files.len()));
    for path in &files {
        sources.push(Source::read(path)?);
    }
    sources.push(Source { name: name.to_owned(), text: text.to_owned() });
    for path in &after {
        sources.push(Source::read(path)?);
    }
    Ok(look(&sources, &[name.to_owned()], BTreeMap::new()))
}

/// What is said of a catalogue file beside the same that `fuzz_assemble` reads.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_lint(name: &str, text: &str) -> Vec<Linted> {
    look(&super::parse::fuzz_sources(name, text), &[name.to_owned()], BTreeMap::new())
}

/// Columns by which a text extends a resource; none when it is no catalogue.
#[must_use]
pub fn columns_in(text: &str, resource: &str) -> usize {
    let source = Source { name: String::new(), text: text.to_owned() };
    let extends = source.parse().map(|file| file.extend).unwrap_or_default();
    extends.iter().filter(|e| e.name.get_ref() == resource).map(|e| e.columns.len()).sum()
}

fn finding(e: CatalogError) -> Finding {
    match e {
        CatalogError::Invalid { file, line, column, message, hint } => {
            Finding { place: format!("{file}:{line}:{column}"), message, hint }
        }
        CatalogError::TooLarge { path, what } => Finding { place: path, message: what, hint: None },
        CatalogError::Read { path, source } => Finding {
            place: path,
            message: format!("the file cannot be read: {source}"),
            hint: Some("check that it exists and that this user may read it".into()),
        },
    }
}

fn file_of(e: &CatalogError) -> String {
    match e {
        CatalogError::Invalid { file, .. } => file.clone(),
        CatalogError::TooLarge { path, .. } | CatalogError::Read { path, .. } => path.clone(),
    }
}

fn look(sources: &[Source], asked: &[String], mut linted: BTreeMap<String, Linted>) -> Vec<Linted> {
    let mut faults = Faults::default();
    let (mut files, mut left_out) = (Vec::new(), LeftOut::default());
    for source in sources {
        files.push(match source.parse() {
            Ok(file) => file,
            Err(_) => recovered(source, &mut faults, &mut left_out),
        });
    }
    let mut replaced = Vec::new();
    let (entries, provider) = examine_all(sources, &files, &left_out.damaged, &mut replaced, &mut faults);
    // A resource whose place another takes would have its mistakes all the same.
    replaced.retain(|e| sources.first().is_none_or(|embedded| !std::ptr::eq(e.source, embedded)));
    for entry in &replaced {
        if let Some(provider) = &provider {
            resource(entry, &provider.oauth, &mut faults);
        }
    }
    for e in faults.0 {
        if left_out.explains(&e) {
            continue;
        }
        let file = file_of(&e);
        linted.entry(file.clone()).or_insert_with(|| Linted { file, ..Linted::default() }).mistakes.push(finding(e));
    }
    for (source, file) in sources.iter().zip(&files).filter(|(s, _)| asked.contains(&s.name)) {
        let name = source.name.clone();
        let one = linted.entry(name.clone()).or_insert_with(|| Linted { file: name, ..Linted::default() });
        one.resources = file.resource.len();
        one.extends = file.extend.len();
        one.columns = file.resource.iter().map(|r| r.get_ref().columns.len()).sum::<usize>()
            + file.extend.iter().map(|e| e.columns.len()).sum::<usize>();
        for entry in replaced.iter().filter(|e| std::ptr::eq(e.source, source)) {
            let by =
                entries.iter().find(|e| e.name() == entry.name()).map_or("another file", |e| e.source.name.as_str());
            let message = format!("resource `{}`: {by} has one of this name, which takes its place", entry.name());
            let hint = "files are read in the order of their names, and the last one counts: give one another name";
            one.warnings.push(finding(source.fault(entry.raw.get_ref().name.span(), message, Some(hint.into()))));
        }
        let Some(provider) = &provider else { continue };
        for entry in &entries {
            let Some(resource) = provider.resource(entry.name()) else { continue };
            let own = std::ptr::eq(entry.source, source);
            if own {
                one.described.push(describe(provider, resource));
            }
            let mut looking = Looking { source, entry, resource, provider, found: Vec::new() };
            looking.look(own);
            one.warnings.append(&mut looking.found);
        }
    }
    for one in linted.values_mut() {
        one.mistakes.sort_by_key(Finding::order);
        one.warnings.sort_by_key(Finding::order);
    }
    linted.into_values().collect()
}

/// What was left out to go on.
#[derive(Default)]
struct LeftOut {
    /// Resources of which something is missing.
    damaged: BTreeSet<String>,
    /// Keys, with the resource that they were left out of.
    keys: BTreeSet<(String, String)>,
}

impl LeftOut {
    /// Whether a mistake is only that something left out is missing.
    fn explains(&self, e: &CatalogError) -> bool {
        let CatalogError::Invalid { message, .. } = e else { return false };
        self.keys.iter().any(|(resource, key)| {
            message.starts_with(&format!("resource `{resource}`: "))
                && message.contains(&format!("the key `{key}` is missing"))
        })
    }
}

/// A step into a TOML value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// What can be read of a file that has mistakes; each is noted, and what it concerns is left out.
fn recovered(source: &Source, faults: &mut Faults, left_out: &mut LeftOut) -> RawFile {
    let nothing = || toml::from_str("").unwrap_or_else(|_| RawFile::default());
    let (table, broken) = DeTable::parse_recoverable(&source.text);
    if !broken.is_empty() {
        faults.0.extend(broken.iter().map(|e| source.said(e)));
        return nothing();
    }
    let span = table.span();
    let mut table = table.into_inner();
    for _ in 0..MOST_MISTAKES {
        let whole = Spanned::new(span.clone(), table.clone());
        let e = match <RawFile as serde::Deserialize>::deserialize(toml::Deserializer::from(whole)) {
            Ok(file) => return file,
            Err(e) => e,
        };
        let said = source.said(&e);
        let meant = meant(&said);
        faults.0.push(said);
        let at = e.span().unwrap_or(0..0);
        let Some(path) = locate(&table, &at) else { return nothing() };
        if let [Step::Key(list), Step::Index(i), ..] = path.as_slice()
            && list == "resource"
            && let Some(name) = name_of(&table, *i)
        {
            if let [_, _, Step::Key(key), ..] = path.as_slice() {
                left_out.keys.insert((name.clone(), key.clone()));
            }
            left_out.damaged.insert(name);
        }
        let missing = e.message().lines().next().unwrap_or_default().strip_prefix("missing field `");
        let missing = missing.and_then(|m| m.strip_suffix('`'));
        let mended = missing.is_some_and(|key| stand_in(&mut table, &path, key))
            || meant.is_some_and(|key| rename(&mut table, &path, key));
        if !mended && !leave_out(&mut table, &path) {
            return nothing();
        }
    }
    nothing()
}

fn name_of(table: &DeTable<'_>, i: usize) -> Option<String> {
    let resources = table.get("resource")?.get_ref().as_array()?;
    let name = resources.get(i)?.get_ref().as_table()?.get("name")?;
    name.get_ref().as_str().map(str::to_owned)
}

/// Where a mistake is: a key that begins there, else the innermost value that does.
fn locate(table: &DeTable<'_>, at: &Range<usize>) -> Option<Vec<Step>> {
    fn value(
        v: &Spanned<DeValue<'_>>,
        at: &Range<usize>,
        path: &mut Vec<Step>,
        best: &mut Option<Vec<Step>>,
        depth: usize,
    ) {
        if v.span().start == at.start && v.span().end >= at.end {
            *best = Some(path.clone());
        }
        if depth > MOST_DEPTH {
            return;
        }
        match v.get_ref() {
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    path.push(Step::Index(i));
                    value(item, at, path, best, depth + 1);
                    path.pop();
                }
            }
            DeValue::Table(t) => inside(t, at, path, best, depth + 1),
            _ => {}
        }
    }
    fn inside(t: &DeTable<'_>, at: &Range<usize>, path: &mut Vec<Step>, best: &mut Option<Vec<Step>>, depth: usize) {
        for (key, v) in t {
            path.push(Step::Key(key.get_ref().to_string()));
            // The name of a section is no mistake of the key's.
            let section =
                matches!(v.get_ref(), DeValue::Table(_) | DeValue::Array(_)) && v.span().start <= key.span().start;
            if key.span().start == at.start && !section {
                *best = Some(path.clone());
            }
            value(v, at, path, best, depth);
            path.pop();
        }
    }
    let mut best = None;
    inside(table, at, &mut Vec::new(), &mut best, 0);
    best
}

fn within<'t, 'i>(table: &'t mut DeTable<'i>, path: &[Step]) -> Option<&'t mut Spanned<DeValue<'i>>> {
    let (first, rest) = path.split_first()?;
    let Step::Key(key) = first else { return None };
    let mut at = table.get_mut(key.as_str())?;
    for step in rest {
        at = match (step, at.as_mut()) {
            (Step::Key(key), DeValue::Table(t)) => t.get_mut(key.as_str())?,
            (Step::Index(i), DeValue::Array(items)) => items.get_mut(*i)?,
            _ => return None,
        };
    }
    Some(at)
}

/// Puts something harmless in the place of a key that is missing, so that the rest of its table is looked at.
fn stand_in(table: &mut DeTable<'_>, path: &[Step], key: &str) -> bool {
    let value = match (path.first(), key) {
        (Some(Step::Key(list)), "columns") if list == "resource" || list == "extend" => DeValue::Array(DeArray::new()),
        (Some(Step::Key(list)), "mode") if list == "resource" => DeValue::String("full".into()),
        (_, "type") => DeValue::String("text".into()),
        _ => return false,
    };
    let Some(DeValue::Table(t)) = within(table, path).map(AsMut::as_mut) else { return false };
    t.insert(Spanned::new(0..0, key.to_owned().into()), Spanned::new(0..0, value)).is_none()
}

/// The key that was likely meant by an unknown one.
fn meant(e: &CatalogError) -> Option<String> {
    let CatalogError::Invalid { message, hint: Some(hint), .. } = e else { return None };
    let key = hint.strip_prefix("did you mean `")?.strip_suffix("`?")?;
    message.starts_with("unknown key").then(|| key.to_owned())
}

/// Gives a mistyped key its name, so that it is not missed and its value is looked at.
fn rename(table: &mut DeTable<'_>, path: &[Step], key: String) -> bool {
    let Some((Step::Key(wrong), before)) = path.split_last() else { return false };
    let holder = match before {
        [] => Some(table),
        before => match within(table, before).map(AsMut::as_mut) {
            Some(DeValue::Table(t)) => Some(t),
            _ => None,
        },
    };
    let Some(holder) = holder.filter(|t| !t.contains_key(key.as_str())) else { return false };
    let Some((old, value)) = holder.remove_entry(wrong.as_str()) else { return false };
    holder.insert(Spanned::new(old.span(), key.into()), value).is_none()
}

/// Removes what a path leads to: an element of a list of tables, else the key that holds it.
fn leave_out(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    const OF_TABLES: [&str; 6] = ["resource", "extend", "columns", "fields", "expand", "documents"];
    for end in (1..=path.len()).rev() {
        let (before, last) = (path.get(..end - 1).unwrap_or_default(), path.get(end - 1));
        match (before.last(), last) {
            (Some(Step::Key(list)), Some(Step::Index(i))) if OF_TABLES.contains(&list.as_str()) => {
                let Some(DeValue::Array(items)) = within(table, before).map(AsMut::as_mut) else { return false };
                let kept = std::mem::replace(items, DeArray::new()).into_iter().enumerate();
                *items = kept.filter(|(at, _)| at != i).map(|(_, item)| item).collect();
                return true;
            }
            (_, Some(Step::Key(key))) => {
                let holder = match before {
                    [] => Some(&mut *table),
                    before => match within(table, before).map(AsMut::as_mut) {
                        Some(DeValue::Table(t)) => Some(t),
                        _ => None,
                    },
                };
                return holder.is_some_and(|t| t.remove(key.as_str()).is_some());
            }
            _ => {}
        }
    }
    false
}

/// What is likely not meant.
struct Looking<'a> {
    /// The file that is looked at: only what stands in it is told.
    source: &'a Source,
    entry: &'a Entry<'a>,
    resource: &'a Resource,
    provider: &'a Provider,
    found: Vec<Finding>,
}

impl Looking<'_> {
    fn warn(&mut self, at: Range<usize>, message: String, hint: &str) {
        let message = format!("resource `{}`: {message}", self.entry.name());
        self.found.push(finding(self.source.fault(at, message, Some(hint.to_owned()))));
    }

    fn look(&mut self, own: bool) {
        if own {
            self.resource();
        }
        let raw = self.entry.raw.get_ref();
        let own = raw.columns.iter().map(|c| (self.entry.source, c));
        let all: Vec<_> = own.chain(self.entry.appended.iter().copied()).collect();
        let resource = self.resource;
        for ((source, raw), c) in all.into_iter().zip(&resource.columns) {
            if std::ptr::eq(source, self.source) {
                self.column(c, raw.get_ref().name.span());
            }
        }
    }

    fn resource(&mut self) {
        let (raw, r) = (self.entry.raw.get_ref(), self.resource);
        let at = raw.name.span();
        if r.about.is_empty() {
            self.warn(
                at.clone(),
                "it does not say what it is".into(),
                "add `about = \"…\"`: `hirelake catalog` shows it",
            );
        }
        let ours = super::embedded().map(|p| p.resources).unwrap_or_default();
        match ours.iter().find(|o| o.name == r.name) {
            Some(replaced) => {
                let kept = replaced.columns.iter().zip(&r.columns).all(|(a, b)| a.name == b.name && a.ty == b.ty);
                if !kept || r.columns.len() < replaced.columns.len() {
                    self.warn(
                        at.clone(),
                        "it takes the place of the embedded one, and its columns are others".into(),
                        "a lake that has the table already is refused then: keep its columns first and add at the end, or use `[[extend]]`, or give this one a name of its own",
                    );
                }
            }
            None => {
                let same = ours
                    .iter()
                    .find(|o| o.path == r.path && o.query == r.query && !matches!(o.mode, Mode::Extracted { .. }));
                if let (Some(same), Some(path)) = (same, &raw.path) {
                    let message = format!("the embedded `{}` reads this path already", same.name);
                    self.warn(
                        path.span(),
                        message,
                        "columns can be added to that one with `[[extend]]`, for no further requests",
                    );
                }
            }
        }
        if let Mode::Children { from, .. } = &r.mode
            && let Some(carrier) = self.provider.resource(from.as_str())
            && carrier.partition.as_ref().is_some_and(|p| p.column.is_some())
            && r.partition.as_ref().is_none_or(|p| p.column.is_none())
            && !matches!(carrier.partition.as_ref().map(|p| p.granularity), Some(super::Granularity::None))
        {
            let message =
                format!("all its rows lie in one file, while `{from}` is cut by time: each change rewrites all of it");
            self.warn(
                at.clone(),
                message,
                "fill a column from the parent's time (`from_parent`) and name it in `partition`",
            );
        }
        let sources: Vec<(&str, &Column)> = r.columns.iter().map(|c| (c.source.as_str(), c)).collect();
        for (i, (source, c)) in sources.iter().enumerate() {
            if let Some((other, _)) = sources.iter().take(i).find(|(s, _)| s.eq_ignore_ascii_case(source)) {
                let place = raw.columns.iter().find(|raw| raw.get_ref().name.get_ref() == &c.name);
                let place = place.map_or_else(|| at.clone(), |raw| raw.get_ref().name.span());
                let message = format!("columns take `{other}` and `{source}`, which differ only by case");
                self.warn(place, message, "the provider likely sends one of them: leave the other out");
            }
        }
    }

    fn column(&mut self, c: &Column, at: Range<usize>) {
        if c.from_parent.is_none() && is_time_like(&c.name) && matches!(c.ty, ColumnType::Text | ColumnType::Int { .. })
        {
            let message = format!("column `{}` is `{}` and looks like a time", c.name, c.ty);
            self.warn(
                at.clone(),
                message,
                "`timestamp(lenient)` takes epoch milliseconds; leave it if the provider sends another form",
            );
        }
        if !c.sensitive
            && let Some(field) = personal(&c.name, &c.ty)
        {
            let message = match field == c.name {
                true => format!("column `{field}` looks like a person's and is not marked"),
                false => {
                    format!("column `{}` has a field `{field}` that looks like a person's, and is not marked", c.name)
                }
            };
            self.warn(at, message, "add `sensitive = true`: it is blanked when the person is deleted");
        } else if c.sensitive && c.class.is_none() && held_by(&self.provider.resources, self.resource, c).is_none() {
            let message = format!("column `{}` is sensitive and of no class", c.name);
            let class = likely_class(self.provider, &c.source, &c.ty);
            let class = class
                .map_or_else(|| Class::ALL.map(|c| format!("`{c}`")).join(", "), |class| format!("`{class}`, perhaps"));
            let hint = format!(
                "add `class = …` ({class}): settings of privacy by class miss it, and only `extra` concerns it"
            );
            self.warn(at, message, &hint);
        }
    }
}

/// The name, of a column or of a field in it, that looks like a person's.
fn personal<'c>(name: &'c str, ty: &'c ColumnType) -> Option<&'c str> {
    let mut inner = ty;
    while let ColumnType::List(item) = inner {
        inner = item;
    }
    if let ColumnType::Struct(fields) = inner {
        return fields.iter().find_map(|f| personal(&f.name, &f.ty));
    }
    // An id, a flag or a time says nothing of the person.
    (matches!(inner, ColumnType::Text | ColumnType::Json | ColumnType::Int { .. } | ColumnType::Float)
        && is_personal(name))
    .then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let linted = lint_text("mine.toml", text, None).unwrap();
        let mut said = String::new();
        for l in &linted {
            for (word, findings) in [("error", &l.mistakes), ("warning", &l.warnings)] {
                for f in findings {
                    said += &format!("{word}: {}: {}\n", f.place, f.message);
                    said += &f.hint.as_ref().map(|h| format!("  hint: {h}\n")).unwrap_or_default();
                }
            }
        }
        said
    }

    #[test]
    fn every_mistake_is_told_with_its_place_not_only_the_first() {
        insta::assert_snapshot!(said(r#"
[[resource]]
name = "hooks"
path = "hooks"
scop = "webhooks:read:admin"
mode = "ful"
columns = [
  { name = "id", type = "txt" },
  { name = "Url", type = "text", colour = 3 },
  { name = "seen", typ = "text" },
  { name = "deep", type = "struct", fields = [{ name = "A", type = "text" }, { name = "b", type = "in" }] },
]

[[resource]]
name = "others"
path = 3
mode = "full"
key = ["idd", "at"]
columns = [{ name = "id", type = "text" }, { name = "at", type = "timestamp" }]

[[resource]]
name = "of_hooks"
path = "/hooks/:id/parts"
mode = "children"
from = "hooks"
parent = "hook_id"
columns = [{ name = "id", type = "text" }]

[[resource]]
name = "parts"
path = "/parts"
mode = "full"
key = ["idd", "at"]
columns = [{ name = "id", type = "text" }, { name = "at", type = "timestamp" }]

[[extend]]
name = "user"
columns = [{ name = "a", type = "text" }]

[[extend]]
name = "users"
columns = [{ name = "email", type = "text" }]
"#), @r#"
        error: mine.toml:4:8: resource `hooks`: key `path`: expected a path such as `/users`, not `hooks`
          hint: begin with `/`; no `..`, no query, no slash at the end
        error: mine.toml:5:1: unknown key `scop`; expected one of `name`, `about`, `path`, `item`, `scope`, `query`, `expand`, `records`, `paging`, `mode`, `cursor`, `load`, `bare`, `of`, `from`, `field`, `key`, `parent`, `partition`, `columns`, `default`, `keep_extra`, `span`, `content_key`, `dormant`, `anonymized`, `absent_is_empty`, `skip`, `confidential`, `secret`, `content`
          hint: did you mean `scope`?
        error: mine.toml:6:8: resource `hooks`: key `mode`: expected `incremental`, `full`, `tombstones`, `extracted` or `children`, not `ful`
          hint: did you mean `full`?
        error: mine.toml:8:25: column `id`: key `type`: unknown type `txt`; expected one of `text`, `int`, `int(lenient)`, `float`, `bool`, `timestamp`, `timestamp(lenient)`, `json`, `ref`, `struct` or `list<…>` of one
          hint: did you mean `text`?
        error: mine.toml:9:12: column `Url`: expected snake_case of at most 63 letters, digits and `_`
          hint: give the wire name as `source`
        error: mine.toml:9:34: unknown key `colour`; expected one of `name`, `type`, `source`, `sensitive`, `volatile`, `from_parent`, `also`, `about`, `fields`, `class`
        error: mine.toml:10:20: unknown key `typ`; expected one of `name`, `type`, `source`, `sensitive`, `volatile`, `from_parent`, `also`, `about`, `fields`, `class`
          hint: did you mean `type`?
        error: mine.toml:11:56: column `A`: expected snake_case of at most 63 letters, digits and `_`
          hint: give the wire name as `source`
        error: mine.toml:11:99: column `b`: key `type`: unknown type `in`; expected one of `text`, `int`, `int(lenient)`, `float`, `bool`, `timestamp`, `timestamp(lenient)`, `json`, `ref`, `struct` or `list<…>` of one
          hint: did you mean `int`?
        error: mine.toml:16:8: key `path`: invalid type: integer `3`, expected a string
        error: mine.toml:33:8: resource `parts`: key `key`: there is no column `idd`
          hint: did you mean `id`?
        error: mine.toml:33:15: resource `parts`: key `key`: column `at` is `timestamp`; expected text, ref or int
        error: mine.toml:37:8: key `name`: there is no resource `user` to extend
          hint: did you mean `users`?
        error: mine.toml:42:21: column `email`: this name is there already
          hint: the resource has it itself, or another file adds it: remove it here
        warning: mine.toml:22:8: resource `of_hooks`: it does not say what it is
          hint: add `about = "…"`: `hirelake catalog` shows it
        warning: mine.toml:30:8: resource `parts`: it does not say what it is
          hint: add `about = "…"`: `hirelake catalog` shows it
        "#);
    }

    #[test]
    fn what_is_likely_not_meant_is_told() {
        insta::assert_snapshot!(said(r#"
[[resource]]
name = "hooks"
path = "/webhooks"
mode = "full"
columns = [
  { name = "id", type = "text" },
  { name = "created_at", type = "text" },
  { name = "email", type = "text" },
  { name = "who", type = "list<struct>", fields = [{ name = "phone", type = "text" }] },
  { name = "url", type = "text" },
  { name = "other", type = "text", source = "URL" },
]

[[resource]]
name = "stages"
about = "stages"
path = "/stages"
mode = "full"
columns = [{ name = "id", type = "text" }]

[[resource]]
name = "things"
about = "things of an opportunity"
path = "/opportunities/:id/things"
mode = "children"
from = "opportunities"
parent = "opportunity_id"
columns = [{ name = "id", type = "text" }, { name = "opportunity_id", type = "ref", from_parent = "id" }]

[[extend]]
name = "opportunities"
columns = [{ name = "personal_email", type = "text" }, { name = "mood", type = "text" }]

[[extend]]
name = "users"
columns = [{ name = "user_agent", type = "text", sensitive = true }, { name = "humour", type = "text", sensitive = true }]
"#), @r#"
        warning: mine.toml:3:8: resource `hooks`: it does not say what it is
          hint: add `about = "…"`: `hirelake catalog` shows it
        warning: mine.toml:4:8: resource `hooks`: the embedded `webhooks` reads this path already
          hint: columns can be added to that one with `[[extend]]`, for no further requests
        warning: mine.toml:8:12: resource `hooks`: column `created_at` is `text` and looks like a time
          hint: `timestamp(lenient)` takes epoch milliseconds; leave it if the provider sends another form
        warning: mine.toml:9:12: resource `hooks`: column `email` looks like a person's and is not marked
          hint: add `sensitive = true`: it is blanked when the person is deleted
        warning: mine.toml:10:12: resource `hooks`: column `who` has a field `phone` that looks like a person's, and is not marked
          hint: add `sensitive = true`: it is blanked when the person is deleted
        warning: mine.toml:12:12: resource `hooks`: columns take `url` and `URL`, which differ only by case
          hint: the provider likely sends one of them: leave the other out
        warning: mine.toml:16:8: resource `stages`: it takes the place of the embedded one, and its columns are others
          hint: a lake that has the table already is refused then: keep its columns first and add at the end, or use `[[extend]]`, or give this one a name of its own
        warning: mine.toml:23:8: resource `things`: all its rows lie in one file, while `opportunities` is cut by time: each change rewrites all of it
          hint: fill a column from the parent's time (`from_parent`) and name it in `partition`
        warning: mine.toml:33:21: resource `opportunities`: column `personal_email` looks like a person's and is not marked
          hint: add `sensitive = true`: it is blanked when the person is deleted
        warning: mine.toml:37:21: resource `users`: column `user_agent` is sensitive and of no class
          hint: add `class = …` (`technical`, perhaps): settings of privacy by class miss it, and only `extra` concerns it
        warning: mine.toml:37:79: resource `users`: column `humour` is sensitive and of no class
          hint: add `class = …` (`identity`, `contact`, `free_text`, `answers`, `documents`, `pay`, `technical`, `protected`): settings of privacy by class miss it, and only `extra` concerns it
        "#);
    }

    #[test]
    fn the_embedded_catalogue_has_no_mistake() {
        assert_eq!(said(""), "");
    }
}
