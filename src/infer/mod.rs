//! A path that no catalogue knows → the `[[resource]]` that would read it.
//!
//! A page or two (or the children of a few parents that the lake has) are asked for as a sync asks, under the tenant's lease;
//! the types are inferred over every record seen, and proposed as TOML that `catalog lint` takes. Nothing is written, and no
//! value of a record is in what is said.

mod shape;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};

use crate::auth::{Auth, AuthError, Session};
use crate::catalog::{
    self, ByDefault, Column, ColumnType, Granularity, Mode, Names, Paging, Partition, Proposed, Provider, Resource,
    is_plain_path, proposal,
};
use crate::extract::{Decoded, ExtractError, Pager};
use crate::http::Priority;
use crate::load::{self, Lake};
use crate::names::{ResourceName, RunId, Tenant};
use crate::state::State;
use crate::sync::{SyncError, World};
use shape::{Json, Shape};

/// Pages that are looked at of a listing: two hundred records tell what there is to tell.
const MOST_PAGES: usize = 2;
/// Records after which no further parent is asked.
const ENOUGH: u64 = 300;
/// Fields of a record beyond which its keys are likely ids.
const MOST_FIELDS: usize = 200;

/// What is to be inferred.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Below the API base, with a leading slash.
    pub path: String,
    /// Whose.
    pub tenant: Tenant,
    /// What it is to be called; else by the last word of the path.
    pub name: Option<ResourceName>,
    /// Of children: the resource whose rows are the parents.
    pub children_of: Option<ResourceName>,
    /// Where the rows stand in a page; else looked for.
    pub records: Option<String>,
    /// Parameters of every request.
    pub query: Vec<(String, String)>,
    /// Parents that are asked at most.
    pub parents: usize,
}

/// Why nothing was inferred.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The tenant cannot be asked.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// What is asked for makes no sense, or shows nothing.
    #[error("{what}\nhint: {hint}")]
    Unusable {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The provider refuses.
    #[error("GET {path}: {what}\nhint: {hint}")]
    Refused {
        /// The path.
        path: String,
        /// How.
        what: &'static str,
        /// What to do.
        hint: String,
    },
}

impl From<crate::state::StateError> for InferError {
    fn from(e: crate::state::StateError) -> Self {
        Self::Sync(e.into())
    }
}

fn unusable<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, InferError> {
    Err(InferError::Unusable { what: what.into(), hint: hint.into() })
}

/// Everything that was seen.
#[derive(Default)]
struct Sight {
    shape: Shape,
    /// Requests that were answered.
    answers: u64,
    /// Parents that were answered.
    parents: u64,
    /// Where the rows stand.
    records: Option<String>,
    /// Whether a page said where the next one is.
    pages: bool,
    /// Of each field that may identify a row, the values: over all records, and within their parent.
    unique: Vec<(String, Unique)>,
    /// Most records of one parent.
    most_of_one: u64,
}

struct Unique {
    overall: bool,
    within: bool,
    seen: HashSet<String>,
    seen_within: HashSet<(u64, String)>,
}

/// Asks, and proposes.
///
/// # Errors
///
/// [`InferError`].
pub async fn infer(world: &World, ask: &Ask) -> Result<String, InferError> {
    let provider = &world.config.provider;
    let carrier = checked(provider, ask)?;
    let run = RunId::new();
    let state = State::new(world.state.clone(), world.clock);
    let auth = Auth::new(world.config.clone(), state.clone(), world.clock, run).map_err(SyncError::from)?;
    let auth = Arc::new(auth.for_fleet(false, world.stop.clone()));
    let lease = Arc::new(state.lease(&ask.tenant, run).await?);
    let seen = tokio::select! {
        lost = lease.keep() => Err(InferError::from(lost)),
        seen = async {
            let session = auth.open(&ask.tenant, lease.clone()).await.map_err(SyncError::from)?;
            look(world, ask, carrier, &session).await
        } => seen,
    };
    auth.settled(&ask.tenant).await;
    if let Some(lease) = Arc::into_inner(lease)
        && let Err(error) = lease.release().await
    {
        tracing::warn!(tenant = %ask.tenant, %error, "the lease could not be given back; it ends by itself");
    }
    let text = propose(provider, ask, carrier, &seen?)?;
    let folder = world.config.catalog.as_deref();
    // By its name it is read last, so that it is judged beside whatever there is.
    let linted = catalog::lint_text("zzz-proposed.toml", &text, folder).map_err(|e| SyncError::Config(e.into()))?;
    let own = linted.iter().filter(|l| l.file == "zzz-proposed.toml").flat_map(|l| &l.mistakes).next();
    match own {
        None => Ok(text),
        Some(mistake) => unusable(
            format!("what would be proposed is no catalogue: {}", mistake.message),
            "this is a bug of hirelake; please report it",
        ),
    }
}

