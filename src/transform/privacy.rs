//! Columns dropped or replaced by pseudonyms before anything is written. Pure: batches in, batches out.
//!
//! Guarantees: of a dropped column no value is in the batch that comes back, not in `_extra` either; a pseudonym depends on
//! the key and the text alone, so it is the same in every column, table and run, and tables can be joined by it. Where
//! nothing is set there are no rules, and nothing is done.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, GenericListArray, StringArray, StringBuilder, StructArray, UInt32Array,
    new_null_array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::drift::{push_string, token};
use crate::catalog::{Act, Column, ColumnType, EXTRA, Mode, Privacy, Resource};

/// SHA-256 takes blocks of so many bytes.
const BLOCK: usize = 64;
/// Bytes of a pseudonym: 128 bits, so that two texts never meet.
const PSEUDONYM_BYTES: usize = 16;

/// Makes pseudonyms: HMAC-SHA256 (RFC 2104) under one key.
#[derive(Clone)]
pub struct Pseudonyms {
    inner: Sha256,
    outer: Sha256,
}

impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pseudonyms(****)")
    }
}

impl Pseudonyms {
    /// Under a key of 32 bytes.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self::keyed(key)
    }

    /// Under a key of at most a block.
    fn keyed(key: &[u8]) -> Self {
        let pad = |with: u8| {
            let mut block = [with; BLOCK];
            block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
            Sha256::new().chain_update(block)
        };
        Self { inner: pad(0x36), outer: pad(0x5c) }
    }

    fn mac(&self, text: &[u8]) -> [u8; 32] {
        let inner = self.inner.clone().chain_update(text).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }

    /// The pseudonym of a text: 32 hex digits. Blanks around it do not count, nor does the case of a mail address. An empty
    /// text stays one: it is nobody's.
    #[must_use]
    pub fn of(&self, text: &str) -> String {
        let text = text.trim();
        if text.is_empty() {
            return String::new();
        }
        let mail = text.contains('@') && !text.contains(char::is_whitespace);
        let mac = if mail { self.mac(text.to_lowercase().as_bytes()) } else { self.mac(text.as_bytes()) };
        hex(&mac[..PSEUDONYM_BYTES])
    }
}

/// What is done to the rows of one table.
#[derive(Debug, Clone)]
pub struct Rules {
    columns: Vec<Rule>,
    /// The mark of secret rows, and what such rows lose.
    secret: Option<Secret>,
    /// Whether `_extra` goes whole.
    drop_extra: bool,
    pseudonyms: Option<Arc<Pseudonyms>>,
    /// Wire names of all columns.
    declared: Vec<String>,
    /// Of the tables taken out of this one's records: the field, and what its objects must not keep where they are left over.
    inside: Vec<(String, Self)>,
}

#[derive(Debug, Clone)]
struct Rule {
    name: String,
    source: String,
    ty: ColumnType,
    act: Act,
}

#[derive(Debug, Clone)]
struct Secret {
    column: String,
    source: String,
    /// Names and wire names of what is nulled.
    sensitive: Vec<(String, String)>,
}

