//! What is asserted of everything that comes from outside, whatever it is: the entry points of `tests/fuzz`, and of the test
//! that reads the kept corpora.
//!
//! Not in the program: only tests and the fuzzer build it. Each function takes any bytes, and fails when an invariant does
//! not hold, not only when something panics: counts add up, what is taken is read back equal, a second look says the same, a
//! message is short and quotes nothing that was planted (`canary`).

use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use url::Url;

use crate::auth::connect::Callback;
use crate::auth::vault::{Sealed, Vault};
use crate::auth::{self, Auth, Grant};
use crate::catalog::{self, Mode, Provider, Resource};
use crate::clock::Timestamp;
use crate::config;
use crate::connect::Invite;
use crate::extract::Offsets;
use crate::names::Tenant;
use crate::secret::Secret;
use crate::state::{self, Commit, Intervals, Window};
use crate::sync::LastRun;
use crate::transform::{Decoder, Page, PageError, Parent};

/// What no message may hold.
const PLANTED: &str = "canary";
/// The longest message that is still read by somebody.
const MESSAGE_BYTES: usize = 8 << 10;
/// Memory that a decoded page may take for each byte of its body: a record of a few bytes has a cell in every column, and
/// the widest table has about a hundred.
const TIMES_BODY: usize = 512;
/// The builders' first room.
const ROOM_BYTES: usize = 32 << 20;

static PROVIDER: LazyLock<Option<Provider>> = LazyLock::new(|| catalog::embedded().ok());

/// Whatever is said of what came from outside: short, and without what was planted there.
fn said(of: &[u8], what: &str) {
    assert!(what.len() <= MESSAGE_BYTES, "a message of {} bytes", what.len());
    let planted = of.windows(PLANTED.len()).any(|w| w == PLANTED.as_bytes());
    assert!(!planted || !what.contains(PLANTED), "a message quotes what was planted");
}

/// A parent whose children a page holds.
fn parent_of(carrier: &Resource) -> RecordBatch {
    let schema: SchemaRef = Arc::new(arrow::datatypes::Schema::new(
        catalog::schema(carrier).fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>(),
    ));
    RecordBatch::try_new(
        schema.clone(),
        schema.fields().iter().map(|f| arrow::array::new_null_array(f.data_type(), 1)).collect(),
    )
    .unwrap_or_else(|_| RecordBatch::new_empty(schema))
}

/// The counts of a page add up, and its batches are of the table's shape.
fn page_is_sound(resource: &Resource, body: &[u8], page: &Page, children: bool) {
    assert_eq!(page.rows.num_rows() + page.rejected.len(), page.records, "records are lost or made");
    assert!(page.records <= body.len(), "more records than bytes");
    let system = catalog::schema(resource).fields().len() - resource.columns.len();
    assert_eq!(page.rows.num_columns(), 1 + resource.columns.len() + usize::from(children), "of {system} and more");
    for key in resource.key.iter().filter(|k| resource.column(k).is_some_and(|c| c.from_parent.is_none())) {
        let column = page.rows.column_by_name(key);
        assert!(column.is_some_and(|c| c.null_count() == 0), "a row without its key");
    }
    for rejected in &page.rejected {
        assert!(body.windows(rejected.raw.len().max(1)).any(|w| w == rejected.raw), "not the record's own bytes");
        said(body, &format!("{rejected:?}"));
    }
    let bytes: usize = page.rows.get_array_memory_size()
        + page.extracted.iter().map(|(_, rows)| rows.get_array_memory_size()).sum::<usize>();
    assert!(bytes <= ROOM_BYTES + TIMES_BODY * body.len(), "{bytes} bytes of a body of {}", body.len());
    // Places are the provider's own keys, so they are the one thing that is repeated.
    for (place, _, _, count) in page.drift.iter() {
        assert!(place.len() <= MESSAGE_BYTES && count > 0, "a place of {} bytes", place.len());
    }
    said(body, &format!("{page:?}"));
}

/// A page of any resource of the catalogue; the first byte says of which.
pub fn page(data: &[u8]) {
    let (Some((which, body)), Some(provider)) = (data.split_first(), PROVIDER.as_ref()) else { return };
    let Some(resource) = provider.resources.get(usize::from(*which) % provider.resources.len()) else { return };
    let carrier = resource.mode.parent().and_then(|p| provider.resource(p.as_str()));
    let children = matches!(resource.mode, Mode::Children { .. });
    let decode = || -> Result<Page, PageError> {
        match carrier.filter(|_| children) {
            Some(carrier) => {
                let batch = parent_of(carrier);
                Decoder::of_children(resource, carrier).children_of(Parent { batch: &batch, row: 0 }, body)
            }
            None => {
                let extract: Vec<&Resource> = provider.resources.iter().collect();
                Decoder::new(resource, &extract).page(body)
            }
        }
    };
    match (decode(), decode()) {
        (Ok(page), Ok(again)) => {
            page_is_sound(resource, body, &page, children);
            assert_eq!(page.rows, again.rows, "a second look decodes otherwise");
            assert_eq!((&page.next, page.more), (&again.next, again.more));
        }
        (Err(one), Err(other)) => {
            said(body, &one.to_string());
            assert_eq!(one.to_string(), other.to_string(), "a second look says otherwise");
        }
        _ => assert!(body.is_empty() && !body.is_empty(), "a second look decides otherwise"),
    }
}

