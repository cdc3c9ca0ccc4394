//! `hirelake verify`: the lake read back and judged, or searched for who was erased.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{CliError, no_tenant, print};
use crate::auth::AuthError;
use crate::names::Tenant;
use crate::report::ExitCode;
use crate::state::State;
use crate::sync::{SyncError, World};
use crate::verify::{self, Options, Texts};

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// The tenant
    tenant: Tenant,
    /// Prove that a person is gone: the id of an opportunity or a contact; may be repeated
    #[arg(long, value_name = "ID")]
    erased: Vec<String>,
    /// Search every value for this text too, a name or an address; may be repeated; `-` reads lines from stdin
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,
    /// … for each line of this file, so that no shell's history has it; `-` for stdin
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn verify(world: &World, args: Verify) -> Result<ExitCode, CliError> {
    if args.erased.iter().any(|id| id.trim().is_empty()) {
        return Err(CliError::Usage {
            what: "--erased needs an id".into(),
            hint: "give an opportunity's or a contact's".into(),
        });
    }
    let mut texts: Vec<String> = Vec::new();
    for text in args.text {
        if text == "-" { texts.extend(lines(None)?) } else { texts.push(text) }
    }
    if let Some(path) = &args.texts {
        texts.extend(lines(Some(path).filter(|p| p.as_os_str() != "-").map(PathBuf::as_path))?);
    }
    let asked = !texts.is_empty();
    let options = Options { erased: args.erased, texts: texts.iter().collect::<Texts>() };
    if asked && options.texts.is_empty() {
        return Err(CliError::Usage {
            what: "no text is to be looked for".into(),
            hint: "write one on each line".into(),
        });
    }
    let verdict = match verify::run(world, &args.tenant, &options).await {
        Err(SyncError::Auth(AuthError::NotConnected { .. })) => {
            let state = State::new(world.state.clone(), world.clock);
            return Err(no_tenant(&world.config, &state, &args.tenant).await);
        }
        verdict => verdict?,
    };
    print(&if args.json { verdict.json() } else { verdict.table() })?;
    Ok(verdict.code())
}

/// The lines of a file, or of stdin.
fn lines(path: Option<&Path>) -> Result<Vec<String>, CliError> {
    let mut text = String::new();
    let read = match path {
        Some(path) => std::fs::File::open(path).and_then(|mut f| f.read_to_string(&mut text)),
        None => std::io::stdin().lock().read_to_string(&mut text),
    };
    read.map_err(|source| CliError::Io {
        what: format!("reading {}", path.map_or_else(|| "stdin".to_owned(), |p| p.display().to_string())),
        hint: match source.kind() {
            std::io::ErrorKind::InvalidData => "it must be text in UTF-8, a line for each",
            _ => "check that it is there, and that this user may read it",
        },
        source,
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}
