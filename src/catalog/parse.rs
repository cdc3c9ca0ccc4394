//! TOML → catalogue: the embedded files, and a folder of the user's on top of them.
//!
//! Every refusal names file, line, column and key, and says what was expected. What passes is consistent: keys, cursors and
//! partition times exist and have the right type, nothing is extracted from nothing, no two names differ only by case.
//! Knows nothing of tenants and tables.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::{
    ByDefault, CONTENT_COLUMNS, Class, Column, ColumnType, Confidential, Content, Document, Endpoints, Expand,
    Granularity, Mode, OAuthFacts, Paging, Partition, Provider, Rate, Resource, Skip, SkipIf, Span, TimeFilter,
    arrow_type, held_by,
};
use crate::names::{ResourceName, nearest};

/// The catalogue that ships with the binary, and the name it has in messages.
const EMBEDDED: (&str, &str) = ("pipelines/lever.toml", include_str!("../../pipelines/lever.toml"));
/// Largest file that is read: fifty times the embedded one, and small enough never to matter.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most files of a folder.
const MAX_FILES: usize = 100;
/// Longest message: the longest list of known keys is a third of it.
const MAX_MESSAGE_BYTES: usize = 2000;
/// Most resources of a provider.
const MAX_RESOURCES: usize = 500;
/// Most columns of a resource, nested fields included: readers of Parquet slow down long before.
const MAX_COLUMNS: usize = 500;
/// Most lists around a type: BigQuery and Athena read no deeper ones in comfort.
const MAX_LISTS: usize = 3;
/// Most structs inside each other.
const MAX_DEPTH: usize = 6;
/// Longest name of a column: the shortest limit of the engines that read the lake.
pub(super) const MAX_NAME_BYTES: usize = 63;

/// Why a catalogue was refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file or folder of the user's cannot be read.
    #[error("{path}: the catalogue cannot be read\nhint: check that the folder exists and that this user may read it")]
    Read {
        /// What was to be read.
        path: String,
        /// Why it was not.
        #[source]
        source: std::io::Error,
    },
    /// More than is ever meant.
    #[error("{path}: {what}")]
    TooLarge {
        /// The file or folder.
        path: String,
        /// What is too much.
        what: String,
    },
    /// A mistake at a place.
    #[error("{file}:{line}:{column}: {message}{}", hint_line(.hint.as_deref()))]
    Invalid {
        /// The file, as it was named.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, and what was expected.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

fn hint_line(hint: Option<&str>) -> String {
    hint.map(|h| format!("\nhint: {h}")).unwrap_or_default()
}

/// The catalogue that ships with the binary.
///
/// # Errors
///
/// None in a binary that passed its tests.
pub fn embedded() -> Result<Provider, CatalogError> {
    load(None)
}

/// The embedded catalogue, overridden and extended by the `*.toml` files of `folder` in the order of their names: a whole
/// `[[resource]]` replaces the one of that name or is added, `[[extend]]` appends columns, `[provider]` replaces values.
///
/// # Errors
///
/// [`CatalogError`] for anything that does not hold together.
pub fn load(folder: Option<&Path>) -> Result<Provider, CatalogError> {
    let mut sources = vec![Source::embedded()];
    if let Some(folder) = folder {
        for path in toml_files(folder)? {
            sources.push(Source::read(&path)?);
        }
    }
    assemble(&sources)
}

/// The first resources of the embedded catalogue and one more file of this text: the whole of it would take a hundred times
/// as long as what is looked at.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz_sources(name: &str, text: &str) -> [Source; 2] {
    const RESOURCES: usize = 4;
    let mut base = Source::embedded();
    if let Some((end, _)) = base.text.match_indices("\n[[resource]]").nth(RESOURCES) {
        base.text.truncate(end);
    }
    [base, Source { name: name.to_owned(), text: text.to_owned() }]
}

/// What is made of a catalogue file.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_assemble(name: &str, text: &str) -> Result<Provider, CatalogError> {
    assemble(&fuzz_sources(name, text))
}

pub(super) fn toml_files(folder: &Path) -> Result<Vec<PathBuf>, CatalogError> {
    let failed = |source| CatalogError::Read { path: folder.display().to_string(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "toml") && path.is_file() {
            paths.push(path);
        }
        if paths.len() > MAX_FILES {
            let what = format!("more than {MAX_FILES} catalogue files");
            return Err(CatalogError::TooLarge { path: folder.display().to_string(), what });
        }
    }
    paths.sort();
    Ok(paths)
}

/// A file's text, and the name under which mistakes in it are reported.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

impl Source {
    /// The catalogue that ships with the binary.
    pub(super) fn embedded() -> Self {
        Self { name: EMBEDDED.0.to_owned(), text: EMBEDDED.1.to_owned() }
    }

    pub(super) fn read(path: &Path) -> Result<Self, CatalogError> {
        let name = path.display().to_string();
        let failed = |source| CatalogError::Read { path: name.clone(), source };
        let mut bytes = Vec::new();
        File::open(path).map_err(failed)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(CatalogError::TooLarge { path: name, what: format!("larger than {MAX_FILE_BYTES} bytes") });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, text }),
            Err(e) => {
                let at = e.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
                Err(Self { name, text }.fault(at..at, "this is not UTF-8", None))
            }
        }
    }

    /// A mistake at a place. However long the name or value is that it quotes, it is a sentence.
    pub(super) fn fault(&self, at: Range<usize>, message: impl Into<String>, hint: Option<String>) -> CatalogError {
        let mut end = at.start.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        CatalogError::Invalid {
            file: self.name.clone(),
            line: before.matches('\n').count() + 1,
            column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
            message: shortened(message.into(), MAX_MESSAGE_BYTES),
            hint: hint.map(|h| shortened(h, MAX_MESSAGE_BYTES)),
        }
    }

    pub(super) fn parse(&self) -> Result<RawFile, CatalogError> {
        toml::from_str(&self.text).map_err(|e| self.said(&e))
    }

    /// A mistake that the reader of TOML met, in our words.
    pub(super) fn said(&self, e: &toml::de::Error) -> CatalogError {
        let at = e.span().unwrap_or(0..0);
        let (message, hint) = reworded(e.message(), self.key_before(at.start));
        self.fault(at, message, hint)
    }

    /// The key whose value begins at `at`: serde's own messages leave it out.
    fn key_before(&self, at: usize) -> Option<&str> {
        let line = self.text.get(..at)?.trim_end().strip_suffix('=')?.trim_end();
        let key = line.rsplit(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).next()?;
        (!key.is_empty()).then_some(key)
    }
}