/// An answer of the token endpoint; the first byte says of which status.
pub fn token(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    let statuses = [200, 201, 400, 401, 403, 404, 429, 500];
    let Some(status) = statuses.get(usize::from(*which) % statuses.len()) else { return };
    match auth::fuzz_token(*status, body) {
        Ok(issued) => {
            assert!(*status < 300, "tokens under a {status}");
            assert!(issued.sendable, "an access token that no header takes");
            assert!(issued.life_s <= 86_400, "a life of {} s", issued.life_s);
            assert!(issued.account.as_ref().is_none_or(|a| a.len() <= 200 && !a.chars().any(char::is_control)));
            assert!(issued.scopes.iter().all(|s| !s.is_empty() && !s.contains(char::is_whitespace)));
            said(body, &issued.debug);
        }
        Err(said_of) => said(body, &said_of),
    }
}

/// A catalogue file in the user's folder.
pub fn catalogue(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.matches('\n').count() + 1;
    let assembled = catalog::fuzz_assemble("mine.toml", text);
    let linted = catalog::fuzz_lint("mine.toml", text);
    let mistakes: usize = linted.iter().map(|f| f.mistakes.len()).sum();
    match assembled {
        Ok(provider) => {
            assert_eq!(mistakes, 0, "lint finds a mistake in what is taken: {linted:?}");
            // What is taken can be worked with: every schema can be made, and every name stands in a path.
            for resource in &provider.resources {
                let schema = catalog::schema(resource);
                assert!(schema.fields().len() >= resource.columns.len());
                assert!(!resource.name.as_str().contains(['/', '\\', '\0']));
            }
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() <= MESSAGE_BYTES, "a message of {} bytes", error.len());
            assert!(mistakes > 0, "lint finds nothing, and it is refused: {error}");
            if let Some(line) = error.strip_prefix("mine.toml:").and_then(|rest| rest.split(':').next()?.parse().ok()) {
                assert!((1..=lines).contains(&line), "line {line} of {lines}");
            }
        }
    }
}

/// A configuration file.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // What a file names is read from there: only what this text itself holds is looked at.
    if text.contains("catalog") {
        return;
    }
    match config::fuzz_load(text) {
        Ok(config) => {
            assert!((1..=1000).contains(&config.tenants_at_once));
            for tenant in config.named_tenants() {
                let rate = config.tenant(tenant).rate;
                assert!(rate.per_second.is_finite() && rate.per_second > 0.0 && rate.burst > 0);
                assert!(config.whole(config.whole(tenant)) == config.whole(tenant), "a part of a part");
            }
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() <= MESSAGE_BYTES, "a message of {} bytes", error.len());
            assert!(error.matches("\nhint: ").count() <= 1, "two hints");
        }
    }
}

/// Reads an entry of the state; what is taken says the same when it is written and read again.
fn entry<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(data: &[u8], n: u64) -> Option<T> {
    match state::fuzz_entry::<T>(n, data) {
        Ok(body) => {
            let written = serde_json::to_value(&body).ok()?;
            let again: Option<T> = serde_json::from_value(written.clone()).ok();
            // A number that is none equals nothing.
            let same = again.as_ref() == Some(&body) || written.to_string().contains("null");
            assert!(same, "an entry changes when it is written and read again");
            Some(body)
        }
        Err(error) => {
            said(data, &error.to_string());
            None
        }
    }
}

/// An entry of the state's lines: commits, grants, leases, runs.
pub fn state_entry(data: &[u8]) {
    let Some((which, text)) = data.split_first() else { return };
    let n = u64::from(*which >> 4);
    match which % 4 {
        0 => drop(entry::<Grant>(text, n)),
        1 => {
            if let Some(commit) = entry::<Commit>(text, n) {
                assert!(commit.rows() >= commit.living().min(commit.rows()));
                let within = Window::new(None, Timestamp::from_ms(i64::MAX));
                for set in [&commit.covered.created, &commit.covered.updated] {
                    intervals_are_sound(set, within);
                }
                let _ = commit.cursor();
            }
        }
        2 => {
            if let Err(error) = state::fuzz_lease(n, text) {
                said(text, &error.to_string());
            }
        }
        _ => drop(entry::<LastRun>(text, n)),
    }
}

