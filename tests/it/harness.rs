//! A sandbox, a configuration and a lake in a temporary folder, on one clock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use hirelake::auth::connect::{Callback, Connected};
use hirelake::auth::{Auth, AuthError};
use hirelake::catalog::{Column, ColumnType, Mode, Resource};
use hirelake::clock::{Clock, Timestamp};
use hirelake::config::Config;
use hirelake::load;
use hirelake::names::{RunId, Tenant};
use hirelake::report::{ExitCode, Report};
use hirelake::sandbox::{self, AccountSize, Control, Limit};
use hirelake::state::State;
use hirelake::sync::{self, Options, World};
use serde_json::{Map, Value, json};

use crate::program::{assert_no_secret, search_every_log, search_files};
use crate::real;

/// The client that every test's app is.
pub const CLIENT: &str = "test-client";
/// The client of the app `second`, where a test has one; its secret and callback are those of the first.
pub const SECOND_CLIENT: &str = "second-client";
/// Planted wherever a secret stands: no output may hold any of them.
pub const CLIENT_SECRET: &str = "canary-client-secret-5b1e";
pub const CALLBACK: &str = "http://127.0.0.1:8914/callback";
/// 32 bytes.
pub const VAULT_KEY: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// When every test begins: 2026-06-15T08:00:00Z.
pub const NOW: Timestamp = Timestamp::from_ms(1_781_510_400_000);

/// How a test's world is made.
pub struct Setup {
    pub accounts: Vec<AccountSize>,
    pub rate: Option<Limit>,
    pub latency: Duration,
    pub token_life: Duration,
    pub refresh_leeway: Duration,
    /// More lines at the end of the configuration, from the section `[sync]` on.
    pub config: String,
    /// Lines of the section `[defaults]`.
    pub defaults: String,
    /// Whether there is an app `second`.
    pub second: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            accounts: vec![AccountSize::new("acme", 300)],
            rate: None,
            latency: Duration::ZERO,
            token_life: Duration::from_secs(3600),
            refresh_leeway: Duration::ZERO,
            config: String::new(),
            defaults: "rate = { per_second = 1000.0, burst = 1000 }".into(),
            second: false,
        }
    }
}

/// A test's world.
pub struct Bench {
    pub sandbox: sandbox::Running,
    pub control: Control,
    pub world: World,
    pub dir: Arc<tempfile::TempDir>,
}

impl Setup {
    pub fn new(opportunities: usize) -> Self {
        Self { accounts: vec![AccountSize::new("acme", opportunities)], ..Self::default() }
    }

    pub async fn start(self) -> Bench {
        search_every_log();
        let clock = Clock::starting_at(NOW);
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let scopes = hirelake::catalog::embedded().unwrap().oauth.scopes;
        let sandbox = sandbox::start(sandbox::Options {
            accounts: self.accounts,
            clients: [CLIENT, SECOND_CLIENT]
                .into_iter()
                .take(if self.second { 2 } else { 1 })
                .map(|id| sandbox::Client {
                    id: id.into(),
                    secret: CLIENT_SECRET.into(),
                    redirect_uris: vec![CALLBACK.into()],
                    scopes: scopes.clone(),
                })
                .collect(),
            rate: self.rate,
            latency: self.latency,
            token_life: self.token_life,
            refresh_leeway: self.refresh_leeway,
            clock,
            ..sandbox::Options::default()
        })
        .await
        .unwrap();
        let second = if self.second { app("second", SECOND_CLIENT, &sandbox.url(), dir.path()) } else { String::new() };
        write_config(dir.path(), &sandbox.url(), &self.defaults, &format!("{}\n{second}", self.config));
        let config = Config::load_with(Some(&dir.path().join("hirelake.toml")), std::iter::empty()).unwrap();
        let world = real::open(Arc::new(config), clock);
        Bench { control: sandbox.control(), sandbox, world, dir }
    }
}

