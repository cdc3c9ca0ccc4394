//! Texts that are looked for, and every value of a batch: nested ones, and those inside of JSON, too.

use std::borrow::Cow;
use std::fmt;

use arrow::array::{Array, AsArray as _};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use icu_normalizer::ComposingNormalizerBorrowed;
use serde_json::Value;

/// Texts that are looked for: without regard to case, to how often a space stands, and to how an accent is written. They
/// are somebody's data, so they are shown nowhere.
#[derive(Clone, Default)]
pub struct Texts(Vec<String>);

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Texts({})", self.0.len())
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        Self(texts.into_iter().map(|t| folded(t.as_ref())).filter(|t| !t.is_empty()).collect())
    }
}

impl Texts {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether nothing is looked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether one of them is in `value`.
    #[must_use]
    pub fn are_in(&self, value: &str) -> bool {
        if self.0.is_empty() || value.is_empty() {
            return false;
        }
        let found = |value: &str| {
            let value = folded(value);
            self.0.iter().any(|text| value.contains(text.as_str()))
        };
        // What JSON escapes is another text until it is read.
        found(value) || (value.contains('\\') && parsed(value).is_some_and(|json| any_text(&json, &found)))
    }
    /// Whether one of them is this number, or in its digits.
    fn are_in_number(&self, value: i64) -> bool {
        !self.0.is_empty()
            && self.0.iter().any(|t| t.bytes().all(|b| b.is_ascii_digit()) && value.to_string().contains(t))
    }
}

/// The same text however it is written.
fn folded(text: &str) -> String {
    let lower = |text: &str| {
        let mut out = String::with_capacity(text.len());
        for word in text.split_whitespace() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.extend(word.chars().flat_map(char::to_lowercase));
        }
        out
    };
    if text.is_ascii() {
        return lower(text);
    }
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    // Once more behind it: the small letter of a composed one may be written in two ways itself.
    let small = lower(&nfkc.normalize(text));
    nfkc.normalize(&small).into_owned()
}

fn parsed(text: &str) -> Option<Value> {
    text.trim_start().starts_with(['{', '[', '"']).then(|| serde_json::from_str(text).ok()).flatten()
}

fn any_text(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::Array(items) => items.iter().any(|v| any_text(v, is)),
        Value::Object(fields) => fields.iter().any(|(k, v)| is(k) || any_text(v, is)),
        _ => false,
    }
}

/// A value of a batch.
pub(super) enum Cell<'a> {
    Text(&'a str),
    Number(i64),
    Other,
}

impl Cell<'_> {
    pub(super) fn holds(&self, texts: &Texts) -> bool {
        match self {
            Self::Text(text) => texts.are_in(text),
            Self::Number(n) => texts.are_in_number(*n),
            Self::Other => false,
        }
    }
}

/// How many Parquet leaves a type has.
pub(super) fn leaves(ty: &DataType) -> usize {
    match ty {
        DataType::List(f) | DataType::LargeList(f) => leaves(f.data_type()),
        DataType::Struct(fields) => fields.iter().map(|f| leaves(f.data_type())).sum(),
        _ => 1,
    }
}

/// The names of a column's leaves, in their order, with dots.
pub(super) fn leaf_names(name: &str, ty: &DataType, all: &mut Vec<String>) {
    match ty {
        DataType::List(f) | DataType::LargeList(f) => leaf_names(name, f.data_type(), all),
        DataType::Struct(fields) => {
            fields.iter().for_each(|f| leaf_names(&format!("{name}.{}", f.name()), f.data_type(), all));
        }
        _ => all.push(name.to_owned()),
    }
}

/// Whether [`each`] knows how to read the type.
pub(super) fn is_known(ty: &DataType) -> bool {
    match ty {
        DataType::List(f) | DataType::LargeList(f) => is_known(f.data_type()),
        DataType::Struct(fields) => fields.iter().all(|f| is_known(f.data_type())),
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float64
        | DataType::Date32
        | DataType::Null
        | DataType::Timestamp(TimeUnit::Microsecond, _) => true,
        _ => false,
    }
}