/// The parents' resource, where there is one; what makes no sense is refused before anybody is asked.
fn checked<'p>(provider: &'p Provider, ask: &Ask) -> Result<Option<&'p Resource>, InferError> {
    let path = &ask.path;
    if !is_plain_path(path) {
        return unusable(
            format!("`{path}` is no path such as `/users` or `/opportunities/:id/notes`"),
            "begin with `/`, below the API base; parameters are given with --query",
        );
    }
    let ids = path.split('/').filter(|part| part.starts_with(':') && *part != ":parent").count();
    let above = path.split('/').filter(|part| *part == ":parent").count();
    let Some(name) = &ask.children_of else {
        if ids + above == 0 {
            return Ok(None);
        }
        return unusable(
            format!("`{path}` is asked parent by parent, and whose parents is not said"),
            "add --children-of RESOURCE, such as --children-of opportunities",
        );
    };
    if path.split('/').filter(|part| *part == ":id").count() != 1 || ids != 1 {
        return unusable(
            format!("`{path}` does not say where the parent's id stands"),
            format!("write `:id` once, as in `/{name}/:id/things`"),
        );
    }
    let Some(carrier) = provider.resource(name.as_str()) else {
        let near = crate::names::nearest(name.as_str(), provider.resources.iter().map(|r| r.name.as_str()));
        return unusable(
            format!("there is no resource `{name}`"),
            near.map_or_else(|| "`hirelake catalog` lists them".to_owned(), |n| format!("did you mean `{n}`?")),
        );
    };
    if above > 0 && carrier.parent.is_none() {
        return unusable(
            format!("`{name}` has no parent that `:parent` could be"),
            "leave it out, or name another resource",
        );
    }
    match carrier.key.as_slice() {
        [key] if carrier.column(key).is_some_and(|c| matches!(c.ty, ColumnType::Text | ColumnType::Ref)) => {}
        _ => {
            return unusable(
                format!("`{name}` has no single key column of text, which children need"),
                "name another resource",
            );
        }
    }
    Ok(Some(carrier))
}

/// The paging that the provider's listings have.
fn usual_paging(provider: &Provider) -> Paging {
    let usual = provider.resources.iter().map(|r| &r.paging).find(|p| matches!(p, Paging::Token { .. }));
    usual.cloned().unwrap_or(Paging::Single)
}

