//! File + environment → [`Config`], validated once; every variable is named here.
//!
//! Any value of the file can be given or overridden by the environment: `HIRELAKE_` and the value's path in capitals, with
//! two underscores between its parts and one in place of a dash: `HIRELAKE_LAKE`, `HIRELAKE_DEFAULTS__ON_DELETE`,
//! `HIRELAKE_APPS__MAIN__CLIENT_ID`. Two variables are not values of the file: `HIRELAKE_CONFIG` (the file itself) and
//! `HIRELAKE_LOG` (the log filter). Secrets never stand in the file: it says in which variable or file they are.

mod file;
mod guide;
mod split;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::catalog::{
    ByDefault, CatalogError, Endpoints, Environment, Granularity, OnDelete, Privacy, Provider, Rate, Resource, Table,
    scopes,
};
use crate::names::{AppName, ResourceName, Tenant};
use crate::secret::Secret;
use crate::store::Options;

pub use file::TEMPLATE;
pub(crate) use file::duration;
#[cfg(any(test, fuzzing))]
pub(crate) use file::fuzz_load;
pub use split::Proposal;

/// Where the configuration is looked for unless something else is said.
pub const DEFAULT_FILE: &str = "hirelake.toml";

/// Why a configuration was refused. Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {path}: {why}\nhint: {hint}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// A key is unknown, missing, or of another type.
    #[error("{place}: {what}\nhint: {hint}")]
    Invalid {
        /// File, line and column, or the variable.
        place: String,
        /// What is wrong, the key named.
        what: String,
        /// What was expected.
        hint: String,
    },
    /// A secret cannot be had.
    #[error("{what} cannot be had: {why}\nhint: {hint}")]
    Secret {
        /// Which secret.
        what: String,
        /// Why.
        why: String,
        /// What to do.
        hint: String,
    },
    /// The catalogue was refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What is said when something else stands in a [`SecretSource`]'s place.
const NOT_A_SOURCE: &str =
    "expected where the secret is: `{ env = \"NAME\" }`, `{ file = \"PATH\" }` or `{ command = [\"PROGRAM\"] }`";

/// How long a command may take to print a secret: a key service across the world answers within seconds.
const COMMAND: Duration = Duration::from_secs(30);
/// Most that a command may print; a key is a hundred bytes.
const PRINTED_BYTES: u64 = 64 << 10;

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In this environment variable.
    Env(String),
    /// In this file, whose surrounding white space does not count.
    File(PathBuf),
    /// What this command prints.
    Command(Vec<String>),
}

impl SecretSource {
    /// The same, a relative file meant from `folder`.
    fn below(self, folder: &Path) -> Self {
        match self {
            Self::File(file) => Self::File(folder.join(file)),
            other => other,
        }
    }

    /// Fetches a secret on which all others depend: a file of it must not be readable by everybody on the machine.
    ///
    /// # Errors
    ///
    /// As [`SecretSource::fetch`], and when its file is open to others.
    pub fn fetch_private(&self, what: &str) -> Result<Secret, ConfigError> {
        #[cfg(unix)]
        if let Self::File(path) = self {
            use std::os::unix::fs::PermissionsExt as _;
            // What cannot be looked at is told by the reading.
            let mode = std::fs::metadata(path).map_or(0, |m| m.permissions().mode());
            if mode & 0o007 != 0 {
                return Err(ConfigError::Secret {
                    what: what.to_owned(),
                    why: format!("every user of this machine may open {}", path.display()),
                    hint: format!("`chmod 600 {}`; a group of its own may read it, with 640", path.display()),
                });
            }
        }
        self.fetch(what)
    }

    /// Fetches the secret.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Secret`]; the secret itself is never in it.
    pub fn fetch(&self, what: &str) -> Result<Secret, ConfigError> {
        let fail = |why: String, hint: String| ConfigError::Secret { what: what.to_owned(), why, hint };
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| {
                fail(
                    format!("the environment variable {name} is not set"),
                    format!("set {name}, or name a file instead"),
                )
            })?,
            Self::File(path) => read_text(path, MAX_SECRET).map_err(|e| {
                fail(
                    format!("{} cannot be read ({e})", path.display()),
                    "check the path and that this user may read it".into(),
                )
            })?,
            Self::Command(command) => printed(command, COMMAND).map_err(|(why, hint)| fail(why, hint.into()))?,
        };
        let text = text.trim();
        if text.is_empty() {
            return Err(fail("it is empty".into(), "put the secret there".into()));
        }
        Ok(Secret::new(text))
    }
}