/// A text of at most so many bytes, cut at a letter.
pub(crate) fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// serde's message, in our words and with the key.
fn reworded(message: &str, key: Option<&str>) -> (String, Option<String>) {
    let first = message.lines().next().unwrap_or_default();
    if let Some(rest) = first.strip_prefix("unknown field `")
        && let Some((unknown, expected)) = rest.split_once('`')
    {
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        let hint = nearest(unknown, known.iter().copied()).map(|k| format!("did you mean `{k}`?"));
        let quoted: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
        return (format!("unknown key `{unknown}`; expected one of {}", quoted.join(", ")), hint);
    }
    if let Some(missing) = first.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`')) {
        return (format!("the key `{missing}` is missing"), Some(format!("add `{missing} = …` here")));
    }
    match key {
        Some(key) if first.starts_with("invalid") => (format!("key `{key}`: {first}"), None),
        _ => (first.to_owned(), None),
    }
}

// What a file may say. `Spanned` wherever a later check may have to point at it.

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    provider: Option<RawProvider>,
    #[serde(default)]
    defaults: RawDefaults,
    #[serde(default)]
    pub(super) resource: Vec<Spanned<RawResource>>,
    #[serde(default)]
    pub(super) extend: Vec<RawExtend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    name: Option<Spanned<String>>,
    rate: Option<Spanned<RawRate>>,
    #[serde(default)]
    production: RawEndpoints,
    #[serde(default)]
    sandbox: RawEndpoints,
    #[serde(default)]
    oauth: RawOAuth,
    confidential: Option<RawConfidential>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfidential {
    param: String,
    value: String,
    scope: Spanned<String>,
    mark: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRate {
    per_second: f64,
    burst: u32,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawEndpoints {
    api_base: Option<Spanned<String>>,
    authorize: Option<Spanned<String>>,
    token: Option<Spanned<String>>,
    revoke: Option<Spanned<String>>,
    audience: Option<Spanned<String>>,
    hosts: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawOAuth {
    offline_scope: Option<String>,
    max_scopes: Option<usize>,
    scopes: Option<Vec<String>>,
    idle_days: Option<u32>,
    hard_days: Option<u32>,
    pkce: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDefaults {
    records: Option<String>,
    key: Option<Vec<Spanned<String>>>,
    paging: Option<Spanned<RawPaging>>,
    default: Option<Spanned<RawDefault>>,
}

/// `true`, `false` or `"granted"`.
#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum RawDefault {
    Is(bool),
    Word(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpan {
    start: String,
    end: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSkip {
    column: Spanned<String>,
    is: Spanned<String>,
    evidence: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawResource {
    pub(super) name: Spanned<String>,
    about: Option<String>,
    pub(super) path: Option<Spanned<String>>,
    item: Option<Spanned<String>>,
    scope: Option<Spanned<String>>,
    #[serde(default)]
    query: BTreeMap<String, String>,
    #[serde(default)]
    expand: Vec<RawExpand>,
    records: Option<String>,
    paging: Option<Spanned<RawPaging>>,
    mode: Spanned<String>,
    cursor: Option<Spanned<RawFilter>>,
    load: Option<Spanned<RawFilter>>,
    bare: Option<Spanned<bool>>,
    of: Option<Spanned<String>>,
    from: Option<Spanned<String>>,
    field: Option<Spanned<String>>,
    key: Option<Vec<Spanned<String>>>,
    parent: Option<Spanned<String>>,
    partition: Option<RawPartition>,
    pub(super) columns: Vec<Spanned<RawColumn>>,
    default: Option<Spanned<RawDefault>>,
    keep_extra: Option<bool>,
    span: Option<Spanned<RawSpan>>,
    content_key: Option<Spanned<String>>,
    dormant: Option<Spanned<String>>,
    anonymized: Option<Spanned<String>>,
    absent_is_empty: Option<Spanned<bool>>,
    skip: Option<Spanned<RawSkip>>,
    confidential: Option<Spanned<String>>,
    secret: Option<Spanned<String>>,
    content: Option<Spanned<RawContent>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContent {
    ext: Option<Spanned<String>>,
    #[serde(default)]
    documents: Vec<RawDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocument {
    name: String,
    when: Option<Spanned<String>>,
    #[serde(default)]
    query: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpand {
    name: String,
    scope: Option<Spanned<String>>,
}

/// Flat rather than an enum: serde buffers tagged enums, and the places of mistakes are lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPaging {
    kind: Spanned<String>,
    param: Option<String>,
    next: Option<String>,
    more: Option<String>,
    limit_param: Option<String>,
    limit: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFilter {
    column: Spanned<String>,
    start: String,
    end: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPartition {
    column: Option<Spanned<String>>,
    label: Spanned<String>,
    granularity: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawColumn {
    pub(super) name: Spanned<String>,
    #[serde(rename = "type")]
    ty: Spanned<String>,
    source: Option<Spanned<String>>,
    #[serde(default)]
    sensitive: bool,
    #[serde(default)]
    volatile: bool,
    from_parent: Option<Spanned<String>>,
    #[serde(default)]
    also: Vec<String>,
    about: Option<String>,
    fields: Option<Vec<Spanned<RawColumn>>>,
    class: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExtend {
    pub(super) name: Spanned<String>,
    pub(super) columns: Vec<Spanned<RawColumn>>,
}

/// A resource as written, with the file it stands in and the columns appended by others.
pub(super) struct Entry<'a> {
    pub(super) source: &'a Source,
    defaults: [&'a RawDefaults; 2],
    pub(super) raw: &'a Spanned<RawResource>,
    pub(super) appended: Vec<(&'a Source, &'a Spanned<RawColumn>)>,
}

impl Entry<'_> {
    pub(super) fn name(&self) -> &str {
        self.raw.get_ref().name.get_ref()
    }
    fn fault<T>(&self, at: &Spanned<T>, message: impl Into<String>, hint: Option<String>) -> CatalogError {
        self.source.fault(at.span(), format!("resource `{}`: {}", self.name(), message.into()), hint)
    }
    /// A mistake in a column, which may stand in another file than the resource.
    fn column_fault(&self, column: &str, message: impl Into<String>, hint: Option<String>) -> CatalogError {
        let own = self.raw.get_ref().columns.iter().map(|c| (self.source, c));
        let message = format!("resource `{}`: {}", self.name(), message.into());
        match own.chain(self.appended.iter().copied()).find(|(_, c)| c.get_ref().name.get_ref() == column) {
            Some((source, c)) => source.fault(c.get_ref().name.span(), message, hint),
            None => self.source.fault(self.raw.span(), message, hint),
        }
    }
    fn missing(&self, key: &str, why: &str) -> CatalogError {
        self.fault(&self.raw.get_ref().name, format!("the key `{key}` is missing{why}"), None)
    }
    fn default<T>(&self, get: impl Fn(&RawDefaults) -> Option<T>) -> Option<T> {
        self.defaults.iter().find_map(|d| get(d))
    }
}

/// Every mistake that was met, in the order in which it was met.
#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<CatalogError>);

impl Faults {
    fn keep<T>(&mut self, outcome: Result<T, CatalogError>) -> Option<T> {
        outcome.map_err(|e| self.0.push(e)).ok()
    }
}

fn assemble(sources: &[Source]) -> Result<Provider, CatalogError> {
    let files = sources.iter().map(Source::parse).collect::<Result<Vec<_>, _>>()?;
    let mut faults = Faults::default();
    let provider = examine(sources, &files, &mut faults);
    match (faults.0.into_iter().next(), provider) {
        (None, Some(provider)) => Ok(provider),
        (Some(first), _) => Err(first),
        (None, None) => Err(absent(sources, "provider")),
    }
}

/// Makes a provider of the files, or finds every mistake in them.
fn examine(sources: &[Source], files: &[RawFile], faults: &mut Faults) -> Option<Provider> {
    examine_all(sources, files, &BTreeSet::new(), &mut Vec::new(), faults).1
}

/// [`examine`], which also gives the resources whose place those of later files take. Of `damaged` resources something was
/// left out already, so what ties their parts together is not judged.
pub(super) fn examine_all<'a>(
    sources: &'a [Source],
    files: &'a [RawFile],
    damaged: &BTreeSet<String>,
    replaced: &mut Vec<Entry<'a>>,
    faults: &mut Faults,
) -> (Vec<Entry<'a>>, Option<Provider>) {
    let Some((first, first_file)) = sources.first().zip(files.first()) else {
        faults.0.push(CatalogError::TooLarge { path: String::new(), what: "there is no catalogue at all".into() });
        return (Vec::new(), None);
    };
    let Some(oauth) = faults.keep(oauth(first, files)) else { return (Vec::new(), None) };
    let Some(confidential) = faults.keep(confidential(sources, files, &oauth)) else { return (Vec::new(), None) };
    let entries = entries(sources, files, &first_file.defaults, replaced, faults);
    let (mut resources, mut broken) = (Vec::with_capacity(entries.len()), damaged.clone());
    for entry in &entries {
        match resource(entry, &oauth, faults) {
            Some(resource) => resources.push(resource),
            None => drop(broken.insert(entry.name().to_owned())),
        }
    }
    for entry in entries.iter().filter(|e| !broken.contains(e.name())) {
        if let Some(resource) = resources.iter().find(|r| r.name.as_str() == entry.name()) {
            check(entry, resource, &resources, &broken, faults);
        }
    }
    for entry in entries.iter().filter(|e| !broken.contains(e.name())) {
        if let (Some(at), None) = (&entry.raw.get_ref().confidential, &confidential) {
            let message = "key `confidential`: the provider has no `[provider.confidential]`";
            let hint = "say there how confidential records are asked for".to_owned();
            faults.0.push(entry.fault(at, message, Some(hint)));
        }
        if let Some(resource) = resources.iter().find(|r| r.name.as_str() == entry.name()) {
            faults.keep(no_circle(entry, resource, &resources));
        }
    }
    let provider = finished(sources, files, oauth, confidential, resources, faults);
    (entries, provider)
}

fn finished(
    sources: &[Source],
    files: &[RawFile],
    oauth: OAuthFacts,
    confidential: Option<Confidential>,
    mut resources: Vec<Resource>,
    faults: &mut Faults,
) -> Option<Provider> {
    // An extracted resource has no listing of its own: it is read where its records stand.
    for i in 0..resources.len() {
        if let Mode::Extracted { from, .. } = &resources[i].mode
            && let Some(path) = resources.iter().find(|r| r.name == *from).map(|r| r.path.clone())
        {
            resources[i].path = path;
        }
    }
    let name = faults.keep(provider_name(sources, files));
    let production = faults.keep(endpoints(sources, files, "production", |p| &p.production));
    let sandbox = faults.keep(endpoints(sources, files, "sandbox", |p| &p.sandbox));
    let rate = faults.keep(rate(sources, files));
    Some(Provider {
        name: name?,
        production: production?,
        sandbox: sandbox?,
        rate: rate?,
        oauth,
        resources,
        confidential,
    })
}

/// The last file that gives a value wins.
fn last<'a, T>(
    sources: &'a [Source],
    files: &'a [RawFile],
    get: impl Fn(&'a RawProvider) -> Option<&'a T>,
) -> Option<(&'a Source, &'a T)> {
    sources.iter().zip(files).rev().find_map(|(s, f)| f.provider.as_ref().and_then(&get).map(|v| (s, v)))
}

fn absent(sources: &[Source], key: &str) -> CatalogError {
    match sources.first() {
        Some(source) => source.fault(0..0, format!("the key `{key}` is missing"), None),
        None => CatalogError::TooLarge { path: String::new(), what: format!("the key `{key}` is missing") },
    }
}

fn provider_name(sources: &[Source], files: &[RawFile]) -> Result<ResourceName, CatalogError> {
    let mut name: Option<ResourceName> = None;
    for (source, file) in sources.iter().zip(files) {
        let Some(given) = file.provider.as_ref().and_then(|p| p.name.as_ref()) else { continue };
        let parsed: ResourceName =
            given.get_ref().parse().map_err(|e| source.fault(given.span(), format!("key `name`: {e}"), None))?;
        match &name {
            Some(first) if *first != parsed => {
                let message = format!("key `name`: this file is about `{parsed}`, the catalogue is of `{first}`");
                return Err(source.fault(given.span(), message, Some(format!("say `{first}` or leave it out"))));
            }
            _ => name = Some(parsed),
        }
    }
    name.ok_or_else(|| absent(sources, "provider.name"))
}

fn rate(sources: &[Source], files: &[RawFile]) -> Result<Rate, CatalogError> {
    let (source, raw) = last(sources, files, |p| p.rate.as_ref()).ok_or_else(|| absent(sources, "provider.rate"))?;
    let RawRate { per_second, burst } = *raw.get_ref();
    if !(per_second.is_finite() && per_second > 0.0 && per_second <= 10_000.0 && burst >= 1) {
        let message = "key `rate`: expected `per_second` above 0 and at most 10000, and `burst` of at least 1";
        return Err(source.fault(raw.span(), message, None));
    }
    Ok(Rate { per_second, burst })
}

fn oauth(first: &Source, files: &[RawFile]) -> Result<OAuthFacts, CatalogError> {
    fn get<T: Clone>(
        first: &Source,
        files: &[RawFile],
        key: &str,
        get: impl Fn(&RawOAuth) -> Option<&T>,
    ) -> Result<T, CatalogError> {
        files
            .iter()
            .rev()
            .find_map(|f| f.provider.as_ref().and_then(|p| get(&p.oauth)))
            .cloned()
            .ok_or_else(|| first.fault(0..0, format!("the key `provider.oauth.{key}` is missing"), None))
    }
    let mut scopes = get(first, files, "scopes", |o| o.scopes.as_ref())?;
    let offline_scope = get(first, files, "offline_scope", |o| o.offline_scope.as_ref())?;
    if !scopes.contains(&offline_scope) {
        scopes.insert(0, offline_scope.clone());
    }
    Ok(OAuthFacts {
        offline_scope,
        max_scopes: get(first, files, "max_scopes", |o| o.max_scopes.as_ref())?,
        scopes,
        idle_days: get(first, files, "idle_days", |o| o.idle_days.as_ref())?,
        hard_days: get(first, files, "hard_days", |o| o.hard_days.as_ref())?,
        // A provider that says nothing of it is not sent what it may not know.
        pkce: get(first, files, "pkce", |o| o.pkce.as_ref()).unwrap_or(false),
    })
}

fn confidential(
    sources: &[Source],
    files: &[RawFile],
    oauth: &OAuthFacts,
) -> Result<Option<Confidential>, CatalogError> {
    let Some((source, raw)) = last(sources, files, |p| p.confidential.as_ref()) else { return Ok(None) };
    let scope = raw.scope.get_ref();
    if !oauth.scopes.contains(scope) {
        let near = nearest(scope, oauth.scopes.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
        return Err(source.fault(raw.scope.span(), format!("key `scope`: the provider has no scope `{scope}`"), near));
    }
    Ok(Some(Confidential {
        param: raw.param.clone(),
        value: raw.value.clone(),
        scope: scope.clone(),
        mark: raw.mark.clone(),
    }))
}

fn endpoints<'a>(
    sources: &'a [Source],
    files: &'a [RawFile],
    side: &str,
    of: impl Fn(&'a RawProvider) -> &'a RawEndpoints,
) -> Result<Endpoints, CatalogError> {
    let text = |key: &str, get: fn(&RawEndpoints) -> Option<&Spanned<String>>| {
        last(sources, files, |p| get(of(p))).ok_or_else(|| absent(sources, &format!("provider.{side}.{key}")))
    };
    let (source, raw) = text("api_base", |e| e.api_base.as_ref())?;
    let mut api_base = address(source, "api_base", raw)?;
    let trimmed = api_base.path().trim_end_matches('/').to_owned();
    api_base.set_path(&trimmed);
    let (source, raw) = text("authorize", |e| e.authorize.as_ref())?;
    let authorize = address(source, "authorize", raw)?;
    let (source, raw) = text("token", |e| e.token.as_ref())?;
    let token = address(source, "token", raw)?;
    let revoke = last(sources, files, |p| of(p).revoke.as_ref())
        .map(|(source, raw)| address(source, "revoke", raw))
        .transpose()?;
    let audience = text("audience", |e| e.audience.as_ref())?.1.get_ref().clone();
    let (source, raw) = last(sources, files, |p| of(p).hosts.as_ref())
        .ok_or_else(|| absent(sources, &format!("provider.{side}.hosts")))?;
    let mut hosts = Vec::with_capacity(raw.len());
    for host in raw {
        let text = host.get_ref();
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
        if text.is_empty() || !plain {
            let message = format!("key `hosts`: `{text}` is not a host; expected one such as `lever.co`");
            return Err(source.fault(host.span(), message, None));
        }
        hosts.push(text.clone());
    }
    Ok(Endpoints { api_base, authorize, token, revoke, audience, hosts })
}

/// An address to which credentials may go.
fn address(source: &Source, key: &str, raw: &Spanned<String>) -> Result<Url, CatalogError> {
    let refuse = |why: &str| {
        let hint = Some("give an address such as `https://api.lever.co/v1`".to_owned());
        Err(source.fault(raw.span(), format!("key `{key}`: {why}"), hint))
    };
    let Ok(url) = Url::parse(raw.get_ref()) else { return refuse("expected an address") };
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => return refuse("the address has no host"),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        _ => return refuse("only https is used, and http on the own machine"),
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return refuse("the address may hold no query, fragment or password");
    }
    Ok(url)
}

