//! What can be seen before any customer: the configuration, the catalogue, and each app at its own hosts.

use super::{Check, count};
use crate::auth::probe::{self, Consent};
use crate::config::{App, Config};
use crate::http::{Asked, Client, Symptom, address};
use crate::report::ExitCode;
use crate::sync;

pub(super) fn configuration(config: &Config) -> Vec<Check> {
    let file = config.path.display();
    let what =
        format!("{}, {} named", count(config.apps.len(), "app"), count(config.named_tenants().count(), "tenant"));
    let mut checks = vec![Check::ok("config", &file, what)];
    checks.extend(config.warnings.iter().map(|w| {
        Check::warn("config", &file, w.clone(), "it was mended on the way; write it so in the configuration")
    }));
    let resources = &config.provider.resources;
    let columns: usize = resources.iter().map(|r| r.columns.len()).sum();
    let what = format!("{}, {}", count(resources.len(), "resource"), count(columns, "column"));
    checks.push(Check::ok("catalogue", &config.provider.name, what));
    checks
}

/// One app: what is configured, whether the token endpoint takes its client, whether the consent page takes its callbacks.
pub(super) async fn app(config: &Config, client: &Client, app: &App) -> Vec<Check> {
    let scopes = match config.app_scopes(app) {
        Ok(scopes) => scopes,
        Err(error) => return vec![Check::failed("app", &app.name, ExitCode::Configuration, &error)],
    };
    let at = &app.endpoints;
    let what = format!(
        "{}: {}, tokens from {}, {}, {}",
        app.environment,
        at.api_base,
        at.token.host_str().unwrap_or_default(),
        count(scopes.list.len(), "scope"),
        count(app.redirect_uris.len(), "callback")
    );
    let mut checks = vec![if app.redirect_uris.is_empty() {
        let hint = format!("add redirect_uris to [apps.{}], exactly as registered at the provider", app.name);
        Check::warn("app", &app.name, format!("{what}: nobody can connect without a callback"), hint)
    } else {
        Check::ok("app", &app.name, what)
    }];
    checks.push(token_endpoint(client, app).await);
    for callback in &app.redirect_uris {
        let target = format!("{} {}", app.name, address(callback));
        checks.push(match probe::consent(client, app, callback, &scopes.joined()).await {
            Ok(seen) => consent(target, &seen),
            Err(error) => Check::failed("consent", target, sync::unanswered(&error.cause), &error),
        });
    }
    checks
}

async fn token_endpoint(client: &Client, app: &App) -> Check {
    let (name, code) = ("client", ExitCode::Configuration);
    let secret = match app.secret() {
        Ok(secret) => secret,
        Err(error) => return Check::failed(name, &app.name, code, &error),
    };
    let at = address(&app.endpoints.token);
    match probe::client(client, app, &secret).await {
        Ok(()) => Check::ok(name, &app.name, format!("{at} knows the client and takes its secret")),
        Err(error) => {
            let hint = error.hint();
            Check::fail(name, &app.name, sync::refusal(&error), format!("{at}: {error}"), hint)
        }
    }
}

fn consent(target: String, seen: &Consent) -> Check {
    let code = ExitCode::Configuration;
    match seen {
        Consent::Shown => Check::ok(
            "consent",
            target,
            "the consent page takes client and callback; audience and scopes show only when a customer signs in",
        ),
        Consent::Refused(symptom) => {
            let (what, code) = match symptom {
                Symptom::CallbackDiffers => ("the consent page does not take this callback (\"undefined\")", code),
                Symptom::UnknownClient => ("the consent page does not know the client (\"ClientID not found\")", code),
                Symptom::NotThere => ("there is no consent page at the app's authorize address", code),
                Symptom::Trouble | Symptom::Gateway | Symptom::Maintenance | Symptom::TooFast => {
                    ("the consent page is out of order", ExitCode::Provider)
                }
                _ => ("the consent page refuses the request", code),
            };
            let hint = match symptom {
                Symptom::NotThere => "check the app's authorize address and environment".to_owned(),
                symptom => symptom.hint(&Asked::default()),
            };
            Check::fail("consent", target, code, what, hint)
        }
        Consent::SentBack(error) => {
            let hint = match error.as_str() {
                "access_denied" => Symptom::OnlyOffline.hint(&Asked::default()),
                "invalid_scope" => {
                    "register every scope of the app at the provider: `hirelake connect guide` prints them".to_owned()
                }
                _ => "compare client_id, audience and scopes with the app's registration".to_owned(),
            };
            Check::fail("consent", target, code, format!("the consent page sends the customer back with {error}"), hint)
        }
    }
}
