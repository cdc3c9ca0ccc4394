//! TOML → catalogue.
//! (placeholder until the real parser lands)
use super::Provider;
/// Why a catalogue was refused.
#[derive(Debug, thiserror::Error)]
#[error("catalogue")]
pub struct CatalogError;
/// The embedded catalogue.
pub fn embedded() -> Result<Provider, CatalogError> { Err(CatalogError) }
/// With a folder.
pub fn load(_folder: Option<&std::path::Path>) -> Result<Provider, CatalogError> { embedded() }
