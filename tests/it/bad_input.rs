//! Bad input, row by row of the design's table: what is refused, where, and in words that a tired person understands.
//!
//! Bodies and records that make no sense are in `requests` and `paging`.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use hirelake::clock::Clock;
use hirelake::config::{Config, ConfigError};
use hirelake::report::{ExitCode, Report};
use hirelake::state::{Commit, Window};
use hirelake::store::Store;
use hirelake::sync::{self, Options};
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions,
};

use crate::harness::{Bench, NOW, Setup, plain, private};

const APP: &str = "[apps.main]\nenvironment = \"sandbox\"\nclient_id = \"c\"\nclient_secret = { env = \"X\" }\n";

fn load(dir: &Path, text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let path = dir.join("hirelake.toml");
    std::fs::write(&path, text).unwrap();
    Config::load_with(Some(&path), env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

/// What each text is refused with, one after the other.
fn refusals(texts: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut said = String::new();
    for text in texts {
        match load(dir.path(), text, &[]) {
            Ok(_) => said += &format!("TAKEN: {text}\n"),
            Err(e) => said += &format!("{}\n", plain(&e.to_string(), dir.path())),
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a refused configuration touched something");
    said
}

#[test]
fn a_mistake_in_the_configuration_is_named_with_its_place() {
    insta::assert_snapshot!(refusals(&[
        "laek = \"x\"\n",
        "lake = 3\n",
        "lake = \"x\nstate = \"y\"\n",
        "[sync]\noverlapp = \"10m\"\n",
        "[sync]\n\n  overlap = \"soon\"\n",
        "[sync]\noverlap = 10\n",
        "[sync]\ntenants_at_once = 0\n",
        "[sync]\ntenants_at_once = -1\n",
        "[apps.main]\nclient_id = \"c\"\nclient_secret = { env = \"X\" }\n",
        "[apps.main]\nenvironment = \"staging\"\nclient_id = \"c\"\nclient_secret = { env = \"X\" }\n",
        "[defaults]\non_delete = \"erase\"\n",
        "[defaults]\nrate = { per_second = 0.0, burst = 1 }\n",
        "[defaults]\nrate = { per_second = 5 }\n",
        "[defaults]\nresources = [\"opportunites\"]\n",
        "[tenants.acme]\nresources = [\"users\", \"salaries\"]\n",
        "[tenants.acme]\napp = \"other\"\n",
        "[partitions]\nopportunities = \"week\"\n",
        "[partitions]\nstages = \"year\"\n",
        "[partitions]\nuser = \"none\"\n",
        "catalog = \"nowhere\"\n",
    ]), @r#"
    DIR/hirelake.toml:1:1: unknown field `laek`, expected one of `lake`, `state`, `store`, `scratch`, `catalog`, `vault`, `apps`, `defaults`, `tenants`, `partitions`, `sync`, `connect`, `keepalive`
    hint: did you mean `lake`?
    DIR/hirelake.toml:1:8: key `lake`: invalid type: integer `3`, expected a string
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:1:10: invalid basic string, expected `"`
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:1: unknown field `overlapp`, expected one of `overlap`, `safety_lag`, `refresh_margin`, `tenants_at_once`, `quarantine_keep`
    hint: did you mean `overlap`?
    DIR/hirelake.toml:3:3: `overlap` is no length of time
    hint: write it as 90s, 10m, 1h 30m or 30d
    DIR/hirelake.toml:2:11: key `overlap`: invalid type: integer `10`, expected a string
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:1: `tenants_at_once` must be from 1 to 1000
    hint: 8 is the default
    DIR/hirelake.toml:2:19: key `tenants_at_once`: invalid value: integer `-1`, expected a whole number
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:1:1: missing field `environment` (in `[apps.main]`)
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:15: key `environment`: unknown variant `staging`, expected `production` or `sandbox`
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:13: key `on_delete`: unknown variant `erase`, expected one of `redact`, `mark`, `remove`
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:1: `rate` needs per_second above 0 and a burst of at least 1
    hint: such as rate = { per_second = 10.0, burst = 15 }
    DIR/hirelake.toml:2:8: key `rate`: missing field `burst`
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:15: there is no resource `opportunites`
    hint: did you mean `opportunities`?
    DIR/hirelake.toml:2:24: there is no resource `salaries`
    hint: `hirelake catalog` lists them
    DIR/hirelake.toml:2:1: there is no app `other`
    hint: add a section [apps.other]
    DIR/hirelake.toml:2:17: key `opportunities`: expected `none`, `year`, `month` or `bucket(n)` with n from 2 to 1024, not `week`
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:1: resource stages has no partition time: use `none` or `bucket(n)`, not `year`
    hint: choose another granularity
    DIR/hirelake.toml:2:1: there is no resource `user`
    hint: did you mean `users`?
    DIR/nowhere: the catalogue cannot be read
    hint: check that the folder exists and that this user may read it
    "#);
}

#[test]
fn a_mistake_in_a_catalogue_of_ones_own_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mine")).unwrap();
    let mut said = String::new();
    for text in [
        "[[resource]]\nname = \"things\"\npath = \"/things\"\nmode = \"full\"\ncolour = \"red\"\n",
        "[[extend]]\nname = \"users\"\ncolumns = [{ name = \"shoe\" }]\n",
        "[[extend]]\nname = \"users\"\ncolumns = [{ name = \"shoe\", type = \"number\" }]\n",
    ] {
        std::fs::write(dir.path().join("mine/x.toml"), text).unwrap();
        let e = load(dir.path(), "catalog = \"mine\"\n", &[]).unwrap_err();
        said += &format!("{}\n", plain(&e.to_string(), dir.path()));
    }
    insta::assert_snapshot!(said, @"
    DIR/mine/x.toml:5:1: unknown key `colour`; expected one of `name`, `about`, `path`, `item`, `scope`, `query`, `expand`, `records`, `paging`, `mode`, `cursor`, `load`, `bare`, `of`, `from`, `field`, `key`, `parent`, `partition`, `columns`, `default`, `keep_extra`, `span`, `content_key`, `dormant`, `anonymized`, `absent_is_empty`, `skip`, `confidential`, `secret`, `content`
    DIR/mine/x.toml:3:12: the key `type` is missing
    hint: add `type = …` here
    DIR/mine/x.toml:3:36: column `shoe`: key `type`: unknown type `number`; expected one of `text`, `int`, `int(lenient)`, `float`, `bool`, `timestamp`, `timestamp(lenient)`, `json`, `ref`, `struct` or `list<…>` of one
    ");
}

#[test]
fn a_name_unsafe_in_a_path_is_refused_where_it_enters() {
    insta::assert_snapshot!(refusals(&[
        "[tenants.\"../acme\"]\n",
        "[tenants.\"Acme\"]\n",
        "[apps.\"a/b\"]\nenvironment = \"sandbox\"\nclient_id = \"c\"\nclient_secret = { env = \"X\" }\n",
        "[defaults]\nresources = [\"users/../x\"]\n",
        "[partitions]\n\"a b\" = \"none\"\n",
    ]), @r#"
    DIR/hirelake.toml:1:10: tenant name "../acme" cannot be used: it does not begin with a lower-case letter or a digit
    hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`
    DIR/hirelake.toml:1:10: tenant name "Acme" cannot be used: it does not begin with a lower-case letter or a digit
    hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`
    DIR/hirelake.toml:1:7: app name "a/b" cannot be used: it holds a character that is unsafe in a path
    hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`
    DIR/hirelake.toml:2:13: key `resources`: resource name "users/../x" cannot be used: it holds a character that is unsafe in a path
    hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`
    DIR/hirelake.toml:2:1: resource name "a b" cannot be used: it holds a character that is unsafe in a path
    hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`
    "#);
}

#[test]
fn scopes_are_mended_or_refused_and_it_is_said_which() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = String::new();
    let all = hirelake::catalog::embedded().unwrap().oauth.scopes;
    let many = all.iter().filter(|s| s.contains(":read:")).take(21).cloned().collect::<Vec<_>>().join(" ");
    for scopes in [
        "offline_access,users:read:admin, tags:read:admin",
        "offline_access  users:read:admin ",
        "users:read:admin users:write:admin",
        "users:read:admin",
        "user:read:admin",
        "",
        &many,
    ] {
        match load(dir.path(), &format!("{APP}scopes = \"{scopes}\"\n"), &[]) {
            Ok(config) => {
                let joined = config.scopes(&"acme".parse().unwrap()).unwrap().joined();
                assert!(
                    !joined.contains(',') && !joined.contains("  ") && joined.contains("offline_access"),
                    "{joined}"
                );
                said += &format!("{joined}\n{}\n\n", config.warnings.join("\n"));
            }
            Err(e) => said += &format!("{}\n\n", plain(&e.to_string(), dir.path())),
        }
    }
    insta::assert_snapshot!(said, @"
    offline_access tags:read:admin users:read:admin
    app main: scopes are separated by commas: using single spaces

    offline_access users:read:admin
    app main: scopes have spaces too many: using single spaces

    offline_access users:write:admin
    app main: `offline_access` is not among the scopes: added, because without it no refresh token comes back
    app main: `users:write:admin` allows changes, and nothing is ever changed: `users:read:admin` is enough
    app main: `users:read:admin` stands beside `users:write:admin`, which includes it: left out

    offline_access users:read:admin
    app main: `offline_access` is not among the scopes: added, because without it no refresh token comes back

    DIR/hirelake.toml:5:1: app main: lever has no scope `user:read:admin`
    hint: did you mean `users:read:admin`?

    offline_access
    app main: `offline_access` is not among the scopes: added, because without it no refresh token comes back

    DIR/hirelake.toml:5:1: app main: 22 scopes are needed and lever allows 20 for one application
    hint: enable fewer resources, or split them over two apps of one tenant, or one app and an API key: `hirelake catalog --scopes` prints how (a tenant read with a key alone says `api_key = true`); needed are offline_access applications:read:admin archive_reasons:read:admin audit_events:read:admin contact:read:admin diversity_surveys:read:admin eeo_responses:read:admin eeo_responses_pii:read:admin feedback:read:admin feedback_templates:read:admin files:read:admin form_templates:read:admin forms:read:admin groups:read:admin interviews:read:admin notes:read:admin offers:read:admin opportunities:read:admin panels:read:admin permissions:read:admin postings:read:admin referrals:read:admin
    ");
}

#[test]
fn an_app_must_be_of_one_environment_and_speak_https() {
    let production = APP.replace("sandbox", "production");
    insta::assert_snapshot!(refusals(&[
        &format!("{APP}api_base = \"https://api.lever.co/v1\"\n"),
        &format!("{production}token = \"https://sandbox-lever.auth0.com/oauth/token\"\n"),
        &format!("{production}api_base = \"http://127.0.0.1:8913/v1\"\n"),
        &format!("{APP}api_base = \"http://api.example.com/v1\"\n"),
        &format!("{APP}token = \"http://localhost.example.com/token\"\n"),
        &format!("{APP}revoke = \"http://api.example.com/revoke\"\n"),
        &format!("{APP}api_base = \"ftp://127.0.0.1/v1\"\n"),
        &format!("{APP}api_base = \"api.lever.co\"\n"),
        &format!("{production}redirect_uris = [\"http://localhost:1/callback\"]\n"),
        &format!("{production}audience = \"https://api.lever.co/v1\"\n"),
    ]), @r#"
    DIR/hirelake.toml:5:1: app main is of the environment `sandbox`, but its api_base is on api.lever.co, which is of the other one
    hint: tokens of one environment are refused by the other: change `environment`, or leave the hosts out
    DIR/hirelake.toml:5:1: app main is of the environment `production`, but its token is on sandbox-lever.auth0.com, which is of the other one
    hint: tokens of one environment are refused by the other: change `environment`, or leave the hosts out
    DIR/hirelake.toml:5:1: app main: api_base is `http`, not https
    hint: only https is used, but for a sandbox app on this machine's loopback address
    DIR/hirelake.toml:5:1: app main: api_base is `http`, not https
    hint: only https is used, but for a sandbox app on this machine's loopback address
    DIR/hirelake.toml:5:1: app main: token is `http`, not https
    hint: only https is used, but for a sandbox app on this machine's loopback address
    DIR/hirelake.toml:5:1: app main: revoke is `http`, not https
    hint: only https is used, but for a sandbox app on this machine's loopback address
    DIR/hirelake.toml:5:1: app main: api_base is `ftp`, not https
    hint: only https is used, but for a sandbox app on this machine's loopback address
    DIR/hirelake.toml:5:12: key `api_base`: relative URL without a base: "api.lever.co"
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:5:1: app main: the callback http://localhost:1/callback is not https
    hint: the provider takes http callbacks in its sandbox only; register an https one (`hirelake connect` lets you paste the address it ends on)
    DIR/hirelake.toml:5:1: app main: the audience does not end in a slash
    hint: without it the consent page offers only `offline_access`
    "#);
}

#[test]
fn a_secret_written_into_the_file_is_refused_and_never_shown() {
    let head = "[apps.main]\nenvironment = \"sandbox\"\nclient_id = \"c\"\n";
    let said = refusals(&[
        &format!("{head}client_secret = \"canary-plain-secret\"\n"),
        &format!("{head}client_secret = {{ value = \"canary-plain-secret\" }}\n"),
        &format!("{head}client_secret = [\"canary-plain-secret\"]\n"),
        &format!("{head}client_secret = canary-plain-secret\n"),
        &format!("{head}client_secret = {{ env = \"X\", file = \"canary-plain-secret\" }}\n"),
        &format!("{head}secret = \"canary-plain-secret\"\n"),
        "[vault]\nkey = \"canary-plain-secret\"\n",
        "[vault]\nkey = 1234567890\n",
        "vault = \"canary-plain-secret\"\n",
        &format!("{APP}refresh_token = \"canary-plain-secret\"\n"),
        "[tenants.acme]\napi_key = \"canary-plain-secret\"\n",
        "[tenants.acme]\napi_key = 1234567890\n",
    ]);
    assert!(!said.contains("canary") && !said.contains("1234567890"), "{said}");
    insta::assert_snapshot!(said, @r#"
    DIR/hirelake.toml:4:17: key `client_secret`: expected where the secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = ["PROGRAM"] }`
    hint: secrets never stand in this file: say in which variable or file they are
    DIR/hirelake.toml:4:17: key `client_secret`: expected where the secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = ["PROGRAM"] }`
    hint: secrets never stand in this file: say in which variable or file they are
    DIR/hirelake.toml:4:17: key `client_secret`: expected where the secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = ["PROGRAM"] }`
    hint: secrets never stand in this file: say in which variable or file they are
    DIR/hirelake.toml:4:17: key `client_secret`: string values must be quoted, expected literal string
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:4:17: key `client_secret`: expected where the secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = ["PROGRAM"] }`
    hint: secrets never stand in this file: say in which variable or file they are
    DIR/hirelake.toml:4:1: unknown field `secret`, expected one of `title`, `description`, `logo`, `environment`, `client_id`, `client_secret`, `redirect_uris`, `scopes`, `pkce`, `api_base`, `authorize`, `token`, `revoke`, `audience`, `hosts`, `privacy`, `confidential`
    hint: secrets never stand in this file: say in which variable or file they are
    DIR/hirelake.toml:2:7: key `key`: expected where the secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = ["PROGRAM"] }`
    hint: secrets never stand in this file: say in which variable or file they are
    DIR/hirelake.toml:2:7: key `key`: expected where the secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = ["PROGRAM"] }`
    hint: secrets never stand in this file: say in which variable or file they are
    DIR/hirelake.toml:1:9: key `vault`: invalid type: a string, expected a section
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:5:1: unknown field `refresh_token`, expected one of `title`, `description`, `logo`, `environment`, `client_id`, `client_secret`, `redirect_uris`, `scopes`, `pkce`, `api_base`, `authorize`, `token`, `revoke`, `audience`, `hosts`, `privacy`, `confidential`
    hint: secrets never stand in this file: say in which variable or file they are
    DIR/hirelake.toml:2:11: key `api_key`: expected true or false
    hint: the key itself goes into the vault: `hirelake connect TENANT --api-key-file FILE`
    DIR/hirelake.toml:2:11: key `api_key`: expected true or false
    hint: the key itself goes into the vault: `hirelake connect TENANT --api-key-file FILE`
    "#);

    let dir = tempfile::tempdir().unwrap();
    let mut said = String::new();
    for name in [
        "HIRELAKE_APPS__MAIN__CLIENT_SECRET",
        "HIRELAKE_APPS__MAIN__SECRET",
        "HIRELAKE_VAULT",
        "HIRELAKE_VAULT__KEY",
        "HIRELAKE_TENANTS__ACME__API_KEY",
    ] {
        said += &format!("{}\n", load(dir.path(), APP, &[(name, "canary-plain-secret")]).unwrap_err());
    }
    assert!(!said.contains("canary"), "{said}");
    insta::assert_snapshot!(said, @r#"
    HIRELAKE_APPS__MAIN__CLIENT_SECRET: expected where the secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = ["PROGRAM"] }`
    hint: secrets never stand in this file: say in which variable or file they are
    HIRELAKE_APPS__MAIN__SECRET: unknown field `secret`, expected one of `title`, `description`, `logo`, `environment`, `client_id`, `client_secret`, `redirect_uris`, `scopes`, `pkce`, `api_base`, `authorize`, `token`, `revoke`, `audience`, `hosts`, `privacy`, `confidential`
    hint: secrets never stand in this file: say in which variable or file they are
    HIRELAKE_VAULT: invalid type: a string, expected a section
    hint: correct or unset the variable; `hirelake init --print` shows every key
    HIRELAKE_VAULT__KEY: expected where the secret is: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = ["PROGRAM"] }`
    hint: secrets never stand in this file: say in which variable or file they are
    HIRELAKE_TENANTS__ACME__API_KEY: expected true or false
    hint: the key itself goes into the vault: `hirelake connect TENANT --api-key-file FILE`
    "#);
}

#[test]
fn the_environment_lies_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("lake = \"a\"\n{APP}[tenants.acme-eu]\non_delete = \"mark\"\n[sync]\noverlap = \"10m\"\n");
    let config = load(
        dir.path(),
        &text,
        &[
            ("HIRELAKE_LAKE", "/srv/lake"),
            ("HIRELAKE_SYNC__OVERLAP", "20m"),
            ("HIRELAKE_SYNC__TENANTS_AT_ONCE", "3"),
            ("HIRELAKE_DEFAULTS__RATE", "{ per_second = 5.0, burst = 7 }"),
            ("HIRELAKE_TENANTS__ACME_EU__ON_DELETE", "remove"),
            ("HIRELAKE_APPS__MAIN__CLIENT_ID", "4711"),
            ("HIRELAKE_PARTITIONS__OPPORTUNITIES", "month"),
            ("HIRELAKE_CONFIG", "elsewhere.toml"),
            ("HIRELAKE_LOG", "debug"),
            ("HIRELAKE_VAULT_KEY", "canary"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    let acme = config.tenant(&"acme-eu".parse().unwrap());
    assert_eq!(config.lake, "/srv/lake");
    assert_eq!((config.overlap, config.tenants_at_once), (Duration::from_secs(1200), 3));
    assert_eq!((acme.rate.burst, format!("{:?}", acme.on_delete).as_str()), (7, "Remove"));
    assert_eq!(config.app(&"acme-eu".parse().unwrap()).unwrap().client_id, "4711");
    assert_eq!(config.partitions.values().next().unwrap().to_string(), "month");
}

#[test]
fn a_variable_that_says_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = String::new();
    for env in [
        ("HIRELAKE_LAEK", "x"),
        ("HIRELAKE_SYNC__TENANTS_AT_ONCE", "many"),
        ("HIRELAKE_SYNC__OVERLAP", "soon"),
        ("HIRELAKE_LAKE__PATH", "x"),
        ("HIRELAKE_APPS__", "x"),
        ("HIRELAKE_DEFAULTS__ON_DELETE", "erase"),
        ("HIRELAKE_TENANTS__A.B__ON_DELETE", "mark"),
    ] {
        match load(dir.path(), APP, &[env]) {
            Ok(_) => said += &format!("TAKEN: {env:?}\n"),
            Err(e) => said += &format!("{}\n", plain(&e.to_string(), dir.path())),
        }
    }
    insta::assert_snapshot!(said, @r#"
    HIRELAKE_LAEK: unknown field `laek`, expected one of `lake`, `state`, `store`, `scratch`, `catalog`, `vault`, `apps`, `defaults`, `tenants`, `partitions`, `sync`, `connect`, `keepalive`
    hint: did you mean `lake`?
    HIRELAKE_SYNC__TENANTS_AT_ONCE: invalid type: a string, expected a whole number
    hint: correct or unset the variable; `hirelake init --print` shows every key
    HIRELAKE_SYNC__OVERLAP: `overlap` is no length of time
    hint: write it as 90s, 10m, 1h 30m or 30d
    HIRELAKE_LAKE__PATH: invalid type: map, expected a string
    hint: correct or unset the variable; `hirelake init --print` shows every key
    HIRELAKE_APPS__: it names no value of the configuration
    hint: its parts are separated by two underscores, such as HIRELAKE_APPS__MAIN__CLIENT_ID
    HIRELAKE_DEFAULTS__ON_DELETE: unknown variant `erase`, expected one of `redact`, `mark`, `remove`
    hint: correct or unset the variable; `hirelake init --print` shows every key
    HIRELAKE_TENANTS__A.B__ON_DELETE: tenant name "a.b" cannot be used: it holds a character that is unsafe in a path
    hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`
    "#);
}

/// A store that has so many writes left.
#[derive(Debug)]
struct Failing {
    inner: Arc<dyn ObjectStore>,
    left: Arc<AtomicI64>,
    denied: bool,
    /// What is always taken begins so.
    but_for: Option<&'static str>,
    /// How long a read takes.
    read: Duration,
}

impl Failing {
    fn spend(&self, path: &ObjectPath) -> object_store::Result<()> {
        if self.but_for.is_some_and(|b| path.as_ref().starts_with(b)) || self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        if self.denied {
            return Err(object_store::Error::PermissionDenied {
                path: path.to_string(),
                source: "AccessDenied".into(),
            });
        }
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(source) })
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, at: &ObjectPath, body: PutPayload, how: PutOptions) -> object_store::Result<PutResult> {
        self.spend(at)?;
        self.inner.put_opts(at, body, how).await
    }
    async fn put_multipart_opts(
        &self,
        at: &ObjectPath,
        how: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.spend(at)?;
        self.inner.put_multipart_opts(at, how).await
    }
    async fn get_opts(&self, at: &ObjectPath, how: GetOptions) -> object_store::Result<GetResult> {
        tokio::time::sleep(self.read).await;
        self.inner.get_opts(at, how).await
    }
    async fn get_ranges(&self, at: &ObjectPath, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(at, ranges).await
    }
    fn delete_stream(
        &self,
        all: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.inner.delete_stream(all)
    }
    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, how: CopyOptions) -> object_store::Result<()> {
        self.spend(to)?;
        self.inner.copy_opts(from, to, how).await
    }
    async fn rename_opts(&self, from: &ObjectPath, to: &ObjectPath, how: RenameOptions) -> object_store::Result<()> {
        self.spend(to)?;
        self.inner.rename_opts(from, to, how).await
    }
}

