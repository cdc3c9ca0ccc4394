//! Catalogue text that is proposed to a person: columns and resources as TOML, and names for wire fields.
//!
//! What is written here is read back by `parse` as it was meant. Comments say what was seen, never a value.

use std::collections::{BTreeMap, BTreeSet};

use super::parse::{MAX_NAME_BYTES, camel_case};
use super::{ByDefault, Class, Column, ColumnType, Mode, Paging, Provider, Resource};

/// Words that say of a field that it is about a person, and what of one.
const PERSONAL: [(&str, Class); 34] = [
    ("address", Class::Contact),
    ("addresses", Class::Contact),
    ("birth", Class::Protected),
    ("birthdate", Class::Protected),
    ("birthday", Class::Protected),
    ("comment", Class::FreeText),
    ("comments", Class::FreeText),
    ("compensation", Class::Pay),
    ("cv", Class::Documents),
    ("disability", Class::Protected),
    ("email", Class::Contact),
    ("emails", Class::Contact),
    ("ethnicity", Class::Protected),
    ("firstname", Class::Identity),
    ("fullname", Class::Identity),
    ("gender", Class::Protected),
    ("headline", Class::FreeText),
    ("lastname", Class::Identity),
    ("linkedin", Class::Contact),
    ("links", Class::Contact),
    ("mail", Class::Contact),
    ("mobile", Class::Contact),
    ("nationality", Class::Protected),
    ("note", Class::FreeText),
    ("notes", Class::FreeText),
    ("passport", Class::Identity),
    ("phone", Class::Contact),
    ("phones", Class::Contact),
    ("race", Class::Protected),
    ("resume", Class::Documents),
    ("salary", Class::Pay),
    ("ssn", Class::Identity),
    ("surname", Class::Identity),
    ("veteran", Class::Protected),
];
/// Words that make a `name` a person's.
const OF_A_PERSON: [&str; 12] = [
    "applicant",
    "candidate",
    "contact",
    "family",
    "first",
    "full",
    "given",
    "last",
    "maiden",
    "middle",
    "person",
    "preferred",
];

/// The words of a name, whether it is written in camelCase or snake_case.
fn words(name: &str) -> Vec<String> {
    snake(name).split('_').map(str::to_owned).collect()
}

/// Whether a field's name says that it holds something of a person.
#[must_use]
pub fn is_personal(name: &str) -> bool {
    class_by_name(name).is_some()
}

/// What a field says of a person, by its name.
fn class_by_name(name: &str) -> Option<Class> {
    let words = words(name);
    // `resume_id` and `email_count` are about the thing.
    if words.last().is_some_and(|w| matches!(w.as_str(), "id" | "ids" | "count" | "at")) {
        return None;
    }
    let by_word = PERSONAL.iter().find(|(word, _)| words.iter().any(|w| w == word)).map(|(_, class)| *class);
    let of_a_person = || words.iter().any(|w| OF_A_PERSON.contains(&w.as_str()));
    let is_name = || words == ["name"] || words.iter().any(|w| w == "name") && of_a_person();
    by_word.or_else(|| is_name().then_some(Class::Identity))
}

/// What a field of a record likely says of a person: as the catalogue has it of fields that are called so, else by its name and
/// those of its own fields.
#[must_use]
pub fn likely_class(provider: &Provider, source: &str, ty: &ColumnType) -> Option<Class> {
    let mut inner = ty;
    while let ColumnType::List(item) = inner {
        inner = item;
    }
    let of_fields = || match inner {
        ColumnType::Struct(fields) => fields.iter().find_map(|f| likely_class(provider, &f.source, &f.ty)),
        _ => None,
    };
    known_class(provider, source).or_else(|| class_by_name(source)).or_else(of_fields)
}

/// Whether every table of the catalogue that has a field of that name takes it for a person's.
#[must_use]
pub fn is_known_as_personal(provider: &Provider, source: &str) -> bool {
    let mut called_so = provider.resources.iter().flat_map(|r| &r.columns).filter(|c| c.source == source).peekable();
    called_so.peek().is_some() && called_so.all(|c| c.sensitive)
}

/// The class that most tables give to fields of that name. What is protected is so by its table: there a stage is, too.
fn known_class(provider: &Provider, source: &str) -> Option<Class> {
    let columns = || provider.resources.iter().flat_map(|r| &r.columns).filter(|c| c.source == source);
    let count = |class: Class| columns().filter(|c| c.class == Some(class)).count();
    let known = Class::ALL.into_iter().filter(|class| *class != Class::Protected && count(*class) > 0);
    // Of as many, the first.
    known.rev().max_by_key(|class| count(*class))
}