/// Writes a file that only its owner may read, as a key must be.
pub fn private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// Writes `hirelake.toml` and its secrets into `dir`.
pub fn write_config(dir: &Path, url: &str, defaults: &str, sync: &str) -> PathBuf {
    private(&dir.join("vault.key"), VAULT_KEY);
    std::fs::write(dir.join("client.secret"), CLIENT_SECRET).unwrap();
    let main = app("main", CLIENT, url, dir);
    let path = dir.join("hirelake.toml");
    let (lake, state) = match real::url() {
        None => ("lake".to_owned(), "state".to_owned()),
        Some(_) => (real::place(dir, "lake"), real::place(dir, "state")),
    };
    let text = format!(
        r#"lake = "{lake}"
state = "{state}"
[vault]
key = {{ file = "vault.key" }}
{main}[defaults]
{defaults}
[sync]
safety_lag = "1m"
{sync}
"#
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// The section of an app; its secret is in `dir`.
fn app(name: &str, client: &str, url: &str, dir: &Path) -> String {
    let secret = dir.join("client.secret");
    format!(
        r#"[apps.{name}]
environment = "sandbox"
client_id = "{client}"
client_secret = {{ file = {secret:?} }}
redirect_uris = ["{CALLBACK}"]
api_base = "{url}/v1"
authorize = "{url}/authorize"
token = "{url}/oauth/token"
revoke = "{url}/oauth/revoke"
audience = "{url}/v1/"
"#
    )
}

pub fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

impl Drop for Bench {
    /// Whatever a test did, no secret lies open in what it left in the state.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            search_files(&self.dir.path().join("state"));
            if real::url().is_some() {
                for (path, (bytes, _)) in real::objects(&self.world.state) {
                    assert_no_secret(&path.display().to_string(), &bytes);
                }
            }
        }
    }
}

impl Bench {
    pub fn state(&self) -> State {
        State::new(self.world.state.clone(), self.world.clock)
    }

    pub fn auth(&self, run: RunId) -> Arc<Auth> {
        Arc::new(Auth::new(self.world.config.clone(), self.state(), self.world.clock, run).unwrap())
    }

    /// Connects a tenant to the account of the same name, through the consent page.
    pub async fn connect(&self, name: &str) {
        self.connect_to(name, name, false).await.unwrap();
    }

    /// Connects a tenant to an account.
    pub async fn connect_to(&self, name: &str, account: &str, force: bool) -> Result<Connected, AuthError> {
        let (state, run, tenant) = (self.state(), RunId::new(), tenant(name));
        let auth = self.auth(run);
        let invitation = auth.invite(&tenant)?;
        let mut link = invitation.link.clone();
        link.query_pairs_mut().append_pair("auto_accept", account);
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let answer = browser.get(link).send().await.unwrap();
        let back = answer.headers()["location"].to_str().unwrap().parse().unwrap();
        let lease = state.lease(&tenant, run).await.unwrap();
        let connected = auth.exchange(&tenant, &lease, &invitation, Callback::from_url(&back), force).await;
        lease.release().await.unwrap();
        connected
    }

    pub async fn sync_with(&self, options: Options) -> Report {
        sync::run(&self.world, &options).await.unwrap()
    }

