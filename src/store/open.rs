//! A URL, settings and the environment → a client of S3, GCS or Azure.
//!
//! Credentials come from where each provider's own tools look for them, and from nowhere else: never from a file of ours. A
//! setting that the client would ignore is an error, and so is a machine on which nothing was found that could sign a request.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path as FsPath, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;

use super::StoreError;

/// How long one attempt may take, its body included.
const ATTEMPT: Duration = Duration::from_secs(45);
/// No attempt is begun later than this after the first.
const RETRYING: Duration = Duration::from_secs(25);
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to see whether a machine has an identity of its own.
const GLANCE: Duration = Duration::from_secs(1);
/// Where the machines of all three providers ask who they are.
const METADATA: &str = "169.254.169.254:80";

/// Files up to this size are put in place by one request, conditional on what was there; larger ones in parts.
pub const MULTIPART_ABOVE: u64 = 32 << 20;
/// A part of an upload must not be smaller, by S3's rules.
const LEAST_PART: u64 = 5 << 20;

/// Settings of a store, as `[store]`, `[store.lake]` and `[store.state]` give them. None holds a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The address of a store that is compatible with the scheme, or of a private endpoint.
    pub endpoint: Option<String>,
    /// S3: the region of the bucket.
    pub region: Option<String>,
    /// S3: whether the bucket stands in the path of a request (the default), not in its host name.
    pub path_style: Option<bool>,
    /// PEM file with certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// S3: `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub encryption: Option<String>,
    /// S3: the key of that encryption.
    pub kms_key: Option<String>,
    /// The storage class (S3, GCS) or access tier (Azure) of what is written.
    pub storage_class: Option<String>,
    /// Larger files are uploaded in parts, MiB.
    pub multipart_above_mib: Option<u64>,
    /// Takes a lake on a store that cannot replace an object conditionally.
    pub without_conditional_replace: Option<bool>,
    /// Further options by the names that the `object_store` library gives them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// What holds for the lake's store alone.
    lake: Option<Box<Options>>,
    /// What holds for the state's store alone.
    state: Option<Box<Options>>,
}

/// Whether `url` names a store on the network; a URL that cannot be used counts as one.
#[must_use]
pub fn is_remote(url: &str) -> bool {
    !matches!(Kind::of(url), Ok(None))
}

impl Options {
    /// What holds for both stores, for the lake's alone, and for the state's alone.
    #[must_use]
    pub fn apart(mut self) -> (Self, Self, Self) {
        let (lake, state) = (self.lake.take(), self.state.take());
        (self, lake.map_or_else(Self::default, |o| *o), state.map_or_else(Self::default, |o| *o))
    }