/// What a command prints within `limit`, or why not and what to do. What it says on stderr may be anything, so it is not
/// looked at.
fn printed(command: &[String], limit: Duration) -> Result<String, (String, &'static str)> {
    use std::process::Stdio;
    let (program, args) =
        command.split_first().ok_or(("the command is empty".to_owned(), "give the program and its arguments"))?;
    let mut child = std::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| (format!("`{program}` cannot be run ({e})"), "check that the program is on the PATH"))?;
    let stdout = child.stdout.take();
    let (sender, printed) = std::sync::mpsc::channel();
    // A thread of its own, because a pipe is read with no limit of time. It ends with the pipe.
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.map(|s| s.take(PRINTED_BYTES)).map(|mut s| s.read_to_end(&mut text));
        let _ = sender.send(read.transpose().map(|_| text));
    });
    let by_hand = "run it by hand to see why";
    let late = || (format!("`{program}` did not end within {} s", limit.as_secs_f64()), by_hand);
    let Ok(read) = printed.recv_timeout(limit) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(late());
    };
    let (sender, ended) = std::sync::mpsc::channel();
    // It has closed its output, so it is at its end; one that lingers all the same is left behind.
    std::thread::spawn(move || {
        let _ = sender.send(child.wait());
    });
    let status = ended.recv_timeout(limit).map_err(|_| late())?;
    let status = status.map_err(|e| (format!("`{program}` cannot be waited for ({e})"), by_hand))?;
    if !status.success() {
        return Err((format!("`{program}` ended with {status}"), by_hand));
    }
    let text = read.map_err(|e| (format!("what `{program}` prints cannot be read ({e})"), by_hand))?;
    String::from_utf8(text).map_err(|_| (format!("`{program}` did not print text"), "it must print the secret alone"))
}

/// By hand, because whatever stands in its place may be the secret itself, which serde's own errors would quote.
impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let wrong = || D::Error::custom(NOT_A_SOURCE);
        let table = toml::Table::deserialize(d).map_err(|_| wrong())?;
        let mut keys = table.into_iter();
        match (keys.next(), keys.next()) {
            (Some((key, toml::Value::String(name))), None) if key == "env" => Ok(Self::Env(name)),
            (Some((key, toml::Value::String(path))), None) if key == "file" => Ok(Self::File(path.into())),
            (Some((key, toml::Value::Array(words))), None) if key == "command" => {
                let words: Option<Vec<String>> = words.iter().map(|w| w.as_str().map(str::to_owned)).collect();
                words.map(Self::Command).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Command(command) => write!(f, "command {}", command.first().map_or("", String::as_str)),
        }
    }
}

/// An OAuth client of ours at the provider.
#[derive(Debug, Clone)]
pub struct App {
    /// Its name in the configuration.
    pub name: AppName,
    /// Its name as customers know it and as it is registered, 1 to 80 characters.
    pub title: Option<String>,
    /// What it does, as the registration form wants it: 20 to 140 characters.
    pub description: Option<String>,
    /// A square picture over https.
    pub logo: Option<Url>,
    /// Which side of the provider it belongs to.
    pub environment: Environment,
    /// The id that the provider issued.
    pub client_id: String,
    /// Where its secret is.
    pub client_secret: SecretSource,
    /// Registered callbacks; the first is used by `hirelake connect`.
    pub redirect_uris: Vec<Url>,
    /// Hosts and paths.
    pub endpoints: Endpoints,
    /// Whether the consent is sent with a PKCE challenge; what the catalogue says unless set.
    pub pkce: bool,
    /// Scopes to ask for instead of the computed ones.
    pub scopes: Option<scopes::Scopes>,
}

impl App {
    /// Its secret, fetched anew.
    ///
    /// # Errors
    ///
    /// When it cannot be had.
    pub fn secret(&self) -> Result<Secret, ConfigError> {
        self.client_secret.fetch(&format!("the client secret of app {}", self.name))
    }
}