fn entries<'a>(
    sources: &'a [Source],
    files: &'a [RawFile],
    embedded: &'a RawDefaults,
    replaced: &mut Vec<Entry<'a>>,
    faults: &mut Faults,
) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    for (source, file) in sources.iter().zip(files) {
        for raw in &file.resource {
            let name = &raw.get_ref().name;
            let entry = Entry { source, defaults: [&file.defaults, embedded], raw, appended: Vec::new() };
            match entries.iter_mut().find(|e| e.name() == name.get_ref()) {
                Some(there) if std::ptr::eq(there.source, source) => {
                    faults.0.push(entry.fault(name, "this file has it twice", Some("remove one of them".into())));
                }
                Some(there) => replaced.push(std::mem::replace(there, entry)),
                None => entries.push(entry),
            }
            if entries.len() > MAX_RESOURCES {
                faults.0.push(source.fault(raw.span(), format!("more than {MAX_RESOURCES} resources"), None));
                return entries;
            }
        }
    }
    // After every resource is known, so that the order of files does not matter.
    for (source, file) in sources.iter().zip(files) {
        for extend in &file.extend {
            let name = extend.name.get_ref();
            let near = nearest(name, entries.iter().map(Entry::name)).map(|n| format!("did you mean `{n}`?"));
            let Some(entry) = entries.iter_mut().find(|e| e.name() == name) else {
                let message = format!("key `name`: there is no resource `{name}` to extend");
                faults.0.push(source.fault(extend.name.span(), message, near));
                continue;
            };
            entry.appended.extend(extend.columns.iter().map(|c| (source, c)));
        }
    }
    entries
}

pub(super) fn resource(entry: &Entry<'_>, oauth: &OAuthFacts, faults: &mut Faults) -> Option<Resource> {
    let before = faults.0.len();
    let raw = entry.raw.get_ref();
    let name = raw.name.get_ref().parse();
    let name: Option<ResourceName> =
        faults.keep(name.map_err(|e| entry.fault(&raw.name, format!("key `name`: {e}"), None)));
    let mode = faults.keep(mode(entry));
    let path = faults.keep(path(entry, mode.as_ref()));
    let item = raw.item.as_ref().map(|p| checked_path(entry, "item", p)).transpose();
    let item = faults.keep(item).flatten();
    if let (Some(item), Some(at)) = (&item, &raw.item)
        && item.split('/').filter(|part| *part == ":id").count() != 1
    {
        faults.0.push(entry.fault(at, "key `item`: expected `:id` once, as in `/users/:id`", None));
    }
    for scope in raw.scope.iter().chain(raw.expand.iter().filter_map(|e| e.scope.as_ref())) {
        if !oauth.scopes.contains(scope.get_ref()) {
            let near = nearest(scope.get_ref(), oauth.scopes.iter().map(String::as_str));
            let message = format!("key `scope`: the provider has no scope `{}`", scope.get_ref());
            let hint = near.map_or_else(
                || "list it in `provider.oauth.scopes` if it is new".to_owned(),
                |n| format!("did you mean `{n}`?"),
            );
            faults.0.push(entry.fault(scope, message, Some(hint)));
        }
    }
    let columns = columns(entry, faults);
    let key = raw.key.as_ref().or_else(|| entry.defaults.iter().find_map(|d| d.key.as_ref()));
    let key: Vec<String> = key.into_iter().flatten().map(|k| k.get_ref().clone()).collect();
    if key.is_empty() {
        faults.0.push(entry.missing("key", ": the columns that identify a row"));
    }
    let partition = raw.partition.as_ref().map(|p| partition(entry, p)).transpose();
    let partition = faults.keep(partition).flatten();
    let records = raw.records.clone().or_else(|| entry.default(|d| d.records.clone()));
    let records = faults.keep(records.ok_or_else(|| entry.missing("records", "")));
    let paging = faults.keep(paging(entry));
    let default = faults.keep(by_default(entry));
    if faults.0.len() > before {
        return None;
    }
    Some(Resource {
        name: name?,
        about: raw.about.clone().unwrap_or_default(),
        path: path?,
        item,
        scope: raw.scope.as_ref().map(|s| s.get_ref().clone()),
        query: raw.query.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        expand: raw
            .expand
            .iter()
            .map(|e| Expand { name: e.name.clone(), scope: e.scope.as_ref().map(|s| s.get_ref().clone()) })
            .collect(),
        records: records?,
        paging: paging?,
        mode: mode?,
        key,
        parent: raw.parent.as_ref().map(|p| p.get_ref().clone()),
        partition,
        columns,
        default: default?,
        keep_extra: raw.keep_extra.unwrap_or(true),
        span: raw.span.as_ref().map(|s| Span { start: s.get_ref().start.clone(), end: s.get_ref().end.clone() }),
        content_key: raw.content_key.as_ref().map(|c| c.get_ref().clone()),
        dormant: raw.dormant.as_ref().map(|c| c.get_ref().clone()),
        content: raw.content.as_ref().map(|c| content(c.get_ref())),
        confidential: raw.confidential.as_ref().map(|c| c.get_ref().clone()),
        secret: raw.secret.as_ref().map(|c| c.get_ref().clone()),
        anonymized: raw.anonymized.as_ref().map(|c| c.get_ref().clone()),
    })
}

fn path(entry: &Entry<'_>, mode: Option<&Mode>) -> Result<String, CatalogError> {
    match (&entry.raw.get_ref().path, mode) {
        (Some(path), Some(Mode::Extracted { .. })) => {
            Err(entry.fault(path, "the key `path` has no meaning with mode `extracted`", None))
        }
        // Without a mode nobody knows whether it is needed.
        (None, Some(Mode::Extracted { .. }) | None) => Ok(String::new()),
        (Some(path), _) => checked_path(entry, "path", path),
        (None, _) => Err(entry.missing("path", "")),
    }
}

/// A column that is appended from another file and is there: the resource has likely got it meanwhile.
fn grown(e: CatalogError) -> CatalogError {
    match e {
        CatalogError::Invalid { file, line, column, message, hint: None } if message.contains("already") => {
            let hint = Some("the resource has it itself, or another file adds it: remove it here".to_owned());
            CatalogError::Invalid { file, line, column, message, hint }
        }
        e => e,
    }
}

/// Its own columns, then those that others append.
fn columns(entry: &Entry<'_>, faults: &mut Faults) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut names = Names::default();
    let own = entry.raw.get_ref().columns.iter().map(|c| (entry.source, c));
    for (source, c) in own.chain(entry.appended.iter().copied()) {
        let made = column(source, c, &mut names, 0, faults);
        let made = made.map_err(|e| if std::ptr::eq(source, entry.source) { e } else { grown(e) });
        columns.extend(faults.keep(made));
        if names.total > MAX_COLUMNS {
            let message = format!("resource `{}`: more than {MAX_COLUMNS} columns", entry.name());
            faults.0.push(source.fault(c.span(), message, None));
            break;
        }
    }
    columns
}

fn content(raw: &RawContent) -> Content {
    let one = |d: &RawDocument| Document {
        name: Some(d.name.clone()),
        when: d.when.as_ref().map(|w| w.get_ref().clone()),
        query: d.query.clone().into_iter().collect(),
    };
    let mut documents: Vec<Document> = raw.documents.iter().map(one).collect();
    if documents.is_empty() {
        documents.push(Document { name: None, when: None, query: Vec::new() });
    }
    Content { ext: raw.ext.as_ref().map(|e| e.get_ref().clone()), documents }
}

