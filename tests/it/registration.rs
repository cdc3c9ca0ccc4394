//! What is registered at the provider: the least scopes, and all that the form asks.

use std::path::Path;

use hirelake::config::{Config, ConfigError};
use insta::assert_snapshot;

use crate::harness::plain;

const APP: &str = "[apps.main]\nenvironment = \"production\"\nclient_id = \"c\"\nclient_secret = { env = \"X\" }\n";

fn load(dir: &Path, text: &str) -> Result<Config, ConfigError> {
    let path = dir.join("hirelake.toml");
    std::fs::write(&path, text).unwrap();
    Config::load_with(Some(&path), std::iter::empty())
}

fn config(text: &str) -> Config {
    load(tempfile::tempdir().unwrap().path(), text).unwrap()
}

fn scopes(text: &str) -> String {
    let config = config(text);
    config.app_scopes(config.apps.values().next().unwrap()).unwrap().joined()
}

fn guide(text: &str) -> String {
    let config = config(text);
    config.guide(config.apps.values().next().unwrap()).unwrap()
}

#[test]
fn an_app_needs_the_least_that_its_tenants_need_together() {
    // Users and their postings of one tenant, stages of another; the tenant of another app does not count.
    let text = format!(
        "{APP}[apps.other]\nenvironment = \"sandbox\"\nclient_id = \"d\"\nclient_secret = {{ env = \"Y\" }}\n\
         [tenants.acme]\napp = \"main\"\nresources = [\"users\", \"postings\"]\n\
         [tenants.birch]\napp = \"main\"\nresources = [\"stages\", \"users\"]\n\
         [tenants.cedar]\napp = \"other\"\nresources = [\"tags\"]\n"
    );
    assert_eq!(scopes(&text), "offline_access postings:read:admin stages:read:admin users:read:admin");
    // Contacts and applications come with opportunities, whose expansions need scopes of their own.
    assert_eq!(
        scopes(&format!("{APP}[defaults]\nresources = [\"opportunities\", \"applications\", \"contacts\"]\n")),
        "offline_access applications:read:admin contact:read:admin opportunities:read:admin"
    );
    let all = scopes(APP);
    assert!(all.starts_with("offline_access ") && !all.contains(":write:") && !all.contains("  "), "{all}");
}

#[test]
fn what_a_person_wrote_is_compared_with_what_is_wanted() {
    let of = |resources: &str| {
        let scopes = "scopes = \"offline_access users:read:admin\"\n";
        let config = config(&format!("{APP}{scopes}[tenants.acme]\n{resources}"));
        (config.warnings.join("\n"), config.needed_scopes(&"acme".parse().unwrap()).join(" "))
    };
    // Named resources are wanted: what they lack is said, and looked for in the grant.
    let (warned, needed) = of("resources = [\"users\", \"tags\", \"stages\"]\n");
    assert_snapshot!(warned, @"tenant acme: the scopes of its app do not open stages, tags; `hirelake catalog --scopes` prints those that do");
    assert_eq!(needed, "offline_access users:read:admin stages:read:admin tags:read:admin");
    // Nothing is named: whatever the scopes open is read, and nobody misses the rest.
    assert_eq!(of(""), (String::new(), "offline_access users:read:admin".to_owned()));
}