/// What holds for one tenant.
#[derive(Debug, Clone)]
pub struct TenantConfig {
    /// Its app; `None` when several exist and none was named, or it is read with an API key, which needs none.
    pub app: Option<AppName>,
    /// The app at whose hosts it is, where an API key reads it (`api_key`): the app's scopes have nothing to do with it.
    pub hosts: Option<AppName>,
    /// The tenant whose account it reads a share of: it is synced with that one, and its rows are that one's.
    pub part_of: Option<Tenant>,
    /// The resources that are read with its own grant, in the catalogue's order.
    pub resources: Vec<ResourceName>,
    /// Whether the configuration names the resources, so that a missing scope is a failure.
    pub resources_named: bool,
    /// What becomes of deleted rows.
    pub on_delete: OnDelete,
    /// How fast it may be asked.
    pub rate: Rate,
    /// How children are read again whose parents did not change.
    pub reconcile: Reconcile,
    /// What is dropped or replaced before it is written.
    pub privacy: Privacy,
    /// Whether confidential records are asked for.
    pub confidential: bool,
    /// What is done with fields that the catalogue does not expect.
    pub schema: Schema,
}

/// What is done with fields that the catalogue does not declare, and with values that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schema {
    /// They are kept in `_extra`, counted, and told.
    #[default]
    Warn,
    /// The same; and undeclared top-level fields become columns of the next run.
    Evolve,
    /// The resource fails, and nothing of what drifted is committed.
    Freeze,
}

impl TenantConfig {
    /// Whether the consent asks for the scope of one of its resources: one that is read only where its scope happens to be
    /// granted is not asked for.
    #[must_use]
    pub fn asks_for(&self, resource: &Resource) -> bool {
        self.resources_named || resource.default == ByDefault::Always
    }
}

/// How often children are read again whose parents did not change: an edit that does not touch the parent is in the lake
/// within so many nights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RawReconcile")]
pub struct Reconcile {
    /// Nights (runs a day apart) within which every parent is read again; each reads 1/N of them. 0: never. Default 30.
    pub nights: u32,
    /// The same of active parents, of which there are few: most edits are made there. 0: as all others. Default 10, or `nights`
    /// where those are fewer.
    pub active_nights: u32,
}

/// As it is written.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawReconcile {
    nights: Option<u32>,
    active_nights: Option<u32>,
}

impl From<RawReconcile> for Reconcile {
    fn from(raw: RawReconcile) -> Self {
        let nights = raw.nights.unwrap_or(30);
        Self { nights, active_nights: raw.active_nights.unwrap_or(nights.min(10)) }
    }
}

impl Default for Reconcile {
    fn default() -> Self {
        RawReconcile::default().into()
    }
}

/// The page on which customers connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectConfig {
    /// Where customers reach it, through the team's proxy; ends in a slash. `None`: only this machine can.
    pub public_url: Option<Url>,
    /// Where it listens. Default 127.0.0.1:8915.
    pub listen: std::net::SocketAddr,
    /// How long an invitation can be used. Default 7 days.
    pub invite_life: Duration,
}

/// When `hirelake keepalive` refreshes a grant, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct KeepaliveConfig {
    /// A grant is due when less than this is left until its idle deadline. Default 45 days: half of Lever's 90, so that a
    /// weekly run may fail six times in a row.
    pub before: Duration,
    /// Grants refreshed a second, over all apps. Default 2: a thousand take eight minutes.
    pub per_second: f64,
}

