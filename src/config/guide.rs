//! What the provider's registration form asks about an app, answered from the configuration.

use super::{App, Config, ConfigError};
use crate::catalog::{Environment, is_loopback};

/// The line that stands for what the configuration does not say.
const UNSAID: &str = "-";

impl Config {
    /// Everything that the registration of `app` asks for, and the steps until its first customer is connected.
    ///
    /// The form itself is not public: its fields are those that integrations of the provider have, so their names may differ.
    ///
    /// # Errors
    ///
    /// When the app's tenants need more scopes than one app may have.
    pub fn guide(&self, app: &App) -> Result<String, ConfigError> {
        let scopes = self.app_scopes(app)?;
        let (name, provider) = (&app.name, &self.provider.name);
        let mut missing = Vec::new();
        let mut said = |key: &str, value: Option<String>, what: &str| {
            value.unwrap_or_else(|| {
                missing.push(format!("{key:<13} {what}"));
                UNSAID.to_owned()
            })
        };
        let description = app.description.as_deref().map(str::trim);
        let counted = description.map(|d| format!("{d}\n({} characters; 20 to 140 are taken)", d.chars().count()));
        let title = said("title", app.title.clone(), "the name that customers read when they consent");
        let description = said("description", counted, "what you do with their data, in 20 to 140 characters");
        let logo =
            said("logo", app.logo.as_ref().map(|l| format!("{l}\n(square)")), "the https address of a square picture");
        let callbacks = Some(app.redirect_uris.iter().map(|u| u.to_string()).collect::<Vec<_>>().join("\n"));
        let callbacks = callbacks.filter(|c| !c.is_empty());
        let callbacks = said(
            "redirect_uris",
            callbacks,
            "where the browser comes back, such as https://connect.example.com/callback",
        );
        let http = app.redirect_uris.iter().any(|u| u.scheme() == "http");

        let facts = [
            (
                "Environment",
                format!("{} (each environment has an app, an id and a secret of its own)", app.environment),
            ),
            ("Name", title),
            ("Description", description),
            ("Logo", logo),
            ("Callbacks", callbacks),
            (
                "Scopes",
                format!(
                    "{}\n({} of at most {}; all must be registered before one can be asked for)",
                    scopes.joined(),
                    scopes.list.len(),
                    self.provider.oauth.max_scopes
                ),
            ),
            ("Audience", format!("{} (with its slash)", app.endpoints.audience)),
            ("Consent page", app.endpoints.authorize.to_string()),
            ("Token address", app.endpoints.token.to_string()),
        ];
        let mut out = format!("App {name}: registration at {provider}, environment {}\n\n", app.environment);
        for (label, text) in facts {
            for (i, line) in text.lines().enumerate() {
                out += &format!("  {:<15}{line}\n", if i == 0 { label } else { "" });
            }
        }
        if !missing.is_empty() {
            out += &format!("\nNot said yet in [apps.{name}]:\n");
            missing.iter().for_each(|m| out += &format!("  {m}\n"));
        }
        out += "\nSteps\n";
        for (i, step) in self.steps(app, http).iter().enumerate() {
            out += &format!("  {}. {step}\n", i + 1);
        }
        Ok(out.trim_end().to_owned())
    }

    fn steps(&self, app: &App, http: bool) -> Vec<String> {
        let (name, provider) = (&app.name, &self.provider.name);
        let mut steps = vec![format!(
            "Ask {provider} for an OAuth application of the environment `{}` (customers' own scripts may use an API key; a product that serves several customers needs OAuth) and fill in the form with what stands above.",
            app.environment
        )];
        match app.environment {
            Environment::Sandbox => steps.push(format!(
                "Try everything here first: {}the production app is another one, with an id, a secret and callbacks of its own, and takes callbacks over https only.",
                if http { "http callbacks are taken in the sandbox; " } else { "" }
            )),
            Environment::Production => {
                steps.push("Register callbacks over https only, exactly as they stand above: a difference of one character makes the consent page fail (it says \"undefined\").".into());
            }
        }
        steps.push(format!(
            "Put the client id into [apps.{name}] and the secret into its place ({}), then run `hirelake check`.",
            app.client_secret
        ));
        steps.push(match &self.connect.public_url {
            Some(url) => format!("Run `hirelake connect serve` behind your proxy, so that it answers at {url}."),
            None if app.redirect_uris.iter().any(is_loopback) => {
                "To let customers connect by themselves set public_url in [connect], register its callback too, and run `hirelake connect serve` behind your proxy with TLS; `hirelake connect TENANT` needs neither.".into()
            }
            None => "Set public_url in [connect] and run `hirelake connect serve` behind your proxy with TLS.".into(),
        });
        steps.push("Send each customer the link of `hirelake connect invite TENANT`; a Super Admin of theirs opens it and accepts, once for the whole company.".into());
        steps.push("When resources are added later: register the new scopes first, then let the customers connect again; consent is asked anew for new scopes.".into());
        steps
    }
}