async fn look(world: &World, ask: &Ask, carrier: Option<&Resource>, session: &Session) -> Result<Sight, InferError> {
    let provider = &world.config.provider;
    let mut probe = Resource::of_our_own(name_of(provider, ask), Vec::new(), None);
    probe.path.clone_from(&ask.path);
    probe.query.clone_from(&ask.query);
    probe.paging = usual_paging(provider);
    let mut sight = Sight { records: ask.records.clone(), ..Sight::default() };
    let Some(carrier) = carrier else {
        let first = sight.read(session, &probe, None, MOST_PAGES).await;
        let end = match first {
            // Perhaps it takes no page size.
            Err(ExtractError::Refused { status: 400, .. }) if sight.answers == 0 => {
                probe.paging = Paging::Single;
                sight.read(session, &probe, None, MOST_PAGES).await
            }
            end => end,
        };
        end.map_err(|e| refused(world, ask, e))?;
        return Ok(sight);
    };
    let parents = newest_parents(world, ask, carrier).await?;
    if parents.is_empty() {
        return unusable(
            format!("the lake has no {} of tenant {}", carrier.name, ask.tenant),
            format!("read them first: `hirelake sync --tenant {} --resource {}`", ask.tenant, carrier.name),
        );
    }
    let mut last = None;
    for parent in parents {
        if sight.shape.objects >= ENOUGH || world.stop.is_cancelled() {
            break;
        }
        let mut end = sight.read(session, &probe, Some(&parent), 1).await;
        if matches!(end, Err(ExtractError::Refused { status: 400, .. }))
            && sight.answers == 0
            && probe.paging != Paging::Single
        {
            probe.paging = Paging::Single;
            end = sight.read(session, &probe, Some(&parent), 1).await;
        }
        match end {
            Ok(()) => sight.parents += 1,
            // Of this parent: it is gone, or not for us.
            Err(e @ (ExtractError::NotFound { .. } | ExtractError::Forbidden { .. })) => last = Some(e),
            Err(e) => return Err(refused(world, ask, e)),
        }
    }
    match last {
        Some(e) if sight.parents == 0 => Err(refused(world, ask, e)),
        _ => Ok(sight),
    }
}

/// Keys of the newest living parents that the lake has, each behind that of its own parent (empty where there is none).
async fn newest_parents(world: &World, ask: &Ask, carrier: &Resource) -> Result<Vec<(String, String)>, InferError> {
    let table = world.config.table(carrier).map_err(SyncError::from)?;
    let store = world.lake.owned_by(ask.tenant.as_str());
    let lake = Lake::new(store, ask.tenant.clone(), world.config.scratch.clone());
    let values: BTreeSet<_> = load::partition_values(&lake, &table).await.map_err(SyncError::from)?;
    let mut parents = Vec::new();
    let Some(key) = carrier.key.first() else { return Ok(parents) };
    let columns: Vec<&str> = std::iter::once(key.as_str()).chain(carrier.parent.as_deref()).collect();
    for value in values.into_iter().rev() {
        let batches = load::living_rows(&lake, &table, value, &columns).await.map_err(SyncError::from)?;
        for batch in batches.iter().rev() {
            let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
            let Some(keys) = text(key) else { continue };
            let above = carrier.parent.as_deref().and_then(text);
            let pair = |i: usize| (above.map_or("", |a| a.value(i)).to_owned(), keys.value(i).to_owned());
            let ids = (0..keys.len()).rev().filter(|&i| keys.is_valid(i)).map(pair);
            parents.extend(ids.take(ask.parents.saturating_sub(parents.len())));
        }
        if parents.len() >= ask.parents {
            break;
        }
    }
    Ok(parents)
}

/// What a refusal means for who infers.
fn refused(world: &World, ask: &Ask, error: ExtractError) -> InferError {
    let path = ask.path.clone();
    let base = &world.config.endpoints(&ask.tenant).api_base;
    match error {
        ExtractError::Forbidden { .. } => InferError::Refused {
            path,
            what: "the tenant may not read it (403)",
            hint: format!(
                "find its scope in the provider's documentation, register it for the app, put it among the app's `scopes`, then `hirelake connect {}`; an API key needs the permission, and some features are paid ones",
                ask.tenant
            ),
        },
        ExtractError::NotFound { .. } => InferError::Refused {
            path,
            what: "it is not there (404)",
            hint: format!("the path is meant below {base}: compare it with the provider's documentation"),
        },
        ExtractError::Refused { status: 400, .. } => InferError::Refused {
            path,
            what: "the provider takes the request for malformed (400)",
            hint: "it may want a parameter: give it with --query KEY=VALUE, as its documentation says".into(),
        },
        ExtractError::Auth(AuthError::Http(e)) => SyncError::from(AuthError::Http(e)).into(),
        e => SyncError::from(e).into(),
    }
}