    /// These, and `other` where these say nothing.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        let mut options = other.options.clone();
        options.extend(self.options);
        Self {
            endpoint: self.endpoint.or_else(|| other.endpoint.clone()),
            region: self.region.or_else(|| other.region.clone()),
            path_style: self.path_style.or(other.path_style),
            ca_file: self.ca_file.or_else(|| other.ca_file.clone()),
            encryption: self.encryption.or_else(|| other.encryption.clone()),
            kms_key: self.kms_key.or_else(|| other.kms_key.clone()),
            storage_class: self.storage_class.or_else(|| other.storage_class.clone()),
            multipart_above_mib: self.multipart_above_mib.or(other.multipart_above_mib),
            without_conditional_replace: self.without_conditional_replace.or(other.without_conditional_replace),
            options,
            lake: self.lake,
            state: self.state,
        }
    }

    /// Above how many bytes a file is uploaded in parts.
    pub(super) fn above(&self) -> u64 {
        self.multipart_above_mib.map_or(MULTIPART_ABOVE, |mib| mib << 20)
    }

    /// Whether they can be used with the store that `url` names, as far as can be told without asking it.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadOption`] or [`StoreError::BadUrl`], saying which.
    pub fn check(&self, url: &str) -> Result<(), StoreError> {
        let bad = |why: String, hint: &str| Err(StoreError::BadOption { store: shown(url), why, hint: hint.into() });
        if self.lake.is_some() || self.state.is_some() {
            return bad(
                "it has settings of a store inside those of a store".into(),
                "[store], [store.lake] and [store.state] are all there is",
            );
        }
        let Some(kind) = Kind::of(url)? else {
            return if *self == Self::default() {
                Ok(())
            } else {
                bad(
                    "they are for stores on the network, and this is a folder".into(),
                    "leave them out, or put them into [store.lake] or [store.state], whichever is meant",
                )
            };
        };
        let s3_only = [
            ("region", self.region.is_some()),
            ("path_style", self.path_style.is_some()),
            ("encryption", self.encryption.is_some()),
            ("kms_key", self.kms_key.is_some()),
        ];
        if let Some((name, _)) = s3_only.iter().find(|(_, set)| *set && kind != Kind::S3) {
            return bad(
                format!("`{name}` is a setting of S3"),
                "leave it out; GCS and Azure encrypt by the bucket's or the account's own settings",
            );
        }
        if let Some(mib) = self.multipart_above_mib
            && !(LEAST_PART >> 20..=1024).contains(&mib)
        {
            return bad(format!("multipart_above_mib = {mib}"), "a number from 5 to 1024; 32 unless set");
        }
        if let Some(class) = &self.encryption
            && !["AES256", "aws:kms", "aws:kms:dsse"].contains(&class.as_str())
        {
            return bad(format!("encryption = {class:?}"), "\"AES256\", \"aws:kms\" or \"aws:kms:dsse\"");
        }
        if self.kms_key.is_some() && !self.encryption.as_ref().is_some_and(|class| class.starts_with("aws:kms")) {
            return bad(
                "`kms_key` encrypts nothing without `encryption`".into(),
                "write encryption = \"aws:kms\" (or \"aws:kms:dsse\") beside it",
            );
        }
        for key in self.options.keys() {
            match kind.option(key) {
                Known::Setting => {}
                Known::Secret => {
                    return bad(
                        format!("`{key}` is a secret, and secrets do not stand in this file"),
                        "give it by the environment, under the same name in capitals",
                    );
                }
                Known::Ours(ours) => {
                    return bad(format!("`{key}` has a name of its own here"), ours);
                }
                Known::No => {
                    let near = kind.near(key);
                    return bad(
                        format!("{} has no option `{key}`", kind.name()),
                        &near.map_or_else(
                            || "docs/storage.md names the usual ones".to_owned(),
                            |n| format!("did you mean `{n}`?"),
                        ),
                    );
                }
            }
        }
        Ok(())
    }
}

enum Known {
    Setting,
    Secret,
    /// The URL or a setting of ours says it.
    Ours(&'static str),
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Gcs,
    Azure,
}

impl Kind {
    /// `None`: a folder, or memory.
    fn of(url: &str) -> Result<Option<Self>, StoreError> {
        let Some((scheme, rest)) = url.split_once("://") else { return Ok(None) };
        let kind = match scheme {
            "file" | "memory" => return Ok(None),
            "s3" | "s3a" => Self::S3,
            "gs" => Self::Gcs,
            "az" | "azure" | "abfs" | "abfss" => Self::Azure,
            _ => {
                return Err(StoreError::BadUrl {
                    url: shown(url),
                    why: format!("no store of the kind `{scheme}` is built in"),
                    hint: "use a path, file://, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
                });
            }
        };
        let bad = |why: &str, hint| Err(StoreError::BadUrl { url: format!("{scheme}://…"), why: why.into(), hint });
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') && (host.contains(':') || !scheme.starts_with("abfs")) {
            return bad(
                "it holds a user or a password",
                "credentials come from the environment; docs/storage.md says how",
            );
        }
        if rest.contains(['?', '#']) {
            return bad("it has a query or a fragment", "write the bucket and a prefix; settings belong into [store]");
        }
        if host.is_empty() {
            return bad("it names no bucket", "write the bucket after the two slashes: s3://acme-lake/hiring");
        }
        Ok(Some(kind))
    }

