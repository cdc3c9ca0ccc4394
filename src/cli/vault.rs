//! `hirelake vault`: what each key sealed, and changing the key.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::{CliError, note, print};
use crate::auth::Auth;
use crate::auth::rotate::Holdings;
use crate::names::{RunId, Tenant};
use crate::report::{ExitCode, Failure, Report, TenantReport};
use crate::state::State;
use crate::sync::{self, World};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Vault {
    /// What each key sealed: grants, older entries, records in quarantine, the key of the pseudonyms
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Seal everything anew under the key of [vault]; its `previous` ones open what they sealed
    RotateKey {
        /// Only this tenant; may be repeated
        #[arg(long, value_name = "TENANT")]
        tenant: Vec<Tenant>,
    },
}

pub(super) async fn vault(world: &World, args: Vault) -> Result<ExitCode, CliError> {
    let state = State::new(world.state.clone(), world.clock);
    let auth = Arc::new(Auth::new(world.config.clone(), state.clone(), world.clock, RunId::new())?);
    let everybody = auth.sealed_tenants(world.tenants().await?).await?;
    match args {
        Vault::Status { json } => {
            let all = auth.holdings(&everybody).await?;
            let text = if json {
                let keys: Vec<_> =
                    all.iter().map(|(id, h)| json!({"key": id, "is": role(&auth, id), "sealed": h})).collect();
                serde_json::to_string_pretty(&keys).unwrap_or_default()
            } else {
                table(&auth, &all)
            };
            print(&text)
        }
        Vault::RotateKey { tenant } => {
            if let Some(name) = tenant.iter().find(|t| !everybody.contains(t)) {
                return Err(super::no_tenant(&world.config, &state, name).await);
            }
            let chosen = if tenant.is_empty() { &everybody } else { &tenant };
            let mut reports = BTreeMap::new();
            for (tenant, done) in auth.rotate(chosen).await {
                let mut report = TenantReport::default();
                match done {
                    Ok(done) if done == Default::default() => {}
                    Ok(done) => {
                        let grant = if done.grant { "grant sealed anew" } else { "grant was sealed anew before" };
                        print(&format!(
                            "{tenant}: {grant}; records in quarantine: {}; old entries removed: {}",
                            done.quarantined, done.swept
                        ))?;
                    }
                    Err(error) => {
                        let error = error.into();
                        let failure = Failure::new(None, sync::code(&error), &error);
                        note(&format!("error: {failure}"));
                        report.failures.push(failure);
                    }
                }
                reports.insert(tenant, report);
            }
            let mut shut = false;
            match auth.rotate_pseudonyms().await {
                Ok(true) => {
                    print("the key of the pseudonyms: sealed anew; pseudonyms stay as they are")?;
                }
                Ok(false) => {}
                Err(error) => {
                    let error = error.into();
                    note(&format!("error: {}", Failure::new(None, sync::code(&error), &error)));
                    shut = true;
                }
            }
            let left: Vec<String> =
                auth.holdings(&everybody).await?.into_keys().filter(|id| id != auth.vault().key_id()).collect();
            let verdict = match Report::verdict(&reports) {
                ExitCode::Done if shut => ExitCode::Configuration,
                verdict => verdict,
            };
            let failed = verdict != ExitCode::Done;
            print(&if left.is_empty() && failed {
                "not everything could be looked at: run this again before `previous` is taken out of [vault]".into()
            } else if left.is_empty() {
                format!("everything is sealed with {}: `previous` may be taken out of [vault]", auth.vault().key_id())
            } else {
                format!("some is still sealed with {}: have it in `previous` and run this again", left.join(" and "))
            })?;
            Ok(verdict)
        }
    }
}

fn role(auth: &Auth, id: &str) -> &'static str {
    if id == auth.vault().key_id() {
        "current"
    } else if auth.vault().former_ids().any(|f| f == id) {
        "previous"
    } else {
        "not at hand"
    }
}

fn table(auth: &Auth, all: &BTreeMap<String, Holdings>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    // Few have one.
    let pseudonyms = all.values().any(|h| h.pseudonyms > 0);
    let mut header = vec!["key", "is", "grants", "older entries", "in quarantine"];
    header.extend(pseudonyms.then_some("pseudonym key"));
    table.set_header(header);
    for (id, h) in all {
        let mut row = vec![id.clone(), role(auth, id).to_owned()];
        row.extend([h.grants, h.older_entries, h.quarantined].map(|n| n.to_string()));
        row.extend(pseudonyms.then(|| h.pseudonyms.to_string()));
        table.add_row(row);
    }
    table.trim_fmt()
}