/// Whether a field whose numbers could be times may hold times, by its name.
#[must_use]
pub fn may_be_time(name: &str) -> bool {
    let words = words(name);
    let last = words.last().map_or("", String::as_str);
    is_time_like(name)
        || matches!(last, "begin" | "deadline" | "due" | "end" | "expires" | "expiry" | "since" | "start")
}

/// Whether a field's name says that it holds a time.
pub(super) fn is_time_like(name: &str) -> bool {
    let words = words(name);
    let last = words.last().map_or("", String::as_str);
    matches!(last, "at" | "until" | "time" | "timestamp") || words.iter().any(|w| w == "date")
}

/// `snake_case` of a wire name; whatever it is, it can name a column.
fn snake(wire: &str) -> String {
    let chars: Vec<char> = wire.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let (before, after) = (i.checked_sub(1).and_then(|b| chars.get(b)), chars.get(i + 1));
        let begins = c.is_ascii_uppercase()
            && before.is_some_and(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || after.is_some_and(char::is_ascii_lowercase)
            });
        if begins && !out.ends_with('_') {
            out.push('_');
        }
        match c {
            c if c.is_ascii_alphanumeric() => out.push(c.to_ascii_lowercase()),
            _ if out.ends_with('_') => {}
            _ => out.push('_'),
        }
    }
    let plain = out.trim_matches('_');
    let mut name =
        if plain.starts_with(|c: char| c.is_ascii_lowercase()) { plain.to_owned() } else { format!("f_{plain}") };
    name.truncate(MAX_NAME_BYTES - 4);
    name.trim_end_matches('_').to_owned()
}

/// Names that are taken in a table or a struct.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeSet<String>);

impl Names {
    /// Of a table, the names of its folders among them.
    #[must_use]
    pub fn of(resource: &Resource) -> Self {
        let folders = resource.partition.iter().flat_map(super::Partition::folders);
        Self(resource.columns.iter().map(|c| c.name.clone()).chain(folders).collect())
    }

    /// A name for a wire field, which is taken from now on.
    pub fn name(&mut self, wire: &str) -> String {
        let plain = snake(wire);
        let numbered = (2..).map(|n| format!("{plain}_{n}"));
        let free = std::iter::once(plain.clone()).chain(numbered).find(|n| !self.0.contains(n)).unwrap_or(plain);
        self.0.insert(free.clone());
        free
    }
}

/// A column that is proposed, and what is said of it.
#[derive(Debug, Clone)]
pub struct Proposed {
    /// The column.
    pub column: Column,
    /// A comment behind it: counts and types.
    pub note: String,
}

/// A TOML string.
#[must_use]
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// What a person reads in a comment: one line.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn column(out: &mut String, c: &Column, depth: usize) {
    let (ty, inner) = c.ty.written();
    out.push_str(&format!("{{ name = {}, type = {}", quoted(&c.name), quoted(&ty)));
    // What is filled from a parent is not in the record; its source is whatever the rule makes of it.
    if c.from_parent.is_none() && camel_case(&c.name) != c.source {
        out.push_str(&format!(", source = {}", quoted(&c.source)));
    }
    if c.sensitive {
        out.push_str(", sensitive = true");
    }
    if let Some(class) = c.class {
        out.push_str(&format!(", class = {}", quoted(class.word())));
    }
    if let Some(from) = &c.from_parent {
        out.push_str(&format!(", from_parent = {}", quoted(from)));
    }
    if !c.about.is_empty() {
        out.push_str(&format!(", about = {}", quoted(&c.about)));
    }
    if let ColumnType::Struct(fields) = inner {
        out.push_str(", fields = [\n");
        for field in fields {
            out.push_str(&"  ".repeat(depth + 1));
            column(out, field, depth + 1);
            out.push_str(",\n");
        }
        out.push_str(&"  ".repeat(depth));
        out.push(']');
    }
    out.push_str(" }");
}

fn columns(out: &mut String, columns: &[Proposed], rest: &[String]) {
    out.push_str("columns = [\n");
    for p in columns {
        out.push_str("  ");
        column(out, &p.column, 1);
        out.push(',');
        if !p.note.is_empty() {
            out.push_str(&format!(" # {}", comment(&p.note)));
        }
        out.push('\n');
    }
    for text in rest {
        out.push_str(&format!("  # {}\n", comment(text)));
    }
    out.push_str("]\n");
}

/// An `[[extend]]` of a resource. `rest` are comments about what is not among its columns.
#[must_use]
pub fn extension(resource: &str, proposed: &[Proposed], rest: &[String]) -> String {
    let mut out = format!("[[extend]]\nname = {}\n", quoted(resource));
    columns(&mut out, proposed, rest);
    out
}