    fn name(self) -> &'static str {
        match self {
            Self::S3 => "S3",
            Self::Gcs => "GCS",
            Self::Azure => "Azure",
        }
    }

    fn prefix(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["AWS_"],
            Self::Gcs => &["GOOGLE_"],
            Self::Azure => &["AZURE_"],
        }
    }

    fn option(self, key: &str) -> Known {
        const SECRETS: [&str; 9] = [
            "secret",
            "session_token",
            "password",
            "customer_key",
            "account_key",
            "access_key",
            "sas",
            "bearer",
            "_key",
        ];
        let known = match self {
            Self::S3 => AmazonS3ConfigKey::from_str(key).is_ok(),
            Self::Gcs => GoogleConfigKey::from_str(key).is_ok(),
            Self::Azure => AzureConfigKey::from_str(key).is_ok(),
        };
        match key {
            _ if !known => Known::No,
            _ if key == "token" || key.ends_with("_token") || SECRETS.iter().any(|s| key.contains(s)) => Known::Secret,
            _ if key.contains("bucket") && !key.contains("key") || key.contains("container_name") => {
                Known::Ours("it is what the URL names")
            }
            _ if key.contains("conditional_put") || key.contains("copy_if") => {
                Known::Ours("conditional writes are what everything rests on; see without_conditional_replace")
            }
            _ => Known::Setting,
        }
    }

    fn near(self, key: &str) -> Option<String> {
        let all: &[&str] = match self {
            Self::S3 => &[
                "aws_region",
                "aws_endpoint",
                "aws_allow_http",
                "aws_role_arn",
                "aws_request_payer",
                "aws_checksum_algorithm",
                "aws_unsigned_payload",
                "aws_skip_signature",
                "aws_disable_tagging",
                "aws_disable_bulk_delete",
                "aws_imdsv1_fallback",
                "aws_metadata_endpoint",
                "aws_sse_bucket_key_enabled",
                "proxy_url",
                "timeout",
                "connect_timeout",
                "allow_http",
                "http1_only",
                "pool_max_idle_per_host",
                "pool_idle_timeout",
                "user_agent",
            ],
            Self::Gcs => &[
                "google_service_account",
                "google_application_credentials",
                "google_base_url",
                "google_skip_signature",
                "proxy_url",
                "timeout",
                "connect_timeout",
                "allow_http",
                "http1_only",
                "user_agent",
            ],
            Self::Azure => &[
                "azure_storage_account_name",
                "azure_storage_use_emulator",
                "azure_storage_endpoint",
                "azure_use_azure_cli",
                "azure_client_id",
                "azure_storage_authority_id",
                "azure_msi_endpoint",
                "azure_allow_http",
                "azure_disable_tagging",
                "proxy_url",
                "timeout",
                "connect_timeout",
                "allow_http",
                "http1_only",
                "user_agent",
            ],
        };
        crate::names::nearest(key, all.iter().copied()).map(str::to_owned)
    }
}

/// A URL as it may be printed: a bucket and a prefix hold no secret, anything else might.
pub(super) fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest))
            if rest.contains(['@', '?']) && !scheme.starts_with("abfs")
                || !["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file", "memory"].contains(&scheme) =>
        {
            format!("{scheme}://…")
        }
        _ => url.to_owned(),
    }
}

/// A store on the network.
pub(super) struct Remote {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) parts: Arc<dyn MultipartStore>,
    pub(super) prefix: Path,
    /// What tells it from another of the same URL: the endpoint, and Azure's account. No secret.
    pub(super) address: String,
}

/// Variables of the environment, by name.
pub(super) type Env = BTreeMap<String, String>;