    /// A sync in which nothing may fail.
    pub async fn sync(&self) -> Report {
        let report = self.sync_with(Options::default()).await;
        assert_eq!(report.code, ExitCode::Done, "{}\n{}", report.table(), report.troubles().join("\n"));
        report
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub fn resource(&self, name: &str) -> &Resource {
        self.world.config.provider.resource(name).unwrap()
    }

    /// Every row of a table as Parquet has them.
    pub async fn batches(&self, name: &str, table: &str) -> Vec<RecordBatch> {
        let provider = "lever".parse().unwrap();
        let table = table.parse().unwrap();
        load::read_table(&self.world.lake, &provider, &table, &tenant(name)).await.unwrap()
    }

    /// Every row of a table, turned back into what the provider sent, by key; deleted ones are left out. A row that stands
    /// twice fails the test.
    pub async fn living(&self, name: &str, table: &str) -> BTreeMap<String, Value> {
        let resource = self.resource(table);
        let (mut rows, mut unkeyed) = (BTreeMap::new(), Vec::new());
        for batch in self.batches(name, table).await {
            let deleted = batch.column_by_name("_deleted_at").unwrap();
            for i in (0..batch.num_rows()).filter(|&i| deleted.is_null(i)) {
                let mut row = wire(resource, &batch, i);
                if let Some(made) = &resource.content_key {
                    // The key is ours: what counts is the content, and how often it comes.
                    row.as_object_mut().unwrap().remove(&resource.column(made).unwrap().source);
                    unkeyed.push(row);
                    continue;
                }
                assert!(rows.insert(key(resource, &row), row).is_none(), "a row of {table} stands twice");
            }
        }
        rows.extend(numbered(unkeyed.into_iter()));
        rows
    }

    /// What the provider lists, by key, nulls left out.
    pub fn truth(&self, name: &str, table: &str) -> BTreeMap<String, Value> {
        let resource = self.resource(table);
        let rows: Vec<Value> = match table {
            // Rows that are only seen inside an expanded opportunity.
            "applications" => self.expanded(name).flat_map(|o| o["applications"].as_array().unwrap().clone()).collect(),
            "contacts" => self.expanded(name).map(|o| o["contact"].clone()).collect(),
            "opportunities_deleted" => self.control.dump(name, "opportunities/deleted").unwrap(),
            "applications_deleted" => self.control.dump(name, "applications/deleted").unwrap(),
            "postings_deleted" => self.control.dump(name, "postings/deleted").unwrap(),
            table if matches!(resource.mode, Mode::Children { .. }) => self.children(name, table),
            table => self.control.dump(name, table).unwrap(),
        };
        if resource.content_key.is_some() {
            return numbered(rows.iter().map(|r| declared(resource, r)));
        }
        rows.iter().map(|r| (key(resource, r), declared(resource, r))).collect()
    }

    /// The children of every parent as the lake should have them: with the parent's id, which few have of their own.
    fn children(&self, name: &str, table: &str) -> Vec<Value> {
        let all = self.control.children(name, table).unwrap();
        all.into_iter().map(hirelake::sandbox::ChildRecord::with_parent).collect()
    }

    fn expanded(&self, name: &str) -> impl Iterator<Item = Value> {
        self.control.dump(name, "opportunities_expanded").unwrap().into_iter()
    }

    /// Every table of the lake equals the provider's own records.
    pub async fn assert_right(&self, name: &str) {
        let config = self.world.config.tenant(&tenant(name));
        for resource in self.world.config.resources(&tenant(name)).into_iter().filter(|r| config.asks_for(r)) {
            self.assert_table(name, resource.name.as_str()).await;
        }
    }

    pub async fn assert_table(&self, name: &str, table: &str) {
        let (lake, truth) = (self.living(name, table).await, self.truth(name, table));
        let extra: Vec<_> = lake.keys().filter(|k| !truth.contains_key(*k)).collect();
        let missing: Vec<_> = truth.keys().filter(|k| !lake.contains_key(*k)).collect();
        assert!(extra.is_empty() && missing.is_empty(), "{table}: {extra:?} too many, {missing:?} missing");
        for (key, row) in &truth {
            assert_eq!(&lake[key], row, "{table} {key}");
        }
        assert_eq!(lake.len(), truth.len());
    }

    /// Every file of the lake with its bytes, staging left out.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        if real::url().is_some() {
            return real::objects(&self.world.lake).into_iter().map(|(path, (bytes, _))| (path, bytes)).collect();
        }
        files(&self.dir.path().join("lake"))
    }
}

/// Every file below a folder with its bytes, by its path there.
pub fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().unwrap() != "_staging" {
                    walk(root, &path, out);
                }
            } else {
                out.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    out
}

/// Records by their content, and by their number among equal ones.
fn numbered(rows: impl Iterator<Item = Value>) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for row in rows {
        let n = (1..).find(|n| !all.contains_key(&format!("{row} {n}"))).unwrap();
        all.insert(format!("{row} {n}"), row);
    }
    all
}

fn key(resource: &Resource, row: &Value) -> String {
    let source = |k: &String| resource.column(k).unwrap().source.clone();
    resource.key.iter().map(|k| row[source(k)].as_str().unwrap().to_owned()).collect::<Vec<_>>().join("/")
}

/// A record as the lake can hold it: nulls left out, and of a tombstone only what is declared.
fn declared(resource: &Resource, record: &Value) -> Value {
    let mut record = without_nulls(record);
    for column in &resource.columns {
        if let Some(field) = record.get_mut(&column.source) {
            leniently(&column.ty, field);
        }
    }
    if !resource.keep_extra
        && let Some(fields) = record.as_object_mut()
    {
        fields.retain(|k, _| resource.columns.iter().any(|c| c.source == *k));
    }
    record
}