fn failing(store: &Store, left: &Arc<AtomicI64>, denied: bool) -> Store {
    let left = left.clone();
    store.clone().wrapped(|inner| Arc::new(Failing { inner, left, denied, but_for: None, read: Duration::ZERO }))
}

/// A store that refuses all but so many more writes, leases not counted: the hold of a run that is cut ends.
pub fn refusing(store: &Store, left: &Arc<AtomicI64>) -> Store {
    let left = left.clone();
    let but_for = Some("leases/");
    store.clone().wrapped(|inner| Arc::new(Failing { inner, left, denied: true, but_for, read: Duration::ZERO }))
}

/// A store of which every read takes so long.
pub fn slow(store: &Store, read: Duration) -> Store {
    let left = Arc::new(AtomicI64::new(i64::MAX));
    store.clone().wrapped(|inner| Arc::new(Failing { inner, left, denied: true, but_for: None, read }))
}

fn told(bench: &Bench, report: &Report) -> String {
    let mut said: Vec<String> = report.troubles().iter().map(|t| plain(t, bench.dir.path())).collect();
    said.sort();
    said.dedup();
    said.join("\n")
}

async fn connected(opportunities: usize) -> Bench {
    let bench = Setup::new(opportunities).start().await;
    bench.connect("acme").await;
    bench
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_with_7_and_the_next_run_resumes() {
    let bench = connected(150).await;
    let left = Arc::new(AtomicI64::new(0));
    let only = Options { resources: vec!["users".parse().unwrap()], ..Options::default() };
    let full = sync::World { lake: failing(&bench.world.lake, &left, false), ..bench.world.clone() };
    let report = sync::run(&full, &only).await.unwrap();
    assert_eq!(report.code, ExitCode::Storage, "{}", told(&bench, &report));
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme/users: lever/users (tenant=acme/data.parquet): cannot put a partition's new file in place: replace lever/users/tenant=acme/data.parquet in DIR/lake failed: no storage space
    hint: the disk is full; what was committed before is safe: free some space and run again, it resumes
    ");
    assert!(bench.files().is_empty());

    // The disk fills up later and later: what was committed stays, and each run gets further.
    for writes in [1, 3, 7] {
        left.store(writes, Ordering::SeqCst);
        let report = sync::run(&full, &Options::default()).await.unwrap();
        assert!(matches!(report.code, ExitCode::Storage | ExitCode::Partial), "{}", told(&bench, &report));
        assert!(told(&bench, &report).contains("the disk is full"), "{}", told(&bench, &report));
    }
    let left_behind = std::fs::read_dir(bench.dir.path().join("lake/_staging")).map_or(0, Iterator::count);
    assert_eq!(left_behind, 0, "files that never got into place were left");
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_under_the_state_loses_nothing() {
    let bench = connected(60).await;
    let left = Arc::new(AtomicI64::new(0));
    let full = sync::World { state: failing(&bench.world.state, &left, false), ..bench.world.clone() };
    for writes in [0, 2, 4, 8, 12] {
        left.store(writes, Ordering::SeqCst);
        let report = sync::run(&full, &Options::default()).await.unwrap();
        assert!(matches!(report.code, ExitCode::Storage | ExitCode::Partial), "{writes}: {}", told(&bench, &report));
        // What stopped it left its lease, which ends by itself.
        bench.pass(Duration::from_secs(600)).await;
    }
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_store_says_so_and_ends_with_7() {
    let bench = connected(20).await;
    let left = Arc::new(AtomicI64::new(0));
    let only = Options { resources: vec!["users".parse().unwrap()], ..Options::default() };
    let denied = sync::World { lake: failing(&bench.world.lake, &left, true), ..bench.world.clone() };
    let report = sync::run(&denied, &only).await.unwrap();
    assert_eq!(report.code, ExitCode::Storage);
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme/users: lever/users (tenant=acme/data.parquet): cannot put a partition's new file in place: replace lever/users/tenant=acme/data.parquet in DIR/lake failed: AccessDenied
    hint: these credentials may not write there; docs/storage.md has the permissions that a run needs
    ");

    // A file stands where the folder is due.
    std::fs::write(bench.dir.path().join("file"), "").unwrap();
    let e = Store::open(bench.dir.path().join("file/lake").to_str().unwrap()).unwrap_err();
    let failure = hirelake::report::Failure::new(None, ExitCode::Storage, &e).to_string();
    insta::assert_snapshot!(plain(&failure, bench.dir.path()), @"
    make folder DIR/file/lake failed: Not a directory (os error 20)
    hint: what was committed before is safe; when the cause is mended run again, it resumes
    ");
}

#[tokio::test(start_paused = true)]
async fn a_scratch_folder_that_cannot_be_made_is_told() {
    let mut bench = connected(20).await;
    let mut config = (*bench.world.config).clone();
    // Not even root makes a folder there.
    config.scratch = "/proc/no/such".into();
    bench.world.config = Arc::new(config);
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Storage);
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme: make the scratch folder /proc/no/such failed: No such file or directory (os error 2)
    hint: what was committed before is safe; when the cause is mended run again, it resumes
    ");
    // Nor below a file; nobody is told that tokens wait there.
    let mut config = (*bench.world.config).clone();
    std::fs::write(bench.dir.path().join("a-file"), "").unwrap();
    config.scratch = bench.dir.path().join("a-file/folder");
    bench.world.config = Arc::new(config);
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Storage);
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme: make the scratch folder DIR/a-file/folder failed: Not a directory (os error 20)
    hint: what was committed before is safe; when the cause is mended run again, it resumes
    ");
}

#[tokio::test(start_paused = true)]
async fn a_missing_vault_key_is_told_before_anything_is_asked() {
    let bench = connected(20).await;
    bench.control.reset_stats();
    let mut said = String::new();
    for key in [None, Some(""), Some("abc"), Some("zz".repeat(32).as_str())] {
        let path = bench.dir.path().join("vault.key");
        match key {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => private(&path, text),
        }
        let e = sync::run(&bench.world, &Options::default()).await.unwrap_err();
        assert_eq!(sync::code(&e), ExitCode::Configuration);
        said += &format!("{}\n", plain(&e.to_string(), bench.dir.path()));
    }
    insta::assert_snapshot!(said, @"
    the vault key cannot be had: DIR/vault.key cannot be read (No such file or directory (os error 2))
    hint: check the path and that this user may read it
    the vault key cannot be had: it is empty
    hint: put the secret there
    the vault key (file DIR/vault.key) cannot be had: the vault key is not usable: it must be 32 bytes as 64 hex digits or base64
    hint: make one with `head -c 32 /dev/urandom | base64`
    the vault key (file DIR/vault.key) cannot be had: the vault key is not usable: it must be 32 bytes as 64 hex digits or base64
    hint: make one with `head -c 32 /dev/urandom | base64`
    ");
    assert!(bench.control.stats().requests.is_empty());
}

/// The bench's world under a clock that is off by so many seconds.
fn off_by(bench: &Bench, seconds: i64) -> sync::World {
    let now = bench.world.clock.now().ms() + seconds * 1000;
    sync::World { clock: Clock::starting_at(hirelake::clock::Timestamp::from_ms(now)), ..bench.world.clone() }
}

async fn cursor(bench: &Bench, table: &str) -> Option<hirelake::clock::Timestamp> {
    let line = bench.state().commits(&"acme".parse().unwrap(), &table.parse().unwrap());
    let commit = line.last::<Commit>().await.unwrap()?.body;
    for w in Vec::<Window>::from(commit.covered.updated.clone()) {
        assert!(!w.is_empty(), "{table} covers {w}");
    }
    commit.cursor()
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_never_makes_a_window_run_backwards() {
    let bench = connected(150).await;
    bench.sync().await;
    let mut at = cursor(&bench, "opportunities").await;
    for (i, jump) in [3600, -3600, -86_400, 7200, 0].into_iter().enumerate() {
        bench.control.edit("acme", 6, i as u64);
        bench.control.add("acme", 1);
        bench.pass(Duration::from_secs(300)).await;
        let report = sync::run(&off_by(&bench, jump), &Options::default()).await.unwrap();
        assert_eq!(report.code, ExitCode::Done, "{jump}: {}", told(&bench, &report));
        let now = cursor(&bench, "opportunities").await;
        assert!(now >= at, "{jump}: the cursor went back from {at:?} to {now:?}");
        assert!(now.unwrap() <= bench.world.clock.now(), "{jump}: the cursor passed the provider's clock");
        at = now;
    }
    bench.pass(Duration::from_secs(120)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_first_load_under_a_wrong_clock_misses_no_later_change() {
    for jump in [3600, -3600] {
        let bench = connected(150).await;
        let report = sync::run(&off_by(&bench, jump), &Options::default()).await.unwrap();
        assert_eq!(report.code, ExitCode::Done, "{jump}: {}", told(&bench, &report));
        // Within the hour that the wrong clock believes to be over.
        bench.pass(Duration::from_secs(900)).await;
        bench.control.edit("acme", 20, 1);
        bench.control.add("acme", 2);
        bench.pass(Duration::from_secs(4 * 3600)).await;
        bench.sync().await;
        bench.assert_right("acme").await;
        assert!(bench.world.clock.now() > NOW);
    }
}