impl Rules {
    /// What `privacy` asks of a table; `None` when that is nothing. `all`: every resource of the provider, because what is
    /// taken out of this one's records may be left in them.
    #[must_use]
    pub fn new(resource: &Resource, all: &[Resource], privacy: &Privacy) -> Option<Self> {
        let rule = |c: &Column, act| Rule { name: c.name.clone(), source: c.source.clone(), ty: c.ty.clone(), act };
        let acts = resource.columns.iter().map(|c| rule(c, privacy.act(all, resource, c)));
        let mut columns: Vec<Rule> = acts.filter(|rule| rule.act != Act::Keep).collect();
        // A key that is made of the whole content would give dropped answers away to whoever tries them all.
        let made = resource.content_key.as_ref().filter(|_| !columns.is_empty()).and_then(|k| resource.column(k));
        columns.extend(made.map(|c| rule(c, Act::Pseudonymize)));
        let secret = resource.secret.as_ref().filter(|_| privacy.drop_secret).and_then(|name| resource.column(name));
        let sensitive = resource.columns.iter().filter(|c| c.sensitive);
        let secret = secret.map(|c| Secret {
            column: c.name.clone(),
            source: c.source.clone(),
            sensitive: sensitive.map(|c| (c.name.clone(), c.source.clone())).collect(),
        });
        let inside = all.iter().filter_map(|child| match &child.mode {
            Mode::Extracted { from, field } if *from == resource.name => {
                Some((field.clone(), Self::new(child, all, privacy)?))
            }
            _ => None,
        });
        let rules = Self {
            columns,
            secret,
            drop_extra: privacy.drop_extra && resource.keep_extra,
            pseudonyms: None,
            declared: resource.columns.iter().map(|c| c.source.clone()).collect(),
            inside: inside.collect(),
        };
        let any = !rules.columns.is_empty() || rules.secret.is_some() || rules.drop_extra || !rules.inside.is_empty();
        any.then_some(rules)
    }

    /// Whether pseudonyms are asked for, so that [`Rules::keyed`] is due.
    #[must_use]
    pub fn need_key(&self) -> bool {
        self.columns.iter().any(|r| r.act == Act::Pseudonymize)
    }

    /// The same with what makes the pseudonyms. Without it a column that was to get them is dropped.
    #[must_use]
    pub fn keyed(mut self, pseudonyms: Arc<Pseudonyms>) -> Self {
        self.pseudonyms = Some(pseudonyms);
        self
    }

    /// A short text that differs when what is done to the table's own columns does; empty when nothing is. Commits remember by
    /// it under which rules rows were written.
    #[must_use]
    pub fn fingerprint(rules: Option<&Self>) -> String {
        let Some(rules) = rules else { return String::new() };
        let mut text: Vec<String> = rules.columns.iter().map(|r| format!("{}:{:?}", r.name, r.act)).collect();
        text.extend(rules.secret.as_ref().map(|s| format!("secret:{:?}", s.sensitive)));
        text.extend(rules.drop_extra.then(|| "extra".to_owned()));
        if text.is_empty() {
            return String::new();
        }
        hex(&Sha256::digest(text.join(","))[..8])
    }

