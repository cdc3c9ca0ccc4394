//! The file as it is written, the environment laid over it, and the checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::{Table as TomlTable, Value};
use url::Url;

use super::{
    App, Config, ConfigError, ConnectConfig, DEFAULT_FILE, KeepaliveConfig, NOT_A_SOURCE, Reconcile, Schema,
    SecretSource, TenantConfig, first_line, hint_line,
};
use crate::catalog::{
    self, Act, ByDefault, Class, Endpoints, Environment, Granularity, Mode, OnDelete, Privacy, Provider, Rate,
    Resource, Table, is_loopback, scopes, shortened,
};
use crate::names::{AppName, ResourceName, Tenant};
use crate::store;

/// What `hirelake init` writes.
pub const TEMPLATE: &str = include_str!("template.toml");

/// The prefix of every variable.
const PREFIX: &str = "HIRELAKE_";
/// Variables that are not values of the file.
const OTHERS: [&str; 3] = ["HIRELAKE_CONFIG", "HIRELAKE_LOG", "HIRELAKE_VAULT_KEY"];
/// Privacy settings that are no classes: rows marked as secret, and fields that nobody declared.
const SWITCHES: [&str; 2] = ["secret_notes", "extra"];
/// Largest configuration read; a thousand tenants are 100 KB.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default = "default_lake")]
    lake: String,
    #[serde(default = "default_state")]
    state: String,
    #[serde(default)]
    store: store::Options,
    scratch: Option<PathBuf>,
    catalog: Option<PathBuf>,
    #[serde(default)]
    vault: RawVault,
    #[serde(default)]
    apps: BTreeMap<AppName, RawApp>,
    #[serde(default)]
    defaults: RawTenant,
    #[serde(default)]
    tenants: BTreeMap<Tenant, RawTenant>,
    #[serde(default)]
    partitions: BTreeMap<ResourceName, Granularity>,
    #[serde(default)]
    sync: RawSync,
    #[serde(default)]
    connect: RawConnect,
    #[serde(default)]
    keepalive: RawKeepalive,
}

fn default_lake() -> String {
    "lake".into()
}