#[test]
fn the_guide_says_all_that_the_form_asks() {
    let app = "[connect]\npublic_url = \"https://connect.example.com\"\n[apps.main]\nenvironment = \"production\"\n\
               title = \"Acme Analytics\"\ndescription = \"Copies your hiring data to your own warehouse.\"\n\
               logo = \"https://example.com/square.png\"\nclient_id = \"c\"\nclient_secret = { env = \"LEVER_SECRET\" }\n\
               redirect_uris = [\"https://connect.example.com/callback\", \"https://staging.example.com/callback\"]\n\
               [defaults]\nresources = [\"users\", \"tags\"]\n";
    assert_snapshot!(guide(app), @r#"
    App main: registration at lever, environment production

      Environment    production (each environment has an app, an id and a secret of its own)
      Name           Acme Analytics
      Description    Copies your hiring data to your own warehouse.
                     (46 characters; 20 to 140 are taken)
      Logo           https://example.com/square.png
                     (square)
      Callbacks      https://connect.example.com/callback
                     https://staging.example.com/callback
      Scopes         offline_access tags:read:admin users:read:admin
                     (3 of at most 20; all must be registered before one can be asked for)
      Audience       https://api.lever.co/v1/ (with its slash)
      Consent page   https://auth.lever.co/authorize
      Token address  https://auth.lever.co/oauth/token

    Steps
      1. Ask lever for an OAuth application of the environment `production` (customers' own scripts may use an API key; a product that serves several customers needs OAuth) and fill in the form with what stands above.
      2. Register callbacks over https only, exactly as they stand above: a difference of one character makes the consent page fail (it says "undefined").
      3. Put the client id into [apps.main] and the secret into its place (environment variable LEVER_SECRET), then run `hirelake check`.
      4. Run `hirelake connect serve` behind your proxy, so that it answers at https://connect.example.com/.
      5. Send each customer the link of `hirelake connect invite TENANT`; a Super Admin of theirs opens it and accepts, once for the whole company.
      6. When resources are added later: register the new scopes first, then let the customers connect again; consent is asked anew for new scopes.
    "#);
    assert_snapshot!(guide(&format!("{}[defaults]\nresources = [\"users\"]\n", APP.replace("production", "sandbox"))), @"
    App main: registration at lever, environment sandbox

      Environment    sandbox (each environment has an app, an id and a secret of its own)
      Name           -
      Description    -
      Logo           -
      Callbacks      -
      Scopes         offline_access users:read:admin
                     (2 of at most 20; all must be registered before one can be asked for)
      Audience       https://api.sandbox.lever.co/v1/ (with its slash)
      Consent page   https://sandbox-lever.auth0.com/authorize
      Token address  https://sandbox-lever.auth0.com/oauth/token

    Not said yet in [apps.main]:
      title         the name that customers read when they consent
      description   what you do with their data, in 20 to 140 characters
      logo          the https address of a square picture
      redirect_uris where the browser comes back, such as https://connect.example.com/callback

    Steps
      1. Ask lever for an OAuth application of the environment `sandbox` (customers' own scripts may use an API key; a product that serves several customers needs OAuth) and fill in the form with what stands above.
      2. Try everything here first: the production app is another one, with an id, a secret and callbacks of its own, and takes callbacks over https only.
      3. Put the client id into [apps.main] and the secret into its place (environment variable X), then run `hirelake check`.
      4. Set public_url in [connect] and run `hirelake connect serve` behind your proxy with TLS.
      5. Send each customer the link of `hirelake connect invite TENANT`; a Super Admin of theirs opens it and accepts, once for the whole company.
      6. When resources are added later: register the new scopes first, then let the customers connect again; consent is asked anew for new scopes.
    ");
}

#[test]
fn what_the_form_would_refuse_is_refused_here() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(141);
    let said: Vec<String> = [
        "title = \"\"\n".to_owned(),
        "description = \"too short\"\n".to_owned(),
        format!("description = \"{long}\"\n"),
        "logo = \"http://example.com/square.png\"\n".to_owned(),
        "redirect_uris = [\"http://connect.example.com/callback\"]\n".to_owned(),
        "[connect]\npublic_url = \"http://connect.example.com\"\n".to_owned(),
        "[connect]\ninvite_life = \"soon\"\n".to_owned(),
    ]
    .iter()
    .map(|line| match load(dir.path(), &format!("{APP}{line}")) {
        Ok(_) => format!("TAKEN: {line}"),
        Err(e) => plain(&e.to_string(), dir.path()),
    })
    .collect();
    assert_snapshot!(said.join("\n"), @"
    DIR/hirelake.toml:5:1: app main: the title has 0 characters, and 1 to 80 are taken
    hint: the provider's registration form shows it to customers; `hirelake connect guide` prints all that the form asks
    DIR/hirelake.toml:5:1: app main: the description has 9 characters, and 20 to 140 are taken
    hint: the provider's registration form shows it to customers; `hirelake connect guide` prints all that the form asks
    DIR/hirelake.toml:5:1: app main: the description has 141 characters, and 20 to 140 are taken
    hint: the provider's registration form shows it to customers; `hirelake connect guide` prints all that the form asks
    DIR/hirelake.toml:5:1: app main: the logo's address is not https
    hint: give the https address of a square picture
    DIR/hirelake.toml:5:1: app main: the callback http://connect.example.com/callback is not https
    hint: the provider takes http callbacks in its sandbox only; register an https one (`hirelake connect` lets you paste the address it ends on)
    DIR/hirelake.toml:6:1: public_url is `http`, not https
    hint: customers open it in their browsers: put a proxy with TLS before `hirelake connect serve`; http is for this machine's loopback address
    DIR/hirelake.toml:6:1: `invite_life` is no length of time
    hint: write it as 90s, 10m, 1h 30m or 30d
    ");
}