    /// The rows as they may be written. Columns that the batch lacks are passed over.
    ///
    /// # Errors
    ///
    /// Arrow's, when the columns do not make a batch: a bug.
    pub fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let schema = rows.schema();
        let mut columns = rows.columns().to_vec();
        let place = |name: &str| schema.index_of(name).ok();
        let extra = place(EXTRA);
        let texts = extra.and_then(|i| rows.column(i).as_string_opt::<i32>());
        // Looked at before anything is dropped, the mark itself perhaps.
        let open = self.secret.as_ref().and_then(|s| s.open(rows, texts));
        for rule in &self.columns {
            let Some(i) = place(&rule.name) else { continue };
            columns[i] = match (rule.act, &self.pseudonyms) {
                (Act::Keep, _) => continue,
                (Act::Pseudonymize, Some(with)) => pseudonymized(&columns[i], &rule.ty, with)?,
                (Act::Drop | Act::Pseudonymize, _) => new_null_array(columns[i].data_type(), rows.num_rows()),
            };
        }
        if let (Some(i), Some(texts)) = (extra, texts) {
            if self.drop_extra {
                columns[i] = new_null_array(&DataType::Utf8, rows.num_rows());
            } else if texts.null_count() < texts.len() && (!self.columns.is_empty() || !self.inside.is_empty()) {
                columns[i] = Arc::new(self.extra(texts));
            }
        }
        if let (Some(secret), Some(open)) = (&self.secret, open) {
            // Taken anew: a null laid over a value leaves the value in the buffer.
            for i in secret.sensitive.iter().filter_map(|(name, _)| place(name)).chain(extra) {
                columns[i] = take(&columns[i], &open, None)?;
            }
        }
        RecordBatch::try_new(schema, columns)
    }

    /// `_extra` without what belongs to a column that is not kept as it came.
    fn extra(&self, texts: &StringArray) -> StringArray {
        let mut kept = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
        for text in texts {
            // One that cannot be read is not kept: what is in it is not known.
            let members = text.and_then(|text| serde_json::from_str::<Members<'_>>(text).ok());
            let mut object = Object::default();
            for (pointer, value) in members.iter().flat_map(|m| &m.0) {
                if let Some(value) = self.left_over(pointer, value) {
                    object.put(pointer, &value);
                }
            }
            kept.append_option(object.finish());
        }
        kept.finish()
    }

    /// What may be kept of a value at a JSON Pointer into the record.
    fn left_over<'v>(&self, pointer: &str, value: &'v RawValue) -> Option<Cow<'v, str>> {
        if self.columns.iter().any(|r| below(pointer, &r.source).is_some()) {
            return None;
        }
        for (field, rules) in &self.inside {
            let Some(rest) = below(pointer, field) else { continue };
            // The index of a list, where there is one.
            let index = rest.strip_prefix('/').and_then(|r| r.split('/').next());
            let index = index.filter(|i| !i.is_empty() && i.bytes().all(|b| b.is_ascii_digit()));
            let rest = index.map_or(rest, |i| &rest[i.len() + 1..]);
            return match rest {
                "" => rules.stripped(value.get()).map(Cow::Owned),
                rest => rules.left_over(rest, value),
            };
        }
        Some(Cow::Borrowed(value.get()))
    }

    /// A record without the fields that are not kept as they came: for one that could not be decoded, and is kept sealed. What
    /// cannot be read becomes null, because what is in it is not known.
    #[must_use]
    pub fn strip(&self, record: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(record).ok();
        let record = text.filter(|text| text.trim_start().starts_with('{'));
        record.and_then(|text| self.stripped(text)).unwrap_or_else(|| "null".to_owned()).into_bytes()
    }

    fn stripped(&self, text: &str) -> Option<String> {
        if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) {
            let items: Option<Vec<String>> = items.iter().map(|i| self.stripped(i.get())).collect();
            return Some(format!("[{}]", items?.join(",")));
        }
        let Ok(Members(members)) = serde_json::from_str(text) else {
            // An id may stand in an object's place.
            return serde_json::from_str::<&str>(text)
                .is_ok()
                .then(|| text.to_owned())
                .filter(|_| text.len() <= ID_BYTES);
        };
        let secret = self.secret.as_ref().filter(|s| {
            members.iter().any(|(key, value)| *key == s.source && !matches!(value.get(), "false" | "null"))
        });
        let mut object = Object::default();
        for (key, value) in members {
            let own = self.columns.iter().any(|r| r.source == key);
            let hidden = secret.is_some_and(|s| s.sensitive.iter().any(|(_, source)| *source == key));
            // Of a secret one nothing is kept that nobody declared, as in its row.
            let undeclared = (self.drop_extra || secret.is_some()) && !self.declared.contains(&key);
            if own || hidden || undeclared {
                continue;
            }
            match self.inside.iter().find(|(field, _)| *field == key) {
                Some((_, rules)) => object.put(&key, &rules.stripped(value.get()).unwrap_or_else(|| "null".into())),
                None => object.put(&key, value.get()),
            }
        }
        Some(object.finish().unwrap_or_else(|| "{}".to_owned()))
    }
}

/// Longest text that is taken for an id.
const ID_BYTES: usize = 128;

impl Secret {
    /// The rows that are not secret, by their places, and null for the others; `None` when none is secret. A mark that is not
    /// what it should be stands in `_extra`, and counts as one.
    fn open(&self, rows: &RecordBatch, extra: Option<&StringArray>) -> Option<UInt32Array> {
        let marks = rows.column_by_name(&self.column).and_then(|c| c.as_boolean_opt());
        let mut misfit = String::new();
        push_string(&mut misfit, &token(&self.source));
        let is_open = |i: usize| {
            let marked = marks.is_some_and(|m| m.is_valid(i) && m.value(i));
            let odd = extra.is_some_and(|e| e.is_valid(i) && e.value(i).contains(&misfit));
            !(marked || odd)
        };
        let count = u32::try_from(rows.num_rows()).unwrap_or(u32::MAX);
        let places: UInt32Array = (0..count).map(|i| is_open(i as usize).then_some(i)).collect();
        (places.null_count() > 0).then_some(places)
    }
}