/// A `[[resource]]`; its columns and their comments come from `proposed`. What the defaults say is left out.
#[must_use]
pub fn proposal(resource: &Resource, proposed: &[Proposed], rest: &[String]) -> String {
    let mut lines = vec![("name", quoted(resource.name.as_str()))];
    if !resource.about.is_empty() {
        lines.push(("about", quoted(&resource.about)));
    }
    lines.push(("path", quoted(&resource.path)));
    if resource.records != "data" {
        lines.push(("records", quoted(&resource.records)));
    }
    if resource.paging == Paging::Single {
        lines.push(("paging", "{ kind = \"single\" }".to_owned()));
    }
    if let Some(scope) = &resource.scope {
        lines.push(("scope", quoted(scope)));
    }
    if !resource.query.is_empty() {
        let pairs: BTreeMap<_, _> = resource.query.iter().map(|(k, v)| (k, v)).collect();
        let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{} = {}", quoted(k), quoted(v))).collect();
        lines.push(("query", format!("{{ {} }}", pairs.join(", "))));
    }
    lines.push(("mode", quoted(resource.mode.word())));
    if let Mode::Children { from, .. } = &resource.mode {
        lines.push(("from", quoted(from.as_str())));
    }
    if let Some(parent) = &resource.parent {
        lines.push(("parent", quoted(parent)));
    }
    if let Some(key) = &resource.content_key {
        lines.push(("content_key", quoted(key)));
    }
    let keys: Vec<String> = resource.key.iter().map(|k| quoted(k)).collect();
    lines.push(("key", format!("[{}]", keys.join(", "))));
    match resource.default {
        ByDefault::Always => {}
        ByDefault::Granted => lines.push(("default", "\"granted\"".to_owned())),
        ByDefault::Named => lines.push(("default", "false".to_owned())),
    }
    if let Some(p) = &resource.partition {
        let column = p.column.as_ref().map(|c| format!("column = {}, ", quoted(c))).unwrap_or_default();
        let (label, granularity) = (quoted(&p.label), quoted(&p.granularity.to_string()));
        lines.push(("partition", format!("{{ {column}label = {label}, granularity = {granularity} }}")));
    }
    let width = lines.iter().map(|(k, _)| k.len()).max().unwrap_or_default();
    let mut out = String::from("[[resource]]\n");
    for (key, value) in lines {
        out.push_str(&format!("{key:<width$} = {value}\n"));
    }
    columns(&mut out, proposed, rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::parse::snake_case;

    #[test]
    fn a_wire_field_has_a_name_whatever_it_is() {
        let mut names = Names::default();
        let made: Vec<String> = ["createdAt", "created_at", "URL", "htmlURLOf", "2fa", "_x", "weiß-t", "", "a b"]
            .iter()
            .map(|wire| names.name(wire))
            .collect();
        insta::assert_snapshot!(made.join(" "), @"created_at created_at_2 url html_url_of f_2fa x wei_t f a_b");
        assert!(made.iter().all(|n| snake_case(n)));
        assert!(snake_case(&names.name(&"x".repeat(200))));
    }

    #[test]
    fn a_name_tells_of_persons_and_of_times() {
        for personal in ["name", "email", "workEmail", "phone_numbers_mobile", "firstName", "candidate_name", "notes"] {
            assert!(is_personal(personal), "{personal}");
        }
        for thing in ["file_name", "stage", "resumeId", "noteCount", "count", "emailedAt", "template_name"] {
            assert!(!is_personal(thing), "{thing}");
        }
        for time in ["createdAt", "expiry_date", "snoozedUntil", "timestamp", "dateOpened"] {
            assert!(is_time_like(time), "{time}");
        }
        assert!(!["format", "state", "update", "number"].iter().any(|n| is_time_like(n)));
    }

    #[test]
    fn a_class_is_taken_from_columns_of_that_name_and_else_from_the_name() {
        let p = crate::catalog::embedded().unwrap();
        let fields = vec![Column::plain("street", ColumnType::Text), Column::plain("mobile", ColumnType::Text)];
        let text = ColumnType::Text;
        for (source, ty, class) in [
            ("userAgent", text.clone(), Some(Class::Technical)),
            ("company", text.clone(), Some(Class::FreeText)),
            ("workEmail", text.clone(), Some(Class::Contact)),
            ("baseSalary", text.clone(), Some(Class::Pay)),
            ("whereabouts", ColumnType::List(Box::new(ColumnType::Struct(fields))), Some(Class::Contact)),
            ("colour", text.clone(), None),
            ("resumeId", text, None),
        ] {
            assert_eq!(likely_class(&p, source, &ty), class, "{source}");
        }
        assert!(is_known_as_personal(&p, "userAgent") && !is_known_as_personal(&p, "stage"));
        // Some tables have it of a person, and some of a thing.
        assert!(!is_known_as_personal(&p, "name"));
    }
}