pub(super) fn environment() -> Env {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// Gives a builder all options that it knows: the three have the same methods, and no trait in common.
macro_rules! with_given {
    ($builder:expr, $key:ty, $given:expr) => {
        $given.iter().fold($builder, |b, (key, value)| match <$key>::from_str(key) {
            Ok(key) => b.with_config(key, value),
            Err(_) => b,
        })
    };
}

/// Makes the client. `None` for a URL of a folder.
pub(super) fn remote(url: &str, options: &Options, env: &Env) -> Result<Option<Remote>, StoreError> {
    options.check(url)?;
    let Some(kind) = Kind::of(url)? else { return Ok(None) };
    let bad = |why: String, hint: &str| StoreError::BadOption { store: shown(url), why, hint: hint.into() };
    let parsed = url::Url::parse(url).map_err(|e| bad(e.to_string(), "write s3://BUCKET/PREFIX"))?;
    let prefix = Path::from_url_path(parsed.path()).map_err(|e| bad(e.to_string(), "write a plain prefix"))?;
    let bucket = match (parsed.username(), parsed.host_str()) {
        ("", host) => host.unwrap_or_default(),
        (container, _) => container,
    };
    let client = client(options, &bad)?;
    let retry = RetryConfig { max_retries: 6, retry_timeout: RETRYING, ..RetryConfig::default() };
    let settings = options.options.iter().map(|(k, v)| (k.clone(), v.clone()));
    let named = env
        .iter()
        .filter(|(k, _)| kind.prefix().iter().any(|p| k.starts_with(p)))
        .map(|(k, v)| (k.to_ascii_lowercase(), v.clone()));
    let given: Vec<(String, String)> = named.chain(settings).collect();
    let had = |names: &[&str]| given.iter().any(|(k, v)| names.contains(&k.as_str()) && !v.is_empty());
    let on = |names: &[&str]| {
        let yes = |v: &str| ["1", "true", "on", "yes", "y"].contains(&v.to_ascii_lowercase().as_str());
        given.iter().any(|(k, v)| names.contains(&k.as_str()) && yes(v))
    };
    let broken = |e: object_store::Error| {
        bad(super::error::Cause::of(&e).to_string(), "docs/storage.md has an example of each kind")
    };
    let endpoint = |names: &[&str]| {
        let from_env = || given.iter().rev().find(|(k, _)| names.contains(&k.as_str())).map(|(_, v)| v.clone());
        options.endpoint.clone().or_else(from_env)
    };
    let unencrypted = |endpoint: &Option<String>| -> Result<bool, StoreError> {
        let Some(endpoint) = endpoint else { return Ok(false) };
        let parsed = url::Url::parse(endpoint)
            .map_err(|_| bad(format!("the endpoint {} is no address", shown(endpoint)), "write https://HOST:PORT"))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(bad("the endpoint holds a user or a password".into(), "credentials come from the environment"));
        }
        let loopback = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let allowed = on(&["aws_allow_http", "azure_allow_http", "allow_http", "google_allow_http"]);
        if parsed.scheme() == "http" && !loopback && !allowed {
            return Err(bad(
                format!("the endpoint {endpoint} is not encrypted, and keys and rows would be read on the way"),
                "write https://, or allow it with options = { allow_http = \"true\" } in [store]",
            ));
        }
        Ok(parsed.scheme() == "http")
    };
    let unsigned = |looked, hint| StoreError::NoCredentials { store: shown(url), looked, hint };
    let (objects, parts, address): (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>, _) = match kind {
        Kind::S3 => {
            let mut b = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
            b = with_given!(b, AmazonS3ConfigKey, given);
            let endpoint = endpoint(&["aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"]);
            if unencrypted(&endpoint)? {
                b = b.with_allow_http(true);
            }
            if let Some(endpoint) = &options.endpoint {
                b = b.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
            }
            if let Some(region) = &options.region {
                b = b.with_region(region);
            }
            if let Some(path_style) = options.path_style {
                b = b.with_virtual_hosted_style_request(!path_style);
            }
            for (key, value) in
                [("aws_server_side_encryption", &options.encryption), ("aws_sse_kms_key_id", &options.kms_key)]
            {
                if let (Ok(key), Some(value)) = (AmazonS3ConfigKey::from_str(key), value) {
                    b = b.with_config(key, value);
                }
            }
            let machine = env.get("AWS_METADATA_ENDPOINT").map_or(METADATA, String::as_str);
            let signs = had(&["aws_access_key_id"]) && had(&["aws_secret_access_key"])
                || had(&["aws_web_identity_token_file"]) && had(&["aws_role_arn"])
                || had(&["aws_container_credentials_relative_uri", "aws_container_credentials_full_uri"])
                || on(&["aws_skip_signature", "skip_signature"])
                || env.get("AWS_EC2_METADATA_DISABLED").is_none_or(|v| v != "true") && answers(machine);
            if !signs {
                return Err(unsigned(
                    "no AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, no web identity, no container's credentials, and this machine has no role",
                    "set them in the environment; for a profile or SSO: eval \"$(aws configure export-credentials --format env)\"",
                ));
            }
            let store = Arc::new(b.with_bucket_name(bucket).build().map_err(broken)?);
            (prefixed(store.clone(), &prefix), store, endpoint.unwrap_or_default())
        }
        Kind::Gcs => {
            let mut b = GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retry);
            b = with_given!(b, GoogleConfigKey, given);
            let endpoint = endpoint(&["google_base_url"]);
            if unencrypted(&endpoint)? {
                b = b.with_config(GoogleConfigKey::Client(object_store::ClientConfigKey::AllowHttp), "true");
            }
            if let Some(endpoint) = &options.endpoint {
                b = b.with_config(GoogleConfigKey::BaseUrl, endpoint);
            }
            let home =
                env.get("HOME").map(|h| FsPath::new(h).join(".config/gcloud/application_default_credentials.json"));
            let signs = had(&[
                "google_service_account",
                "google_service_account_path",
                "google_service_account_key",
                "google_application_credentials",
                "google_bearer_token",
                "google_skip_signature",
                "skip_signature",
            ]) || home.is_some_and(|p| p.is_file())
                || answers(METADATA);
            if !signs {
                return Err(unsigned(
                    "no GOOGLE_APPLICATION_CREDENTIALS, no GOOGLE_SERVICE_ACCOUNT, no application default credentials, and this machine has no service account",
                    "let GOOGLE_APPLICATION_CREDENTIALS name a key file, or run `gcloud auth application-default login`",
                ));
            }
            let store = Arc::new(b.with_bucket_name(bucket).build().map_err(broken)?);
            (prefixed(store.clone(), &prefix), store, endpoint.unwrap_or_default())
        }
        Kind::Azure => {
            let mut b = MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retry);
            b = with_given!(b, AzureConfigKey, given);
            let endpoint = endpoint(&["azure_storage_endpoint", "azure_endpoint"]);
            if unencrypted(&endpoint)? {
                b = b.with_allow_http(true);
            }
            if let Some(endpoint) = &options.endpoint {
                b = b.with_endpoint(endpoint.clone());
            }
            let emulator = on(&["azure_storage_use_emulator", "use_emulator"]);
            let account = (!parsed.username().is_empty()).then(|| parsed.host_str().unwrap_or_default());
            let account = account.and_then(|host| host.split('.').next());
            if let Some(account) = account {
                b = b.with_account(account);
            } else if !emulator && !had(&["azure_storage_account_name", "account_name"]) {
                return Err(bad(
                    "no storage account is named".into(),
                    "set AZURE_STORAGE_ACCOUNT_NAME, or write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX",
                ));
            }
            let signs = emulator
                || had(&[
                    "azure_storage_account_key",
                    "azure_storage_access_key",
                    "azure_storage_master_key",
                    "azure_storage_sas_key",
                    "azure_storage_sas_token",
                    "azure_storage_token",
                    "azure_storage_client_secret",
                    "azure_client_secret",
                    "azure_federated_token_file",
                    "azure_msi_endpoint",
                    "azure_identity_endpoint",
                ])
                || on(&["azure_use_azure_cli", "azure_skip_signature", "skip_signature"])
                || env.contains_key("IDENTITY_ENDPOINT")
                || answers(METADATA);
            if !signs {
                return Err(unsigned(
                    "no AZURE_STORAGE_ACCOUNT_KEY, no SAS, no client secret, no federated token, and this machine has no identity",
                    "set one of them in the environment, or AZURE_USE_AZURE_CLI=true after `az login`",
                ));
            }
            let store = Arc::new(b.with_container_name(bucket).build().map_err(broken)?);
            let by_name = || {
                given.iter().rev().find(|(k, _)| ["azure_storage_account_name", "account_name"].contains(&k.as_str()))
            };
            let account = account.or_else(|| by_name().map(|(_, v)| v.as_str())).unwrap_or_default();
            (
                prefixed(store.clone(), &prefix),
                store,
                format!("{} {account}", endpoint.unwrap_or_default()).trim().to_owned(),
            )
        }
    };
    Ok(Some(Remote { objects, parts, prefix, address }))
}