impl Sight {
    /// Reads some pages.
    async fn read(
        &mut self,
        session: &Session,
        probe: &Resource,
        parent: Option<&(String, String)>,
        pages: usize,
    ) -> Result<(), ExtractError> {
        let mut pager = Pager::new(session, probe, Vec::new(), &[]);
        if let Some((above, id)) = parent {
            pager = pager.of_parent(above, id);
        }
        let (next_key, more_key) = match &probe.paging {
            Paging::Token { next, more, .. } => (next.as_str(), more.as_str()),
            Paging::Single => ("next", "hasNext"),
        };
        let mut of_one = 0;
        for _ in 0..pages {
            let fetched = pager
                .next(Priority(0), |body| {
                    let page: Json = serde_json::from_slice(body).map_err(|_| "the body is not JSON".to_owned())?;
                    let next = match page.get(next_key) {
                        Some(Json::Text(token)) => Some(token.clone()),
                        _ => None,
                    };
                    // Whether there is more is only asked where a token says where.
                    // No more than a few are looked at, so what they hold does not matter here.
                    Ok(Decoded { more: next.is_some(), next, records: 1, page })
                })
                .await?;
            let Some(fetched) = fetched else { break };
            self.answers += 1;
            self.pages |= fetched.page.get(more_key).is_some() || fetched.page.get(next_key).is_some();
            of_one += self.page(&fetched.page);
        }
        self.most_of_one = self.most_of_one.max(of_one);
        Ok(())
    }

    /// Looks at the records of a page; gives how many there are.
    fn page(&mut self, page: &Json) -> u64 {
        let records = match page {
            Json::List(_) => Some(page),
            page => {
                let path = self.records.get_or_insert_with(|| where_rows_stand(page));
                page.at(path)
            }
        };
        match records {
            Some(Json::List(records)) => {
                records.iter().for_each(|r| self.record(r));
                records.len() as u64
            }
            Some(record @ Json::Object(_)) => {
                self.record(record);
                1
            }
            _ => 0,
        }
    }

    fn record(&mut self, record: &Json) {
        let Json::Object(fields) = record else { return };
        self.shape.add(record);
        for (key, value) in fields {
            let text = match value {
                Json::Text(text) => text.clone(),
                Json::Int(n) => n.to_string(),
                _ => continue,
            };
            let at = self.unique.iter().position(|(k, _)| k == key).unwrap_or_else(|| {
                let unique = Unique { overall: true, within: true, seen: HashSet::new(), seen_within: HashSet::new() };
                self.unique.push((key.clone(), unique));
                self.unique.len() - 1
            });
            if let Some((_, u)) = self.unique.get_mut(at) {
                u.within &= u.seen_within.insert((self.parents, text.clone()));
                u.overall &= u.seen.insert(text);
            }
        }
    }

    /// Fields that identify a record: overall, or within its parent.
    fn identifying(&self, within: bool) -> impl Iterator<Item = &str> {
        let records = self.shape.objects;
        self.unique
            .iter()
            .filter(move |(name, u)| {
                let always = self.shape.fields.iter().any(|(k, s)| k == name && s.can_identify(records));
                always && if within { u.within } else { u.overall }
            })
            .map(|(name, _)| name.as_str())
    }
}

/// The key under which a page's rows stand: `data`, else the one list of objects, else the body is the one row.
fn where_rows_stand(page: &Json) -> String {
    let Json::Object(fields) = page else { return "data".to_owned() };
    if page.get("data").is_some() {
        return "data".to_owned();
    }
    let lists = |v: &Json| matches!(v, Json::List(items) if items.iter().all(|i| matches!(i, Json::Object(_))));
    let mut found = fields.iter().filter(|(_, v)| lists(v)).map(|(k, _)| k.clone());
    match (found.next(), found.next()) {
        (Some(only), None) if fields.len() <= 4 => only,
        _ => ".".to_owned(),
    }
}

/// What it is called unless somebody says: by the last word of its path, never as a resource that there is.
fn name_of(provider: &Provider, ask: &Ask) -> ResourceName {
    if let Some(name) = &ask.name {
        return name.clone();
    }
    let word = ask.path.split('/').rfind(|part| !part.is_empty() && !part.starts_with(':')).unwrap_or("things");
    let plain = Names::default().name(word);
    let taken = |n: &str| provider.resource(n).is_some();
    let name = if taken(&plain) { format!("own_{plain}") } else { plain };
    name.parse().or_else(|_| "things".parse()).unwrap_or_else(|_| provider.name.clone())
}