/// A numeric text says the number where the catalogue allows it.
fn leniently(ty: &ColumnType, value: &mut Value) {
    match ty {
        ColumnType::Timestamp { lenient: true } | ColumnType::Int { lenient: true } => {
            if let Some(number) = value.as_str().and_then(|s| s.parse::<i64>().ok()) {
                *value = number.into();
            }
        }
        ColumnType::List(item) => value.as_array_mut().into_iter().flatten().for_each(|v| leniently(item, v)),
        ColumnType::Struct(columns) => {
            for column in columns {
                if let Some(field) = value.get_mut(&column.source) {
                    leniently(&column.ty, field);
                }
            }
        }
        _ => {}
    }
}

/// Nulls say the same as missing keys.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k.clone(), without_nulls(v)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(without_nulls).collect::<Vec<_>>().into(),
        other => other.clone(),
    }
}

/// A row as the provider sent it: typed cells and `_extra` put together again.
pub fn wire(resource: &Resource, batch: &RecordBatch, row: usize) -> Value {
    let mut record = Map::new();
    for column in resource.columns.iter().filter(|c| c.from_parent.as_deref() != Some("createdAt")) {
        let array = batch.column_by_name(&column.name).unwrap_or_else(|| panic!("no column {}", column.name));
        if let Some(value) = cell(&column.ty, array.as_ref(), row) {
            record.insert(column.source.clone(), value);
        }
    }
    let mut record = Value::Object(record);
    let extra = batch.column_by_name("_extra").unwrap().as_string::<i32>();
    if extra.is_valid(row) {
        let extra: Map<String, Value> = serde_json::from_str(extra.value(row)).unwrap();
        for (pointer, value) in extra {
            put(&mut record, &pointer, value);
        }
    }
    without_nulls(&record)
}

fn put(record: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let name = name.replace("~1", "/").replace("~0", "~");
    match record.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.insert(name, value);
        }
        Some(Value::Array(items)) => items[name.parse::<usize>().unwrap()] = value,
        other => panic!("nothing takes {pointer}: {other:?}"),
    }
}

fn cell(ty: &ColumnType, array: &dyn Array, row: usize) -> Option<Value> {
    if array.is_null(row) {
        return None;
    }
    Some(match ty {
        ColumnType::Text | ColumnType::Ref => array.as_string::<i32>().value(row).into(),
        ColumnType::Json => serde_json::from_str(array.as_string::<i32>().value(row)).unwrap(),
        ColumnType::Int { .. } => array.as_primitive::<Int64Type>().value(row).into(),
        ColumnType::Float => {
            let value = array.as_primitive::<Float64Type>().value(row);
            // JSON does not tell 52000 from 52000.0.
            if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
        }
        ColumnType::Bool => array.as_boolean().value(row).into(),
        ColumnType::Timestamp { .. } => {
            assert_eq!(
                array.data_type(),
                &DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))
            );
            let us = array.as_primitive::<TimestampMicrosecondType>().value(row);
            assert_eq!(us % 1000, 0);
            (us / 1000).into()
        }
        ColumnType::List(item) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|i| cell(item, items.as_ref(), i).unwrap_or(Value::Null)).collect::<Vec<_>>().into()
        }
        ColumnType::Struct(fields) => {
            let columns = array.as_struct();
            let value = |f: &Column| {
                Some((f.source.clone(), cell(&f.ty, columns.column_by_name(&f.name).unwrap().as_ref(), row)?))
            };
            fields.iter().filter_map(value).collect::<Map<_, _>>().into()
        }
    })
}

/// One line of the sandbox's script.
pub fn fault(route: &str, skip: u32, times: u32, action: sandbox::Action) -> sandbox::Fault {
    sandbox::Fault { route: route.into(), account: None, skip, times, action }
}

/// What a text says whatever the port, the folder and the jitter were.
pub fn plain(text: &str, dir: &Path) -> String {
    let mut text = text.replace(&dir.display().to_string(), "DIR");
    for (before, after) in [("127.0.0.1:", "PORT"), (" after ", "N s:"), ("run ", "RUN")] {
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some(i) = rest.find(before) {
            let (head, tail) = rest.split_at(i + before.len());
            out += head;
            let end = match after {
                "PORT" => tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len()),
                "N s:" => tail.find(" s:").filter(|n| tail[..*n].parse::<f64>().is_ok()).map_or(0, |n| n + 3),
                _ => tail.get(..36).filter(|id| id.matches('-').count() == 4).map_or(0, str::len),
            };
            out += if end > 0 { after } else { "" };
            rest = &tail[end..];
        }
        text = out + rest;
    }
    text
}
