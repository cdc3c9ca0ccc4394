//! The envelope of a page: where its records stand, and where the next page is.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::{Build, PageError};

/// Most records of one page. A hundred are asked for, and a listing without pages has some thousands; each takes a cell in
/// every column, however little it says, so the bytes of a body do not bound what is made of it.
const MOST_RECORDS: usize = 50_000;

/// The keys of the envelope.
#[derive(Debug)]
pub(super) struct Names {
    /// Where the records stand: keys from the outside in; none when the body itself is the one record.
    pub(super) records: Vec<String>,
    pub(super) next: Option<String>,
    pub(super) more: Option<String>,
}

impl Names {
    fn key(&self) -> &str {
        self.records.first().map_or("", String::as_str)
    }
    fn inner(&self) -> &[String] {
        self.records.get(1..).unwrap_or_default()
    }
    fn path(&self) -> String {
        self.records.join(".")
    }
}

/// What stands beside the records.
#[derive(Default)]
pub(super) struct Envelope {
    pub(super) next: Option<String>,
    pub(super) more: bool,
}

/// Reads a whole page into the builders. An error says only that the slow way must be taken, and spoils the builders.
pub(super) fn fast(names: &Names, text: &str, build: &mut Build<'_>) -> Result<Envelope, ()> {
    let mut fault = None;
    let mut de = serde_json::Deserializer::from_str(text);
    let seed = PageSeed { names, records: Straight(build, names.inner()), fault: &mut fault };
    let envelope = seed.deserialize(&mut de).and_then(|e| de.end().map(|()| e));
    envelope.map_err(|_| ())
}

/// Splits a page into its records without looking into them.
pub(super) fn split<'t>(names: &Names, text: &'t str) -> Result<(Envelope, Vec<&'t RawValue>), PageError> {
    let not_json = |e: &serde_json::Error| PageError::NotJson {
        what: match e.classify() {
            Category::Eof => "it ends too early",
            Category::Io | Category::Syntax | Category::Data => "a syntax error",
        },
        line: e.line(),
        column: e.column(),
        bytes: text.len(),
    };
    let not_a_page = |what: String| Err(PageError::NotAPage { what });
    let body: &RawValue = serde_json::from_str(text).map_err(|e| not_json(&e))?;
    if names.records.is_empty() {
        return match body.get().starts_with('{') {
            true => Ok((Envelope::default(), vec![body])),
            false => not_a_page("it is no object".to_owned()),
        };
    }
    if body.get().starts_with('[') {
        return Ok((Envelope::default(), elements(text, not_json)?));
    }
    if !body.get().starts_with('{') {
        return not_a_page("it is neither an object nor an array".to_owned());
    }
    let mut records = None;
    let mut fault = None;
    let mut de = serde_json::Deserializer::from_str(text);
    let envelope = PageSeed { names, records: Aside(&mut records), fault: &mut fault }.deserialize(&mut de);
    let envelope = match (envelope, fault) {
        (Ok(envelope), None) => envelope,
        (_, Some(fault)) => return not_a_page(fault),
        (Err(e), None) => return Err(not_json(&e)),
    };
    let Some(mut raw) = records else { return not_a_page(format!("it has no `{}`", names.path())) };
    for (depth, key) in names.inner().iter().enumerate() {
        let outer = names.records.get(..=depth).unwrap_or_default().join(".");
        if !raw.get().starts_with('{') {
            return not_a_page(format!("`{outer}` is no object"));
        }
        let mut found = None;
        let mut de = serde_json::Deserializer::from_str(raw.get());
        Inside { keys: std::slice::from_ref(key), then: Keep(&mut found) }
            .deserialize(&mut de)
            .map_err(|e| not_json(&e))?;
        match found {
            Some(value) => raw = value,
            None => return not_a_page(format!("it has no `{}`", names.path())),
        }
    }
    if raw.get().starts_with('[') {
        return Ok((envelope, elements(raw.get(), not_json)?));
    }
    if raw.get().starts_with('{') {
        return Ok((envelope, vec![raw]));
    }
    not_a_page(format!("`{}` is neither an array nor an object", names.path()))
}

/// The elements of an array, as they are.
fn elements(array: &str, not_json: impl FnOnce(&serde_json::Error) -> PageError) -> Result<Vec<&RawValue>, PageError> {
    let mut full = false;
    let elements = Elements(&mut full).deserialize(&mut serde_json::Deserializer::from_str(array));
    match elements {
        Err(_) if full => Err(PageError::NotAPage { what: format!("it holds more than {MOST_RECORDS} records") }),
        elements => elements.map_err(|e| not_json(&e)),
    }
}

/// No more of them than a page may have; says whether there are more.
struct Elements<'a>(&'a mut bool);

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = Vec<&'de RawValue>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<&'de RawValue>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element::<&'de RawValue>()? {
            if elements.len() == MOST_RECORDS {
                *self.0 = true;
                return Err(A::Error::custom("too many records"));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

/// Reads one record into the builders, which an error spoils.
pub(super) fn record(text: &str, build: &mut Build<'_>) -> Result<(), ()> {
    build.ctx.refused = None;
    let mut de = serde_json::Deserializer::from_str(text);
    RecordSeed(build).deserialize(&mut de).map_err(|_| ())
}

/// Takes the value of the records' key.
trait Records<'de> {
    fn take<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error>;
    fn body<A: SeqAccess<'de>>(&mut self, seq: A) -> Result<(), A::Error>;
}

