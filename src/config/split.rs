//! What to do when resources want more scopes than one application has: which of them a second one reads, as lines for the
//! configuration.

use std::fmt::Write as _;

use super::{App, Config};
use crate::catalog::{Mode, Resource, scopes};
use crate::names::Tenant;

/// Names for further apps, as far as they are free.
const ORDINALS: [&str; 4] = ["second", "third", "fourth", "fifth"];
/// Longest line of a list of resources.
const WIDTH: usize = 100;

/// A way to read everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Each application's name and scopes.
    pub apps: Vec<(String, Vec<String>)>,
    /// What each reads.
    pub shares: String,
    /// The lines of the configuration that say so.
    pub toml: String,
    /// What else can be done, and what comes next.
    pub notes: String,
}

impl Config {
    /// Splits `resources` of an app's tenants over several apps; `None` when one is enough. Without an app it is proposed for
    /// the one that is still to be registered.
    #[must_use]
    pub fn proposal(&self, app: Option<&App>, resources: &[&Resource]) -> Option<Proposal> {
        let shares = scopes::split(&self.provider, resources);
        if shares.len() < 2 {
            return None;
        }
        let first = app.map_or("main", |a| a.name.as_str()).to_owned();
        let taken = |name: &str| self.apps.keys().any(|a| a.as_str() == name);
        let free = ORDINALS.iter().map(|o| (*o).to_owned()).chain((6..).map(|n| format!("app{n}")));
        let more: Vec<String> = free.filter(|o| !taken(o)).take(shares.len() - 1).collect();
        let names: Vec<String> = std::iter::once(first.clone()).chain(more).collect();

        let mut told = String::new();
        for (name, share) in names.iter().zip(&shares) {
            let what: Vec<&str> = share.resources.iter().map(|r| r.name.as_str()).collect();
            let _ = writeln!(told, "app {name}: {} scopes: {}", share.scopes.len(), what.join(", "));
        }

        let mut toml = String::new();
        for name in &names[1..] {
            let environment = app.map_or(crate::catalog::Environment::Production, |a| a.environment);
            let callbacks: Vec<String> =
                app.iter().flat_map(|a| &a.redirect_uris).map(|u| format!("{:?}", u.as_str())).collect();
            let _ = write!(
                toml,
                "[apps.{name}]\nenvironment   = \"{environment}\"\nclient_id     = \"your-{name}-client-id\"\nclient_secret = {{ env = \"{}_{}_SECRET\" }}\nredirect_uris = [{}]\n\n",
                self.provider.name.as_str().to_uppercase(),
                name.to_uppercase(),
                callbacks.join(", ")
            );
        }
        let reads = |tenant: &Tenant, r: &&Resource| self.tenant(tenant).resources.contains(&r.name);
        let wants = |tenant: &&Tenant| {
            let of_app = app.is_some_and(|a| self.tenant(tenant).app.as_ref() == Some(&a.name));
            of_app && shares[1..].iter().any(|s| s.resources.iter().any(|r| reads(tenant, r)))
        };
        let tenants: Vec<&Tenant> = self.named_tenants().filter(wants).collect();
        let mut parts = Vec::new();
        let mut section = |name: &str, whole: Option<&str>, app: &str, own: &[&Resource]| {
            let _ = writeln!(toml, "[tenants.{name}]");
            if let Some(whole) = whole {
                let _ = writeln!(toml, "part_of   = \"{whole}\"");
            }
            let _ = writeln!(toml, "app       = \"{app}\"\n{}\n", list(own));
        };
        if tenants.is_empty() {
            section("NAME", None, &names[0], &shares[0].resources);
            for (i, (app, share)) in names.iter().zip(&shares).enumerate().skip(1) {
                parts.push(part_name("NAME", i));
                section(&part_name("NAME", i), Some("NAME"), app, &share.resources);
            }
        }
        for tenant in tenants {
            let whole = self.whole(tenant);
            for (i, (app, share)) in names.iter().zip(&shares).enumerate() {
                let own: Vec<&Resource> = share.resources.iter().copied().filter(|r| reads(tenant, r)).collect();
                match i {
                    0 => section(tenant.as_str(), Some(whole.as_str()).filter(|_| whole != tenant), app, &own),
                    _ if own.is_empty() => {}
                    i => {
                        parts.push(part_name(tenant.as_str(), i));
                        section(&part_name(tenant.as_str(), i), Some(whole.as_str()), app, &own);
                    }
                }
            }
        }
        let part = parts.first().map_or("NAME_more", String::as_str);
        let others = names[1..].join(", ");
        let notes = format!(
            "Register {others} beside {first} (hosts that [apps.{first}] sets are set there too), then have the customer consent to each: `hirelake connect {part}` after its tenant, for the same account.\nOr read the rest with an API key of the customer's own, whose permissions are not counted: leave [apps.{}] and the `app` of the part out, and `hirelake connect {part} --api-key-file FILE`.",
            names[1]
        );
        let apps = names.into_iter().zip(shares.into_iter().map(|s| s.scopes)).collect();
        Some(Proposal { apps, shares: told.trim_end().to_owned(), toml: toml.trim_end().to_owned(), notes })
    }
}

/// `acme_more`, `acme_more2`.
fn part_name(tenant: &str, i: usize) -> String {
    if i == 1 { format!("{tenant}_more") } else { format!("{tenant}_more{i}") }
}

/// The line that names resources, broken where it would be too long. A feed of deletions comes with its table.
fn list(resources: &[&Resource]) -> String {
    let named = resources.iter().filter(|r| match &r.mode {
        Mode::Tombstones { of, .. } => !resources.iter().any(|o| o.name == *of),
        _ => true,
    });
    let mut lines = vec![String::from("resources = [")];
    for r in named {
        let word = format!("\"{}\", ", r.name);
        if lines.last().is_none_or(|l| l.len() + word.len() > WIDTH) {
            lines.push("  ".into());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(&word);
        }
    }
    let text: Vec<&str> = lines.iter().map(|l| l.trim_end()).collect();
    format!("{}]", text.join("\n").trim_end_matches(','))
}
