//! The lake as a person looks at it: rows as text, found by their key, compared without the time they were first seen; and the
//! same lake under another configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use hirelake::clock::Timestamp;
use hirelake::config::Config;
use hirelake::load;
use hirelake::report::{Report, ResourceReport};
use hirelake::sandbox::{Action, Fault};
use hirelake::state::Commit;
use hirelake::store::Store;
use hirelake::sync::World;
use serde_json::{Value, json};

use crate::harness::{Bench, tenant, write_config};
use crate::real;

/// A row as text by column, nulls left out.
pub type Row = BTreeMap<String, String>;

/// Every row of some batches, in their order.
pub fn rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        for i in 0..batch.num_rows() {
            let held = schema.fields().iter().zip(batch.columns()).filter(|(_, c)| c.is_valid(i));
            rows.push(held.map(|(f, c)| (f.name().clone(), plain(value(c.as_ref(), i)))).collect());
        }
    }
    rows
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// A cell whatever its type.
fn value(array: &dyn Array, i: usize) -> Value {
    if array.is_null(i) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(i).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(i).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(i).into(),
        DataType::Boolean => array.as_boolean().value(i).into(),
        DataType::Timestamp(..) => {
            let us = array.as_primitive::<TimestampMicrosecondType>().value(i);
            Timestamp::from_ms(us / 1000).to_string().into()
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(i);
            (0..items.len()).map(|i| value(items.as_ref(), i)).collect()
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            fields.iter().zip(columns).map(|(f, c)| (f.name().clone(), value(c.as_ref(), i))).collect()
        }
        other => panic!("a lake has no {other}"),
    }
}

/// Every row of every table of a tenant, deleted ones included, in the order of the files, `_synced_at` left out.
pub async fn everything(world: &World, name: &str) -> BTreeMap<String, Vec<Row>> {
    let mut all = BTreeMap::new();
    for resource in &world.config.provider.resources {
        let batches =
            load::read_table(&world.lake, &world.config.provider.name, &resource.name, &tenant(name)).await.unwrap();
        let mut rows = rows(&batches);
        rows.iter_mut().for_each(|r| drop(r.remove("_synced_at")));
        all.insert(resource.name.to_string(), rows);
    }
    all
}

/// Fails with the table and the first row that differs.
pub fn assert_same(found: &BTreeMap<String, Vec<Row>>, expected: &BTreeMap<String, Vec<Row>>, when: &str) {
    for (table, rows) in expected {
        let found = &found[table];
        for (i, (a, b)) in found.iter().zip(rows).enumerate() {
            assert_eq!(a, b, "{when}: {table}, row {i}");
        }
        assert_eq!(found.len(), rows.len(), "{when}: rows of {table}");
    }
    assert_eq!(found.len(), expected.len(), "{when}: tables");
}

/// Copies a folder whole.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A script line for one account's route.
pub fn fault(route: &str, skip: u32, times: u32, action: Action) -> Fault {
    Fault { route: route.into(), account: None, skip, times, action }
}

/// A one-page listing of these rows, in place of the true one.
pub fn listing(rows: &[Value]) -> Action {
    Action::Status { code: 200, body: Some(json!({ "data": rows, "hasNext": false }).to_string()), retry_after: None }
}

/// What a report says of a resource of its first tenant.
pub fn of<'a>(report: &'a Report, resource: &str) -> &'a ResourceReport {
    &report.tenants.values().next().unwrap().resources[resource]
}

/// Files that a report says were rewritten, over all resources.
pub fn rewritten(report: &Report) -> u64 {
    report.tenants.values().flat_map(|t| t.resources.values()).map(|r| r.partitions_rewritten).sum()
}

impl Bench {
    /// Every row of a table as text, by its `id` (or `text`); deleted ones are there, with `_deleted_at`.
    pub async fn table(&self, name: &str, table: &str) -> BTreeMap<String, Row> {
        let mut all = BTreeMap::new();
        for row in rows(&self.batches(name, table).await) {
            let key = row.get("id").unwrap_or_else(|| &row["text"]).clone();
            assert!(all.insert(key, row).is_none(), "a row of {table} stands twice");
        }
        all
    }

    pub async fn everything(&self, name: &str) -> BTreeMap<String, Vec<Row>> {
        everything(&self.world, name).await
    }

    /// The newest commit of a resource.
    pub async fn commit(&self, name: &str, resource: &str) -> Commit {
        self.state().commits(&tenant(name), &resource.parse().unwrap()).last().await.unwrap().unwrap().body
    }

    /// The same lake and state under a configuration of other lines (see [`crate::harness::Setup`]) and environment variables.
    pub fn reconfigure(&mut self, defaults: &str, sync: &str, env: &[(&str, &str)]) {
        let path = write_config(self.dir.path(), &self.sandbox.url(), defaults, sync);
        let env: Vec<_> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = Config::load_with(Some(&path), env.into_iter()).unwrap();
        self.world = real::open(Arc::new(config), self.world.clock);
    }

    /// A world over another pair of folders, with the same configuration otherwise.
    pub fn elsewhere(&self, folder: &Path) -> World {
        let mut config = (*self.world.config).clone();
        config.lake = real::place(folder, "lake");
        config.state = real::place(folder, "state");
        real::open(Arc::new(config), self.world.clock)
    }

    /// Puts lake and state into memory; call it before anything is connected.
    pub fn in_memory(&mut self) {
        self.world.lake = Store::memory();
        self.world.state = Store::memory();
    }

    /// Every file of the lake with its time of writing.
    pub fn file_times(&self) -> BTreeMap<PathBuf, std::time::SystemTime> {
        if real::url().is_some() {
            return real::objects(&self.world.lake).into_iter().map(|(path, (_, time))| (path, time)).collect();
        }
        let lake = self.dir.path().join("lake");
        let time = |p: &Path| std::fs::metadata(lake.join(p)).unwrap().modified().unwrap();
        self.files().into_keys().map(|p| (p.clone(), time(&p))).collect()
    }

    /// Requests to a route, as the sandbox counted them.
    pub fn requests(&self, route: &str) -> u64 {
        self.control.stats().requests.get(route).copied().unwrap_or(0)
    }
}