/// `opportunity` of `opportunities`.
fn singular(name: &str) -> String {
    match name.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => name.strip_suffix('s').unwrap_or(name).to_owned(),
    }
}

fn propose(provider: &Provider, ask: &Ask, carrier: Option<&Resource>, sight: &Sight) -> Result<String, InferError> {
    let records = sight.shape.objects;
    if records == 0 {
        let (what, hint) = match (carrier, &ask.records) {
            (_, Some(key)) => (
                format!("GET {} answers, and has no records under `{key}`", ask.path),
                "leave --records out, or name another key".to_owned(),
            ),
            (Some(c), None) => (
                format!("none of {} {} that were asked has any", sight.parents, c.name),
                "ask more of them with --parents N, or another tenant".to_owned(),
            ),
            (None, None) => (
                format!("GET {} answers, and has no records", ask.path),
                "try a tenant that has some; `--records KEY` says where they stand, should they be overlooked"
                    .to_owned(),
            ),
        };
        return unusable(what, hint);
    }
    if sight.shape.fields.len() > MOST_FIELDS {
        return unusable(
            format!("its records have more than {MOST_FIELDS} fields: their keys are likely ids"),
            "`--records KEY` names another place for the rows",
        );
    }
    let name = name_of(provider, ask);
    let mut resource = Resource::of_our_own(name.clone(), Vec::new(), None);
    resource.about = format!("as inferred from {}", ask.path);
    resource.path.clone_from(&ask.path);
    resource.query.clone_from(&ask.query);
    resource.records = sight.records.clone().unwrap_or_else(|| "data".to_owned());
    resource.paging = if sight.pages { usual_paging(provider) } else { Paging::Single };
    resource.scope = scope_of(provider, &ask.path);
    resource.default = if resource.scope.is_some() { ByDefault::Granted } else { ByDefault::Named };
    let mut proposed = Vec::new();
    if let Some(carrier) = carrier {
        of_parent(&mut resource, carrier, &mut proposed);
    }
    let filled: Vec<String> = resource.columns.iter().map(|c| c.source.clone()).collect();
    let key = key_of(&mut resource, sight, &mut proposed)?;
    let mut names = Names::of(&resource);
    let keys: Vec<&str> = key.iter().map(String::as_str).collect();
    let skip: Vec<&str> = filled.iter().map(String::as_str).collect();
    let (mut columns, rest) = sight.shape.columns(provider, &mut names, &keys, &skip);
    // Its own key first, as everywhere.
    columns.sort_by_key(|p| !keys.contains(&p.column.source.as_str()));
    let named = |wire: &String| {
        columns.iter().find(|p| p.column.source == *wire).map_or_else(|| wire.clone(), |p| p.column.name.clone())
    };
    resource.key.extend(key.iter().map(named));
    let own = columns.iter().take_while(|p| keys.contains(&p.column.source.as_str())).count();
    let after = columns.split_off(own);
    columns.append(&mut proposed);
    columns.extend(after);
    let mut text = String::new();
    let answers = if sight.answers == 1 { "1 answer".to_owned() } else { format!("{} answers", sight.answers) };
    let from = carrier.map(|c| format!(" for {} {}", sight.parents, c.name)).unwrap_or_default();
    text += &format!("# GET {}: {records} records in {answers}{from}.\n", ask.path);
    text += "# Look it over, say what it is in `about`, and try it: `hirelake catalog lint FILE`. Types are for ever once a lake has\n";
    text += "# the table; `sensitive` is what is blanked when a person is deleted, `class` what settings of privacy know it by: both\n";
    text += "# are only guessed here.\n";
    if resource.scope.is_none() {
        text += "# No scope goes by its name: say `scope = \"…\"` if it needs one, or the consent will not ask for it. Read when named\n";
        text += "# among a tenant's `resources`.\n";
    }
    if carrier.is_none() && resource.content_key.is_none() {
        text += "# Read whole in every run: if the provider takes a filter on the time of change, `mode = \"incremental\"` costs less.\n";
    }
    text += &proposal(&resource, &columns, &rest);
    Ok(text)
}

