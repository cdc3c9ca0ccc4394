//! `hirelake catalog --scopes` and `hirelake connect guide`: what is registered at the provider.

use super::{CliError, note, print};
use crate::catalog::{ByDefault, scopes};
use crate::config::{App, Config};
use crate::names::AppName;
use crate::report::ExitCode;

/// The apps that are meant: the one named, else all.
fn chosen<'a>(config: &'a Config, name: Option<&AppName>) -> Result<Vec<&'a App>, CliError> {
    let names: Vec<&str> = config.apps.keys().map(AppName::as_str).collect();
    match name {
        None => Ok(config.apps.values().collect()),
        Some(name) => config.apps.get(name).map(|a| vec![a]).ok_or_else(|| CliError::Usage {
            what: format!("there is no app `{name}`"),
            hint: match scopes::nearest(name.as_str(), names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if names.is_empty() => "add a section [apps.main]; `hirelake init` shows one".into(),
                None => format!("there are: {}", names.join(", ")),
            },
        }),
    }
}

/// Prints the scopes of each app in a line, and why on stderr.
pub(super) fn scopes(config: &Config, app: Option<&AppName>) -> Result<ExitCode, CliError> {
    let apps = chosen(config, app)?;
    let provider = &config.provider;
    if apps.is_empty() {
        let enabled = provider.resources.iter().filter(|r| r.default == ByDefault::Always);
        let least = scopes::needed(provider, enabled)
            .map_err(|e| CliError::Usage { what: e.to_string(), hint: "name fewer resources in [defaults]".into() })?;
        note("no app is configured: these are the scopes of the resources that are on by default");
        return print(&least.joined());
    }
    for app in &apps {
        let list = config.app_scopes(app)?;
        let opened = config.app_opens(app);
        note(&format!("app {}: {} scopes of at most {}", app.name, list.list.len(), provider.oauth.max_scopes));
        for scope in &list.list {
            let why = match opened.get(scope) {
                Some(resources) => resources.join(", "),
                None if *scope == provider.oauth.offline_scope => "a refresh token".into(),
                None => "nothing that is read".into(),
            };
            note(&format!("  {scope:<32} {why}"));
        }
        let joined = list.joined();
        print(&if apps.len() == 1 { joined } else { format!("{}\t{joined}", app.name) })?;
    }
    Ok(ExitCode::Done)
}

/// Prints what the registration form of each app asks.
pub(super) fn guide(config: &Config, app: Option<&AppName>) -> Result<ExitCode, CliError> {
    let apps = chosen(config, app)?;
    if apps.is_empty() {
        return Err(CliError::Usage {
            what: "no app is configured".into(),
            hint: "add a section [apps.main] with environment, redirect_uris, title and description; `hirelake init --print` shows one".into(),
        });
    }
    let guides = apps.into_iter().map(|a| config.guide(a)).collect::<Result<Vec<_>, _>>()?;
    print(&guides.join("\n\n"))
}