/// Sorted, apart, and together with its gaps everything.
fn intervals_are_sound(set: &Intervals, within: Window) {
    for pair in set.windows().windows(2) {
        assert!(pair[1].from.is_some_and(|from| from > pair[0].to), "windows that touch");
    }
    let gaps = set.gaps(within);
    let mut whole = set.clone();
    gaps.iter().for_each(|gap| {
        assert!(
            !gap.is_empty() && !set.contains(gap.to.minus(std::time::Duration::from_millis(1))),
            "a gap is covered"
        );
        whole.add(*gap);
    });
    assert!(whole.gaps(within).is_empty(), "a gap of the gaps");
}

/// The pages of a listing, one a line: their offsets are passed on as they are, none twice, and not for ever.
pub fn offsets(data: &[u8]) {
    let Some(resource) = PROVIDER.as_ref().and_then(|p| p.resource("opportunities")) else { return };
    let (mut offsets, mut sent) = (Offsets::new(&resource.mode), std::collections::BTreeSet::new());
    for body in data.split(|b| *b == b'\n') {
        let page = match Decoder::new(resource, &[]).page(body) {
            Ok(page) => page,
            Err(error) => return said(body, &error.to_string()),
        };
        match offsets.advance(page.next.clone(), page.more, page.records) {
            Ok(true) => {
                let next = offsets.token().unwrap_or_default().to_owned();
                assert_eq!(Some(&next), page.next.as_ref(), "an offset was changed");
                assert!(!next.is_empty() && sent.insert(next.clone()), "an offset was taken twice");
                // Encoded once, it says the same.
                let Ok(mut url) = Url::parse("https://api.example.com/v1/opportunities") else { return };
                url.query_pairs_mut().append_pair("offset", &next);
                assert!(url.as_str().len() < 64 << 10, "an address of {} bytes", url.as_str().len());
                assert!(url.query_pairs().any(|(k, v)| k == "offset" && v == next), "an offset was lost on its way");
            }
            Ok(false) => return assert!(!page.more, "a listing ended before its end"),
            Err(why) => return said(body, why),
        }
    }
}