fn by_default(entry: &Entry<'_>) -> Result<ByDefault, CatalogError> {
    let own = entry.raw.get_ref().default.as_ref();
    let Some(raw) = own.or_else(|| entry.defaults.iter().find_map(|d| d.default.as_ref())) else {
        return Ok(ByDefault::Named);
    };
    match raw.get_ref() {
        RawDefault::Is(true) => Ok(ByDefault::Always),
        RawDefault::Is(false) => Ok(ByDefault::Named),
        RawDefault::Word(word) if word == "granted" => Ok(ByDefault::Granted),
        RawDefault::Word(word) => {
            let message = format!("key `default`: expected `true`, `false` or `\"granted\"`, not `{word}`");
            Err(entry.fault(raw, message, None))
        }
    }
}

/// Whether a path can stand in a catalogue: below the API base, without a query.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'.' | b':'));
    plain && path.strip_prefix('/').is_some_and(|p| p.split('/').all(|s| !matches!(s, "" | "." | "..")))
}

fn checked_path(entry: &Entry<'_>, key: &str, raw: &Spanned<String>) -> Result<String, CatalogError> {
    let path = raw.get_ref();
    if is_plain_path(path) {
        return Ok(path.clone());
    }
    let message = format!("key `{key}`: expected a path such as `/users`, not `{path}`");
    Err(entry.fault(raw, message, Some("begin with `/`; no `..`, no query, no slash at the end".into())))
}

fn mode(entry: &Entry<'_>) -> Result<Mode, CatalogError> {
    let raw = entry.raw.get_ref();
    let word = raw.mode.get_ref().as_str();
    let allowed: &[&str] = match word {
        "incremental" => &["cursor", "load", "bare"],
        "full" => &["span", "content_key"],
        "tombstones" => &["of", "cursor"],
        "extracted" => &["from", "field", "parent"],
        "children" => &["from", "parent", "absent_is_empty", "skip", "content"],
        _ => {
            let words = ["incremental", "full", "tombstones", "extracted", "children"];
            let near = nearest(word, words).map(|n| format!("did you mean `{n}`?"));
            let message = format!(
                "key `mode`: expected `incremental`, `full`, `tombstones`, `extracted` or `children`, not `{word}`"
            );
            return Err(entry.fault(&raw.mode, message, near));
        }
    };
    let given = [
        ("cursor", raw.cursor.as_ref().map(Spanned::span)),
        ("load", raw.load.as_ref().map(Spanned::span)),
        ("bare", raw.bare.as_ref().map(Spanned::span)),
        ("of", raw.of.as_ref().map(Spanned::span)),
        ("from", raw.from.as_ref().map(Spanned::span)),
        ("field", raw.field.as_ref().map(Spanned::span)),
        ("span", raw.span.as_ref().map(Spanned::span)),
        ("content_key", raw.content_key.as_ref().map(Spanned::span)),
        ("absent_is_empty", raw.absent_is_empty.as_ref().map(Spanned::span)),
        ("skip", raw.skip.as_ref().map(Spanned::span)),
        ("content", raw.content.as_ref().map(Spanned::span)),
    ];
    for (key, span) in given {
        if let Some(span) = span
            && !allowed.contains(&key)
        {
            return Err(entry.fault(
                &Spanned::new(span, ()),
                format!("the key `{key}` has no meaning with mode `{word}`"),
                None,
            ));
        }
    }
    let filter = |f: &Spanned<RawFilter>| {
        let f = f.get_ref();
        TimeFilter { column: f.column.get_ref().clone(), start: f.start.clone(), end: f.end.clone() }
    };
    let why = format!(": mode `{word}` needs it");
    let cursor = || raw.cursor.as_ref().map(filter).ok_or_else(|| entry.missing("cursor", &why));
    let named = |key: &str, value: &Option<Spanned<String>>| -> Result<ResourceName, CatalogError> {
        let value = value.as_ref().ok_or_else(|| entry.missing(key, &why))?;
        value.get_ref().parse().map_err(|e| entry.fault(value, format!("key `{key}`: {e}"), None))
    };
    Ok(match word {
        "incremental" => Mode::Incremental {
            cursor: cursor()?,
            load: raw.load.as_ref().map(filter),
            bare: raw.bare.as_ref().is_some_and(|b| *b.get_ref()),
        },
        "tombstones" => Mode::Tombstones { of: named("of", &raw.of)?, cursor: cursor()? },
        "extracted" => Mode::Extracted {
            from: named("from", &raw.from)?,
            field: raw.field.as_ref().map(|f| f.get_ref().clone()).ok_or_else(|| entry.missing("field", &why))?,
        },
        "children" => Mode::Children {
            from: named("from", &raw.from)?,
            absent_is_empty: raw.absent_is_empty.as_ref().is_some_and(|a| *a.get_ref()),
            skip: raw.skip.as_ref().map(|s| skip(entry, s.get_ref())).transpose()?,
        },
        _ => Mode::Full,
    })
}

fn skip(entry: &Entry<'_>, raw: &RawSkip) -> Result<Skip, CatalogError> {
    let is = match raw.is.get_ref().as_str() {
        "null" => SkipIf::Null,
        "empty" => SkipIf::Empty,
        other => {
            let message = format!("key `is`: expected `null` or `empty`, not `{other}`");
            return Err(entry.fault(&raw.is, message, None));
        }
    };
    let evidence = raw.evidence.get_ref().trim();
    if evidence.is_empty() {
        let message = "key `evidence`: say how it is known that such a parent has no children";
        return Err(entry.fault(
            &raw.evidence,
            message,
            Some("or leave the rule out: it costs rows if it is wrong".into()),
        ));
    }
    Ok(Skip { column: raw.column.get_ref().clone(), is, evidence: evidence.to_owned() })
}

fn paging(entry: &Entry<'_>) -> Result<Paging, CatalogError> {
    let own = entry.raw.get_ref().paging.as_ref();
    let raw = own
        .or_else(|| entry.defaults.iter().find_map(|d| d.paging.as_ref()))
        .ok_or_else(|| entry.missing("paging", ""))?;
    let paging = raw.get_ref();
    let need = |key: &str, value: &Option<String>| {
        value.clone().ok_or_else(|| entry.fault(raw, format!("key `paging`: `{key}` is missing"), None))
    };
    match paging.kind.get_ref().as_str() {
        "single" => Ok(Paging::Single),
        "token" => {
            let limit = match &paging.limit {
                Some(limit) => match u32::try_from(*limit.get_ref()) {
                    Ok(n) if (1..=100).contains(&n) => n,
                    _ => {
                        let message = format!("key `limit`: expected 1 to 100, not {}", limit.get_ref());
                        return Err(entry.fault(limit, message, None));
                    }
                },
                None => return Err(entry.fault(raw, "key `paging`: `limit` is missing", None)),
            };
            Ok(Paging::Token {
                param: need("param", &paging.param)?,
                next: need("next", &paging.next)?,
                more: need("more", &paging.more)?,
                limit_param: need("limit_param", &paging.limit_param)?,
                limit,
            })
        }
        other => {
            let message = format!("key `kind`: expected `token` or `single`, not `{other}`");
            Err(entry.fault(&paging.kind, message, None))
        }
    }
}

fn partition(entry: &Entry<'_>, raw: &RawPartition) -> Result<Partition, CatalogError> {
    let label = raw.label.get_ref();
    if !snake_case(label) {
        let message = format!("key `label`: expected snake_case such as `created`, not `{label}`");
        return Err(entry.fault(&raw.label, message, None));
    }
    let granularity: Granularity = raw
        .granularity
        .get_ref()
        .parse()
        .map_err(|e| entry.fault(&raw.granularity, format!("key `granularity`: {e}"), None))?;
    if matches!(granularity, Granularity::Year | Granularity::Month) && raw.column.is_none() {
        let message = format!("key `granularity`: `{granularity}` needs a partition time");
        return Err(entry.fault(&raw.granularity, message, Some("add `column = …`, or use `none`".into())));
    }
    Ok(Partition { column: raw.column.as_ref().map(|c| c.get_ref().clone()), label: label.clone(), granularity })
}