/// Everything that a run needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Where Parquet goes.
    pub lake: String,
    /// Where commits, leases and grants live.
    pub state: String,
    /// Settings of the lake's store.
    pub lake_store: Options,
    /// Settings of the state's store.
    pub state_store: Options,
    /// A folder for private spill files; the system's temporary folder unless set.
    pub scratch: PathBuf,
    /// The sealing key.
    pub vault_key: SecretSource,
    /// Keys that sealed before it: they open and seal nothing.
    pub vault_previous: Vec<SecretSource>,
    /// The page on which customers connect.
    pub connect: ConnectConfig,
    /// Refreshing before the idle limit.
    pub keepalive: KeepaliveConfig,
    /// The folder with catalogue files of the user's.
    pub catalog: Option<PathBuf>,
    /// The provider's catalogue, the user's additions included.
    pub provider: Provider,
    /// Apps by name.
    pub apps: BTreeMap<AppName, App>,
    /// Tenants that the file names.
    tenants: BTreeMap<Tenant, TenantConfig>,
    /// What holds for tenants that only the state knows.
    default_tenant: TenantConfig,
    /// How tables are cut, where the catalogue's own way is not wanted.
    pub partitions: BTreeMap<ResourceName, Granularity>,
    /// How far increments reach back behind their cursor. Default 10 minutes.
    pub overlap: Duration,
    /// How far behind the present a window ends. Default 1 minute.
    pub safety_lag: Duration,
    /// A token with less life left than this is refreshed. Default 5 minutes.
    pub refresh_margin: Duration,
    /// Tenants synced at once. Default 8.
    pub tenants_at_once: usize,
    /// How long undecodable records stay in quarantine. Default 30 days.
    pub quarantine_keep: Duration,
    /// Sentences about what was mended on the way.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the file (`None`: `hirelake.toml` here, which may be missing) and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with file, line, column and key where there is one.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars())
    }

    /// [`Config::load`] with the environment passed in.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load_with(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        file::load(path, env, true)
    }

    /// [`Config::load`] of a file whose resources may want more scopes than one application has: for whoever is to say what
    /// fits.
    ///
    /// # Errors
    ///
    /// As [`Config::load`], but for scopes that are too many.
    pub fn load_with_scopes_unchecked(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        file::load(path, env, false)
    }

    /// The folder with catalogue files of the user's, whatever is in it and in the rest of the configuration.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be read at all.
    pub fn catalog_folder(path: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
        file::catalog_folder(path, std::env::vars())
    }

    /// What holds for a tenant, named in the file or not.
    #[must_use]
    pub fn tenant(&self, tenant: &Tenant) -> &TenantConfig {
        self.tenants.get(tenant).unwrap_or(&self.default_tenant)
    }

    /// The tenants that the file names.
    pub fn named_tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.keys()
    }

    /// The scratch folder, made where it is not there yet: only its owner may open it.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or something else is in its place.
    pub fn scratch_folder(&self) -> std::io::Result<&Path> {
        private_folder(&self.scratch).map(|()| self.scratch.as_path())
    }

    /// The tenant that it is a part of; of one that is no part, itself.
    #[must_use]
    pub fn whole<'a>(&'a self, tenant: &'a Tenant) -> &'a Tenant {
        self.tenant(tenant).part_of.as_ref().unwrap_or(tenant)
    }

    /// Whether two tenants read one account by intention: one is a part of the other, or both of a third.
    #[must_use]
    pub fn one_family(&self, one: &Tenant, other: &Tenant) -> bool {
        self.whole(one) == self.whole(other)
    }

    /// The parts of a tenant.
    pub fn parts(&self, tenant: &Tenant) -> impl Iterator<Item = &Tenant> {
        self.tenants.iter().filter(move |(_, t)| t.part_of.as_ref() == Some(tenant)).map(|(name, _)| name)
    }

    /// Everything that is read of a tenant's account in the catalogue's order, each with whose grant reads it: its own or that
    /// of one of its parts.
    #[must_use]
    pub fn read_by<'a>(&'a self, tenant: &'a Tenant) -> Vec<(&'a Resource, &'a Tenant)> {
        let family: Vec<&Tenant> = std::iter::once(tenant).chain(self.parts(tenant)).collect();
        let all = self.provider.resources.iter();
        all.filter_map(|r| Some((r, *family.iter().find(|t| self.tenant(t).resources.contains(&r.name))?))).collect()
    }

    /// The resources that a tenant's own grant reads.
    #[must_use]
    pub fn resources(&self, tenant: &Tenant) -> Vec<&Resource> {
        self.tenant(tenant).resources.iter().filter_map(|r| self.provider.resource(r.as_str())).collect()
    }

    /// A tenant's app.
    ///
    /// # Errors
    ///
    /// When there is none, or several and none was named.
    pub fn app(&self, tenant: &Tenant) -> Result<&App, ConfigError> {
        let name = self.tenant(tenant).app.as_ref();
        name.and_then(|a| self.apps.get(a)).ok_or_else(|| ConfigError::Invalid {
            place: self.path.display().to_string(),
            what: format!("tenant {tenant} has no app"),
            hint: if self.tenant(tenant).hosts.is_some() {
                format!(
                    "it is read with an API key: `hirelake connect {tenant} --api-key-file FILE`; or take `api_key = true` out of [tenants.{tenant}] (or [defaults])"
                )
            } else if self.tenant(tenant).part_of.is_some() {
                format!(
                    "a part without an app is read with an API key: `hirelake connect {tenant} --api-key-file FILE`; or say which app in [tenants.{tenant}]"
                )
            } else if self.apps.is_empty() {
                "add an [apps.main] section with client_id and client_secret; `hirelake init` shows one".into()
            } else {
                format!(
                    "say which in [tenants.{tenant}]: app = \"{}\"",
                    self.apps.keys().map(AppName::as_str).collect::<Vec<_>>().join("\" or \"")
                )
            },
        })
    }

    /// The endpoints for a tenant: its app's, that of the tenant it is a part of, or the production ones.
    #[must_use]
    pub fn endpoints(&self, tenant: &Tenant) -> &Endpoints {
        let of = |tenant: &Tenant| {
            let of = self.tenant(tenant);
            of.app.as_ref().or(of.hosts.as_ref()).and_then(|a| self.apps.get(a))
        };
        let app = of(tenant).or_else(|| of(self.whole(tenant)));
        app.map_or(&self.provider.production, |a| &a.endpoints)
    }

    /// The scopes that a tenant's consent asks for: the app's own list, or the least that its resources need.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn scopes(&self, tenant: &Tenant) -> Result<scopes::Scopes, ConfigError> {
        let app = self.app(tenant)?;
        if let Some(scopes) = &app.scopes {
            return Ok(scopes.clone());
        }
        let of = self.tenant(tenant);
        let asked = self.resources(tenant).into_iter().filter(|r| of.asks_for(r));
        scopes::least(&self.provider, asked.flat_map(|r| self.scopes_of(of, r)))
            .map_err(|e| self.too_many(&format!("tenant {tenant}"), &e))
    }

    /// The scopes without which something that is wanted of a tenant cannot be read: of the resources that the
    /// configuration names; where it names none, of those among them that the consent asks for.
    #[must_use]
    pub fn needed_scopes(&self, tenant: &Tenant) -> Vec<String> {
        let asked = self.scopes(tenant).map(|s| s.list).unwrap_or_default();
        let named = self.tenant(tenant).resources_named;
        let mut list = vec![self.provider.oauth.offline_scope.clone()];
        let of = self.tenant(tenant);
        for scope in self.resources(tenant).into_iter().flat_map(|r| self.scopes_of(of, r)) {
            if !list.contains(&scope) && (named || scopes::opens(&asked, &scope)) {
                list.push(scope);
            }
        }
        list
    }

    /// The scopes to be registered for an app: its own list, or the least that all its tenants' resources need.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn app_scopes(&self, app: &App) -> Result<scopes::Scopes, ConfigError> {
        if let Some(scopes) = &app.scopes {
            return Ok(scopes.clone());
        }
        let asks = |t: &&TenantConfig, r: &Resource| t.resources.contains(&r.name) && t.asks_for(r);
        let all =
            self.provider.resources.iter().flat_map(|r| {
                self.app_tenants(app).filter(move |t| asks(t, r)).flat_map(move |t| self.scopes_of(t, r))
            });
        scopes::least(&self.provider, all).map_err(|e| self.too_many(&format!("app {}", app.name), &e))
    }

    /// The scopes of a resource as these tenants read it: with confidential records or without.
    fn scopes_of(&self, of: &TenantConfig, resource: &Resource) -> Vec<String> {
        let hidden = self.provider.confidential.as_ref().filter(|_| of.confidential && resource.confidential.is_some());
        scopes::of(resource).chain(hidden.map(|c| c.scope.clone())).collect()
    }

    /// What each scope opens of what an app's tenants read.
    #[must_use]
    pub fn app_opens(&self, app: &App) -> BTreeMap<String, Vec<&str>> {
        let mut opened: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for r in self.app_resources(app) {
            for scope in self.app_tenants(app).flat_map(|t| self.scopes_of(t, r)) {
                let names = opened.entry(scope).or_default();
                if !names.contains(&r.name.as_str()) {
                    names.push(r.name.as_str());
                }
            }
        }
        opened
    }

    /// The resources for whose scopes the consents of an app ask, in the catalogue's order.
    #[must_use]
    pub fn app_asks(&self, app: &App) -> Vec<&Resource> {
        let all = self.provider.resources.iter();
        all.filter(|r| self.app_tenants(app).any(|t| t.resources.contains(&r.name) && t.asks_for(r))).collect()
    }

    /// What any tenant of an app reads, in the catalogue's order.
    #[must_use]
    pub fn app_resources(&self, app: &App) -> Vec<&Resource> {
        let all = self.provider.resources.iter();
        all.filter(|r| self.app_tenants(app).any(|t| t.resources.contains(&r.name))).collect()
    }

    /// What holds for the tenants of an app. Those that only the state knows count where the defaults name their resources,
    /// or where there are no others.
    fn app_tenants<'a>(&'a self, app: &'a App) -> impl Iterator<Item = &'a TenantConfig> {
        let of_app = |t: &&TenantConfig| t.app.as_ref() == Some(&app.name);
        let defaults = self.default_tenant.resources_named || !self.tenants.values().any(|t| of_app(&t));
        self.tenants.values().chain(defaults.then_some(&self.default_tenant)).filter(of_app)
    }

    fn too_many(&self, whose: &str, e: &scopes::ScopeError) -> ConfigError {
        ConfigError::Invalid {
            place: self.path.display().to_string(),
            what: format!("{whose}: {}", first_line(&e.to_string())),
            hint: hint_line(&e.to_string()),
        }
    }

    /// The table of a resource under the configured granularity.
    ///
    /// # Errors
    ///
    /// When the granularity does not suit the resource.
    pub fn table(&self, resource: &Resource) -> Result<Table, ConfigError> {
        Table::new(&self.provider.name, resource, self.partitions.get(&resource.name).copied()).map_err(|what| {
            ConfigError::Invalid {
                place: self.path.display().to_string(),
                what,
                hint: format!("change [partitions] {}", resource.name),
            }
        })
    }
}