/// The address on which a browser ended, and the tokens in the addresses and cookies of the connect page.
pub fn callback(data: &[u8]) {
    static KEY: LazyLock<Option<Vault>> = LazyLock::new(|| Vault::new(&Secret::new("c0ffee00".repeat(8))).ok());
    let Ok(text) = std::str::from_utf8(data) else { return };
    let tenant: Option<Tenant> = "acme".parse().ok();
    let (Some(vault), Some(tenant)) = (KEY.as_ref(), tenant) else { return };
    assert!(Invite::from_token(vault, text).is_none(), "an invitation that nobody made");
    if let Some(sealed) = Sealed::from_token(text) {
        assert!(vault.open("connect", &sealed).is_err(), "a seal that nobody made");
    }
    // As a person pastes it, and as a browser asks for it.
    let pasted = Url::parse(text.trim());
    let asked = Url::parse("http://127.0.0.1:8914/callback").map(|mut url| {
        url.set_query(Some(text));
        url
    });
    for url in [pasted, asked].into_iter().flatten() {
        let callback = Callback::from_url(&url);
        said(data, &format!("{callback:?}"));
        let Some(invitation) = auth::fuzz_invitation("expected-state-1") else { return };
        let right = callback.state.as_deref() == Some("expected-state-1");
        let code = callback.code.clone().filter(|c| !c.is_empty() && callback.error.is_none() && right);
        match Auth::answered(&tenant, &invitation, callback) {
            Ok(_) => assert!(code.is_some(), "an answer that is none was taken"),
            Err(error) => {
                assert!(code.is_none(), "a good answer was refused: {error}");
                said(data, &error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the fuzzer would need days to grow: depth, length and number far above what anybody writes.
    #[test]
    fn what_is_enormous_breaks_no_invariant() {
        let long = "k".repeat(100_000);
        let many = |n: usize, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<String>();
        let nested =
            |open: &str, inner: &str, close: &str, n: usize| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
        let resource = "[[resource]]\nname = \"things\"\npath = \"/things\"\nmode = \"full\"\nkey = [\"id\"]\n";
        let tomls = [
            format!("{long} = 1"),
            format!("lake = \"{long}\""),
            format!("[sync]\n{long} = 1"),
            format!("[sync]\noverlap = \"{long}\""),
            format!("[defaults]\non_delete = \"{long}\"\nresources = [\"{long}\"]"),
            format!("[defaults]\nresources = [\"{long}\"]"),
            format!("[tenants.{long}]"),
            format!("[tenants.acme]\napp = \"{long}\""),
            format!("[partitions]\n{long} = \"year\""),
            format!("[partitions]\nopportunities = \"{long}\""),
            format!("x = {}", nested("[", "1", "]", 20_000)),
            format!("x = {}", nested("{ a = ", "1", " }", 20_000)),
            format!("[{}]", vec!["a"; 20_000].join(".")),
            many(20_000, &|i| format!("[tenants.t{i}]\n")),
            many(20_000, &|i| format!("key{i} = {i}\n")),
            format!("[[resource]]\nname = \"{long}\""),
            format!("{resource}{long} = 1"),
            format!("{resource}columns = [{{ name = \"{long}\", type = \"text\" }}]"),
            format!("{resource}columns = [{{ name = \"id\", type = \"{long}\" }}]"),
            format!("{resource}columns = [{{ name = \"id\", type = \"{}\" }}]", nested("list<", "int", ">", 20_000)),
            format!("{resource}columns = [{}]", many(20_000, &|i| format!("{{ name = \"c{i}\", type = \"int\" }},"))),
            format!(
                "{resource}columns = [{}]",
                nested("{ name = \"a\", type = \"struct\", columns = [", "", "] }", 2_000)
            ),
            many(2_000, &|i| resource.replace("things", &format!("things{i}"))),
            format!("[[extend]]\nname = \"{long}\"\ncolumns = []"),
            format!("[provider]\nname = \"{long}\""),
        ];
        for text in &tomls {
            catalogue(text.as_bytes());
            configuration(text.as_bytes());
        }
        let digits = "9".repeat(100_000);
        let bodies = [
            format!("{{\"data\":[{{\"id\":\"{long}\"}}],\"next\":\"{long}\",\"hasNext\":true}}"),
            format!("{{\"data\":[{{\"id\":\"a\",\"{long}\":1}}]}}"),
            format!("{{\"data\":[{{\"id\":\"a\",\"createdAt\":{digits},\"name\":{digits}.{digits}e{digits}}}]}}"),
            format!("{{\"data\":[{{\"id\":\"a\",\"createdAt\":\"{digits}\"}}]}}"),
            format!("{{\"data\":[{{\"id\":\"a\"{}}}]}}", many(50_000, &|i| format!(",\"k{i}\":{i}"))),
            format!("{{\"data\":[{{\"id\":\"a\",\"x\":{}}}]}}", nested("[", "1", "]", 100_000)),
            format!("{{\"data\":[{{\"id\":\"a\",\"x\":{}}}]}}", nested("{\"a\":", "1", "}", 100_000)),
            format!("{{\"data\":[{{\"id\":\"a\",\"emails\":[{}1]}}]}}", "\"e\",".repeat(50_000)),
            format!("{{\"{long}\":1,\"data\":[]}}"),
            nested("[", "", "]", 100_000),
            nested("{\"data\":", "[]", "}", 100_000),
            format!("{{\"access_token\":\"{long}\",\"scope\":\"{}\",\"expires_in\":{digits}}}", "a ".repeat(100_000)),
            format!("{{\"error\":\"{long}\",\"error_description\":\"{long}\"}}"),
            format!("code={long}&state={long}&{}", "a=b&".repeat(50_000)),
            format!("{long}.{long}"),
        ];
        for body in &bodies {
            let first = |byte: u8| [&[byte], body.as_bytes()].concat();
            // One of each way: a listing, one with parts taken out, children, without a key of its own, a single page.
            for which in ["users", "opportunities", "notes", "eeo_responses", "stages"] {
                let provider = PROVIDER.as_ref().unwrap();
                let at = provider.resources.iter().position(|r| r.name.as_str() == which).unwrap();
                page(&first(u8::try_from(at).unwrap()));
            }
            (0..8).for_each(|status| token(&first(status)));
            (0..4).for_each(|kind| state_entry(&first(kind)));
            offsets(body.as_bytes());
            callback(body.as_bytes());
        }
    }

    /// Every input that is kept is read again with every change.
    #[test]
    fn the_kept_corpora_hold_every_invariant() {
        type Check = fn(&[u8]);
        let targets: [(&str, Check); 7] = [
            ("page", page),
            ("token", token),
            ("catalogue", catalogue),
            ("config", configuration),
            ("state", state_entry),
            ("offsets", offsets),
            ("callback", callback),
        ];
        for (target, check) in targets {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/");
            let mut files: Vec<_> =
                std::fs::read_dir(format!("{folder}{target}")).unwrap().map(|e| e.unwrap().path()).collect();
            files.sort();
            assert!(files.len() >= 3, "{target} has {} seeds", files.len());
            for file in files {
                let bytes = std::fs::read(&file).unwrap();
                let held = std::panic::catch_unwind(|| check(&bytes));
                assert!(held.is_ok(), "{} breaks an invariant of {target}", file.display());
            }
        }
    }
}