fn prefixed<T: ObjectStore>(store: Arc<T>, prefix: &Path) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix.clone())) }
}

fn client(options: &Options, bad: &dyn Fn(String, &str) -> StoreError) -> Result<ClientOptions, StoreError> {
    let mut client = ClientOptions::new().with_timeout(ATTEMPT).with_connect_timeout(CONNECT);
    if let Ok(agent) = concat!("hirelake/", env!("CARGO_PKG_VERSION")).parse() {
        client = client.with_user_agent(agent);
    }
    if let Some(file) = &options.ca_file {
        let unusable = |why: String| {
            bad(
                format!("ca_file {} {why}", file.display()),
                "let it name a PEM file with the certificate of the authority",
            )
        };
        let pem = std::fs::read(file).map_err(|e| unusable(format!("cannot be read: {e}")))?;
        let all = Certificate::from_pem_bundle(&pem).map_err(|_| unusable("holds no certificate in PEM".into()))?;
        if all.is_empty() {
            return Err(unusable("holds no certificate in PEM".into()));
        }
        client = all.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    Ok(client)
}

/// Whether somebody listens there: a machine in a cloud has an identity of its own, and others would wait minutes to learn
/// that they have none.
fn answers(address: &str) -> bool {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let address = if address.contains(':') { address.to_owned() } else { format!("{address}:80") };
    let Ok(mut found) = address.to_socket_addrs() else { return false };
    found.next().is_some_and(|a| TcpStream::connect_timeout(&a, GLANCE).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        let quiet = [("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")];
        quiet.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn fails(url: &str, options: &Options, env: &Env) -> String {
        match remote(url, options, env) {
            Ok(_) => panic!("{url} was taken"),
            Err(e) => e.to_string(),
        }
    }

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "canary-secret")];

    #[test]
    fn each_kind_opens_with_its_usual_environment() {
        let none = Options::default();
        let opened = remote("s3://lake/hiring/x", &none, &env(&KEYS)).unwrap().unwrap();
        assert_eq!(opened.prefix.as_ref(), "hiring/x");
        let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "acme"), ("AZURE_STORAGE_ACCOUNT_KEY", "Y2FuYXJ5")];
        assert!(remote("az://lake/hiring", &none, &env(&azure)).unwrap().is_some());
        let key = [("AZURE_STORAGE_ACCOUNT_KEY", "Y2FuYXJ5")];
        assert!(remote("abfss://lake@acme.dfs.core.windows.net/x", &none, &env(&key)).unwrap().is_some());
        let token = [("GOOGLE_SKIP_SIGNATURE", "true")];
        assert!(remote("gs://lake", &none, &env(&token)).unwrap().unwrap().prefix.as_ref().is_empty());
        assert!(remote("lake", &none, &env(&[])).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        let option = |key: &str| Options { options: [(key.to_owned(), "x".to_owned())].into(), ..Options::default() };
        let none = Options::default();
        let all = [
            fails("s3://lake", &option("aws_regionn"), &env(&KEYS)),
            fails("s3://lake", &option("aws_secret_access_key"), &env(&KEYS)),
            fails("s3://lake", &option("aws_bucket"), &env(&KEYS)),
            fails("gs://lake", &Options { region: Some("x".into()), ..none.clone() }, &env(&[])),
            fails("lake", &Options { region: Some("x".into()), ..none.clone() }, &env(&[])),
            fails("s3://user:canary@lake/x", &none, &env(&KEYS)),
            fails("s3://lake/x?key=canary", &none, &env(&KEYS)),
            fails("s3:///x", &none, &env(&KEYS)),
            fails("ftp://x/y", &none, &env(&KEYS)),
            fails("s3://lake", &Options { endpoint: Some("http://store.example".into()), ..none.clone() }, &env(&KEYS)),
            fails("s3://lake", &Options { ca_file: Some("/no/such.pem".into()), ..none.clone() }, &env(&KEYS)),
            fails("s3://lake", &Options { encryption: Some("aes".into()), ..none.clone() }, &env(&KEYS)),
            fails("s3://lake", &Options { kms_key: Some("arn:x".into()), ..none.clone() }, &env(&KEYS)),
            fails("s3://lake", &Options { multipart_above_mib: Some(1), ..none.clone() }, &env(&KEYS)),
            fails("s3://lake", &none, &env(&[("AWS_ACCESS_KEY_ID", "id")])),
            fails("az://lake", &none, &env(&[("AZURE_STORAGE_ACCOUNT_KEY", "canary")])),
        ]
        .join("\n\n");
        assert!(!all.contains("canary"), "{all}");
        insta::assert_snapshot!(all);
    }

    #[test]
    fn settings_of_one_store_go_before_those_of_both() {
        let both = Options {
            region: Some("a".into()),
            endpoint: Some("https://x".into()),
            options: [("timeout".to_owned(), "1s".to_owned())].into(),
            ..Options::default()
        };
        let one = Options { region: Some("b".into()), ..Options::default() }.or(&both);
        assert_eq!((one.region.as_deref(), one.endpoint.as_deref()), (Some("b"), Some("https://x")));
        assert_eq!(one.options.len(), 1);
    }
}
