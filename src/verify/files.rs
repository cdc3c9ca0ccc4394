//! Which files of a lake are a tenant's, whatever the catalogue knows of them.

use object_store::path::Path;

use crate::catalog::{Provider, Resource};
use crate::names::Tenant;
use crate::store::{Store, StoreError};

/// How deep below the lake a `tenant=` folder may lie: `<provider>/<table>`, and room for what comes.
const DEPTH: usize = 4;

/// A file of the tenant.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The folder above `tenant=`, such as `lever/notes`.
    pub(super) table: String,
    /// What follows it: folder and name.
    pub(super) rest: String,
    pub(super) path: Path,
}

impl Found {
    /// The partition's folder, as commits call it.
    pub(super) fn folder(&self) -> &str {
        self.rest.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
    pub(super) fn name(&self) -> &str {
        self.rest.rsplit_once('/').map_or(&self.rest, |(_, name)| name)
    }
    /// The resource that its table is, by the catalogue.
    pub(super) fn resource<'p>(&self, provider: &'p Provider) -> Option<&'p Resource> {
        let (first, second) = self.table.split_once('/')?;
        (first == provider.name.as_str()).then(|| provider.resource(second)).flatten()
    }
}

/// Every `tenant=` folder of the tenant. Other tenants' are not looked into.
pub(super) async fn folders(lake: &Store, tenant: &Tenant) -> Result<Vec<Path>, StoreError> {
    let own = format!("tenant={tenant}");
    let (mut found, mut todo) = (Vec::new(), vec![(Path::default(), 0)]);
    while let Some((at, depth)) = todo.pop() {
        for name in lake.folders(&at).await? {
            let below = at.clone().join(name.as_str());
            if name == own {
                found.push(below);
            } else if depth < DEPTH && !name.starts_with("tenant=") && !name.starts_with('_') {
                todo.push((below, depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Every file of the tenant, in the order of their paths.
pub(super) async fn all(lake: &Store, tenant: &Tenant) -> Result<Vec<Found>, StoreError> {
    let mut files = Vec::new();
    for folder in folders(lake, tenant).await? {
        let mut parts: Vec<_> = folder.parts().collect();
        parts.pop();
        let table = Path::from_iter(parts).to_string();
        for entry in lake.list(&folder).await? {
            let rest = entry.path.prefix_match(&folder).map(|p| Path::from_iter(p).to_string()).unwrap_or_default();
            files.push(Found { table: table.clone(), rest, path: entry.path });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