pub(super) fn snake_case(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The wire name that a column has unless it says otherwise.
pub(crate) fn camel_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

/// Names taken so far in one struct, and columns in all of the resource.
#[derive(Default)]
struct Names {
    names: HashSet<String>,
    sources: HashSet<String>,
    total: usize,
}

fn column(
    source: &Source,
    raw: &Spanned<RawColumn>,
    taken: &mut Names,
    depth: usize,
    faults: &mut Faults,
) -> Result<Column, CatalogError> {
    let c = raw.get_ref();
    let name = c.name.get_ref();
    let fault = |span: Range<usize>, message: String, hint: Option<&str>| {
        Err(source.fault(span, format!("column `{name}`: {message}"), hint.map(str::to_owned)))
    };
    if name.starts_with('_') {
        return fault(c.name.span(), "names beginning with `_` are our own".into(), None);
    }
    if !snake_case(name) {
        let message = format!("expected snake_case of at most {MAX_NAME_BYTES} letters, digits and `_`");
        return fault(c.name.span(), message, Some("give the wire name as `source`"));
    }
    let wire = c.source.as_ref().map_or_else(|| camel_case(name), |s| s.get_ref().clone());
    let wire_span = c.source.as_ref().map_or_else(|| c.name.span(), Spanned::span);
    if wire.is_empty() {
        return fault(wire_span, "the `source` is empty".into(), None);
    }
    taken.total += 1;
    if !taken.names.insert(name.to_ascii_lowercase()) {
        return fault(c.name.span(), "this name is there already".into(), None);
    }
    if !taken.sources.insert(wire.clone()) {
        return fault(wire_span, format!("another column already takes `{wire}`"), None);
    }
    if depth > 0 && (c.sensitive || c.volatile || c.from_parent.is_some() || c.class.is_some()) {
        let message = "`sensitive`, `class`, `volatile` and `from_parent` are said of whole columns".into();
        return fault(raw.span(), message, Some("say it of the column that holds this field"));
    }
    let class = c.class.as_ref().map(|word| {
        Class::of(word.get_ref()).ok_or_else(|| {
            let words = Class::ALL.map(Class::word);
            let near = nearest(word.get_ref(), words).map(|n| format!("did you mean `{n}`?"));
            let known = words.map(|w| format!("`{w}`")).join(", ");
            let message = format!("column `{name}`: key `class`: expected one of {known}, not `{}`", word.get_ref());
            source.fault(word.span(), message, near)
        })
    });
    let ty = column_type(source, raw, taken, depth, faults)?;
    if !c.also.is_empty() && matches!(ty, ColumnType::Text | ColumnType::Json | ColumnType::Ref) {
        return fault(raw.span(), format!("`also` has no meaning with type `{ty}`, which takes any text"), None);
    }
    Ok(Column {
        name: name.clone(),
        source: wire,
        ty,
        sensitive: c.sensitive,
        class: class.transpose()?,
        volatile: c.volatile,
        from_parent: c.from_parent.as_ref().map(|f| f.get_ref().clone()),
        also: c.also.clone(),
        about: c.about.clone().unwrap_or_default(),
    })
}

fn column_type(
    source: &Source,
    raw: &Spanned<RawColumn>,
    taken: &mut Names,
    depth: usize,
    faults: &mut Faults,
) -> Result<ColumnType, CatalogError> {
    const KNOWN: [&str; 10] =
        ["text", "int", "int(lenient)", "float", "bool", "timestamp", "timestamp(lenient)", "json", "ref", "struct"];
    let c = raw.get_ref();
    let fault = |span: Range<usize>, message: String, hint: Option<String>| {
        Err(source.fault(span, format!("column `{}`: {message}", c.name.get_ref()), hint))
    };
    let mut inner = c.ty.get_ref().as_str();
    let mut lists = 0;
    while let Some(item) = inner.strip_prefix("list<").and_then(|t| t.strip_suffix('>')) {
        inner = item;
        lists += 1;
    }
    if lists > MAX_LISTS {
        return fault(c.ty.span(), format!("key `type`: at most {MAX_LISTS} lists inside each other"), None);
    }
    let mut ty = match inner {
        "text" => ColumnType::Text,
        "int" => ColumnType::Int { lenient: false },
        "int(lenient)" => ColumnType::Int { lenient: true },
        "float" => ColumnType::Float,
        "bool" => ColumnType::Bool,
        "timestamp" => ColumnType::Timestamp { lenient: false },
        "timestamp(lenient)" => ColumnType::Timestamp { lenient: true },
        "json" => ColumnType::Json,
        "ref" => ColumnType::Ref,
        "struct" => {
            let Some(fields) = c.fields.as_ref().filter(|f| !f.is_empty()) else {
                let hint = "add `fields = [{ name = …, type = … }]`, or use `json`";
                return fault(c.ty.span(), "a struct needs `fields`".into(), Some(hint.into()));
            };
            if depth >= MAX_DEPTH {
                return fault(
                    raw.span(),
                    format!("at most {MAX_DEPTH} structs inside each other"),
                    Some("use `json`".into()),
                );
            }
            let mut inside = Names { total: taken.total, ..Names::default() };
            let mut columns = Vec::with_capacity(fields.len());
            for field in fields {
                let made = column(source, field, &mut inside, depth + 1, faults);
                columns.extend(faults.keep(made));
            }
            taken.total = inside.total;
            ColumnType::Struct(columns)
        }
        other => {
            let message = format!(
                "key `type`: unknown type `{other}`; expected one of {} or `list<…>` of one",
                KNOWN.map(|k| format!("`{k}`")).join(", ")
            );
            return fault(c.ty.span(), message, nearest(other, KNOWN).map(|n| format!("did you mean `{n}`?")));
        }
    };
    if let Some(fields) = &c.fields
        && inner != "struct"
    {
        let at = fields.first().map_or_else(|| raw.span(), Spanned::span);
        return fault(at, format!("`fields` has no meaning with type `{}`", c.ty.get_ref()), None);
    }
    for _ in 0..lists {
        ty = ColumnType::List(Box::new(ty));
    }
    Ok(ty)
}

/// What can be judged only when every resource is known, and what ties the parts of one together. What refers to a `broken`
/// resource is not judged.
fn check(entry: &Entry<'_>, resource: &Resource, all: &[Resource], broken: &BTreeSet<String>, faults: &mut Faults) {
    let raw = entry.raw.get_ref();
    for (i, key) in resource.key.iter().enumerate() {
        let at = raw.key.as_ref().and_then(|k| k.get(i)).unwrap_or(&raw.name);
        faults.keep(key_column(entry, resource, i, key, at));
    }
    for (name, filter) in [("cursor", &raw.cursor), ("load", &raw.load)] {
        if let Some(filter) = filter {
            let column = &filter.get_ref().column;
            faults.keep(timestamp(entry, resource, name, column.get_ref(), column));
        }
    }
    if let Some(column) = raw.partition.as_ref().and_then(|p| p.column.as_ref()) {
        faults.keep(timestamp(entry, resource, "partition", column.get_ref(), column));
    }
    if let Some(p) = &resource.partition
        && let Some(c) = resource.columns.iter().find(|c| p.folders().contains(&c.name))
    {
        let message = format!("column `{}` has the name of a partition folder", c.name);
        let hint = "rename the column, and give its wire name as `source`";
        faults.0.push(entry.column_fault(&c.name, message, Some(hint.into())));
    }
    let others = Others { entry, all, broken };
    faults.keep(relations(&others, resource));
    if let Some(name) = &raw.dormant {
        faults.keep(find(entry, resource, "dormant", name.get_ref(), name));
    }
    for (key, name, ty) in [
        ("confidential", &raw.confidential, ColumnType::Text),
        ("secret", &raw.secret, ColumnType::Bool),
        ("anonymized", &raw.anonymized, ColumnType::Bool),
    ] {
        if let Some(name) = name
            && let Some(c) = faults.keep(find(entry, resource, key, name.get_ref(), name))
            && c.ty != ty
        {
            let message = format!("key `{key}`: column `{}` is `{}`; expected `{ty}`", c.name, c.ty);
            faults.0.push(entry.fault(name, message, None));
        }
    }
    for c in resource.columns.iter().filter(|c| c.class.is_some()) {
        if let Some(why) = held_by(all, resource, c) {
            let message = format!("column `{}` may have no `class`: {why}", c.name);
            faults.0.push(entry.column_fault(&c.name, message, None));
        }
    }
    if let Some(name) = &raw.content_key
        && let Some(c) = faults.keep(find(entry, resource, "content_key", name.get_ref(), name))
        && (c.ty != ColumnType::Text || resource.key != [c.name.clone()])
    {
        let message = format!("key `content_key`: column `{}` must be `text` and the only key", c.name);
        faults.0.push(entry.fault(name, message, None));
    }
    if resource.mode.parent().is_none() {
        for c in resource.columns.iter().filter(|c| c.from_parent.is_some()) {
            let message =
                format!("column `{}`: `from_parent` has a meaning only with modes `extracted` and `children`", c.name);
            faults.0.push(entry.column_fault(&c.name, message, None));
        }
    }
}

fn key_column(
    entry: &Entry<'_>,
    resource: &Resource,
    i: usize,
    key: &str,
    at: &Spanned<String>,
) -> Result<(), CatalogError> {
    let c = find(entry, resource, "key", key, at)?;
    if !matches!(c.ty, ColumnType::Text | ColumnType::Ref | ColumnType::Int { .. }) {
        let message = format!("key `key`: column `{key}` is `{}`; expected text, ref or int", c.ty);
        return Err(entry.fault(at, message, None));
    }
    if c.sensitive || c.volatile {
        let message = format!("key `key`: column `{key}` may be neither sensitive nor volatile");
        return Err(entry.fault(at, message, None));
    }
    if resource.key.iter().take(i).any(|k| k == key) {
        return Err(entry.fault(at, format!("key `key`: column `{key}` is there twice"), None));
    }
    Ok(())
}

/// The resources that one may name.
struct Others<'a> {
    entry: &'a Entry<'a>,
    all: &'a [Resource],
    broken: &'a BTreeSet<String>,
}

impl Others<'_> {
    /// The one that `key` names; `None` where it is there and has mistakes of its own.
    fn named(
        &self,
        key: &str,
        name: &ResourceName,
        at: &Option<Spanned<String>>,
    ) -> Result<Option<&Resource>, CatalogError> {
        if self.broken.contains(name.as_str()) {
            return Ok(None);
        }
        let at = at.as_ref().unwrap_or(&self.entry.raw.get_ref().name);
        self.all.iter().find(|r| r.name == *name).map(Some).ok_or_else(|| {
            let near = nearest(name.as_str(), self.all.iter().map(|r| r.name.as_str()));
            let hint = near.map(|n| format!("did you mean `{n}`?"));
            self.entry.fault(at, format!("key `{key}`: there is no resource `{name}`"), hint)
        })
    }
}

fn relations(others: &Others<'_>, resource: &Resource) -> Result<(), CatalogError> {
    let (entry, all) = (others.entry, others.all);
    let raw = entry.raw.get_ref();
    match &resource.mode {
        Mode::Tombstones { of, .. } => {
            let Some(target) = others.named("of", of, &raw.of)? else { return Ok(()) };
            if matches!(target.mode, Mode::Tombstones { .. }) {
                let at = raw.of.as_ref().unwrap_or(&raw.name);
                return Err(entry.fault(at, format!("key `of`: `{of}` is a list of tombstones itself"), None));
            }
        }
        Mode::Extracted { from, field } => {
            let Some(carrier) = others.named("from", from, &raw.from)? else { return Ok(()) };
            let at = raw.from.as_ref().unwrap_or(&raw.name);
            // One level only: this is also what makes a circle impossible.
            if !matches!(carrier.mode, Mode::Incremental { .. } | Mode::Full) {
                let message = format!("key `from`: `{from}` has no listing of its own, but is {}", carrier.mode.word());
                return Err(entry.fault(at, message, None));
            }
            extracted(entry, resource, carrier, field)?;
            if let Some(twin) = all.iter().take_while(|r| r.name != resource.name).find(|r| r.mode == resource.mode) {
                let message = format!("key `field`: `{}` already takes `{field}` out of `{from}`", twin.name);
                return Err(entry.fault(raw.field.as_ref().unwrap_or(at), message, None));
            }
        }
        Mode::Children { from, skip, .. } => {
            let Some(carrier) = others.named("from", from, &raw.from)? else { return Ok(()) };
            children(entry, resource, carrier, skip.as_ref())?;
        }
        Mode::Incremental { .. } | Mode::Full => {}
    }
    Ok(())
}