fn default_state() -> String {
    "state".into()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVault {
    key: SecretSource,
    #[serde(default)]
    previous: Vec<SecretSource>,
}

impl Default for RawVault {
    fn default() -> Self {
        Self { key: SecretSource::Env("HIRELAKE_VAULT_KEY".into()), previous: Vec::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApp {
    title: Option<String>,
    description: Option<String>,
    logo: Option<Url>,
    environment: Environment,
    client_id: String,
    client_secret: SecretSource,
    #[serde(default)]
    redirect_uris: Vec<Url>,
    scopes: Option<String>,
    pkce: Option<bool>,
    api_base: Option<Url>,
    authorize: Option<Url>,
    token: Option<Url>,
    revoke: Option<Url>,
    audience: Option<String>,
    hosts: Option<Vec<String>>,
    #[serde(default)]
    privacy: RawPrivacy,
    confidential: Option<bool>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTenant {
    app: Option<AppName>,
    api_key: Option<bool>,
    part_of: Option<Tenant>,
    resources: Option<Vec<ResourceName>>,
    on_delete: Option<OnDelete>,
    rate: Option<Rate>,
    reconcile: Option<Reconcile>,
    #[serde(default)]
    privacy: RawPrivacy,
    confidential: Option<bool>,
    schema: Option<Schema>,
}

/// By class, by `table.column`, or by the name of a switch.
type RawPrivacy = BTreeMap<String, RawSetting>;

#[derive(Debug, Clone)]
enum RawSetting {
    Act(Act),
    /// `table.column` without quotes is a table inside a table, and means the same.
    Columns(BTreeMap<String, Act>),
}

impl<'de> Deserialize<'de> for RawSetting {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = RawSetting;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`keep`, `drop` or `pseudonymize`")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<RawSetting, E> {
                match word {
                    "keep" => Ok(RawSetting::Act(Act::Keep)),
                    "drop" => Ok(RawSetting::Act(Act::Drop)),
                    "pseudonymize" => Ok(RawSetting::Act(Act::Pseudonymize)),
                    other => Err(E::unknown_variant(other, &["keep", "drop", "pseudonymize"])),
                }
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<RawSetting, A::Error> {
                let columns = serde::de::value::MapAccessDeserializer::new(map);
                BTreeMap::deserialize(columns).map(RawSetting::Columns)
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSync {
    overlap: String,
    safety_lag: String,
    refresh_margin: String,
    tenants_at_once: usize,
    quarantine_keep: String,
}

impl Default for RawSync {
    fn default() -> Self {
        Self {
            overlap: "10m".into(),
            safety_lag: "1m".into(),
            refresh_margin: "5m".into(),
            tenants_at_once: 8,
            quarantine_keep: "30d".into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConnect {
    public_url: Option<Url>,
    listen: std::net::SocketAddr,
    invite_life: String,
}

impl Default for RawConnect {
    fn default() -> Self {
        Self {
            public_url: None,
            listen: std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 8915)),
            invite_life: "7d".into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawKeepalive {
    before: String,
    per_second: f64,
}

impl Default for RawKeepalive {
    fn default() -> Self {
        Self { before: "45d".into(), per_second: 2.0 }
    }
}

/// Reads `90s`, `10m`, `1h 30m`, `30d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let seconds = span.total((jiff::Unit::Second, relative)).ok()?;
    (seconds.is_finite() && (0.0..=1e9).contains(&seconds)).then(|| Duration::from_secs_f64(seconds))
}

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        let unreadable = |why: String, hint| ConfigError::Unreadable { path: file.to_owned(), why, hint };
        let text = match std::fs::metadata(file) {
            Ok(meta) if meta.len() > MAX_BYTES => {
                return Err(unreadable("it is larger than 4 MiB".into(), "this is no configuration of hirelake"));
            }
            Ok(_) => super::read_text(file, MAX_BYTES)
                .map_err(|e| unreadable(e.to_string(), "it must be a text file in UTF-8 that this user may read"))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.is_none() => String::new(),
            Err(e) => return Err(unreadable(e.to_string(), "check --config, or write one with `hirelake init`")),
        };
        Ok(Self { path: file.to_owned(), text })
    }

    /// `file:line:column` of a byte.
    fn place(&self, at: Option<usize>) -> String {
        let Some(at) = at else { return self.path.display().to_string() };
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        format!("{}:{line}:{column}", self.path.display())
    }

    /// The key whose value, or the beginning of it, stands at a byte.
    fn key_before(&self, at: usize) -> Option<&str> {
        let line = self.text.get(..at)?.rsplit('\n').next()?;
        let (before, opened) = line.rsplit_once('=')?;
        let key = before.trim_end().rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).next()?;
        let begins = opened.chars().all(|c| c.is_whitespace() || c == '[' || c == '{');
        (begins && !key.is_empty()).then_some(key)
    }

    fn refused(&self, e: &toml::de::Error) -> ConfigError {
        let at = e.span().and_then(|s| self.text.get(s)).and_then(|t| t.lines().next()).unwrap_or_default().trim();
        let (mut what, mut hint) = said(e.message());
        // The header of the section that lacks something; a value could be a secret in the wrong place.
        if what.starts_with("missing field") && at.starts_with('[') {
            what += &format!(" (in `{at}`)");
        } else if let Some(key) = e.span().and_then(|s| self.key_before(s.start)) {
            (what, hint) = unless_a_key(key, what, hint);
            what = format!("key `{key}`: {what}");
        }
        let hint = hint.unwrap_or_else(|| "`hirelake init --print` shows every key with its meaning".into());
        ConfigError::Invalid { place: self.place(e.span().map(|s| s.start)), what, hint }
    }
}

/// The key itself in the place of `api_key = true`: a number would be quoted.
fn unless_a_key(key: &str, what: String, hint: Option<String>) -> (String, Option<String>) {
    if key == "api_key" && what.starts_with("invalid ") {
        let hint = "the key itself goes into the vault: `hirelake connect TENANT --api-key-file FILE`";
        return ("expected true or false".into(), Some(hint.into()));
    }
    (what, hint)
}

/// A mistake in words that hold no value, and the hint that goes with it, where there is one better than the usual.
fn said(message: &str) -> (String, Option<String>) {
    let (what, hint) = match message.trim().split_once("\nhint: ") {
        Some((what, hint)) => (first_line(what), Some(hint.to_owned())),
        None => (first_line(message.trim()), None),
    };
    if what.contains(NOT_A_SOURCE) {
        return (what, Some("secrets never stand in this file: say in which variable or file they are".into()));
    }
    if let Some((key, known)) = what.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        let secretish = ["secret", "token", "password", "key"].iter().any(|word| key.contains(word));
        let near = crate::names::nearest(key, known.split('`').skip(1).step_by(2));
        let hint = near.map(|n| format!("did you mean `{n}`?")).or_else(|| {
            secretish.then(|| "secrets never stand in this file: say in which variable or file they are".to_owned())
        });
        return (what, hint);
    }
    // serde quotes what it met, and calls a section by the name of its type.
    let mut what = match what.split_once("string \"").and_then(|(head, rest)| Some((head, rest.rsplit_once("\", ")?.1)))
    {
        Some((head, tail)) => format!("{head}a string, {tail}"),
        None => what,
    };
    if let Some(at) = what.find("struct Raw") {
        what.truncate(at);
        what += "a section";
    }
    (what.replace("expected usize", "expected a whole number"), hint)
}

/// With `suffice` it is refused when an app wants more scopes than it may have.
pub(super) fn load(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    suffice: bool,
) -> Result<Config, ConfigError> {
    checked(&Source::read(path)?, env, suffice).map_err(brief)
}

fn checked(source: &Source, env: impl Iterator<Item = (String, String)>, suffice: bool) -> Result<Config, ConfigError> {
    let (raw, variables) = raw(source, env)?;
    let catalog = catalog_of(source, &raw);
    let checker = Checker { source, variables, catalog, suffice, warnings: Vec::new(), of_apps: BTreeMap::new() };
    let config = checker.config(raw)?;
    if suffice { Checker::scopes_suffice(config) } else { Ok(config) }
}

/// A refusal that can be read, however long the name or value is that it quotes. A hint may propose whole sections.
fn brief(error: ConfigError) -> ConfigError {
    match error {
        ConfigError::Invalid { place, what, hint } => ConfigError::Invalid {
            place: shortened(place, 1000),
            what: shortened(what, 2000),
            hint: shortened(hint, 4000),
        },
        other => other,
    }
}

/// A configuration of this text, without an environment.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_load(text: &str) -> Result<Config, ConfigError> {
    let source = Source { path: PathBuf::from("hirelake.toml"), text: text.to_owned() };
    checked(&source, std::iter::empty(), true).map_err(brief)
}

pub(super) fn catalog_folder(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Option<PathBuf>, ConfigError> {
    let source = Source::read(path)?;
    let (raw, _) = raw(&source, env).map_err(brief)?;
    Ok(catalog_of(&source, &raw))
}

fn catalog_of(source: &Source, raw: &Raw) -> Option<PathBuf> {
    let base = source.path.parent().map(Path::to_owned).unwrap_or_default();
    raw.catalog.as_ref().map(|f| base.join(f))
}

/// The file with the environment laid over it, and the variables that were.
fn raw(source: &Source, env: impl Iterator<Item = (String, String)>) -> Result<(Raw, Vec<String>), ConfigError> {
    // The file alone first, so that its mistakes are shown with line and column.
    let _: Raw = match toml::from_str(&source.text) {
        Ok(raw) => raw,
        Err(e) => return Err(source.refused(&e)),
    };
    let mut table: TomlTable = toml::from_str(&source.text).map_err(|e| source.refused(&e))?;
    let mut variables: Vec<(String, String)> =
        env.filter(|(k, _)| k.starts_with(PREFIX) && !OTHERS.contains(&k.as_str())).collect();
    variables.sort();
    let named = secret_variables(&Value::Table(table.clone()));
    variables.retain(|(k, _)| !named.contains(k));
    for (name, text) in &variables {
        let invalid = |what: String, hint: String| ConfigError::Invalid { place: name.clone(), what, hint };
        let parts: Vec<&str> = name[PREFIX.len()..].split("__").collect();
        // As text where only text is taken: an id of nothing but digits is still a text.
        let readings = [value(text), Value::String(text.clone())];
        let mut refused = None;
        for reading in readings {
            let mut laid = table.clone();
            if !lay_over(&mut laid, &parts, reading) {
                return Err(invalid(
                    "it names no value of the configuration".into(),
                    "its parts are separated by two underscores, such as HIRELAKE_APPS__MAIN__CLIENT_ID".into(),
                ));
            }
            match Raw::deserialize(Value::Table(laid.clone())) {
                Ok(_) => {
                    table = laid;
                    refused = None;
                    break;
                }
                Err(e) => refused = refused.or(Some(e)),
            }
        }
        if let Some(e) = refused {
            let (what, hint) = said(e.message());
            let last = parts.last().copied().unwrap_or_default().to_lowercase();
            let (what, hint) = unless_a_key(&last, what, hint);
            return Err(invalid(
                what,
                hint.unwrap_or_else(|| "correct or unset the variable; `hirelake init --print` shows every key".into()),
            ));
        }
    }
    let raw = Raw::deserialize(Value::Table(table)).map_err(|e| source.refused(&e))?;
    Ok((raw, variables.into_iter().map(|(name, _)| name).collect()))
}

/// Variables that the file itself names as the place of a secret.
fn secret_variables(value: &Value) -> Vec<String> {
    match value {
        Value::Table(t) => t
            .iter()
            .flat_map(|(k, v)| match v {
                Value::String(name) if k == "env" => vec![name.clone()],
                v => secret_variables(v),
            })
            .collect(),
        Value::Array(a) => a.iter().flat_map(secret_variables).collect(),
        _ => Vec::new(),
    }
}

/// A variable's text is a TOML value where it parses as one that is not a bare word, else a string.
fn value(text: &str) -> Value {
    let parsed = toml::from_str::<TomlTable>(&format!("v = {text}")).ok().and_then(|mut t| t.remove("v"));
    parsed.filter(|v| !v.is_datetime()).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Puts a value at a path; a part matches an existing key without regard to case and dashes.
fn lay_over(table: &mut TomlTable, parts: &[&str], value: Value) -> bool {
    let Some((first, rest)) = parts.split_first() else { return false };
    if first.is_empty() {
        return false;
    }
    let plain = |s: &str| s.to_ascii_lowercase().replace('-', "_");
    let key = table.keys().find(|k| plain(k) == plain(first)).cloned().unwrap_or_else(|| first.to_ascii_lowercase());
    if rest.is_empty() {
        table.insert(key, value);
        return true;
    }
    let below = table.entry(key).or_insert_with(|| Value::Table(TomlTable::new()));
    below.as_table_mut().is_some_and(|t| lay_over(t, rest, value))
}

/// In the catalogue's order, as they are.
fn names(resources: &[&Resource]) -> Vec<ResourceName> {
    resources.iter().map(|r| r.name.clone()).collect()
}

struct Checker<'a> {
    source: &'a Source,
    /// Those that were laid over the file.
    variables: Vec<String>,
    /// The folder with catalogue files of the user's.
    catalog: Option<PathBuf>,
    /// Whether scopes that are too many are refused.
    suffice: bool,
    warnings: Vec<String>,
    /// What apps say of their tenants.
    of_apps: BTreeMap<AppName, (RawPrivacy, Option<bool>)>,
}

impl Checker<'_> {
    /// An error at the variable that gave the value `needle` of `section`, else at the first place where it stands below that
    /// header.
    fn invalid(&self, section: &str, needle: &str, what: String, hint: impl Into<String>) -> ConfigError {
        let variable = format!("{PREFIX}{section}__{needle}").to_ascii_uppercase().replace('.', "__").replace('-', "_");
        if let Some(place) = self.variables.iter().find(|name| name.to_ascii_uppercase() == variable) {
            return ConfigError::Invalid { place: place.clone(), what, hint: hint.into() };
        }
        let text = &self.source.text;
        let base = text.find(&format!("[{section}]")).unwrap_or(0);
        let at = text[base..].find(needle).map(|i| base + i).or((base > 0).then_some(base));
        ConfigError::Invalid { place: self.source.place(at), what, hint: hint.into() }
    }

    fn config(mut self, raw: Raw) -> Result<Config, ConfigError> {
        let base = self.source.path.parent().map(Path::to_owned).unwrap_or_default();
        let provider = catalog::load(self.catalog.as_deref())?;
        let mut apps = BTreeMap::new();
        for (name, mut app) in raw.apps {
            let privacy = std::mem::take(&mut app.privacy);
            self.privacy(&provider, &format!("apps.{name}"), &privacy, &mut Privacy::default())?;
            self.of_apps.insert(name.clone(), (privacy, app.confidential));
            let app = self.app(&provider, &base, name.clone(), app)?;
            apps.insert(name, app);
        }
        for (name, granularity) in &raw.partitions {
            let resource =
                provider.resource(name.as_str()).ok_or_else(|| self.no_resource(&provider, "partitions", name))?;
            Table::new(&provider.name, resource, Some(*granularity))
                .map_err(|what| self.invalid("partitions", name.as_str(), what, "choose another granularity"))?;
        }
        let (default_tenant, tenants) = self.tenants(&provider, &apps, &raw.defaults, raw.tenants)?;
        let time = |section: &str, key: &str, text: &str| {
            duration(text).ok_or_else(|| {
                self.invalid(
                    section,
                    key,
                    format!("`{key}` is no length of time"),
                    "write it as 90s, 10m, 1h 30m or 30d",
                )
            })
        };
        if raw.sync.tenants_at_once == 0 || raw.sync.tenants_at_once > 1000 {
            let what = "`tenants_at_once` must be from 1 to 1000".to_owned();
            return Err(self.invalid("sync", "tenants_at_once", what, "8 is the default"));
        }
        if !(0.01..=100.0).contains(&raw.keepalive.per_second) {
            let what = "`per_second` must be from 0.01 to 100".to_owned();
            return Err(self.invalid("keepalive", "per_second", what, "2.0 is the default"));
        }
        // A path is meant from where the file stands, not from where the program was started.
        let place = |url: String| {
            if url.contains("://") || base.as_os_str().is_empty() {
                url
            } else {
                base.join(url).to_string_lossy().into_owned()
            }
        };
        let (lake, state) = (place(raw.lake), place(raw.state));
        let (lake_store, state_store) = self.stores(raw.store, &base, &lake, &state)?;
        Ok(Config {
            overlap: time("sync", "overlap", &raw.sync.overlap)?,
            safety_lag: time("sync", "safety_lag", &raw.sync.safety_lag)?,
            refresh_margin: time("sync", "refresh_margin", &raw.sync.refresh_margin)?,
            quarantine_keep: time("sync", "quarantine_keep", &raw.sync.quarantine_keep)?,
            tenants_at_once: raw.sync.tenants_at_once,
            path: self.source.path.clone(),
            lake,
            state,
            lake_store,
            state_store,
            scratch: raw.scratch.map_or_else(std::env::temp_dir, |s| base.join(s)),
            vault_key: raw.vault.key.below(&base),
            vault_previous: raw.vault.previous.into_iter().map(|k| k.below(&base)).collect(),
            connect: ConnectConfig {
                invite_life: time("connect", "invite_life", &raw.connect.invite_life)?,
                listen: raw.connect.listen,
                public_url: self.public_url(raw.connect.public_url)?,
            },
            keepalive: KeepaliveConfig {
                before: time("keepalive", "before", &raw.keepalive.before)?,
                per_second: raw.keepalive.per_second,
            },
            catalog: self.catalog.clone(),
            provider,
            apps,
            tenants,
            default_tenant,
            partitions: raw.partitions,
            warnings: self.warnings,
        })
    }

    /// The settings of both stores, which must fit them.
    fn stores(
        &self,
        both: store::Options,
        base: &Path,
        lake: &str,
        state: &str,
    ) -> Result<(store::Options, store::Options), ConfigError> {
        let (both, of_lake, of_state) = both.apart();
        let alone = |what: &str| ConfigError::Invalid {
            place: format!("{}: without_conditional_replace in {what}", self.source.path.display()),
            what: "the state cannot do without conditional writes: grants and leases rest on them".into(),
            hint: "set it in [store.lake] alone".into(),
        };
        if both.without_conditional_replace.is_some() {
            return Err(alone("[store]"));
        }
        if of_state.without_conditional_replace.is_some() {
            return Err(alone("[store.state]"));
        }
        let fitting = |own: store::Options, url: &str| {
            // What is said for both is not said of a folder.
            let mut options = if store::is_remote(url) { own.or(&both) } else { own };
            if let Some(file) = &mut options.ca_file {
                *file = base.join(&*file);
            }
            match options.check(url) {
                Err(store::StoreError::BadOption { store, why, hint }) => Err(ConfigError::Invalid {
                    place: format!("{}: the settings of {store} in [store]", self.source.path.display()),
                    what: why,
                    hint,
                }),
                // An address that cannot be used is told where it is opened.
                _ => Ok(options),
            }
        };
        Ok((fitting(of_lake, lake)?, fitting(of_state, state)?))
    }

    /// No app asks for more scopes than it may, and a list that a person wrote opens what is wanted by name.
    fn scopes_suffice(mut config: Config) -> Result<Config, ConfigError> {
        let mut warnings = Vec::new();
        for app in config.apps.values() {
            config.app_scopes(app)?;
        }
        for tenant in config.named_tenants().filter(|t| config.app(t).is_ok()) {
            let asked = config.scopes(tenant)?.list;
            let closed: Vec<&str> = config
                .resources(tenant)
                .into_iter()
                .filter(|r| scopes::of(r).any(|s| !scopes::opens(&asked, &s)))
                .map(|r| r.name.as_str())
                .collect();
            let knows = config.resources(tenant).iter().any(|r| r.confidential.is_some());
            let hidden = config.provider.confidential.as_ref();
            let hidden = hidden.filter(|_| knows && config.tenant(tenant).confidential);
            if let Some(hidden) = hidden.filter(|c| !scopes::opens(&asked, &c.scope)) {
                warnings.push(format!(
                    "tenant {tenant}: confidential records are wanted, and the scopes of its app do not hold {}",
                    hidden.scope
                ));
            }
            if config.tenant(tenant).resources_named && !closed.is_empty() {
                warnings.push(format!(
                    "tenant {tenant}: the scopes of its app do not open {}; `hirelake catalog --scopes` prints those that do",
                    closed.join(", ")
                ));
            }
        }
        config.warnings.append(&mut warnings);
        Ok(config)
    }

    /// The address of the connect page; it gets a slash at its end, so that pages lie below it.
    fn public_url(&self, url: Option<Url>) -> Result<Option<Url>, ConfigError> {
        let Some(mut url) = url else { return Ok(None) };
        if url.cannot_be_a_base() || (url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url))) {
            return Err(self.invalid(
                "connect",
                "public_url",
                format!("public_url is `{}`, not https", url.scheme()),
                "customers open it in their browsers: put a proxy with TLS before `hirelake connect serve`; http is for this machine's loopback address",
            ));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        url.set_query(None);
        url.set_fragment(None);
        Ok(Some(url))
    }

    fn no_resource(&self, provider: &Provider, section: &str, name: &ResourceName) -> ConfigError {
        let near = crate::names::nearest(name.as_str(), provider.resources.iter().map(|r| r.name.as_str()));
        let hint = near.map_or_else(|| "`hirelake catalog` lists them".to_owned(), |n| format!("did you mean `{n}`?"));
        self.invalid(section, name.as_str(), format!("there is no resource `{name}`"), hint)
    }

    /// What holds by default, and for each tenant that is named: by a section of its own, or as that which another is a part of.
    fn tenants(
        &self,
        provider: &Provider,
        apps: &BTreeMap<AppName, App>,
        defaults: &RawTenant,
        mut raw: BTreeMap<Tenant, RawTenant>,
    ) -> Result<(TenantConfig, BTreeMap<Tenant, TenantConfig>), ConfigError> {
        if defaults.part_of.is_some() {
            let what = "`part_of` is of one tenant and has no default".to_owned();
            return Err(self.invalid("defaults", "part_of", what, "write it into the section of the part"));
        }
        let mut families: BTreeMap<Tenant, Vec<Tenant>> = BTreeMap::new();
        for (name, part) in &raw {
            let Some(whole) = &part.part_of else { continue };
            self.part(name, part, whole, &raw)?;
            families.entry(whole.clone()).or_default().push(name.clone());
        }
        // Naming a part names the tenant; it has the defaults where it has no section.
        for whole in families.keys() {
            raw.entry(whole.clone()).or_default();
        }
        // An app of which there is but one is everybody's; those that only parts name are nobody else's.
        let of_parts = |a: &AppName| raw.values().any(|t| t.part_of.is_some() && t.app.as_ref() == Some(a));
        let mut others = apps.keys().filter(|a| apps.len() == 1 || !of_parts(a));
        let only = match (others.next(), others.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        };

        let chosen = self.chosen(provider, "defaults", defaults.resources.as_ref())?;
        self.parents_are_read("defaults", &chosen, &chosen)?;
        let default_tenant = self.tenant(provider, apps, only, "defaults", defaults, defaults, names(&chosen))?;
        let mut tenants = BTreeMap::new();
        for (name, own) in raw.iter().filter(|(_, t)| t.part_of.is_none()) {
            let section = format!("tenants.{name}");
            let mut chosen = self.chosen(provider, &section, own.resources.as_ref().or(defaults.resources.as_ref()))?;
            let mut taken: Vec<(&Resource, &Tenant)> = Vec::new();
            let mut parts = Vec::new();
            for part in families.get(name).into_iter().flatten() {
                let section = format!("tenants.{part}");
                let of_part = self.chosen(provider, &section, raw[part].resources.as_ref())?;
                let own = own.resources.is_some().then(|| chosen.iter().map(|r| (*r, name)));
                let mut before = taken.iter().copied().chain(own.into_iter().flatten());
                if let Some((twice, other)) = before.find(|(r, _)| of_part.iter().any(|p| p.name == r.name)) {
                    return Err(self.invalid(
                        &section,
                        twice.name.as_str(),
                        format!("`{}` is read by {part} and by {other}, of one account", twice.name),
                        "name it in one of the two: each table is read with one grant",
                    ));
                }
                taken.extend(of_part.iter().map(|r| (*r, part)));
                parts.push((part, section, of_part));
            }
            // What holds by default gives way to what a part names.
            chosen.retain(|r| !taken.iter().any(|(t, _)| t.name == r.name));
            let all: Vec<&Resource> = chosen.iter().copied().chain(taken.iter().map(|(r, _)| *r)).collect();
            self.parents_are_read(&section, &chosen, &all)?;
            let whole = self.tenant(provider, apps, only, &section, own, defaults, names(&chosen))?;
            let mut used: Vec<(AppName, &Tenant)> = whole.app.iter().map(|a| (a.clone(), name)).collect();
            for (part, section, of_part) in parts {
                self.parents_are_read(&section, &of_part, &all)?;
                let own = &raw[part];
                let checked = TenantConfig {
                    // Of a part nothing is left to the defaults: without an app it is read with an API key.
                    app: own.app.clone().filter(|_| own.api_key != Some(true)),
                    ..self.tenant(provider, apps, None, &section, own, defaults, names(&of_part))?
                };
                if let Some(app) = &checked.app {
                    if let Some((_, other)) = used.iter().find(|(a, _)| a == app) {
                        return Err(self.invalid(
                            &section,
                            "app",
                            format!("{part} and {other} are of one app, {app}, and an app has one grant of an account"),
                            "give each an app of its own; or leave `app` out of the part, which is then read with an API key",
                        ));
                    }
                    let environment = |a: &AppName| apps.get(a).map(|a| a.environment);
                    if let Some((other, _)) = used.iter().find(|(a, _)| environment(a) != environment(app)) {
                        return Err(self.invalid(
                            &section,
                            "app",
                            format!("the apps {other} and {app} are of different environments, so they never see one account"),
                            "one account is either of the sandbox or of production",
                        ));
                    }
                    used.push((app.clone(), part));
                }
                tenants.insert(part.clone(), checked);
            }
            tenants.insert(name.clone(), whole);
        }
        Ok((default_tenant, tenants))
    }

    /// The rules for a part that need nothing but its section.
    fn part(
        &self,
        name: &Tenant,
        part: &RawTenant,
        whole: &Tenant,
        all: &BTreeMap<Tenant, RawTenant>,
    ) -> Result<(), ConfigError> {
        let section = format!("tenants.{name}");
        if whole == name {
            let what = format!("tenant {name} is a part of itself");
            return Err(self.invalid(&section, "part_of", what, "name the tenant whose account it reads a share of"));
        }
        if let Some(above) = all.get(whole).and_then(|t| t.part_of.as_ref()) {
            let what = format!("tenant {name} is a part of {whole}, which is a part itself");
            return Err(self.invalid(&section, "part_of", what, format!("write part_of = \"{above}\"")));
        }
        if part.resources.as_ref().is_none_or(Vec::is_empty) {
            let what = format!("tenant {name} is a part of {whole} and names no resources");
            let hint = "say what is read with its own grant: resources = [\"notes\", \"offers\"]";
            return Err(self.invalid(&section, "part_of", what, hint));
        }
        let set = [
            ("on_delete", part.on_delete.is_some()),
            ("rate", part.rate.is_some()),
            ("reconcile", part.reconcile.is_some()),
            ("privacy", !part.privacy.is_empty()),
            ("confidential", part.confidential.is_some()),
            ("schema", part.schema.is_some()),
        ];
        if let Some((key, _)) = set.iter().find(|(_, set)| *set) {
            let what = format!("tenant {name} is a part of {whole} and has no `{key}` of its own");
            return Err(self.invalid(
                &section,
                key,
                what,
                format!("write it into [tenants.{whole}]: it is one account"),
            ));
        }
        Ok(())
    }

    /// The resources that are named, or all that are on by default.
    fn chosen<'p>(
        &self,
        provider: &'p Provider,
        section: &str,
        named: Option<&Vec<ResourceName>>,
    ) -> Result<Vec<&'p Resource>, ConfigError> {
        for name in named.into_iter().flatten() {
            if provider.resource(name.as_str()).is_none() {
                return Err(self.no_resource(provider, section, name));
            }
        }
        // Naming a table means its deletions too: a candidate erased at the source must not stay in the lake.
        let wanted = |r: &Resource, names: &Vec<ResourceName>| {
            names.contains(&r.name) || matches!(&r.mode, Mode::Tombstones { of, .. } if names.contains(of))
        };
        let by_default = |r: &Resource| r.default != ByDefault::Named;
        Ok(provider.resources.iter().filter(|r| named.map_or(by_default(r), |n| wanted(r, n))).collect())
    }

    /// What comes with the records of another resource is read by the same grant; what is read for each of them only needs
    /// somebody who reads them.
    fn parents_are_read(&self, section: &str, own: &[&Resource], all: &[&Resource]) -> Result<(), ConfigError> {
        for r in own {
            let Some(from) = r.mode.parent() else { continue };
            let (read, what) = match r.mode {
                Mode::Children { .. } => {
                    (all, format!("`{}` is read for each of `{from}`, which is not among the resources", r.name))
                }
                _ => {
                    (own, format!("`{}` comes with the records of `{from}`, which is not among the resources", r.name))
                }
            };
            if read.iter().any(|p| p.name == *from) {
                continue;
            }
            let hint = match all.iter().any(|p| p.name == *from) {
                true => "name the two together: they are the same requests, so one grant reads both".to_owned(),
                false => format!("add \"{from}\""),
            };
            return Err(self.invalid(section, r.name.as_str(), what, hint));
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what the file says is put together in one place")]
    fn tenant(
        &self,
        provider: &Provider,
        apps: &BTreeMap<AppName, App>,
        only: Option<&AppName>,
        section: &str,
        own: &RawTenant,
        defaults: &RawTenant,
        resources: Vec<ResourceName>,
    ) -> Result<TenantConfig, ConfigError> {
        let app = own.app.clone().or_else(|| defaults.app.clone());
        if let Some(app) = app.as_ref().filter(|a| !apps.contains_key(*a)) {
            let names: Vec<&str> = apps.keys().map(AppName::as_str).collect();
            let hint = match names.as_slice() {
                [] => format!("add a section [apps.{app}]"),
                names => format!("add a section [apps.{app}], or name one of: {}", names.join(", ")),
            };
            return Err(self.invalid(section, "app", format!("there is no app `{app}`"), hint));
        }
        let app = app.or_else(|| only.cloned());
        let of_app = app.as_ref().and_then(|a| self.of_apps.get_key_value(a));
        // Those of whom the file says nothing are the defaults, over which their app's word stands all the same.
        let (lowest, own_word) = if section == "defaults" { (own, None) } else { (defaults, Some(own)) };
        let mut privacy = Privacy::default();
        self.privacy(provider, "defaults", &lowest.privacy, &mut privacy)?;
        if let Some((name, (said, _))) = of_app {
            self.privacy(provider, &format!("apps.{name}"), said, &mut privacy)?;
        }
        if let Some(own) = own_word {
            self.privacy(provider, section, &own.privacy, &mut privacy)?;
        }
        let confidential = own_word.and_then(|o| o.confidential);
        let confidential = confidential.or(of_app.and_then(|(_, (_, c))| *c)).or(lowest.confidential);
        let rate = own.rate.or(defaults.rate).unwrap_or(provider.rate);
        if !(rate.per_second > 0.0 && rate.per_second <= 100_000.0 && (1..=100_000).contains(&rate.burst)) {
            let what = "`rate` needs per_second above 0 and a burst of at least 1".to_owned();
            return Err(self.invalid(section, "rate", what, "such as rate = { per_second = 10.0, burst = 15 }"));
        }
        let schema = own.schema.or(defaults.schema).unwrap_or_default();
        if schema == Schema::Evolve && self.catalog.is_none() {
            let what = "`schema = \"evolve\"` writes columns into a catalogue folder, and none is set".to_owned();
            let hint = "set `catalog = \"pipelines\"` (a folder that is there) at the top, or use \"warn\"";
            return Err(self.invalid(section, "schema", what, hint));
        }
        let (app, hosts) = if own.api_key.or(defaults.api_key) == Some(true) { (None, app) } else { (app, None) };
        Ok(TenantConfig {
            app,
            hosts,
            part_of: own.part_of.clone(),
            resources,
            resources_named: own.resources.is_some() || defaults.resources.is_some(),
            on_delete: own.on_delete.or(defaults.on_delete).unwrap_or(OnDelete::Redact),
            rate,
            reconcile: own.reconcile.or(defaults.reconcile).unwrap_or_default(),
            privacy,
            confidential: confidential.unwrap_or(false),
            schema,
        })
    }

    /// Lays the privacy settings of a section over what is there.
    fn privacy(
        &self,
        provider: &Provider,
        section: &str,
        raw: &RawPrivacy,
        into: &mut Privacy,
    ) -> Result<(), ConfigError> {
        for (key, setting) in raw {
            let refuse = |what: String, hint: String| {
                Err(self.invalid(
                    &self.privacy_section(section, key),
                    key.rsplit('.').next().unwrap_or(key),
                    what,
                    hint,
                ))
            };
            match setting {
                RawSetting::Columns(columns) => {
                    for (column, act) in columns {
                        self.private_column(provider, section, key, column, *act, into)?;
                    }
                }
                RawSetting::Act(act) => {
                    if let Some((table, column)) = key.split_once('.') {
                        self.private_column(provider, section, table, column, *act, into)?;
                    } else if let Some(class) = Class::of(key) {
                        into.classes.insert(class, *act);
                    } else if !SWITCHES.contains(&key.as_str()) {
                        let known = Class::ALL.iter().map(|c| c.word()).chain(SWITCHES);
                        let hint = match crate::names::nearest(key, known.clone()) {
                            Some(near) => format!("did you mean `{near}`?"),
                            None => format!(
                                "there are {}; one column is written \"table.column\"",
                                known.collect::<Vec<_>>().join(", ")
                            ),
                        };
                        return refuse(format!("there is no class of columns `{key}`"), hint);
                    } else if *act == Act::Pseudonymize {
                        let what = format!("`{key}` is a switch: it cannot be `pseudonymize`");
                        return refuse(what, "say \"keep\" or \"drop\"".into());
                    } else if key == SWITCHES[0] {
                        into.drop_secret = *act == Act::Drop;
                    } else {
                        into.drop_extra = *act == Act::Drop;
                    }
                }
            }
        }
        Ok(())
    }

    fn private_column(
        &self,
        provider: &Provider,
        section: &str,
        table: &str,
        column: &str,
        act: Act,
        into: &mut Privacy,
    ) -> Result<(), ConfigError> {
        let near = |word: &str, known: &mut dyn Iterator<Item = &str>, where_else: String| {
            crate::names::nearest(word, known).map_or(where_else, |n| format!("did you mean `{n}`?"))
        };
        let place = self.privacy_section(section, table);
        let Some(resource) = provider.resource(table) else {
            let hint = near(
                table,
                &mut provider.resources.iter().map(|r| r.name.as_str()),
                "`hirelake catalog` lists the tables".into(),
            );
            return Err(self.invalid(&place, table, format!("there is no table `{table}`"), hint));
        };
        let Some(c) = resource.column(column) else {
            let hint = near(
                column,
                &mut resource.columns.iter().map(|c| c.name.as_str()),
                format!("`hirelake catalog {table}` lists its columns"),
            );
            return Err(self.invalid(&place, column, format!("`{table}` has no column `{column}`"), hint));
        };
        if let Some(why) = catalog::held_by(&provider.resources, resource, c).filter(|_| act != Act::Keep) {
            let what = format!("`{table}.{column}` can be neither dropped nor pseudonymized: {why}");
            return Err(self.invalid(&place, column, what, "leave it out, or do not read the table"));
        }
        into.columns.insert((resource.name.clone(), column.to_owned()), act);
        Ok(())
    }

    /// The section where a privacy setting stands: it may be a table of its own, or a value of its tenant's.
    fn privacy_section(&self, section: &str, table: &str) -> String {
        let all = [format!("{section}.privacy.{table}"), format!("{section}.privacy")];
        let stands = |s: &String| self.source.text.contains(&format!("[{s}]"));
        let variable = |s: &String| {
            let prefix = format!("{PREFIX}{s}__").to_ascii_uppercase().replace('.', "__").replace('-', "_");
            self.variables.iter().any(|v| v.to_ascii_uppercase().starts_with(&prefix))
        };
        let found = all.iter().find(|s| stands(s)).or_else(|| all.iter().find(|s| variable(s)));
        found.cloned().unwrap_or_else(|| section.to_owned())
    }

    fn app(&mut self, provider: &Provider, base: &Path, name: AppName, raw: RawApp) -> Result<App, ConfigError> {
        let section = format!("apps.{name}");
        let facts = provider.endpoints(raw.environment);
        let endpoints = Endpoints {
            api_base: raw.api_base.unwrap_or_else(|| facts.api_base.clone()),
            authorize: raw.authorize.unwrap_or_else(|| facts.authorize.clone()),
            token: raw.token.unwrap_or_else(|| facts.token.clone()),
            revoke: raw.revoke.or_else(|| facts.revoke.clone()),
            audience: raw.audience.unwrap_or_else(|| facts.audience.clone()),
            hosts: raw.hosts.unwrap_or_else(|| facts.hosts.clone()),
        };
        let other = match raw.environment {
            Environment::Production => &provider.sandbox,
            Environment::Sandbox => &provider.production,
        };
        for (key, url, others) in [
            ("api_base", Some(&endpoints.api_base), Some(&other.api_base)),
            ("authorize", Some(&endpoints.authorize), Some(&other.authorize)),
            ("token", Some(&endpoints.token), Some(&other.token)),
            ("revoke", endpoints.revoke.as_ref(), other.revoke.as_ref()),
        ] {
            let Some(url) = url else { continue };
            if others.is_some_and(|o| url.host_str() == o.host_str()) {
                return Err(self.invalid(
                    &section,
                    key,
                    format!(
                        "app {name} is of the environment `{}`, but its {key} is on {}, which is of the other one",
                        raw.environment,
                        url.host_str().unwrap_or_default()
                    ),
                    "tokens of one environment are refused by the other: change `environment`, or leave the hosts out",
                ));
            }
            let sandboxed = raw.environment == Environment::Sandbox && is_loopback(url);
            if url.scheme() != "https" && !(sandboxed && url.scheme() == "http") {
                return Err(self.invalid(
                    &section,
                    key,
                    format!("app {name}: {key} is `{}`, not https", url.scheme()),
                    "only https is used, but for a sandbox app on this machine's loopback address",
                ));
            }
        }
        for uri in &raw.redirect_uris {
            if uri.scheme() != "https" && raw.environment == Environment::Production {
                return Err(self.invalid(
                    &section,
                    "redirect_uris",
                    format!("app {name}: the callback {uri} is not https"),
                    "the provider takes http callbacks in its sandbox only; register an https one (`hirelake connect` lets you paste the address it ends on)",
                ));
            }
        }
        if !endpoints.audience.ends_with('/') {
            return Err(self.invalid(
                &section,
                "audience",
                format!("app {name}: the audience does not end in a slash"),
                format!("without it the consent page offers only `{}`", provider.oauth.offline_scope),
            ));
        }
        for (key, text, range) in [("title", &raw.title, 1..=80), ("description", &raw.description, 20..=140)] {
            let Some(text) = text else { continue };
            let length = text.trim().chars().count();
            if !range.contains(&length) {
                return Err(self.invalid(
                    &section,
                    key,
                    format!(
                        "app {name}: the {key} has {length} characters, and {} to {} are taken",
                        range.start(),
                        range.end()
                    ),
                    "the provider's registration form shows it to customers; `hirelake connect guide` prints all that the form asks",
                ));
            }
        }
        if raw.logo.as_ref().is_some_and(|l| l.scheme() != "https") {
            return Err(self.invalid(
                &section,
                "logo",
                format!("app {name}: the logo's address is not https"),
                "give the https address of a square picture",
            ));
        }
        let scopes = match raw.scopes.as_deref().map(|s| scopes::parse(provider, s)).transpose() {
            Ok(scopes) => scopes,
            Err(scopes::ScopeError::TooMany { .. }) if !self.suffice => None,
            Err(e) => {
                let text = e.to_string();
                return Err(self.invalid(
                    &section,
                    "scopes",
                    format!("app {name}: {}", first_line(&text)),
                    hint_line(&text),
                ));
            }
        };
        self.warnings.extend(scopes.iter().flat_map(|s| &s.mended).map(|m| format!("app {name}: {m}")));
        Ok(App {
            name,
            title: raw.title,
            description: raw.description,
            logo: raw.logo,
            environment: raw.environment,
            client_id: raw.client_id,
            client_secret: raw.client_secret.below(base),
            redirect_uris: raw.redirect_uris,
            endpoints,
            pkce: raw.pkce.unwrap_or(provider.oauth.pkce),
            scopes,
        })
    }
}
