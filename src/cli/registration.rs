//! `hirelake catalog --scopes` and `hirelake connect guide`: what is registered at the provider.

use super::{CliError, note, print};
use crate::catalog::{ByDefault, Resource, scopes};
use crate::config::{App, Config, Proposal};
use crate::names::AppName;
use crate::report::ExitCode;

/// The apps that are meant: the one named, else all.
fn chosen<'a>(config: &'a Config, name: Option<&AppName>) -> Result<Vec<&'a App>, CliError> {
    let names: Vec<&str> = config.apps.keys().map(AppName::as_str).collect();
    match name {
        None => Ok(config.apps.values().collect()),
        Some(name) => config.apps.get(name).map(|a| vec![a]).ok_or_else(|| CliError::Usage {
            what: format!("there is no app `{name}`"),
            hint: match crate::names::nearest(name.as_str(), names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if names.is_empty() => "add a section [apps.main]; `hirelake init` shows one".into(),
                None => format!("there are: {}", names.join(", ")),
            },
        }),
    }
}

/// Prints the scopes of each app in a line, and why on stderr; where they are too many, those of several apps that can read
/// it all, and how the configuration says so. With `all` it is about everything that the catalogue has.
pub(super) fn scopes(config: &Config, app: Option<&AppName>, all: bool) -> Result<ExitCode, CliError> {
    let apps = chosen(config, app)?;
    let provider = &config.provider;
    if all {
        let everything: Vec<&Resource> = provider.resources.iter().collect();
        note("everything that can be read, sensitive things included:");
        // Any app will do: what differs between them is not counted.
        let app = apps.first().copied();
        return match config.proposal(app, &everything) {
            Some(proposal) => say(&proposal),
            None => print(&fitting(config, everything)?.joined()),
        };
    }
    if apps.is_empty() {
        let enabled: Vec<&Resource> = provider.resources.iter().filter(|r| r.default == ByDefault::Always).collect();
        let least = fitting(config, enabled)?;
        note("no app is configured: these are the scopes of the resources that are on by default");
        return print(&least.joined());
    }
    let mut code = ExitCode::Done;
    for app in &apps {
        let list = match config.app_scopes(app) {
            Ok(list) => list,
            Err(error) => {
                let Some(proposal) = config.proposal(Some(app), &config.app_asks(app)) else {
                    return Err(error.into());
                };
                // Its hint leads here.
                let text = error.to_string();
                note(&format!("error: {}", text.lines().next().unwrap_or_default()));
                say(&proposal)?;
                code = ExitCode::Configuration;
                continue;
            }
        };
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
    Ok(code)
}

fn fitting(config: &Config, resources: Vec<&Resource>) -> Result<scopes::Scopes, CliError> {
    scopes::needed(&config.provider, resources.into_iter())
        .map_err(|e| CliError::Usage { what: e.to_string(), hint: "name fewer resources in [defaults]".into() })
}

/// Says how everything can be read: the scopes of each app to stdout, the rest to stderr.
fn say(proposal: &Proposal) -> Result<ExitCode, CliError> {
    let n = proposal.apps.len();
    note(&format!("what fits is to read it with {n} apps, each within the limit:\n{}\n", proposal.shares));
    for (app, scopes) in &proposal.apps {
        print(&format!("{app}\t{}", scopes.join(" ")))?;
    }
    note(&format!("\nIn the configuration:\n\n{}\n\n{}", proposal.toml, proposal.notes));
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