fn extracted(entry: &Entry<'_>, resource: &Resource, carrier: &Resource, field: &str) -> Result<(), CatalogError> {
    let raw = entry.raw.get_ref();
    let at = raw.field.as_ref().unwrap_or(&raw.name);
    let holds = carrier.columns.iter().find(|c| c.source == field);
    let many = match holds.map(|c| &c.ty) {
        Some(ColumnType::Ref) => false,
        Some(ColumnType::List(item)) if **item == ColumnType::Ref => true,
        Some(other) => {
            let message =
                format!("key `field`: `{field}` of `{}` is `{other}`; expected `ref` or `list<ref>`", carrier.name);
            return Err(entry.fault(at, message, None));
        }
        None => {
            let near = nearest(field, carrier.columns.iter().map(|c| c.source.as_str()));
            let message = format!("key `field`: `{}` has no wire field `{field}`", carrier.name);
            return Err(entry.fault(at, message, near.map(|n| format!("did you mean `{n}`?"))));
        }
    };
    filled_from(entry, resource, carrier)?;
    if raw.parent.is_some() {
        parent_column(entry, resource, carrier)?;
    } else if many {
        let message = "key `parent` is missing: a list belongs to the record that holds it";
        return Err(entry.fault(at, message, Some("name the column with the parent's id".into())));
    }
    Ok(())
}

fn children(
    entry: &Entry<'_>,
    resource: &Resource,
    carrier: &Resource,
    skip: Option<&Skip>,
) -> Result<(), CatalogError> {
    let raw = entry.raw.get_ref();
    if let Some(path) = &raw.path
        && resource.path.split('/').filter(|part| *part == ":id").count() != 1
    {
        let message =
            "key `path`: expected `:id` once, where the parent's key stands, as in `/opportunities/:id/notes`";
        return Err(entry.fault(path, message, None));
    }
    if let (Some(content), Some(at)) = (&resource.content, &raw.content) {
        documents(entry, resource, carrier, content, at)?;
    }
    if let Some(path) = raw.path.as_ref().filter(|_| resource.path.contains(":parent"))
        && carrier.parent.is_none()
    {
        let message = format!("key `path`: `{}` has no parent that `:parent` could be", carrier.name);
        return Err(entry.fault(path, message, None));
    }
    filled_from(entry, resource, carrier)?;
    if raw.parent.is_none() {
        return Err(entry.missing("parent", ": the column with the parent's id, by which rows are replaced"));
    }
    parent_column(entry, resource, carrier)?;
    if let (Some(skip), Some(at)) = (skip, &raw.skip)
        && carrier.column(&skip.column).is_none()
    {
        let message = format!("key `skip`: `{}` has no column `{}`", carrier.name, skip.column);
        return Err(entry.fault(at, message, None));
    }
    Ok(())
}

fn documents(
    entry: &Entry<'_>,
    resource: &Resource,
    carrier: &Resource,
    content: &Content,
    at: &Spanned<RawContent>,
) -> Result<(), CatalogError> {
    for (name, ty) in CONTENT_COLUMNS {
        if resource.column(name).is_none_or(|c| c.ty != ty) {
            let message = format!("key `content`: the table needs a column `{name}` of type `{ty}`");
            return Err(entry.fault(at, message, None));
        }
    }
    let several = content.documents.iter().any(|d| d.name.is_some());
    if several && resource.column("document").is_none_or(|c| c.ty != ColumnType::Text) {
        let message = "key `content`: with `documents` the table needs a column `document` of type `text`";
        return Err(entry.fault(at, message, None));
    }
    let of_parent = content.documents.iter().filter_map(|d| d.when.as_ref()).chain(&content.ext);
    for name in of_parent {
        if carrier.column(name).is_none() {
            let message = format!("key `content`: `{}` has no column `{name}`", carrier.name);
            return Err(entry.fault(at, message, None));
        }
    }
    Ok(())
}

/// Children of children are fine, a circle is not: nobody would be read first.
fn no_circle(entry: &Entry<'_>, resource: &Resource, all: &[Resource]) -> Result<(), CatalogError> {
    let mut at = resource;
    for _ in 0..all.len() {
        let Some(from) = at.mode.parent() else { return Ok(()) };
        let Some(next) = all.iter().find(|r| r.name == *from) else { return Ok(()) };
        at = next;
    }
    let from = &entry.raw.get_ref().from;
    let message = "key `from`: its parents lead back to itself";
    Err(entry.fault(from.as_ref().unwrap_or(&entry.raw.get_ref().name), message, None))
}

fn filled_from(entry: &Entry<'_>, resource: &Resource, carrier: &Resource) -> Result<(), CatalogError> {
    for c in &resource.columns {
        let Some(from) = &c.from_parent else { continue };
        let parent = carrier.columns.iter().find(|p| p.source == *from);
        if parent.is_none_or(|p| {
            arrow_type(&p.ty) != arrow_type(&c.ty) || matches!(p.ty, ColumnType::List(_) | ColumnType::Struct(_))
        }) {
            let message =
                format!("column `{}`: `{}` has no wire field `{from}` of type `{}`", c.name, carrier.name, c.ty);
            return Err(entry.column_fault(&c.name, message, None));
        }
    }
    Ok(())
}

fn parent_column(entry: &Entry<'_>, resource: &Resource, carrier: &Resource) -> Result<(), CatalogError> {
    let Some(parent) = &entry.raw.get_ref().parent else { return Ok(()) };
    let name = parent.get_ref();
    let c = find(entry, resource, "parent", name, parent)?;
    let key = match carrier.key.as_slice() {
        [key] => carrier.column(key),
        _ => {
            let message = format!(
                "key `parent`: `{}` is identified by {} columns together, and parents need one",
                carrier.name,
                carrier.key.len()
            );
            return Err(entry.fault(
                parent,
                message,
                Some("only a resource with a single key column can have children".into()),
            ));
        }
    };
    if key.is_none_or(|k| c.from_parent.as_deref() != Some(k.source.as_str())) {
        let message =
            format!("key `parent`: column `{name}` is not filled from the one key column of `{}`", carrier.name);
        return Err(entry.fault(parent, message, Some("give it `from_parent = \"id\"`".into())));
    }
    Ok(())
}

fn find<'r>(
    entry: &Entry<'_>,
    resource: &'r Resource,
    key: &str,
    column: &str,
    at: &Spanned<String>,
) -> Result<&'r Column, CatalogError> {
    resource.column(column).ok_or_else(|| {
        let near = nearest(column, resource.columns.iter().map(|c| c.name.as_str()));
        entry.fault(
            at,
            format!("key `{key}`: there is no column `{column}`"),
            near.map(|n| format!("did you mean `{n}`?")),
        )
    })
}