/// Into the builders, past the keys that are left.
struct Straight<'a, 'p>(&'a mut Build<'p>, &'a [String]);

impl<'de> Records<'de> for Straight<'_, '_> {
    fn take<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        if self.1.is_empty() {
            return map.next_value_seed(RecordsSeed(self.0));
        }
        match map.next_value_seed(Inside { keys: self.1, then: Listing(self.0) })? {
            true => Ok(()),
            false => Err(A::Error::custom("no records")),
        }
    }
    fn body<A: SeqAccess<'de>>(&mut self, seq: A) -> Result<(), A::Error> {
        RecordsSeed(self.0).visit_seq(seq)
    }
}

/// Kept as text.
struct Aside<'a, 'de>(&'a mut Option<&'de RawValue>);

impl<'de> Records<'de> for Aside<'_, 'de> {
    fn take<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        *self.0 = Some(map.next_value()?);
        Ok(())
    }
    fn body<A: SeqAccess<'de>>(&mut self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom("split before"))
    }
}

/// What is done with the value that [`Inside`] leads to.
trait Then<'de> {
    fn then<A: MapAccess<'de>>(self, map: &mut A) -> Result<(), A::Error>;
}

struct Listing<'a, 'p>(&'a mut Build<'p>);

impl<'de> Then<'de> for Listing<'_, '_> {
    fn then<A: MapAccess<'de>>(self, map: &mut A) -> Result<(), A::Error> {
        map.next_value_seed(RecordsSeed(self.0))
    }
}

struct Keep<'a, 'de>(&'a mut Option<&'de RawValue>);

impl<'de> Then<'de> for Keep<'_, 'de> {
    fn then<A: MapAccess<'de>>(self, map: &mut A) -> Result<(), A::Error> {
        *self.0 = Some(map.next_value()?);
        Ok(())
    }
}

/// A value inside nested objects, by their keys; whether it is there.
struct Inside<'k, T> {
    keys: &'k [String],
    then: T,
}

impl<'de, T: Then<'de>> DeserializeSeed<'de> for Inside<'_, T> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<bool, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de, T: Then<'de>> Visitor<'de> for Inside<'_, T> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Some((first, rest)) = self.keys.split_first() else { return Ok(false) };
        let mut then = Some(self.then);
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            match then.take_if(|_| key == *first) {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(then) if rest.is_empty() => {
                    then.then(&mut map)?;
                    found = true;
                }
                Some(then) => found = map.next_value_seed(Inside { keys: rest, then })?,
            }
        }
        Ok(found)
    }
}

struct PageSeed<'a, R> {
    names: &'a Names,
    records: R,
    /// What made it no page: serde's own errors quote values.
    fault: &'a mut Option<String>,
}

impl<'de, R: Records<'de>> DeserializeSeed<'de> for PageSeed<'_, R> {
    type Value = Envelope;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Envelope, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de, R: Records<'de>> Visitor<'de> for PageSeed<'_, R> {
    type Value = Envelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, seq: A) -> Result<Envelope, A::Error> {
        self.records.body(seq)?;
        Ok(Envelope::default())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Envelope, A::Error> {
        let mut envelope = Envelope::default();
        let (mut records, mut next, mut more) = (false, false, false);
        while let Some(key) = map.next_key::<String>()? {
            let twice = if key == self.names.key() {
                if !records {
                    self.records.take(&mut map)?;
                }
                std::mem::replace(&mut records, true)
            } else if self.names.next.as_ref() == Some(&key) {
                let raw: &RawValue = map.next_value()?;
                envelope.next = match serde_json::from_str(raw.get()) {
                    Ok(token) => token,
                    Err(_) => return self.refuse(format!("`{key}` is neither a string nor null")),
                };
                std::mem::replace(&mut next, true)
            } else if self.names.more.as_ref() == Some(&key) {
                let raw: &RawValue = map.next_value()?;
                envelope.more = match raw.get() {
                    "true" => true,
                    "false" | "null" => false,
                    _ => return self.refuse(format!("`{key}` is neither true nor false")),
                };
                std::mem::replace(&mut more, true)
            } else {
                map.next_value::<IgnoredAny>()?;
                false
            };
            if twice {
                return self.refuse(format!("it has `{key}` twice"));
            }
        }
        if records {
            return Ok(envelope);
        }
        let missing = format!("it has no `{}`", self.names.path());
        self.refuse(missing)
    }
}

impl<R> PageSeed<'_, R> {
    fn refuse<E: serde::de::Error>(self, what: String) -> Result<Envelope, E> {
        *self.fault = Some(what);
        Err(E::custom("not a page"))
    }
}

/// The listing: an array of records, or one.
struct RecordsSeed<'a, 'p>(&'a mut Build<'p>);

impl<'de> DeserializeSeed<'de> for RecordsSeed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RecordsSeed<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("records")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut records = 0;
        while seq.next_element_seed(RecordSeed(self.0))?.is_some() {
            records += 1;
            if records > MOST_RECORDS {
                return Err(A::Error::custom("too many records"));
            }
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        RecordSeed(self.0).visit_map(map)
    }
}

struct RecordSeed<'a, 'p>(&'a mut Build<'p>);

impl<'de> DeserializeSeed<'de> for RecordSeed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Build { rows, ctx } = self.0;
        ctx.row = rows.len;
        rows.read(ctx, map)
    }
}
