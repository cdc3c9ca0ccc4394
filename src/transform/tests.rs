//! Hostile values, extraction, pages, and the promise that cells plus `_extra` rebuild every record.

use std::sync::LazyLock;

use arrow::array::AsArray as _;
use arrow::datatypes::{Float64Type, Int8Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::catalog;

fn column(name: &str, ty: ColumnType) -> Column {
    Column::plain(name, ty)
}

/// A resource with a column of every type.
fn things() -> Resource {
    static THINGS: LazyLock<Resource> = LazyLock::new(make_things);
    THINGS.clone()
}

fn make_things() -> Resource {
    use ColumnType::*;
    let list = |ty| List(Box::new(ty));
    let mut users = catalog::embedded().unwrap().resource("users").unwrap().clone();
    users.columns = vec![
        column("id", Text),
        column("t", Text),
        column("i", Int { lenient: false }),
        Column { also: vec!["unlimited".into()], ..column("il", Int { lenient: true }) },
        column("f", Float),
        column("b", Bool),
        column("ts", Timestamp { lenient: false }),
        column("tl", Timestamp { lenient: true }),
        column("j", Json),
        column("r", Ref),
        column("lt", list(Text)),
        column("li", list(Int { lenient: true })),
        column("o", Struct(vec![column("x", Text), column("y", Int { lenient: false })])),
        column("lo", list(Struct(vec![column("x", Text), column("n", Timestamp { lenient: true })]))),
        column("lr", list(Ref)),
    ];
    users.partition = None;
    users
}

fn decode(resource: &Resource, body: &str) -> Page {
    Decoder::new(resource, &[]).page(body.as_bytes()).unwrap()
}

/// The same, record by record.
fn decode_slowly(decoder: &Decoder, body: &str) -> Page {
    let mut gathering = Gathering::new(decoder, Hint::default());
    let Told { records, next, more, rejected, mut drift } = gathering.slow(body).unwrap();
    let Gathered { rows, extracted, drift: more_drift, .. } = gathering.take().unwrap().remove(0);
    drift.merge(more_drift);
    Page { rows, extracted, records, next, more, rejected, drift }
}

/// Whether pages say the same when they are gathered into batches as when each is alone; one that is no page is read again
/// by neither.
fn gathered_as_alone(decoder: &Decoder, bodies: &[&[u8]]) {
    let mut gathering = Gathering::new(decoder, Hint::default());
    let (mut alone, mut drift, mut together) = (Vec::new(), Drift::default(), Drift::default());
    for body in bodies {
        let mut one = Gathering::new(decoder, Hint::default());
        let (told, same) = (one.page(body), gathering.page(body));
        match (told, same) {
            (Ok(told), Ok(same)) => {
                assert_eq!((told.records, &told.next, told.more), (same.records, &same.next, same.more));
                let raws = |t: &Told| t.rejected.iter().map(|r| (r.why, r.raw.clone())).collect::<Vec<_>>();
                assert_eq!(raws(&told), raws(&same));
                drift.merge(told.drift);
                together.merge(same.drift);
                alone.extend(one.take().unwrap());
            }
            (told, same) => assert_eq!(told.unwrap_err().to_string(), same.unwrap_err().to_string()),
        }
    }
    let rows = gathering.rows();
    let batches = gathering.take().unwrap();
    assert_eq!(rows, batches.iter().map(|b| b.rows.num_rows()).sum::<usize>());
    let table = |all: &[Gathered], of: fn(&Gathered) -> Vec<&RecordBatch>| -> Vec<RecordBatch> {
        let Some(first) = all.first() else { return Vec::new() };
        let schemas = of(first).iter().map(|b| b.schema()).collect::<Vec<_>>();
        let each = schemas.iter().enumerate();
        each.map(|(i, s)| arrow::compute::concat_batches(s, all.iter().map(|g| of(g)[i])).unwrap()).collect()
    };
    let of: fn(&Gathered) -> Vec<&RecordBatch> =
        |g| std::iter::once(&g.rows).chain(g.extracted.iter().map(|(_, b)| b)).collect();
    assert_eq!(table(&alone, of), table(&batches, of));
    let pages = |all: &[Gathered]| all.iter().flat_map(|g| g.pages.clone()).collect::<Vec<_>>();
    assert_eq!(pages(&alone), pages(&batches));
    alone.into_iter().for_each(|g| drift.merge(g.drift));
    batches.into_iter().for_each(|g| together.merge(g.drift));
    assert_eq!(drift, together);
}

#[test]
fn a_page_that_fails_in_the_middle_leaves_those_before_it() {
    let lever = lever();
    let good = br#"{"data":[{"id":"o1","tags":["a","b"],"applications":[{"id":"a1"},{"id":"a2","posting":"p"}],"createdAt":1},{"id":"o2"}],"next":"t","hasNext":true}"#;
    // It ends in a list, inside a child, inside an object of a list, and at its key.
    let rest: &[&[u8]] = &[
        br#"{"data":[{"id":"o3","tags":["c",{"#,
        br#"{"data":[{"id":"o3","applications":[{"id":"a3"},{"id":"a4","posting":1.5}],"createdAt":"x"},{"tags":["d"]}]}"#,
        br#"{"data":[{"id":"o4","urls":{"list":"u","show":1.50}},{"id":"o5","links":["x",1.5,"y"]},{"id":7}]}"#,
        br#"{"data":[{"id":"o6","applications":[{"id":"a9","createdAt":1,"#,
    ];
    for bad in rest {
        gathered_as_alone(&lever.decoder(), &[good, bad, good, good, bad]);
    }
    gathered_as_alone(&lever.decoder(), &[rest[0], rest[1], rest[2], rest[3], good]);
}

/// A cell as JSON: times in milliseconds, a null as `None`.
fn cell(array: &ArrayRef, ty: &ColumnType, i: usize) -> Option<Value> {
    if array.is_null(i) {
        return None;
    }
    Some(match ty {
        ColumnType::Text | ColumnType::Ref => array.as_string::<i32>().value(i).into(),
        ColumnType::Json => serde_json::from_str(array.as_string::<i32>().value(i)).unwrap(),
        ColumnType::Int { .. } => array.as_primitive::<Int64Type>().value(i).into(),
        ColumnType::Float => array.as_primitive::<Float64Type>().value(i).into(),
        ColumnType::Bool => array.as_boolean().value(i).into(),
        ColumnType::Timestamp { .. } => (array.as_primitive::<TimestampMicrosecondType>().value(i) / 1000).into(),
        ColumnType::List(item) => {
            let values = array.as_list::<i32>().value(i);
            (0..values.len()).map(|k| cell(&values, item, k).unwrap_or_default()).collect()
        }
        ColumnType::Struct(columns) => {
            let fields = array.as_struct();
            let mut object = Map::new();
            for (k, c) in columns.iter().enumerate() {
                if let Some(v) = cell(fields.column(k), &c.ty, i) {
                    object.insert(c.source.clone(), v);
                }
            }
            object.into()
        }
    })
}

fn typed(resource: &Resource, batch: &RecordBatch, i: usize) -> Value {
    let mut object = Map::new();
    for (k, c) in resource.columns.iter().enumerate() {
        if let Some(v) = cell(batch.column(k + 1), &c.ty, i) {
            object.insert(c.source.clone(), v);
        }
    }
    object.into()
}

fn extra(batch: &RecordBatch, i: usize) -> Option<String> {
    let texts = batch.column(0).as_string::<i32>();
    texts.is_valid(i).then(|| texts.value(i).to_owned())
}

/// Cells, `_extra` and drift of each row, as a person compares them.
fn shown(resource: &Resource, page: &Page) -> String {
    let mut out = String::new();
    for i in 0..page.rows.num_rows() {
        out += &format!("{}  extra {}\n", typed(resource, &page.rows, i), extra(&page.rows, i).unwrap_or("-".into()));
    }
    for r in &page.rejected {
        out += &format!("{r:?}\n");
    }
    for (place, found, kind, n) in page.drift.iter() {
        out += &format!("{kind} {found} at {place}: {n}\n");
    }
    out
}

/// One field at a time, so that each line of the table stands alone.
fn field(json: &str) -> String {
    let resource = things();
    let page = decode(&resource, &format!(r#"{{"data":[{{"id":"1",{json}}}]}}"#));
    shown(&resource, &page).trim_end().replace('\n', "\n    ")
}

#[test]
fn hostile_values_lose_nothing() {
    let cases = [
        r#""i":"twelve""#,
        r#""i":"12""#,
        r#""i":1.5"#,
        r#""i":1.0"#,
        r#""i":12.50"#,
        r#""i":18446744073709551615"#,
        r#""i":123456789012345678901234567890"#,
        r#""il":"12""#,
        r#""il":"012""#,
        r#""il":"-0""#,
        r#""il":"unlimited""#,
        r#""il":"unlimted""#,
        r#""f":1e400"#,
        r#""f":9007199254740993"#,
        r#""f":18446744073709551616"#,
        r#""f":0.1"#,
        r#""f":7"#,
        r#""ts":"1719073600001""#,
        r#""ts":1719073600000.7"#,
        r#""ts":9223372036854775807"#,
        r#""tl":"1719073600001""#,
        r#""tl":"2024-06-22T16:26:40Z""#,
        r#""tl":"9223372036854775807""#,
        r#""t":1"#,
        r#""t":1.50"#,
        r#""t":true"#,
        r#""t":{"a" : [1, 2]}"#,
        r#""t":"\ud83d""#,
        r#""b":"true""#,
        r#""r":{"id":"u1","name":"x"}"#,
        r#""r":{"id":7}"#,
        r#""j":{"a": [1.50, null]}"#,
        r#""j":null"#,
        r#""lt":"a""#,
        r#""lt":["x",1,{"y":2}]"#,
        r#""lt":null"#,
        r#""lt":[]"#,
        r#""li":["7",8,null,"x"]"#,
        r#""lr":["a",{"id":"b"},3]"#,
        r#""o":[1]"#,
        r#""o":{}"#,
        r#""o":{"y":1,"z":"new","a/b~c":0}"#,
        r#""lo":[{"q":1},null,5,{"n":"8","x":"e"}]"#,
        r#""nu":null,"_extra":{"deep":[1.0]}"#,
        r#""t":"a","t":"b""#,
        r#""u":1,"o":{"x":"a","x":"b"}"#,
    ];
    let mut table = String::new();
    for case in cases {
        table += &format!("{case}\n    {}\n", field(case));
    }
    insta::assert_snapshot!(table, @r#"
    "i":"twelve"
        {"id":"1"}  extra {"/i":"twelve"}
        misfit string at /i: 1
    "i":"12"
        {"id":"1"}  extra {"/i":"12"}
        misfit string at /i: 1
    "i":1.5
        {"id":"1"}  extra {"/i":1.5}
        misfit number at /i: 1
    "i":1.0
        {"id":"1"}  extra {"/i":1.0}
        misfit number at /i: 1
    "i":12.50
        {"id":"1"}  extra {"/i":12.50}
        misfit number at /i: 1
    "i":18446744073709551615
        {"id":"1"}  extra {"/i":18446744073709551615}
        misfit number at /i: 1
    "i":123456789012345678901234567890
        {"id":"1"}  extra {"/i":123456789012345678901234567890}
        misfit number at /i: 1
    "il":"12"
        {"id":"1","il":12}  extra -
    "il":"012"
        {"id":"1"}  extra {"/il":"012"}
        misfit string at /il: 1
    "il":"-0"
        {"id":"1"}  extra {"/il":"-0"}
        misfit string at /il: 1
    "il":"unlimited"
        {"id":"1"}  extra {"/il":"unlimited"}
    "il":"unlimted"
        {"id":"1"}  extra {"/il":"unlimted"}
        misfit string at /il: 1
    "f":1e400
        {"id":"1"}  extra {"/f":1e400}
        misfit number at /f: 1
    "f":9007199254740993
        {"id":"1"}  extra {"/f":9007199254740993}
        misfit integer at /f: 1
    "f":18446744073709551616
        {"f":1.8446744073709552e+19,"id":"1"}  extra -
    "f":0.1
        {"f":0.1,"id":"1"}  extra -
    "f":7
        {"f":7.0,"id":"1"}  extra -
    "ts":"1719073600001"
        {"id":"1"}  extra {"/ts":"1719073600001"}
        misfit string at /ts: 1
    "ts":1719073600000.7
        {"id":"1"}  extra {"/ts":1719073600000.7}
        misfit number at /ts: 1
    "ts":9223372036854775807
        {"id":"1"}  extra {"/ts":9223372036854775807}
        misfit integer at /ts: 1
    "tl":"1719073600001"
        {"id":"1","tl":1719073600001}  extra -
    "tl":"2024-06-22T16:26:40Z"
        {"id":"1"}  extra {"/tl":"2024-06-22T16:26:40Z"}
        misfit string at /tl: 1
    "tl":"9223372036854775807"
        {"id":"1"}  extra {"/tl":"9223372036854775807"}
        misfit string at /tl: 1
    "t":1
        {"id":"1"}  extra {"/t":1}
        misfit integer at /t: 1
    "t":1.50
        {"id":"1"}  extra {"/t":1.50}
        misfit number at /t: 1
    "t":true
        {"id":"1"}  extra {"/t":true}
        misfit bool at /t: 1
    "t":{"a" : [1, 2]}
        {"id":"1"}  extra {"/t":{"a":[1, 2]}}
        misfit object at /t: 1
    "t":"\ud83d"
        {"id":"1"}  extra {"/t":"\ud83d"}
        misfit string at /t: 1
    "b":"true"
        {"id":"1"}  extra {"/b":"true"}
        misfit string at /b: 1
    "r":{"id":"u1","name":"x"}
        {"id":"1","r":"u1"}  extra {"/r":{"id":"u1","name":"x"}}
        undeclared object at /r: 1
    "r":{"id":7}
        {"id":"1"}  extra {"/r":{"id":7}}
        misfit object at /r: 1
    "j":{"a": [1.50, null]}
        {"id":"1","j":{"a":[1.5,null]}}  extra -
    "j":null
        {"id":"1"}  extra -
    "lt":"a"
        {"id":"1"}  extra {"/lt":"a"}
        misfit string at /lt: 1
    "lt":["x",1,{"y":2}]
        {"id":"1","lt":["x",null,null]}  extra {"/lt/1":1,"/lt/2":{"y":2}}
        misfit integer at /lt/*: 1
        misfit object at /lt/*: 1
    "lt":null
        {"id":"1"}  extra -
    "lt":[]
        {"id":"1","lt":[]}  extra -
    "li":["7",8,null,"x"]
        {"id":"1","li":[7,8,null,null]}  extra {"/li/3":"x"}
        misfit string at /li/*: 1
    "lr":["a",{"id":"b"},3]
        {"id":"1","lr":["a","b",null]}  extra {"/lr/1":{"id":"b"},"/lr/2":3}
        misfit integer at /lr/*: 1
        undeclared object at /lr/*: 1
    "o":[1]
        {"id":"1"}  extra {"/o":[1]}
        misfit array at /o: 1
    "o":{}
        {"id":"1","o":{}}  extra -
    "o":{"y":1,"z":"new","a/b~c":0}
        {"id":"1","o":{"y":1}}  extra {"/o/z":"new","/o/a~1b~0c":0}
        undeclared integer at /o/a~1b~0c: 1
        undeclared string at /o/z: 1
    "lo":[{"q":1},null,5,{"n":"8","x":"e"}]
        {"id":"1","lo":[{},null,null,{"n":8,"x":"e"}]}  extra {"/lo/0/q":1,"/lo/2":5}
        misfit integer at /lo/*: 1
        undeclared integer at /lo/*/q: 1
    "nu":null,"_extra":{"deep":[1.0]}
        {"id":"1"}  extra {"/nu":null,"/_extra":{"deep":[1.0]}}
        undeclared object at /_extra: 1
        undeclared null at /nu: 1
    "t":"a","t":"b"
        {"id":"1","t":"a"}  extra {"/t":"b"}
        undeclared string at /t: 1
    "u":1,"o":{"x":"a","x":"b"}
        {"id":"1","o":{"x":"a"}}  extra {"/u":1,"/o/x":"b"}
        undeclared string at /o/x: 1
        undeclared integer at /u: 1
    "#);
}

#[test]
fn one_bad_record_leaves_the_others() {
    let resource = things();
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let body = format!(
        r#"{{"data":[{{"id":"1"}}, "text", null, {{"t":"no key"}}, {{"id":null}}, {{"id":7}}, {{"id":"2","x":{deep}}}, {{"id":"3","j":{deep}}}, {{"id":"4","t":{deep}}}, {{"id":"\ud83d"}}, {{"id":"5"}}],"hasNext":true,"next":"n"}}"#
    );
    let page = decode(&resource, &body);
    assert_eq!((page.records, page.rows.num_rows()), (11, 2));
    assert_eq!((page.next.as_deref(), page.more), (Some("n"), true));
    insta::assert_snapshot!(shown(&resource, &page), @r#"
    {"id":"1"}  extra -
    {"id":"5"}  extra -
    Rejected(not an object, 6 bytes)
    Rejected(not an object, 4 bytes)
    Rejected(without its key, 14 bytes)
    Rejected(without its key, 11 bytes)
    Rejected(without its key, 8 bytes)
    Rejected(nested too deep, 4015 bytes)
    Rejected(nested too deep, 4015 bytes)
    Rejected(nested too deep, 4015 bytes)
    Rejected(without its key, 15 bytes)
    "#);
    assert_eq!(page.rejected[0].raw, br#""text""#);
    assert_eq!(page.rejected[2].raw, br#"{"t":"no key"}"#);
}

#[test]
fn a_page_takes_the_shapes_that_the_provider_uses() {
    let resource = things();
    for (body, rows, next, more) in [
        (r#"{"data":[{"id":"1"},{"id":"2"}],"next":"%5B3%5D","hasNext":true}"#, 2, Some("%5B3%5D"), true),
        (r#"{"data":[],"hasNext":false}"#, 0, None, false),
        (r#"{"data":[],"next":null}"#, 0, None, false),
        (r#"{"hasNext":null,"data":{"id":"1"},"other":[{}]}"#, 1, None, false),
        (r#"[{"id":"1"}] "#, 1, None, false),
        (r#"{"data":{"t":"no key"}}"#, 0, None, false),
    ] {
        let page = decode(&resource, body);
        assert_eq!((page.rows.num_rows(), page.next.as_deref(), page.more), (rows, next, more), "{body}");
        assert_eq!(page.records, rows + page.rejected.len());
    }
}

#[test]
fn more_records_than_a_page_can_have_are_no_page() {
    let resource = things();
    let mut decoder = Decoder::new(&resource, &[]);
    for (records, fine) in [(50_000, true), (50_001, false)] {
        // Each costs two bytes of the body, and a cell in every column.
        for (before, after) in [("{\"data\":[", "]}"), ("[", "]")] {
            let good = format!("{before}{}{after}", vec![r#"{"id":"a"}"#; records].join(","));
            assert_eq!(decoder.page(good.as_bytes()).is_ok(), fine, "{records}");
            let bad = format!("{before}{}{after}", vec!["{}"; records].join(","));
            match decoder.page(bad.as_bytes()) {
                Ok(page) => assert!(fine && page.rejected.len() == records),
                Err(e) => assert!(!fine && e.to_string().contains("more than 50000 records"), "{e}"),
            }
        }
    }
}

#[test]
fn what_is_not_a_page_is_an_error_that_quotes_nothing() {
    let resource = things();
    let mut decoder = Decoder::new(&resource, &[]);
    let mut said = String::new();
    for body in [
        &b""[..],
        b"<html>secret</html>",
        br#"{"data":[{"id":"secret"}"#,
        br#"{"data":[{"id":"secret"},]}"#,
        b"{\"data\":[{\"id\":\"sec\tret\"}]}",
        br#"{"data":[]} trailing"#,
        b"{\"data\":\n[\"\xff\"]}",
        br#""secret""#,
        br#"{"code":"secret","message":"secret"}"#,
        br#"{"data":"secret"}"#,
        br#"{"data":null}"#,
        br#"{"data":[],"next":5}"#,
        br#"{"data":[],"hasNext":"secret"}"#,
        br#"{"data":[],"data":[{"id":"1"}]}"#,
    ] {
        said += &format!("{}\n", decoder.page(body).unwrap_err());
    }
    assert!(!said.contains("secret"));
    insta::assert_snapshot!(said, @r#"
    the body is not JSON: it ends too early at line 1, column 0 of 0 bytes
    the body is not JSON: a syntax error at line 1, column 1 of 19 bytes
    the body is not JSON: it ends too early at line 1, column 24 of 24 bytes
    the body is not JSON: a syntax error at line 1, column 26 of 27 bytes
    the body is not JSON: a syntax error at line 1, column 19 of 27 bytes
    the body is not JSON: a syntax error at line 1, column 13 of 20 bytes
    the body is not JSON: bytes that are not UTF-8 at line 2, column 3 of 15 bytes
    the body is not a page of a listing: it is neither an object nor an array
    the body is not a page of a listing: it has no `data`
    the body is not a page of a listing: `data` is neither an array nor an object
    the body is not a page of a listing: `data` is neither an array nor an object
    the body is not a page of a listing: `next` is neither a string nor null
    the body is not a page of a listing: `hasNext` is neither true nor false
    the body is not a page of a listing: it has `data` twice
    "#);
    // A page that failed leaves nothing behind.
    assert_eq!(decoder.page(br#"{"data":[{"id":"1"}]}"#).unwrap().rows.num_rows(), 1);
}

#[test]
fn a_batch_has_the_types_of_the_table() {
    let provider = catalog::embedded().unwrap();
    for r in &provider.resources {
        // The listing, however deep it stands in the body.
        let body = r.records.rsplit('.').fold("[]".to_owned(), |inner, key| format!("{{\"{key}\":{inner}}}"));
        let empty = decode(r, &body).rows;
        let table = catalog::schema(r);
        assert_eq!(empty.schema().fields()[..], table.fields()[3..], "{}", r.name);
    }
}

struct Lever {
    opportunities: Resource,
    applications: Resource,
    contacts: Resource,
}

/// Read once: the property tests ask for it in every case.
fn lever() -> &'static Lever {
    static LEVER: LazyLock<Lever> = LazyLock::new(read_lever);
    &LEVER
}

fn read_lever() -> Lever {
    let provider = catalog::embedded().unwrap();
    let get = |name: &str| provider.resource(name).unwrap().clone();
    Lever { opportunities: get("opportunities"), applications: get("applications"), contacts: get("contacts") }
}

impl Lever {
    fn decoder(&self) -> Decoder {
        Decoder::new(&self.opportunities, &[&self.applications, &self.contacts])
    }
    fn page(&self, body: &str) -> Page {
        self.decoder().page(body.as_bytes()).unwrap()
    }
    fn children(&self, page: &Page) -> String {
        let batch = &page.extracted[0].1;
        let kinds = batch.columns().last().unwrap().as_primitive::<Int8Type>();
        let mut out = String::new();
        for i in 0..batch.num_rows() {
            let mut row = typed(&self.applications, batch, i);
            for c in self.applications.columns.iter().filter(|c| c.from_parent.is_some()) {
                let at = batch.schema().index_of(&c.name).unwrap();
                row[&c.source] = cell(batch.column(at), &c.ty, i).unwrap_or_default();
            }
            out += &format!("{} {row}  extra {}\n", kinds.value(i), extra(batch, i).unwrap_or("-".into()));
        }
        out
    }
}

#[test]
fn applications_are_taken_out_of_their_opportunities() {
    let lever = lever();
    let page = lever.page(
        r#"{"data":[
            {"id":"o1","applications":[{"id":"a1","opportunityId":"o1","posting":"p","newField":1},{"id":"a2","opportunityId":"other"}],"createdAt":1000},
            {"id":"o2","createdAt":2000,"applications":["a3",null,4]},
            {"id":"o3","createdAt":3000,"applications":[]},
            {"id":"o4","createdAt":4000,"applications":null},
            {"id":"o5","createdAt":5000},
            {"id":"o6","createdAt":6000,"applications":"a9"}
        ]}"#,
    );
    insta::assert_snapshot!(lever.children(&page), @r#"
    1 {"opportunityCreatedAt":1000,"opportunityId":"o1"}  extra -
    0 {"id":"a1","opportunityCreatedAt":1000,"opportunityId":"o1","posting":"p"}  extra {"/newField":1}
    0 {"id":"a2","opportunityCreatedAt":1000,"opportunityId":"o1"}  extra {"/opportunityId":"other"}
    1 {"opportunityCreatedAt":2000,"opportunityId":"o2"}  extra -
    2 {"id":"a3","opportunityCreatedAt":2000,"opportunityId":"o2"}  extra -
    1 {"opportunityCreatedAt":3000,"opportunityId":"o3"}  extra -
    1 {"opportunityCreatedAt":4000,"opportunityId":"o4"}  extra -
    "#);
    insta::assert_snapshot!(shown(&lever.opportunities, &page), @r#"
    {"applications":["a1","a2"],"createdAt":1000,"id":"o1"}  extra -
    {"applications":["a3",null,null],"createdAt":2000,"id":"o2"}  extra {"/applications/2":4}
    {"applications":[],"createdAt":3000,"id":"o3"}  extra -
    {"createdAt":4000,"id":"o4"}  extra -
    {"createdAt":5000,"id":"o5"}  extra -
    {"createdAt":6000,"id":"o6"}  extra {"/applications":"a9"}
    misfit string at /applications: 1
    misfit integer at /applications/*: 1
    undeclared integer at /applications/*/newField: 1
    misfit string at /applications/*/opportunityId: 1
    "#);
}

#[test]
fn an_application_without_an_id_stays_in_its_opportunity() {
    let lever = lever();
    let page = lever.page(
        r#"{"data":[{"id":"o1","createdAt":1000,"applications":[{"posting":"p"},{"id":null},{"id":"a1","type":1.50}]},{"id":"o2","contact":{"name":"x"}}]}"#,
    );
    assert!(page.rejected.is_empty());
    assert_eq!(page.extracted[1].1.num_rows(), 0);
    insta::assert_snapshot!(lever.children(&page), @r#"
    1 {"opportunityCreatedAt":1000,"opportunityId":"o1"}  extra -
    0 {"id":"a1","opportunityCreatedAt":1000,"opportunityId":"o1"}  extra {"/type":1.50}
    "#);
    insta::assert_snapshot!(shown(&lever.opportunities, &page), @r#"
    {"applications":[null,null,"a1"],"createdAt":1000,"id":"o1"}  extra {"/applications/0":{"posting":"p"},"/applications/1":{"id":null}}
    {"id":"o2"}  extra {"/contact":{"name":"x"}}
    misfit object at /applications/*: 2
    misfit number at /applications/*/type: 1
    misfit object at /contact: 1
    "#);
}

#[test]
fn contacts_come_from_objects_only() {
    let lever = lever();
    let page = lever.page(
        r#"{"data":[
            {"id":"o1","contact":{"id":"c1","name":"Ada","location":{"name":"Porto"},"phones":[{"value":"1","ext":"9"}]}},
            {"id":"o2","contact":"c2"},{"id":"o3","contact":null},{"id":"o4"}
        ]}"#,
    );
    let (name, batch) = &page.extracted[1];
    assert_eq!((name.as_str(), batch.num_rows()), ("contacts", 1));
    assert_eq!(batch.num_columns(), lever.contacts.columns.len() + 1, "no marker column");
    let contact = typed(&lever.contacts, batch, 0);
    assert_eq!(contact, json!({"id":"c1","name":"Ada","location":{"name":"Porto"},"phones":[{"value":"1"}]}));
    assert_eq!(extra(batch, 0).as_deref(), Some(r#"{"/phones/0/ext":"9"}"#));
    assert_eq!(typed(&lever.opportunities, &page.rows, 0), json!({"id":"o1","contact":"c1"}));
    assert_eq!(page.drift.iter().map(|(p, ..)| p).collect::<Vec<_>>(), ["/contact/phones/*/ext"]);
}

#[test]
fn an_expanded_object_that_nobody_takes_is_kept() {
    let lever = lever();
    let page = decode(&lever.opportunities, r#"{"data":[{"id":"o1","stage":{"id":"offer","text":"Offer"}}]}"#);
    insta::assert_snapshot!(shown(&lever.opportunities, &page), @r#"
    {"id":"o1","stage":"offer"}  extra {"/stage":{"id":"offer","text":"Offer"}}
    undeclared object at /stage: 1
    "#);
}

#[test]
fn a_tombstone_keeps_nothing_but_its_columns() {
    let provider = catalog::embedded().unwrap();
    let deleted = provider.resource("opportunities_deleted").unwrap();
    let page = decode(
        deleted,
        r#"{"data":[{"id":"o1","name":"Wilhelmina","emails":["w@example.com"],"deletedBy":null,"deletedAt":"1720456000000","x":1.50}]}"#,
    );
    assert_eq!(typed(deleted, &page.rows, 0), json!({"id":"o1","deletedAt":1_720_456_000_000_i64}));
    assert_eq!(extra(&page.rows, 0), None);
    assert!(page.drift.is_empty());
}

#[test]
fn the_whole_sample_shape_fits_its_columns() {
    let lever = lever();
    let body = r#"{"data":[{"id":"o1","name":"M","contact":{"id":"c1","name":"M","headline":"F","isAnonymized":false,"location":{"name":"P"},"emails":["m@example.com"],"phones":[{"type":"mobile","value":"+351"}],"dataProtection":{"store":{"allowed":true,"expiresAt":1780072000000},"contact":{"allowed":false,"expiresAt":null},"interviewIntelligence":{"allowed":true,"expiresAt":null}}},"headline":"F","stage":"offer","confidentiality":"non-confidential","location":"P","phones":[{"type":"mobile","value":"+351"},{"type":null,"value":"555"},{"value":"556"}],"emails":["m@example.com"],"links":["https://www.example.com/m"],"archived":{"reason":"r","archivedAt":1718036800000},"tags":["T"],"sources":["S"],"stageChanges":[{"toStageId":"applicant-new","toStageIndex":3,"updatedAt":1717000000000,"userId":"u"}],"origin":"applied","sourcedBy":null,"owner":"u","followers":["u"],"applications":[{"id":"a1","type":"posting","candidateId":"o1","opportunityId":"o1","posting":"p","postingHiringManager":"u","postingOwner":"u","name":"M","company":"F","phone":{"type":"mobile","value":"+351"},"email":"m@example.com","links":["l"],"comments":"c","user":null,"customQuestions":[{"type":"posting","fields":[]}],"createdAt":1717000000000,"archived":null,"requisitionForHire":{"id":"q","requisitionCode":"ENG-104","hiringManagerOnHire":"u"},"ipAddress":"203.0.113.24","referer":"r","userAgent":"a","acceptLanguage":"pt","timezone":"Europe/Lisbon"}],"createdAt":1717000000000,"updatedAt":1719073600001,"lastInteractionAt":1719073600000,"lastAdvancedAt":1718728000000,"snoozedUntil":null,"urls":{"list":"l","show":"s"},"isAnonymized":false,"dataProtection":{"store":{"allowed":true,"expiresAt":1780072000000},"contact":null},"opportunityLocation":"P"}],"hasNext":false}"#;
    let page = lever.page(body);
    assert!(page.drift.is_empty(), "{:?}", page.drift);
    assert_eq!(page.extracted[0].1.num_rows(), 2, "a marker and a row");
    assert_eq!(page.extracted[1].1.num_rows(), 1);
    let provider = catalog::embedded().unwrap();
    for (resource, record) in [
        (
            "users",
            r#"{"id":"u","name":"I","username":"i","email":"i@example.com","accessRole":"super admin","photo":"p","createdAt":1708360000000,"deactivatedAt":null,"externalDirectoryId":"e","linkedContactIds":["c"],"jobTitle":"R","managerId":"m"}"#,
        ),
        (
            "postings",
            r#"{"id":"p","text":"D","state":"published","distributionChannels":["public"],"user":"u","owner":"u","hiringManager":"u","categories":{"commitment":"F","department":"E","level":null,"location":"P","team":"D","allLocations":["P"]},"tags":["b"],"content":{"description":"O"},"country":"PT","followers":["u"],"reqCode":"","requisitionCodes":["E"],"urls":{"list":"l","show":"s","apply":"a"},"confidentiality":"non-confidential","createdAt":1714408000000,"updatedAt":1717172800000,"workplaceType":"hybrid","salaryRange":{"min":52000,"max":68500.5,"currency":"EUR","interval":"per-year-salary"},"salaryDescription":"P","salaryDescriptionHtml":"<b>","transcribeInterviews":false,"screening":{"enabled":true}}"#,
        ),
        (
            "requisitions",
            r#"{"id":"r","createdAt":1711816000000,"confidentiality":"c","status":"open","name":"D","requisitionCode":"E","headcountTotal":"unlimited","headcountHired":1,"headcountInfinite":true,"backfill":true,"creator":"u","owner":"u","hiringManager":"u","internalNotes":"n","compensationBand":{"min":50000,"max":70000,"currency":"EUR","interval":"y"},"approval":{"steps":[]},"employmentStatus":"f","location":"P","team":"D","department":"E","postings":["p"],"offerIds":["o"],"timeToFillStartAt":1,"timeToFillEndAt":2,"updatedAt":3,"customFields":{"seat_number":7},"closedAt":null}"#,
        ),
        ("stages", r#"{"id":"s","text":"t"}"#),
        ("archive_reasons", r#"{"id":"s","text":"t","status":"active","type":"hired"}"#),
        ("tags", r#"{"text":"t","count":1}"#),
        ("sources", r#"{"text":"t","count":1}"#),
        ("applications_deleted", r#"{"id":"a","deletedAt":1,"opportunityId":null,"postingId":"p"}"#),
    ] {
        let r = provider.resource(resource).unwrap();
        let page = decode(r, &format!(r#"{{"data":[{record}]}}"#));
        assert!(page.drift.is_empty(), "{resource}: {:?}", page.drift);
        let expected = rebuilt(r, &page);
        assert_eq!(expected, vec![normal(serde_json::from_str(record).unwrap(), &r.columns)], "{resource}");
    }
}

/// Cells and `_extra` put together again.
fn rebuilt(resource: &Resource, page: &Page) -> Vec<Value> {
    (0..page.rows.num_rows())
        .map(|i| {
            let mut record = typed(resource, &page.rows, i);
            let extra: Map<String, Value> =
                extra(&page.rows, i).map_or(Map::new(), |e| serde_json::from_str(&e).unwrap());
            for (path, value) in extra {
                put(&mut record, &path, value);
            }
            normal(record, &resource.columns)
        })
        .collect()
}

fn put(record: &mut Value, path: &str, value: Value) {
    let (parent, last) = path.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    match record.pointer_mut(parent).unwrap() {
        Value::Object(o) => {
            o.insert(last, value);
        }
        Value::Array(a) => a[last.parse::<usize>().unwrap()] = value,
        other => panic!("{path} leads into {other}"),
    }
}

/// A record without what a declared leniency forgets: null or absent, a number or its text, 1 or 1.0 in a float.
fn normal(record: Value, columns: &[Column]) -> Value {
    let Value::Object(object) = record else { return record };
    let keep = object.into_iter().filter_map(|(key, value)| match columns.iter().find(|c| c.source == key) {
        Some(_) if value.is_null() => None,
        Some(c) => Some((key, normal_value(value, &c.ty))),
        None => Some((key, value)),
    });
    Value::Object(keep.collect())
}

fn normal_value(value: Value, ty: &ColumnType) -> Value {
    match (ty, value) {
        (ColumnType::Int { lenient: true } | ColumnType::Timestamp { lenient: true }, Value::String(s)) => {
            match s.parse::<i64>() {
                Ok(n) if n.to_string() == s => n.into(),
                _ => s.into(),
            }
        }
        (ColumnType::Float, Value::Number(n)) => n.as_f64().unwrap().into(),
        (ColumnType::List(item), Value::Array(a)) => a.into_iter().map(|v| normal_value(v, item)).collect(),
        (ColumnType::Struct(columns), v @ Value::Object(_)) => normal(v, columns),
        (_, v) => v,
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1_000_000_i32..1_000_000).prop_map(|n| (f64::from(n) / 8.0).into()),
        "[a-z/~\"\\\\ é\u{1}🦀]{0,6}".prop_map(Value::from),
        any::<i32>().prop_map(|n| n.to_string().into()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z/~\"]{0,3}|id|x|y|n", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// A value that fits the type, most of the time.
fn fitting(ty: &ColumnType) -> BoxedStrategy<Value> {
    let fits = match ty {
        ColumnType::Text | ColumnType::Ref => "[a-zé\"\\\\🦀]{0,8}".prop_map(Value::from).boxed(),
        ColumnType::Int { .. } => any::<i64>().prop_map(Value::from).boxed(),
        ColumnType::Float => any::<i32>().prop_map(|n| (f64::from(n) / 8.0).into()).boxed(),
        ColumnType::Bool => any::<bool>().prop_map(Value::from).boxed(),
        ColumnType::Timestamp { .. } => (0_i64..2_000_000_000_000).prop_map(Value::from).boxed(),
        ColumnType::Json => any_json().boxed(),
        ColumnType::List(item) => prop::collection::vec(fitting(item), 0..4).prop_map(Value::from).boxed(),
        ColumnType::Struct(columns) => object(columns),
    };
    prop_oneof![6 => fits, 1 => any_json()].boxed()
}

fn object(columns: &[Column]) -> BoxedStrategy<Value> {
    let fields: Vec<_> = columns
        .iter()
        .map(|c| {
            prop::option::of(fitting(&c.ty)).prop_map({
                let key = c.source.clone();
                move |v| (key.clone(), v)
            })
        })
        .collect();
    let unknown = prop::collection::btree_map("[a-z/~]{0,3}|_extra|constructor", any_json(), 0..3);
    (fields, unknown)
        .prop_map(|(fields, unknown)| {
            let mut object: Map<String, Value> = unknown.into_iter().collect();
            object.extend(fields.into_iter().filter_map(|(k, v)| Some((k, v?))));
            Value::Object(object)
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cells_and_extra_rebuild_the_records(records in prop::collection::vec(object(&things().columns), 0..4)) {
        let resource = things();
        let body = json!({ "data": records, "hasNext": false }).to_string();
        let page = decode(&resource, &body);
        let (good, bad): (Vec<_>, Vec<_>) = records.into_iter().partition(|r| r["id"].is_string());
        let expected: Vec<Value> = good.into_iter().map(|r| normal(r, &resource.columns)).collect();
        prop_assert_eq!(rebuilt(&resource, &page), expected);
        let rejected: Vec<Value> = page.rejected.iter().map(|r| serde_json::from_slice(&r.raw).unwrap()).collect();
        prop_assert_eq!(rejected, bad);
        prop_assert_eq!(page.records, page.rows.num_rows() + page.rejected.len());
    }

    #[test]
    fn both_passes_read_the_same(records in prop::collection::vec(object(&things().columns), 0..4)) {
        let resource = things();
        let decoder = Decoder::new(&resource, &[]);
        let body = json!({ "data": records }).to_string();
        let mut build = decoder.build(&Hint::default(), false, 4);
        if page::fast(&decoder.names, &body, &mut build).is_ok() {
            let (pages, drift) = (vec![build.lengths()], std::mem::take(&mut build.ctx.drift));
            let fast = decoder.finish(build, pages, None).unwrap().0;
            let slow = decode_slowly(&decoder, &body);
            prop_assert_eq!(fast.rows, slow.rows);
            prop_assert_eq!(drift, slow.drift);
        }
    }

    #[test]
    fn no_body_is_a_panic(
        records in prop::collection::vec(prop_oneof![object(&lever().opportunities.columns), any_json()], 0..4),
        applications in prop_oneof![prop::collection::vec(object(&lever().applications.columns), 0..3).prop_map(Value::from), any_json()],
        contact in prop_oneof![object(&lever().contacts.columns), any_json()],
        cut in any::<prop::sample::Index>(),
        junk in any::<u8>(),
    ) {
        let lever = lever();
        let mut decoder = lever.decoder();
        let mut records = records;
        for r in &mut records {
            if let Value::Object(r) = r {
                r.insert("applications".into(), applications.clone());
                r.insert("contact".into(), contact.clone());
            }
        }
        let body = json!({ "data": records.clone(), "next": null }).to_string().into_bytes();
        let page = decoder.page(&body).unwrap();
        prop_assert_eq!(page.records, records.len());
        prop_assert_eq!(page.records, page.rows.num_rows() + page.rejected.len());
        let text = std::str::from_utf8(&body).unwrap();
        let slow = decode_slowly(&decoder, text);
        prop_assert_eq!(&page.rows, &slow.rows);
        prop_assert_eq!(&page.extracted, &slow.extracted);
        prop_assert_eq!(&page.drift, &slow.drift);
        let at = cut.index(body.len());
        prop_assert!(decoder.page(&body[..at]).is_err(), "a page cut short is never a page");
        let mut spoiled = body.clone();
        spoiled[at] = junk;
        let _ = decoder.page(&spoiled);
        let bare = serde_json::to_vec(&contact).unwrap();
        let _ = decoder.page(&bare);
        gathered_as_alone(&decoder, &[&body, &body[..at], &body, &spoiled, &bare, &body]);
    }
}