fn timestamp(
    entry: &Entry<'_>,
    resource: &Resource,
    key: &str,
    column: &str,
    at: &Spanned<String>,
) -> Result<(), CatalogError> {
    let c = find(entry, resource, key, column, at)?;
    if !matches!(c.ty, ColumnType::Timestamp { .. }) {
        return Err(entry.fault(
            at,
            format!("key `{key}`: column `{column}` is `{}`; expected a timestamp", c.ty),
            None,
        ));
    }
    if c.sensitive || c.volatile {
        return Err(entry.fault(
            at,
            format!("key `{key}`: column `{column}` may be neither sensitive nor volatile"),
            None,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Environment, Table};

    fn with(text: &str) -> Result<Provider, CatalogError> {
        assemble(&[
            Source { name: EMBEDDED.0.into(), text: EMBEDDED.1.into() },
            Source { name: "mine/x.toml".into(), text: text.into() },
        ])
    }

    fn all_columns<'a>(columns: &'a [Column], into: &mut Vec<&'a Column>) {
        for c in columns {
            into.push(c);
            let mut ty = &c.ty;
            while let ColumnType::List(item) = ty {
                ty = item;
            }
            if let ColumnType::Struct(fields) = ty {
                all_columns(fields, into);
            }
        }
    }

    #[test]
    fn every_embedded_resource_makes_a_table() {
        let p = embedded().unwrap();
        assert_eq!(p.resources.len(), 37);
        for r in &p.resources {
            let table = Table::new(&p.name, r, None).unwrap();
            assert_eq!(table.schema.fields().len(), r.columns.len() + 4, "{}", r.name);
            let expected = match (r.name.as_str(), &r.mode) {
                // Specially protected, and the surveys that ask for it.
                ("eeo_responses" | "eeo_responses_pii" | "surveys_diversity", _) => ByDefault::Named,
                // Documents are heavy.
                _ if r.content.is_some() => ByDefault::Named,
                (_, Mode::Children { .. }) => ByDefault::Granted,
                _ => ByDefault::Always,
            };
            assert_eq!(r.default, expected, "{}", r.name);
        }
    }

    #[test]
    fn a_column_is_named_as_its_field() {
        let snake = |source: &str| {
            source.chars().fold(String::new(), |mut s, c| {
                if c.is_ascii_uppercase() {
                    s.push('_');
                }
                s.push(c.to_ascii_lowercase());
                s
            })
        };
        for r in embedded().unwrap().resources {
            let mut columns = Vec::new();
            all_columns(&r.columns, &mut columns);
            for c in columns {
                if r.content_key.as_ref() != Some(&c.name) {
                    assert_eq!(snake(&c.source), c.name, "{}", r.name);
                }
                assert!(!c.about.is_empty(), "{}.{} says nothing of itself", r.name, c.name);
            }
        }
    }

    #[test]
    fn a_person_is_sensitive_and_a_count_is_volatile() {
        let p = embedded().unwrap();
        let marked = |name: &str, of: fn(&Column) -> bool| {
            p.resource(name)
                .unwrap()
                .columns
                .iter()
                .filter(|c| of(c))
                .map(|c| c.name.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(marked("opportunities", |c| c.sensitive), "name headline location phones emails links");
        assert_eq!(
            marked("applications", |c| c.sensitive),
            "name company phone email links comments custom_questions ip_address referer user_agent accept_language timezone resume"
        );
        assert_eq!(marked("contacts", |c| c.sensitive), "name headline location emails phones");
        assert_eq!(marked("users", |c| c.sensitive), "");
        assert_eq!(marked("tags", |c| c.volatile), "count");
        assert_eq!(marked("sources", |c| c.volatile), "count");
    }

    #[test]
    fn extraction_fills_from_the_parent() {
        let p = embedded().unwrap();
        let applications = p.resource("applications").unwrap();
        assert_eq!(applications.parent.as_deref(), Some("opportunity_id"));
        assert_eq!(applications.path, "/opportunities", "it is read where its records stand");
        assert_eq!(applications.column("opportunity_created_at").unwrap().from_parent.as_deref(), Some("createdAt"));
        assert_eq!(p.resource("contacts").unwrap().parent, None);
    }

    #[test]
    fn scopes_and_hosts_are_those_of_the_reference() {
        let p = embedded().unwrap();
        assert_eq!(p.oauth.scopes.len(), 52);
        assert_eq!((p.oauth.max_scopes, p.oauth.idle_days, p.oauth.hard_days), (20, 90, 365));
        assert_eq!(p.endpoints(Environment::Production).api_base.as_str(), "https://api.lever.co/v1");
        assert_eq!(p.endpoints(Environment::Sandbox).audience, "https://api.sandbox.lever.co/v1/");
        assert_eq!((p.rate.per_second, p.rate.burst), (10.0, 15));
    }

    #[test]
    fn a_file_of_ones_own_replaces_extends_and_adds() {
        let p = with(
            r#"
            [provider.production]
            api_base = "https://api.eu.lever.co/v1/"
            [provider]
            rate = { per_second = 4, burst = 2 }
            [[resource]]
            name = "stages"
            path = "/stages"
            mode = "full"
            columns = [{ name = "id", type = "text" }]
            [[resource]]
            name = "hooks"
            path = "/hooks"
            scope = "webhooks:read:admin"
            mode = "full"
            default = false
            paging = { kind = "single" }
            columns = [{ name = "id", type = "text" }, { name = "hook_url", source = "url", type = "list<list<text>>" }]
            [[extend]]
            name = "users"
            columns = [{ name = "nick_name", type = "text" }]
            "#,
        )
        .unwrap();
        assert_eq!(p.production.api_base.as_str(), "https://api.eu.lever.co/v1", "no slash at the end");
        assert_eq!(p.production.token.as_str(), "https://auth.lever.co/oauth/token", "the rest stays");
        assert_eq!((p.rate.per_second, p.rate.burst), (4.0, 2));
        assert_eq!(p.resources.len(), 38);
        assert_eq!(p.resource("stages").unwrap().columns.len(), 1);
        assert_eq!(p.resource("stages").unwrap().key, ["id"], "the defaults hold for every file");
        assert_eq!(p.resource("users").unwrap().columns.last().unwrap().source, "nickName");
        let webhooks = p.resource("hooks").unwrap();
        assert_eq!((webhooks.default, &webhooks.paging), (ByDefault::Named, &Paging::Single));
        assert_eq!(webhooks.columns[1].source, "url");
        assert_eq!(webhooks.columns[1].ty.to_string(), "list<list<text>>");
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let rate = |n: u32| format!("[provider]\nrate = {{ per_second = {n}, burst = 1 }}\n");
        std::fs::write(folder.path().join("b.toml"), rate(2)).unwrap();
        std::fs::write(folder.path().join("a.toml"), rate(1)).unwrap();
        std::fs::write(folder.path().join("c.txt"), "not a catalogue").unwrap();
        assert_eq!(load(Some(folder.path())).unwrap().rate.per_second, 2.0);
        std::fs::write(folder.path().join("d.toml"), " ".repeat(MAX_FILE_BYTES as usize + 1)).unwrap();
        assert!(matches!(load(Some(folder.path())), Err(CatalogError::TooLarge { .. })));
        std::fs::write(folder.path().join("d.toml"), b"# a\n\n  \xff").unwrap();
        let e = load(Some(folder.path())).unwrap_err().to_string();
        assert!(e.ends_with("d.toml:3:3: this is not UTF-8"), "{e}");
        assert!(matches!(load(Some(&folder.path().join("nowhere"))), Err(CatalogError::Read { .. })));
    }

    /// A resource that is right but for what a case adds or replaces.
    fn case(changed: &[(&str, &str)]) -> String {
        let mut keys = vec![
            ("name", "\"things\""),
            ("path", "\"/things\""),
            ("mode", "\"full\""),
            ("columns", "[{ name = \"id\", type = \"text\" }, { name = \"at\", type = \"timestamp\" }]"),
        ];
        for (key, value) in changed {
            keys.retain(|(k, _)| k != key);
            if !value.is_empty() {
                keys.push((key, value));
            }
        }
        let lines: Vec<String> = keys.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        format!("[[resource]]\n{}\n", lines.join("\n"))
    }

    #[test]
    fn the_mark_of_who_was_anonymized_is_a_bool() {
        let error = with(&case(&[("anonymized", "\"id\"")])).unwrap_err().to_string();
        assert!(error.contains("key `anonymized`: column `id` is `text`; expected `bool`"), "{error}");
        let provider = embedded().unwrap();
        let marked: Vec<_> =
            provider.resources.iter().filter(|r| r.anonymized.is_some()).map(|r| r.name.as_str()).collect();
        assert_eq!(marked, ["opportunities", "contacts"]);
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_what_was_expected() {
        assert!(with(&case(&[])).is_ok());
        let columns = |more: &str| format!("[{{ name = \"id\", type = \"text\" }}, {more}]");
        let id_and = [
            "{ name = \"Id\", type = \"text\" }",
            "{ name = \"id\", type = \"text\" }",
            "{ name = \"_id\", type = \"text\" }",
            "{ name = \"other\", source = \"id\", type = \"text\" }",
            "{ name = \"n\", type = \"txt\" }",
            "{ name = \"n\", type = \"struct\" }",
            "{ name = \"n\", type = \"text\", fields = [{ name = \"a\", type = \"text\" }] }",
            "{ name = \"n\", type = \"struct\", fields = [{ name = \"a\", type = \"text\" }, { name = \"a\", type = \"int\" }] }",
            "{ name = \"n\", type = \"struct\", fields = [{ name = \"a\", type = \"text\", sensitive = true }] }",
            "{ name = \"n\", type = \"list<list<list<list<text>>>>\" }",
            "{ name = \"n\", type = \"text\", colour = 3 }",
            "{ name = \"n\", type = \"text\", sensitive = \"yes\" }",
            "{ name = \"n\" }",
            "{ name = \"n\", type = \"text\", also = [\"x\"] }",
            "{ name = \"n\", type = \"text\", from_parent = \"id\" }",
            "{ name = \"tenant\", type = \"text\" }, { name = \"at\", type = \"timestamp\" }",
        ]
        .map(columns);
        let mut cases: Vec<String> = id_and
            .iter()
            .map(|c| case(&[("columns", c), ("partition", "{ label = \"created\", granularity = \"none\" }")]))
            .collect();
        cases.extend([
            case(&[("colour", "\"red\"")]),
            case(&[("scop", "\"users:read:admin\"")]),
            case(&[("mode", "3")]),
            case(&[("mode", "\"incremntal\"")]),
            case(&[("mode", "\"incremental\"")]),
            case(&[("cursor", "{ column = \"at\", start = \"a\", end = \"b\" }")]),
            case(&[("mode", "\"incremental\""), ("cursor", "{ column = \"id\", start = \"a\", end = \"b\" }")]),
            case(&[("mode", "\"incremental\""), ("cursor", "{ column = \"att\", start = \"a\", end = \"b\" }")]),
            case(&[
                ("mode", "\"tombstones\""),
                ("of", "\"opportunites\""),
                ("cursor", "{ column = \"at\", start = \"a\", end = \"b\" }"),
            ]),
            case(&[
                ("mode", "\"tombstones\""),
                ("of", "\"postings_deleted\""),
                ("cursor", "{ column = \"at\", start = \"a\", end = \"b\" }"),
            ]),
            case(&[
                ("mode", "\"extracted\""),
                ("path", ""),
                ("from", "\"opportunities\""),
                ("field", "\"applicatons\""),
            ]),
            case(&[("mode", "\"extracted\""), ("path", ""), ("from", "\"opportunities\""), ("field", "\"tags\"")]),
            case(&[("mode", "\"extracted\""), ("path", ""), ("from", "\"opportunities\""), ("field", "\"followers\"")]),
            case(&[
                ("mode", "\"extracted\""),
                ("path", ""),
                ("from", "\"opportunities\""),
                ("field", "\"followers\""),
                ("parent", "\"id\""),
            ]),
            case(&[("mode", "\"extracted\""), ("path", ""), ("from", "\"opportunities\""), ("field", "\"contact\"")]),
            case(&[("mode", "\"extracted\""), ("path", ""), ("from", "\"applications\""), ("field", "\"posting\"")]),
            case(&[("mode", "\"extracted\""), ("path", ""), ("from", "\"things\""), ("field", "\"id\"")]),
            case(&[("key", "[\"idd\"]")]),
            case(&[("key", "[\"at\"]")]),
            case(&[("key", "[]")]),
            case(&[("path", "\"things\"")]),
            case(&[("path", "\"/things/../users\"")]),
            case(&[("path", "\"/things?limit=1\"")]),
            case(&[("path", "")]),
            case(&[("item", "\"/things\"")]),
            case(&[("scope", "\"user:read:admin\"")]),
            case(&[(
                "paging",
                "{ kind = \"token\", param = \"o\", next = \"n\", more = \"m\", limit_param = \"l\", limit = 101 }",
            )]),
            case(&[("paging", "{ kind = \"pages\" }")]),
            case(&[("partition", "{ label = \"created\", granularity = \"week\" }")]),
            case(&[("partition", "{ label = \"created\", granularity = \"year\" }")]),
            case(&[("partition", "{ column = \"id\", label = \"created\", granularity = \"year\" }")]),
            case(&[("name", "\"Things/\"")]),
            format!("{}{}", case(&[]), case(&[])),
            "[[extend]]\nname = \"user\"\ncolumns = []\n".to_owned(),
            "[[extend]]\nname = \"users\"\ncolumns = [{ name = \"email\", type = \"text\" }]\n".to_owned(),
            "[provider.production]\napi_base = \"http://api.lever.co/v1\"\n".to_owned(),
            "[provider.production]\nhosts = [\"https://lever.co\"]\n".to_owned(),
            "[provider]\nname = \"smartrecruiters\"\n".to_owned(),
            "[provider]\nrate = { per_second = 0, burst = 1 }\n".to_owned(),
            "[[resource]\n".to_owned(),
            "resource = 3\n".to_owned(),
        ]);
        let mut said = String::new();
        for case in cases {
            match with(&case) {
                Ok(_) => said += &format!("TAKEN: {case}\n"),
                Err(e) => said += &format!("{e}\n"),
            }
        }
        assert!(!said.contains("TAKEN"), "{said}");
        insta::assert_snapshot!(said, @r#"
        mine/x.toml:5:53: column `Id`: expected snake_case of at most 63 letters, digits and `_`
        hint: give the wire name as `source`
        mine/x.toml:5:53: column `id`: this name is there already
        mine/x.toml:5:53: column `_id`: names beginning with `_` are our own
        mine/x.toml:5:71: column `other`: another column already takes `id`
        mine/x.toml:5:65: column `n`: key `type`: unknown type `txt`; expected one of `text`, `int`, `int(lenient)`, `float`, `bool`, `timestamp`, `timestamp(lenient)`, `json`, `ref`, `struct` or `list<…>` of one
        hint: did you mean `text`?
        mine/x.toml:5:65: column `n`: a struct needs `fields`
        hint: add `fields = [{ name = …, type = … }]`, or use `json`
        mine/x.toml:5:83: column `n`: `fields` has no meaning with type `text`
        mine/x.toml:5:125: column `a`: this name is there already
        mine/x.toml:5:85: column `a`: `sensitive`, `class`, `volatile` and `from_parent` are said of whole columns
        hint: say it of the column that holds this field
        mine/x.toml:5:65: column `n`: key `type`: at most 3 lists inside each other
        mine/x.toml:5:73: unknown key `colour`; expected one of `name`, `type`, `source`, `sensitive`, `volatile`, `from_parent`, `also`, `about`, `fields`, `class`
        mine/x.toml:5:85: key `sensitive`: invalid type: string "yes", expected a boolean
        mine/x.toml:5:44: the key `type` is missing
        hint: add `type = …` here
        mine/x.toml:5:44: column `n`: `also` has no meaning with type `text`, which takes any text
        mine/x.toml:5:53: resource `things`: column `n`: `from_parent` has a meaning only with modes `extracted` and `children`
        mine/x.toml:5:53: resource `things`: column `tenant` has the name of a partition folder
        hint: rename the column, and give its wire name as `source`
        mine/x.toml:6:1: unknown key `colour`; expected one of `name`, `about`, `path`, `item`, `scope`, `query`, `expand`, `records`, `paging`, `mode`, `cursor`, `load`, `bare`, `of`, `from`, `field`, `key`, `parent`, `partition`, `columns`, `default`, `keep_extra`, `span`, `content_key`, `dormant`, `anonymized`, `absent_is_empty`, `skip`, `confidential`, `secret`, `content`
        mine/x.toml:6:1: unknown key `scop`; expected one of `name`, `about`, `path`, `item`, `scope`, `query`, `expand`, `records`, `paging`, `mode`, `cursor`, `load`, `bare`, `of`, `from`, `field`, `key`, `parent`, `partition`, `columns`, `default`, `keep_extra`, `span`, `content_key`, `dormant`, `anonymized`, `absent_is_empty`, `skip`, `confidential`, `secret`, `content`
        hint: did you mean `scope`?
        mine/x.toml:5:8: key `mode`: invalid type: integer `3`, expected a string
        mine/x.toml:5:8: resource `things`: key `mode`: expected `incremental`, `full`, `tombstones`, `extracted` or `children`, not `incremntal`
        hint: did you mean `incremental`?
        mine/x.toml:2:8: resource `things`: the key `cursor` is missing: mode `incremental` needs it
        mine/x.toml:6:10: resource `things`: the key `cursor` has no meaning with mode `full`
        mine/x.toml:6:21: resource `things`: key `cursor`: column `id` is `text`; expected a timestamp
        mine/x.toml:6:21: resource `things`: key `cursor`: there is no column `att`
        hint: did you mean `at`?
        mine/x.toml:6:6: resource `things`: key `of`: there is no resource `opportunites`
        hint: did you mean `opportunities`?
        mine/x.toml:6:6: resource `things`: key `of`: `postings_deleted` is a list of tombstones itself
        mine/x.toml:6:9: resource `things`: key `field`: `opportunities` has no wire field `applicatons`
        hint: did you mean `applications`?
        mine/x.toml:6:9: resource `things`: key `field`: `tags` of `opportunities` is `list<text>`; expected `ref` or `list<ref>`
        mine/x.toml:6:9: resource `things`: key `parent` is missing: a list belongs to the record that holds it
        hint: name the column with the parent's id
        mine/x.toml:7:10: resource `things`: key `parent`: column `id` is not filled from the one key column of `opportunities`
        hint: give it `from_parent = "id"`
        mine/x.toml:6:9: resource `things`: key `field`: `contacts` already takes `contact` out of `opportunities`
        mine/x.toml:5:8: resource `things`: key `from`: `applications` has no listing of its own, but is extracted
        mine/x.toml:5:8: resource `things`: key `from`: `things` has no listing of its own, but is extracted
        mine/x.toml:6:8: resource `things`: key `key`: there is no column `idd`
        hint: did you mean `id`?
        mine/x.toml:6:8: resource `things`: key `key`: column `at` is `timestamp`; expected text, ref or int
        mine/x.toml:2:8: resource `things`: the key `key` is missing: the columns that identify a row
        mine/x.toml:5:8: resource `things`: key `path`: expected a path such as `/users`, not `things`
        hint: begin with `/`; no `..`, no query, no slash at the end
        mine/x.toml:5:8: resource `things`: key `path`: expected a path such as `/users`, not `/things/../users`
        hint: begin with `/`; no `..`, no query, no slash at the end
        mine/x.toml:5:8: resource `things`: key `path`: expected a path such as `/users`, not `/things?limit=1`
        hint: begin with `/`; no `..`, no query, no slash at the end
        mine/x.toml:2:8: resource `things`: the key `path` is missing
        mine/x.toml:6:8: resource `things`: key `item`: expected `:id` once, as in `/users/:id`
        mine/x.toml:6:9: resource `things`: key `scope`: the provider has no scope `user:read:admin`
        hint: did you mean `users:read:admin`?
        mine/x.toml:6:92: resource `things`: key `limit`: expected 1 to 100, not 101
        mine/x.toml:6:19: resource `things`: key `kind`: expected `token` or `single`, not `pages`
        mine/x.toml:6:48: resource `things`: key `granularity`: expected `none`, `year`, `month` or `bucket(n)` with n from 2 to 1024, not `week`
        mine/x.toml:6:48: resource `things`: key `granularity`: `year` needs a partition time
        hint: add `column = …`, or use `none`
        mine/x.toml:6:24: resource `things`: key `partition`: column `id` is `text`; expected a timestamp
        mine/x.toml:5:8: resource `Things/`: key `name`: resource name "Things/" cannot be used: it does not begin with a lower-case letter or a digit
        hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`
        mine/x.toml:7:8: resource `things`: this file has it twice
        hint: remove one of them
        mine/x.toml:2:8: key `name`: there is no resource `user` to extend
        hint: did you mean `users`?
        mine/x.toml:3:21: column `email`: this name is there already
        hint: the resource has it itself, or another file adds it: remove it here
        mine/x.toml:2:12: key `api_base`: only https is used, and http on the own machine
        hint: give an address such as `https://api.lever.co/v1`
        mine/x.toml:2:10: key `hosts`: `https://lever.co` is not a host; expected one such as `lever.co`
        mine/x.toml:2:8: key `name`: this file is about `smartrecruiters`, the catalogue is of `lever`
        hint: say `lever` or leave it out
        mine/x.toml:2:8: key `rate`: expected `per_second` above 0 and at most 10000, and `burst` of at least 1
        mine/x.toml:1:12: unclosed array table, expected `]`
        mine/x.toml:1:12: key `resource`: invalid type: integer `3`, expected a sequence
        "#);
    }

    #[test]
    fn a_mistake_about_privacy_is_named_with_its_place() {
        let columns = |more: &str| format!("[{{ name = \"id\", type = \"text\" }}, {more}]");
        let b = "{ name = \"b\", type = \"text\", sensitive = true }";
        let mut said = String::new();
        for case in [
            case(&[("columns", &columns("{ name = \"n\", type = \"text\", class = \"salary\" }"))]),
            case(&[("columns", &columns("{ name = \"n\", type = \"text\", class = \"contacts\" }"))]),
            case(&[("columns", "[{ name = \"id\", type = \"text\", class = \"identity\" }]")]),
            case(&[("columns", &columns(b)), ("secret", "\"b\"")]),
            case(&[("columns", &columns(b)), ("confidential", "\"bb\"")]),
            "[provider.confidential]\nparam = \"c\"\nvalue = \"all\"\nmark = \"c\"\nscope = \"confidental:access:admin\"\n".into(),
        ] {
            match with(&case) {
                Ok(_) => said += &format!("TAKEN: {case}\n"),
                Err(e) => said += &format!("{e}\n"),
            }
        }
        assert!(with(&case(&[("columns", &columns(b))])).is_ok(), "a class is not demanded of one's own columns");
        insta::assert_snapshot!(said, @"
        mine/x.toml:5:81: column `n`: key `class`: expected one of `identity`, `contact`, `free_text`, `answers`, `documents`, `pay`, `technical`, `protected`, not `salary`
        mine/x.toml:5:81: column `n`: key `class`: expected one of `identity`, `contact`, `free_text`, `answers`, `documents`, `pay`, `technical`, `protected`, not `contacts`
        hint: did you mean `contact`?
        mine/x.toml:5:21: resource `things`: column `id` may have no `class`: it is the key, by which a row is found
        mine/x.toml:6:10: resource `things`: key `secret`: column `b` is `text`; expected `bool`
        mine/x.toml:6:16: resource `things`: key `confidential`: there is no column `bb`
        hint: did you mean `b`?
        mine/x.toml:5:9: key `scope`: the provider has no scope `confidental:access:admin`
        hint: did you mean `confidential:access:admin`?
        ");
    }

    #[test]
    fn too_many_columns_and_too_deep_structs_are_refused() {
        let many: Vec<String> = (0..MAX_COLUMNS).map(|i| format!("{{ name = \"c{i}\", type = \"int\" }}")).collect();
        let many = format!("[{{ name = \"id\", type = \"text\" }}, {}]", many.join(", "));
        let e = with(&case(&[("columns", &many)])).unwrap_err().to_string();
        assert!(e.contains("more than 500 columns"), "{e}");
        let mut deep = "{ name = \"a\", type = \"text\" }".to_owned();
        for _ in 0..=MAX_DEPTH {
            deep = format!("{{ name = \"a\", type = \"struct\", fields = [{deep}] }}");
        }
        let e = with(&case(&[("columns", &format!("[{{ name = \"id\", type = \"text\" }}, {deep}]"))]))
            .unwrap_err()
            .to_string();
        assert!(e.contains("at most 6 structs inside each other"), "{e}");
    }

    #[test]
    fn the_nearest_word_is_near() {
        assert_eq!(nearest("scop", ["scope", "source"]), Some("scope"));
        assert_eq!(nearest("colour", ["scope", "about"]), None);
    }
}
