//! Downloads: the bytes behind files, resumes and the documents of offers.
//!
//! Bytes are a function of the record, as long as it says, and begin with the person's name. A download is answered on
//! the spot, unless `redirect_downloads` was set: then some answer with a redirect to object storage, which stands on
//! another host name of this machine, wants a signed address, and must never see the credential of the API.

use axum::http::{HeaderMap, header};
use serde_json::{Value, json};

use super::account::Account;
use super::children::Child;
use super::data::Rng;
use super::reply::Reply;
use super::{World, api, lock};

/// How long a signed address is good for.
const ADDRESS_LIFE_MS: i64 = 60_000;
/// The length of an offer's document, which no record tells.
const OFFER_BYTES: usize = 4_096;

/// Whether downloads lead to object storage.
#[derive(Default)]
pub(super) struct Storage {
    /// Every so many downloads; none when `None`.
    every_nth: Option<u32>,
    asked: u32,
}

impl Storage {
    pub(super) fn every(nth: Option<u32>) -> Self {
        Self { every_nth: nth.filter(|nth| *nth > 0), asked: 0 }
    }

    fn takes_this_one(&mut self) -> bool {
        self.asked += 1;
        self.every_nth.is_some_and(|nth| self.asked.is_multiple_of(nth))
    }
}

/// Which bytes are wanted.
pub(super) struct Wanted<'a> {
    pub(super) opportunity: &'a str,
    pub(super) child: Child,
    pub(super) id: &'a str,
    /// Of an offer: `sent` or `signed`.
    pub(super) status: &'a str,
}

impl Account {
    /// The bytes, or as an error why there are none.
    pub(super) fn download(&self, slot: u32, wanted: &Wanted<'_>) -> Result<Reply, Reply> {
        let Wanted { child, id, status, .. } = *wanted;
        let none = || api::missing(child.name(), id);
        let row = self.child(slot, child, id).ok_or_else(none)?;
        let (name, length, state) = match child {
            Child::Offers => (&row[format!("{status}Document")]["fileName"], OFFER_BYTES, &Value::Null),
            Child::Resumes => (&row["file"]["name"], length(&row["file"]["size"]), &row["file"]["status"]),
            _ => (&row["name"], length(&row["size"]), &row["status"]),
        };
        let name = name.as_str().ok_or_else(none)?;
        if state == "unsupported" || state == "error" {
            return Err(api::refusal(422, "UnprocessableEntity", "The file could not be processed"));
        }
        let kind = match name.rsplit_once('.').map(|(_, ext)| ext) {
            Some("pdf") => "application/pdf",
            Some("zip") => "application/zip",
            _ => "application/octet-stream",
        };
        Ok(Reply::bytes(kind, contents(id, status, name, length)))
    }
}

/// A number, or its text.
fn length(size: &Value) -> usize {
    let size = size.as_u64().or_else(|| size.as_str()?.parse().ok());
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0)
}

/// `length` bytes, which do not compress and are no text.
fn contents(id: &str, status: &str, name: &str, length: usize) -> Vec<u8> {
    let mut bytes = format!("%PDF-1.4\n% {name}\n").into_bytes();
    bytes.push(0xff);
    let mut r = Rng::new(&[hash(id), hash(status)]);
    while bytes.len() < length {
        bytes.extend(r.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0, |hash, byte| Rng::new(&[hash, u64::from(byte)]).next())
}

/// The redirect to object storage, when it is this download's turn.
pub(super) fn redirect(world: &World, account: &str, wanted: &Wanted<'_>) -> Option<Reply> {
    if !lock(&world.storage).takes_this_one() {
        return None;
    }
    let Wanted { opportunity, child, id, status } = *wanted;
    // Another host, as far as a client can tell.
    let host = if world.addr.is_ipv4() { "localhost".into() } else { world.addr.ip().to_string() };
    let expires = world.clock.now().ms() + ADDRESS_LIFE_MS;
    let path = format!("/_storage/{account}/{opportunity}/{}/{id}", child.name());
    let query = format!("status={status}&expires={expires}");
    let signature = hash(&format!("{} {path}?{query}", world.addr));
    let to = format!("http://{host}:{}{path}?{query}&signature={signature:016x}", world.addr.port());
    Some(Reply::redirect(302, &to))
}

/// Object storage. It is no part of the data API: no rate limit, no script of faults, and its own way of saying no.
pub(super) fn storage(world: &World, path: &str, query: &str, headers: &HeaderMap) -> Reply {
    let now = world.clock.now();
    let parts: Vec<&str> = path.split('/').collect();
    let account = parts.get(2).copied().filter(|account| world.accounts.contains_key(*account));
    lock(&world.stats).arrived("GET /_storage/:object", account, now);
    let refused = |status, code: &str| Reply::json(status, json!({"Code": code}).to_string());
    if headers.contains_key(header::AUTHORIZATION) {
        lock(&world.stats).credentials_at_storage += 1;
        return refused(400, "OnlyOneAuthMechanismAllowed");
    }
    let Some((signed, signature)) = query.rsplit_once("&signature=") else { return refused(403, "AccessDenied") };
    if signature != format!("{:016x}", hash(&format!("{} {path}?{signed}", world.addr))) {
        return refused(403, "SignatureDoesNotMatch");
    }
    let param = |name: &str| signed.split('&').find_map(|part| part.strip_prefix(name)).unwrap_or("");
    if param("expires=").parse().unwrap_or(0) < now.ms() {
        return refused(403, "ExpiredToken");
    }
    let found = match (account, parts.as_slice()) {
        (Some(account), [_, _, _, opportunity, child, id]) => {
            let account = world.accounts.get(account).map(lock);
            Child::named(child).zip(account).and_then(|(child, account)| {
                let wanted = Wanted { opportunity, child, id, status: param("status=") };
                account.download(account.find(opportunity)?, &wanted).ok()
            })
        }
        _ => None,
    };
    found.unwrap_or_else(|| refused(404, "NoSuchKey"))
}
