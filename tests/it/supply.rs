//! What the program is made of: the fuzzer tests the same versions, and a release has what was locked.

use std::collections::BTreeSet;
use std::path::Path;

/// Name and version of every crate in a lock file.
fn crates(lock: &str) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(lock)).unwrap();
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|l| l.strip_prefix(&format!("{key} = \"")));
        line.and_then(|l| l.strip_suffix('"')).unwrap().to_owned()
    };
    text.split("[[package]]").skip(1).map(|block| (value(block, "name"), value(block, "version"))).collect()
}

#[test]
fn the_fuzzer_has_the_programs_versions() {
    let (ours, fuzzers) = (crates("Cargo.lock"), crates("tests/fuzz/Cargo.lock"));
    let own = ["hirelake-fuzz", "libfuzzer-sys", "arbitrary"];
    let others: Vec<_> = fuzzers.difference(&ours).filter(|(name, _)| !own.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "`make fuzz-lock` brings them together: {others:?}");
    assert!(fuzzers.len() > 200, "the lock file was read wrongly");
}

#[test]
fn what_is_built_for_release_is_what_was_locked() {
    let makefile = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile")).unwrap();
    let release: Vec<&str> = makefile.lines().filter(|l| l.contains("build --release")).collect();
    assert!(!release.is_empty() && release.iter().all(|l| l.contains("--locked")), "{release:?}");
}