/// The scope of the same path in the catalogue, else the one that is called like its last word.
fn scope_of(provider: &Provider, path: &str) -> Option<String> {
    if let Some(r) = provider.resources.iter().find(|r| r.path == path && !matches!(r.mode, Mode::Extracted { .. })) {
        return r.scope.clone();
    }
    let word = path.split('/').rfind(|part| !part.is_empty() && !part.starts_with(':'))?;
    let wished = [format!("{word}:read:admin"), format!("{}:read:admin", singular(word))];
    provider.oauth.scopes.iter().find(|s| wished.contains(s)).cloned()
}

/// What children have of their parent: its id, and the time by which it is cut.
fn of_parent(resource: &mut Resource, carrier: &Resource, proposed: &mut Vec<Proposed>) {
    let label = singular(carrier.name.as_str());
    let mut filled = |name: String, from: &Column| {
        let source = catalog::camel_case(&name);
        let column = Column { source, from_parent: Some(from.source.clone()), ..Column::plain(&name, from.ty.clone()) };
        resource.columns.push(column.clone());
        proposed.push(Proposed { column, note: format!("the parent's {}", from.name) });
        name
    };
    let Some(key) = carrier.key.first().and_then(|k| carrier.column(k)) else { return };
    let id = filled(format!("{label}_id"), &Column { ty: ColumnType::Ref, ..key.clone() });
    let cut = carrier.partition.as_ref().filter(|p| matches!(p.granularity, Granularity::Year | Granularity::Month));
    let time = cut.and_then(|p| Some((p.granularity, carrier.column(p.column.as_deref()?)?)));
    // A parent that is a child itself carries the time of its own parent on.
    let partition = time.map(|(granularity, column)| {
        let name = if column.from_parent.is_some() { column.name.clone() } else { format!("{label}_{}", column.name) };
        let of = carrier.partition.as_ref().map_or_else(|| label.clone(), |p| p.label.clone());
        let label = if column.from_parent.is_some() { of } else { label.clone() };
        Partition { column: Some(filled(name, column)), label, granularity }
    });
    let whole = Partition { column: None, label: label.clone(), granularity: Granularity::None };
    resource.partition = Some(partition.unwrap_or(whole));
    resource.parent = Some(id);
    resource.mode = Mode::Children { from: carrier.name.clone(), absent_is_empty: false, skip: None };
}

/// Wire fields that identify a row. The parent's column is put into the key, where rows are told apart within it only; a column
/// made of the content, where nothing else tells them apart.
fn key_of(resource: &mut Resource, sight: &Sight, proposed: &mut Vec<Proposed>) -> Result<Vec<String>, InferError> {
    resource.key.clear();
    let id = |within: bool| sight.identifying(within).find(|f| *f == "id").map(str::to_owned);
    // A thing that a name or a key names is told by it; a text that merely never came twice is not.
    let named = |within: bool| {
        let known = ["key", "code", "slug", "uid", "uuid", "text", "name"];
        let like_an_id = |f: &&str| f.ends_with("Id") || f.ends_with("_id") || known.contains(f);
        sight.identifying(within).find(like_an_id).map(str::to_owned)
    };
    if let Some(id) = id(false) {
        return Ok(vec![id]);
    }
    let Some(parent) = resource.parent.clone() else {
        if let Some(field) = named(false) {
            return Ok(vec![field]);
        }
        let column = Column { source: "_key".into(), ..Column::plain("row_key", ColumnType::Text) };
        proposed.push(Proposed {
            column: column.clone(),
            note: "made of the row's content: nothing else identifies it".into(),
        });
        resource.columns.push(column);
        resource.content_key = Some("row_key".into());
        resource.key.push("row_key".into());
        return Ok(Vec::new());
    };
    if sight.most_of_one <= 1 {
        resource.key.push(parent);
        return Ok(Vec::new());
    }
    match id(true).or_else(|| named(true)) {
        Some(field) => {
            resource.key.push(parent);
            Ok(vec![field])
        }
        None => unusable(
            "nothing in its records identifies them within their parent",
            "declare it by hand if you know what does: a table of children needs a key",
        ),
    }
}