/// A secret in a file is no longer, bytes.
const MAX_SECRET: u64 = 64 << 10;

/// A file of no more than `most` bytes, whatever it is: a device has no length of its own.
///
/// # Errors
///
/// When it cannot be read, is larger, or is no UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read as _};
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "stream did not contain valid UTF-8"))
}

/// Makes a folder, and those above it, that only their owner may open; one that is there stays as it is.
///
/// # Errors
///
/// When that cannot be done.
pub(crate) fn private_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Shuts a folder of ours to others: a new one to all but its owner, one that holds something already at least to those who are
/// not of its group.
///
/// # Errors
///
/// When it cannot be looked at, or its mode not be set: it is somebody else's.
pub(crate) fn shut_to_others(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(folder)?.permissions().mode() & 0o7777;
        let is_new = std::fs::read_dir(folder)?.next().is_none();
        let wanted = if is_new { 0o700 } else { mode & !0o007 };
        if mode != wanted {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(wanted))?;
        }
    }
    Ok(())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn hint_line(text: &str) -> String {
    text.split_once("\nhint: ").map_or_else(String::new, |(_, h)| h.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_that_are_left_out_are_left_out_for_all_parents() {
        let read = |text: &str| {
            let r: Reconcile = toml::from_str(text).unwrap();
            (r.nights, r.active_nights)
        };
        assert_eq!(read(""), (30, 10));
        assert_eq!(read("nights = 0"), (0, 0));
        assert_eq!(read("nights = 5"), (5, 5));
        assert_eq!(read("nights = 0\nactive_nights = 7"), (0, 7));
        assert_eq!(read("active_nights = 0"), (30, 0));
        assert!(toml::from_str::<Reconcile>("night = 3").is_err());
    }

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[cfg(unix)]
    #[test]
    fn a_command_prints_the_secret_and_what_goes_wrong_quotes_none_of_it() {
        let fetch = |script: &str| SecretSource::Command(shell(script)).fetch("the key");
        assert_eq!(fetch("echo '  canary  '; echo noise >&2").unwrap().expose(), "canary");
        let failed: Vec<String> = ["echo canary; echo canary >&2; exit 3", "printf ''", "printf '\\377canary'"]
            .iter()
            .map(|script| fetch(script).unwrap_err().to_string())
            .collect();
        insta::assert_snapshot!(failed.join("\n"), @r"
        the key cannot be had: `sh` ended with exit status: 3
        hint: run it by hand to see why
        the key cannot be had: it is empty
        hint: put the secret there
        the key cannot be had: `sh` did not print text
        hint: it must print the secret alone
        ");
        let missing = SecretSource::Command(vec!["/nonexistent/canary".into()]).fetch("the key").unwrap_err();
        assert!(missing.to_string().contains("cannot be run"), "{missing}");
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_hangs_is_given_up() {
        let began = std::time::Instant::now();
        let (why, _) = printed(&shell("echo canary; exec sleep 600"), Duration::from_millis(300)).unwrap_err();
        assert_eq!(why, "`sh` did not end within 0.3 s");
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_that_everybody_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault.key");
        std::fs::write(&path, "canary").unwrap();
        let source = SecretSource::File(path.clone());
        for (mode, fine) in
            [(0o600, true), (0o640, true), (0o400, true), (0o644, false), (0o604, false), (0o602, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(source.fetch_private("the vault key").is_ok(), fine, "{mode:o}");
        }
        let error = source.fetch_private("the vault key").unwrap_err().to_string();
        assert!(error.contains("hint: `chmod 600 ") && !error.contains("canary"), "{error}");
    }
}