/// Gives every value of a row's column, with the number of its leaf counted from `leaf`.
pub(super) fn each(array: &dyn Array, i: usize, leaf: usize, f: &mut impl FnMut(usize, Cell<'_>)) {
    if array.is_null(i) {
        return;
    }
    match array.data_type() {
        DataType::Utf8 => f(leaf, Cell::Text(array.as_string::<i32>().value(i))),
        DataType::LargeUtf8 => f(leaf, Cell::Text(array.as_string::<i64>().value(i))),
        DataType::Int64 => f(leaf, Cell::Number(array.as_primitive::<Int64Type>().value(i))),
        DataType::Int32 => f(leaf, Cell::Number(array.as_primitive::<Int32Type>().value(i).into())),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(i);
            (0..items.len()).for_each(|i| each(items.as_ref(), i, leaf, f));
        }
        DataType::LargeList(_) => {
            let items = array.as_list::<i64>().value(i);
            (0..items.len()).for_each(|i| each(items.as_ref(), i, leaf, f));
        }
        DataType::Struct(_) => {
            let mut leaf = leaf;
            for column in array.as_struct().columns() {
                each(column.as_ref(), i, leaf, f);
                leaf += leaves(column.data_type());
            }
        }
        _ => f(leaf, Cell::Other),
    }
}

/// Whether a value says nothing: null, an empty text or list, or made of such.
pub(super) fn is_blank(array: &dyn Array, i: usize) -> bool {
    if array.is_null(i) {
        return true;
    }
    match array.data_type() {
        DataType::Utf8 => is_blank_text(array.as_string::<i32>().value(i)),
        DataType::LargeUtf8 => is_blank_text(array.as_string::<i64>().value(i)),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(i);
            (0..items.len()).all(|i| is_blank(items.as_ref(), i))
        }
        DataType::LargeList(_) => {
            let items = array.as_list::<i64>().value(i);
            (0..items.len()).all(|i| is_blank(items.as_ref(), i))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().all(|c| is_blank(c.as_ref(), i)),
        _ => false,
    }
}

fn is_blank_text(text: &str) -> bool {
    fn blank(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::String(text) => text.trim().is_empty(),
            Value::Array(items) => items.iter().all(blank),
            Value::Object(fields) => fields.values().all(blank),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }
    text.trim().is_empty() || text == "null" || parsed(text).is_some_and(|json| blank(&json))
}

/// The text of a cell that may be a key or refer to one.
pub(super) fn id(array: &dyn Array, i: usize) -> Option<Cow<'_, str>> {
    if array.is_null(i) {
        return None;
    }
    match array.data_type() {
        DataType::Utf8 => Some(Cow::Borrowed(array.as_string::<i32>().value(i))),
        DataType::LargeUtf8 => Some(Cow::Borrowed(array.as_string::<i64>().value(i))),
        DataType::Int64 => Some(Cow::Owned(array.as_primitive::<Int64Type>().value(i).to_string())),
        _ => None,
    }
}

/// The microseconds of a time.
pub(super) fn micros(array: &dyn Array, i: usize) -> Option<i64> {
    array.as_primitive_opt::<TimestampMicrosecondType>().filter(|a| a.is_valid(i)).map(|a| a.value(i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_however_it_is_written() {
        let texts: Texts = ["Žofie  Nováková", "ada@example.com", ""].into_iter().collect();
        assert_eq!(texts.len(), 2);
        for value in [
            "z\u{30c}ofie nova\u{301}kova\u{301}",
            "mail to ADA@Example.com, please",
            r#"{"name":"\u017dofie\u0020Nov\u00e1kov\u00e1"}"#,
            "ŽOFIE\u{a0}\nNOVÁKOVÁ",
            "ａｄａ@example.com",
        ] {
            assert!(texts.are_in(value), "{value}");
        }
        for value in ["", "Žofie", "ada@example.org", "Nováková Žofie"] {
            assert!(!texts.are_in(value), "{value}");
        }
        assert_eq!(format!("{texts:?}"), "Texts(2)");
    }

    #[test]
    fn what_says_nothing_is_blank() {
        for blank in ["", " ", "null", "[]", "{}", r#"{"a":[null,""],"b":{"c":""}}"#] {
            assert!(is_blank_text(blank), "{blank}");
        }
        for said in ["a", "0", r#"{"a":0}"#, r#"["x"]"#, "{not json"] {
            assert!(!is_blank_text(said), "{said}");
        }
    }
}
