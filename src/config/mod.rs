//! File + environment → [`Config`], validated once; every variable is named here.
//!
//! Any value of the file can be given or overridden by the environment: `HIRELAKE_` and the value's path in capitals, with
//! two underscores between its parts and one in place of a dash: `HIRELAKE_LAKE`, `HIRELAKE_DEFAULTS__ON_DELETE`,
//! `HIRELAKE_APPS__MAIN__CLIENT_ID`. Two variables are not values of the file: `HIRELAKE_CONFIG` (the file itself) and
//! `HIRELAKE_LOG` (the log filter). Secrets never stand in the file: it says in which variable or file they are.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use crate::catalog::{
    CatalogError, Endpoints, Environment, Granularity, OnDelete, Provider, Rate, Resource, Table, scopes,
};
use crate::names::{AppName, ResourceName, Tenant};
use crate::secret::Secret;

pub use file::TEMPLATE;
pub(crate) use file::duration;

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
            Self::File(path) => std::fs::read_to_string(path).map_err(|e| {
                fail(
                    format!("{} cannot be read ({e})", path.display()),
                    "check the path and that this user may read it".into(),
                )
            })?,
            Self::Command(command) => {
                let (program, args) = command
                    .split_first()
                    .ok_or_else(|| fail("the command is empty".into(), "give the program and its arguments".into()))?;
                let out = std::process::Command::new(program)
                    .args(args)
                    .stdin(std::process::Stdio::null())
                    .output()
                    .map_err(|e| {
                        fail(format!("`{program}` cannot be run ({e})"), "check that the program is on the PATH".into())
                    })?;
                if !out.status.success() {
                    return Err(fail(
                        format!("`{program}` ended with {}", out.status),
                        "run it by hand to see why".into(),
                    ));
                }
                String::from_utf8(out.stdout).map_err(|_| {
                    fail(format!("`{program}` did not print text"), "it must print the secret alone".into())
                })?
            }
        };
        let text = text.trim();
        if text.is_empty() {
            return Err(fail("it is empty".into(), "put the secret there".into()));
        }
        Ok(Secret::new(text))
    }
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
    /// Scopes to ask for instead of the computed ones.
    pub scopes: Option<scopes::Scopes>,
}

/// What holds for one tenant.
#[derive(Debug, Clone)]
pub struct TenantConfig {
    /// Its app; `None` when several exist and none was named, or there is none (API keys need none).
    pub app: Option<AppName>,
    /// Its resources, in the catalogue's order.
    pub resources: Vec<ResourceName>,
    /// Whether the configuration names the resources, so that a missing scope is a failure.
    pub resources_named: bool,
    /// What becomes of deleted rows.
    pub on_delete: OnDelete,
    /// How fast it may be asked.
    pub rate: Rate,
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
        file::load(path, env)
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

    /// A tenant's resources.
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
            hint: if self.apps.is_empty() {
                "add an [apps.main] section with client_id and client_secret; `hirelake init` shows one".into()
            } else {
                format!(
                    "say which in [tenants.{tenant}]: app = \"{}\"",
                    self.apps.keys().map(AppName::as_str).collect::<Vec<_>>().join("\" or \"")
                )
            },
        })
    }

    /// The endpoints for a tenant: its app's, or the production ones.
    #[must_use]
    pub fn endpoints(&self, tenant: &Tenant) -> &Endpoints {
        let app = self.tenant(tenant).app.as_ref().and_then(|a| self.apps.get(a));
        app.map_or(&self.provider.production, |a| &a.endpoints)
    }

    /// The scopes that a tenant's consent asks for.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn scopes(&self, tenant: &Tenant) -> Result<scopes::Scopes, ConfigError> {
        let app = self.app(tenant)?;
        if let Some(scopes) = &app.scopes {
            return Ok(scopes.clone());
        }
        scopes::needed(&self.provider, self.resources(tenant).into_iter()).map_err(|e| ConfigError::Invalid {
            place: self.path.display().to_string(),
            what: format!("tenant {tenant}: {}", first_line(&e.to_string())),
            hint: hint_line(&e.to_string()),
        })
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

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn hint_line(text: &str) -> String {
    text.split_once("\nhint: ").map_or_else(String::new, |(_, h)| h.to_owned())
}