/// What is left of a pointer below the field of that wire name.
fn below<'p>(pointer: &'p str, field: &str) -> Option<&'p str> {
    pointer.strip_prefix(token(field).as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An object being written.
#[derive(Default)]
struct Object(String);

impl Object {
    fn put(&mut self, key: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        push_string(&mut self.0, key);
        self.0.push(':');
        self.0.push_str(value);
    }
    /// `None` when nothing was put.
    fn finish(mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| {
            self.0.push('}');
            self.0
        })
    }
}

/// The members of an object in their order, as they are written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(Visitor)
    }
}

/// Every text of a column replaced; numbers, times and JSON become null, because a hash of them has no column to stand in.
fn pseudonymized(array: &ArrayRef, ty: &ColumnType, with: &Pseudonyms) -> Result<ArrayRef, ArrowError> {
    let dropped = || new_null_array(array.data_type(), array.len());
    Ok(match ty {
        ColumnType::Text | ColumnType::Ref => match array.as_string_opt::<i32>() {
            Some(texts) => Arc::new(texts.iter().map(|t| t.map(|t| with.of(t))).collect::<StringArray>()),
            None => dropped(),
        },
        ColumnType::List(item) => match (array.as_list_opt::<i32>(), array.data_type()) {
            (Some(lists), DataType::List(field)) => {
                let values = pseudonymized(lists.values(), item, with)?;
                let (field, offsets) = (FieldRef::clone(field), lists.offsets().clone());
                Arc::new(GenericListArray::<i32>::try_new(field, offsets, values, lists.nulls().cloned())?)
            }
            _ => dropped(),
        },
        ColumnType::Struct(fields) => match (array.as_struct_opt(), array.data_type()) {
            (Some(structs), DataType::Struct(declared)) => {
                let columns = structs.columns().iter().zip(fields);
                let columns = columns.map(|(c, f)| pseudonymized(c, &f.ty, with)).collect::<Result<Vec<_>, _>>()?;
                Arc::new(StructArray::try_new(declared.clone(), columns, structs.nulls().cloned())?)
            }
            _ => dropped(),
        },
        ColumnType::Int { .. }
        | ColumnType::Float
        | ColumnType::Bool
        | ColumnType::Timestamp { .. }
        | ColumnType::Json => dropped(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::catalog::{Class, embedded};
    use crate::transform::{Decoder, Page, Parent};

    const KEY: [u8; 32] = [7; 32];

    fn privacy(classes: &[(Class, Act)]) -> Privacy {
        Privacy { classes: classes.iter().copied().collect(), ..Privacy::default() }
    }

    fn rules(table: &str, privacy: &Privacy) -> Option<Rules> {
        let p = embedded().unwrap();
        let rules = Rules::new(p.resource(table).unwrap(), &p.resources, privacy);
        rules.map(|r| r.keyed(Arc::new(Pseudonyms::new(&KEY))))
    }

    fn page(table: &str, records: &Value) -> Page {
        let p = embedded().unwrap();
        let resource = p.resource(table).unwrap();
        let extract: Vec<&Resource> = p
            .resources
            .iter()
            .filter(|r| matches!(&r.mode, Mode::Extracted { from, .. } if *from == resource.name))
            .collect();
        let body = json!({ "data": records, "hasNext": false }).to_string();
        match &resource.mode {
            Mode::Children { from, .. } => {
                let carrier = p.resource(from.as_str()).unwrap();
                let parents = Decoder::new(carrier, &[]).page(br#"{"data": [{"id": "p", "createdAt": 1}]}"#).unwrap();
                let parent = Parent { batch: &parents.rows, row: 0 };
                Decoder::of_children(resource, carrier).children_of(parent, body.as_bytes())
            }
            _ => Decoder::new(resource, &extract).page(body.as_bytes()),
        }
        .unwrap()
    }

    fn cell(rows: &RecordBatch, column: &str, i: usize) -> String {
        let array = rows.column_by_name(column).unwrap().slice(i, 1);
        format!("{array:?}")
    }

    fn text<'a>(rows: &'a RecordBatch, column: &str, i: usize) -> Option<&'a str> {
        let texts = rows.column_by_name(column).unwrap().as_string::<i32>();
        texts.is_valid(i).then(|| texts.value(i))
    }

    /// The bytes of every buffer of a batch, nulls' remains included.
    fn bytes(rows: &RecordBatch) -> Vec<u8> {
        fn walk(data: &arrow::array::ArrayData, all: &mut Vec<u8>) {
            data.buffers().iter().for_each(|b| all.extend_from_slice(b.as_slice()));
            data.child_data().iter().for_each(|c| walk(c, all));
        }
        let mut all = Vec::new();
        rows.columns().iter().for_each(|c| walk(&c.to_data(), &mut all));
        all
    }

    fn holds(rows: &RecordBatch, needle: &str) -> bool {
        bytes(rows).windows(needle.len()).any(|w| w == needle.as_bytes())
    }

    #[test]
    fn the_mac_is_that_of_the_standard() {
        // RFC 4231, test cases 1 and 2.
        let mac = |key: &[u8], text: &str| hex(&Pseudonyms::keyed(key).mac(text.as_bytes()));
        assert_eq!(mac(&[0x0b; 20], "Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        assert_eq!(
            mac(b"Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_pseudonym_depends_on_the_key_and_the_text_alone() {
        let with = Pseudonyms::new(&KEY);
        let one = with.of("Ada@Example.org");
        assert_eq!(one.len(), 32);
        assert_eq!(one, with.of(" ada@example.ORG\n"), "blanks and the case of a mail do not count");
        assert_ne!(with.of("Ada"), with.of("ada"), "the case of anything else does");
        assert_ne!(with.of("Mail to Ada@x"), with.of("mail to ada@x"));
        assert_eq!(with.of("  "), "");
        assert_ne!(one, Pseudonyms::new(&[8; 32]).of("ada@example.org"));
        assert_eq!(format!("{with:?}"), "Pseudonyms(****)");
    }

    #[test]
    fn where_nothing_is_set_there_are_no_rules() {
        assert!(rules("opportunities", &Privacy::default()).is_none());
        assert!(rules("users", &privacy(&[(Class::Contact, Act::Drop)])).is_none());
        assert!(rules("opportunities", &privacy(&[(Class::Contact, Act::Keep)])).is_none());
        assert_eq!(Rules::fingerprint(None), "");
        let of = |act| Rules::fingerprint(rules("contacts", &privacy(&[(Class::Contact, act)])).as_ref());
        assert_ne!(of(Act::Drop), of(Act::Pseudonymize));
        assert_eq!(of(Act::Drop).len(), 16);
    }

    #[test]
    fn a_dropped_column_leaves_no_byte_and_no_misfit() {
        let page = page(
            "opportunities",
            &json!([
                {"id": "a", "name": "canary Ada", "emails": ["canary@x.org"], "phones": [{"value": "canary 1", "canary": 2}],
                 "stage": "lead-new", "headline": 7, "tags": ["kept"], "headlines": "kept too"},
                {"id": "b", "name": {"canary": "first"}, "emails": "canary@misfit.org"},
                {"id": "c"},
            ]),
        );
        assert!(holds(&page.rows, "canary"), "else this shows nothing");
        let classes = [Class::Identity, Class::Contact, Class::FreeText].map(|c| (c, Act::Drop));
        let rules = rules("opportunities", &privacy(&classes)).unwrap();
        let kept = rules.apply(&page.rows).unwrap();
        assert!(!holds(&kept, "canary"));
        assert_eq!(kept.schema(), page.rows.schema());
        assert_eq!(kept.num_rows(), 3);
        assert_eq!(text(&kept, "stage", 0), Some("lead-new"));
        assert_eq!(text(&kept, EXTRA, 0), Some(r#"{"/headlines":"kept too"}"#), "a name that begins alike is another");
        assert_eq!(text(&kept, EXTRA, 1), None);
        assert!(cell(&kept, "tags", 0).contains("kept"));
        let all = Privacy { drop_extra: true, ..privacy(&classes) };
        let kept = super::tests::rules("opportunities", &all).unwrap().apply(&page.rows).unwrap();
        assert_eq!(text(&kept, EXTRA, 0), None);
    }

    #[test]
    fn what_is_left_of_an_object_in_an_ids_place_is_judged_by_its_own_table() {
        let rules = rules("opportunities", &privacy(&[(Class::Identity, Act::Drop)])).unwrap();
        let extra = StringArray::from(vec![
            r#"{"/contact/name":"canary","/contact/new":1,"/applications/0/name":"canary","/applications/0/x":2}"#,
            r#"{"/contact":{"name":"canary","kept":3},"/applications":[{"name":"canary"}]}"#,
            r#"{"/name/first":"canary"}"#,
        ]);
        let kept = rules.extra(&extra);
        assert_eq!(kept.value(0), r#"{"/contact/new":1,"/applications/0/x":2}"#);
        assert_eq!(kept.value(1), r#"{"/contact":{"kept":3},"/applications":[{}]}"#);
        assert!(kept.is_null(2));
    }

    #[test]
    fn every_text_of_a_column_becomes_a_pseudonym_and_the_same_everywhere() {
        let page = page(
            "opportunities",
            &json!([{
                "id": "a", "name": "Canary", "emails": ["Canary@x.org", "canary@x.org "], "links": [],
                "phones": [{"type": "mobile", "value": "canary 1"}, {"value": null}],
                "contact": {"id": "p", "name": "Canary", "emails": ["canary@X.org"], "location": {"name": "Canary"}},
            }]),
        );
        let privacy = privacy(&[(Class::Identity, Act::Pseudonymize), (Class::Contact, Act::Pseudonymize)]);
        let rows = rules("opportunities", &privacy).unwrap().apply(&page.rows).unwrap();
        let (name, contacts) = &page.extracted[1];
        assert_eq!(name.as_str(), "contacts");
        let contacts = rules("contacts", &privacy).unwrap().apply(contacts).unwrap();
        for rows in [&rows, &contacts] {
            assert!(!holds(rows, "anary"));
        }
        let with = Pseudonyms::new(&KEY);
        let mail = with.of("canary@x.org");
        assert_eq!(cell(&rows, "emails", 0).matches(&mail).count(), 2);
        assert_eq!(cell(&contacts, "emails", 0).matches(&mail).count(), 1);
        assert_eq!(text(&rows, "name", 0), text(&contacts, "name", 0));
        assert!(cell(&rows, "phones", 0).contains(&with.of("mobile")));
        assert!(cell(&contacts, "location", 0).contains(&with.of("Canary")));
        assert_eq!(text(&rows, "id", 0), Some("a"));
        assert_eq!(text(&rows, "contact", 0), Some("p"), "by it other tables' rows are found");
    }

    #[test]
    fn what_is_no_text_is_dropped_where_a_pseudonym_was_asked_for() {
        let page = page("offers", &json!([{"id": "a", "fields": [{"text": "Salary", "value": "canary"}]}]));
        let rules = rules("offers", &privacy(&[(Class::Pay, Act::Pseudonymize)])).unwrap();
        let kept = rules.apply(&page.rows).unwrap();
        assert_eq!(text(&kept, "fields", 0), None);
        assert!(!holds(&kept, "canary"));
        let page = super::tests::page(
            "postings",
            &json!([{"id": "a", "salaryRange": {"min": 1.5, "currency": "EUR"}, "salaryDescription": "much"}]),
        );
        let rules = super::tests::rules("postings", &privacy(&[(Class::Pay, Act::Pseudonymize)])).unwrap();
        let kept = rules.apply(&page.rows).unwrap();
        let range = kept.column_by_name("salary_range").unwrap().as_struct();
        assert!(range.column_by_name("min").unwrap().is_null(0));
        assert_eq!(text(&kept, "salary_description", 0), Some(Pseudonyms::new(&KEY).of("much").as_str()));
    }

    #[test]
    fn a_secret_note_keeps_its_row_and_nothing_of_what_it_says() {
        let page = page(
            "notes",
            &json!([
                {"id": "open", "secret": false, "fields": [{"value": "said to all"}], "new": 1},
                {"id": "hidden", "secret": true, "fields": [{"value": "canary"}], "canary": 1, "text": "Note"},
                {"id": "odd", "secret": "yes", "fields": [{"value": "canary"}]},
                {"id": "unsaid", "fields": [{"value": "said to all"}]},
            ]),
        );
        let settings = Privacy { drop_secret: true, ..Privacy::default() };
        assert!(rules("forms", &settings).is_none(), "forms are not marked");
        let kept = rules("notes", &settings).unwrap().apply(&page.rows).unwrap();
        assert!(!holds(&kept, "canary"));
        let said: Vec<bool> = (0..4).map(|i| text(&kept, "fields", i).is_some()).collect();
        assert_eq!(said, [true, false, false, true]);
        assert_eq!(text(&kept, "text", 1), Some("Note"));
        assert_eq!(text(&kept, EXTRA, 0), Some(r#"{"/new":1}"#));
        // The mark counts before it is dropped itself.
        let mut settings = settings;
        settings.columns.insert(("notes".parse().unwrap(), "secret".into()), Act::Drop);
        let kept = rules("notes", &settings).unwrap().apply(&page.rows).unwrap();
        assert!(!holds(&kept, "canary") && kept.column_by_name("secret").unwrap().null_count() == 4);
    }

    #[test]
    fn a_record_for_the_quarantine_is_stripped() {
        let rules =
            rules("opportunities", &privacy(&[(Class::Identity, Act::Drop), (Class::Contact, Act::Pseudonymize)]));
        let strip = |text: &str| String::from_utf8(rules.as_ref().unwrap().strip(text.as_bytes())).unwrap();
        assert_eq!(
            strip(
                r#"{"name": "canary", "id": 3, "emails": [], "applications": [{"name": "canary", "x": 1}, "id"], "contact": {"phones": "canary"}}"#
            ),
            r#"{"id":3,"applications":[{"x":1},"id"],"contact":{}}"#
        );
        for odd in ["7", "\"canary\"", "nonsense", "{\"id\": ", &format!("{}1{}", "[".repeat(200), "]".repeat(200))] {
            assert_eq!(strip(odd), "null", "{odd}");
        }
        let secret = super::tests::rules("notes", &Privacy { drop_secret: true, ..Privacy::default() }).unwrap();
        let strip = |text: &str| String::from_utf8(secret.strip(text.as_bytes())).unwrap();
        assert_eq!(strip(r#"{"id":1,"secret":true,"fields":"canary","new":"canary"}"#), r#"{"id":1,"secret":true}"#);
        assert_eq!(strip(r#"{"id":1,"secret":false,"fields":"kept","new":2}"#).len(), 47);
    }

    #[test]
    fn a_key_made_of_the_content_gives_dropped_answers_away_to_nobody() {
        let page = page("eeo_responses", &json!([{"gender": "x"}, {"gender": "x"}, {"gender": "y"}]));
        let rules = rules("eeo_responses", &privacy(&[(Class::Protected, Act::Drop)])).unwrap();
        let kept = rules.apply(&page.rows).unwrap();
        let keys: std::collections::BTreeSet<&str> = (0..3).filter_map(|i| text(&kept, "row_key", i)).collect();
        assert_eq!(keys.len(), 3, "rows stay apart");
        assert!((0..3).all(|i| text(&kept, "row_key", i) != text(&page.rows, "row_key", i)));
    }
}
