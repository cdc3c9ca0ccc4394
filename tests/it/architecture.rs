//! Who may know whom, and the other invariants that a compiler does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Small leaves that any room may use.
const LEAVES: [&str; 3] = ["clock", "secret", "names"];

/// What each room may import besides the leaves and itself.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // Faces of the program: each command is one call into one room.
    (
        "cli",
        &[
            "adopt",
            "auth",
            "catalog",
            "check",
            "config",
            "connect",
            "demo",
            "disconnect",
            "infer",
            "keepalive",
            "report",
            "sandbox",
            "state",
            "status",
            "store",
            "sync",
            "verify",
        ],
    ),
    ("demo", &["auth", "catalog", "cli", "config", "report", "sandbox", "state", "store", "sync"]),
    ("status", &["auth", "catalog", "report", "state", "sync"]),
    ("connect", &["auth", "catalog", "config", "state"]),
    // It looks at what a sync looks at, asks as a sync asks, and judges as a sync judges.
    ("check", &["auth", "catalog", "config", "extract", "http", "report", "state", "store", "sync"]),
    ("verify", &["auth", "catalog", "load", "report", "state", "store", "sync"]),
    // Catalogue lines for what drifted, and for what nobody has declared: it asks as a sync asks, of a lake that a sync made.
    ("adopt", &["catalog", "report", "state"]),
    ("infer", &["auth", "catalog", "extract", "http", "load", "state", "sync"]),
    ("keepalive", &["auth", "report", "state", "status", "sync"]),
    ("disconnect", &["auth", "state", "store", "sync"]),
    // It holds what all that parse have in common: it is no part of the program.
    ("fuzz", &["auth", "catalog", "config", "connect", "extract", "state", "sync", "transform"]),
    // The one place where the stages meet.
    (
        "sync",
        &[
            "adopt",
            "auth",
            "catalog",
            "config",
            "extract",
            "http",
            "load",
            "plan",
            "report",
            "state",
            "store",
            "transform",
        ],
    ),
    // The stages.
    ("plan", &["catalog", "state"]),
    ("http", &["catalog"]),
    ("extract", &["auth", "catalog", "http", "state"]),
    ("transform", &["catalog"]),
    ("load", &["catalog", "state", "store"]),
    // What they stand on.
    ("auth", &["catalog", "config", "http", "state"]),
    ("config", &["catalog", "store"]),
    ("catalog", &[]),
    ("state", &["catalog", "store"]),
    ("store", &[]),
    ("report", &[]),
    // It writes the provider's format from its own definitions: one that borrowed our types would share our mistakes.
    ("sandbox", &[]),
    ("clock", &[]),
    ("names", &[]),
    ("secret", &[]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below `folder` with its text, by its path from there.
fn sources(folder: &str) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, all);
            } else if path.extension().is_some_and(|e| e == "rs") {
                all.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let (dir, mut all) = (root().join(folder), BTreeMap::new());
    walk(&dir, &dir, &mut all);
    all
}

/// `http/gate.rs` is of the room `http`.
fn room(file: &Path) -> String {
    file.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Without comments and without the tests at the foot.
fn code(text: &str) -> String {
    let lines = text.lines().take_while(|l| l.trim() != "mod tests {");
    lines.map(|l| l.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The rooms behind every `crate::`, those of `use crate::{a, b::c}` too.
fn known(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (i, _) in code.match_indices("crate::") {
        let rest = &code[i + "crate::".len()..];
        let word = |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => drop(rooms.insert(word(rest))),
            Some(list) => {
                let (mut depth, mut begins) = (0, true);
                for (at, c) in list.char_indices() {
                    if begins && !c.is_whitespace() {
                        rooms.insert(word(&list[at..]));
                        begins = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        _ => {}
                    }
                }
            }
        }
    }
    rooms.remove("");
    rooms
}

#[test]
fn rooms_know_only_whom_they_may() {
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        if file == Path::new("lib.rs") || file.ends_with("tests.rs") {
            continue;
        }
        let room = room(&file);
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| *name == room) else {
            panic!("the room {room} is not in the table: say whom it may know");
        };
        for other in known(&code(&text)) {
            if other != room && !LEAVES.contains(&other.as_str()) && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{} imports {other}", file.display()));
            }
        }
        if room == "sandbox" {
            let known = known(&code(&text));
            assert!(known.iter().all(|k| k == "clock" || k == "sandbox"), "the sandbox knows {known:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_line_too_many() {
    let mut known_by: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in sources("src") {
        let mut rooms = known(&code(&text));
        if file == Path::new("main.rs") {
            rooms.extend(text.contains("hirelake::cli").then(|| "cli".to_owned()));
        }
        known_by.entry(room(&file)).or_default().extend(rooms);
    }
    for (room, allowed) in MAY_KNOW {
        for other in *allowed {
            assert!(known_by[*room].contains(*other), "{room} no longer imports {other}: take it out of the table");
        }
    }
}

#[test]
fn every_room_is_in_the_tour() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let listed: BTreeSet<&str> = MAY_KNOW.iter().map(|(room, _)| *room).filter(|r| *r != "main").collect();
    assert_eq!(declared, listed);
    let tour: String = lib.lines().filter(|l| l.starts_with("//!")).collect();
    // What only tests build cannot be linked to.
    for room in declared.iter().filter(|r| !LEAVES.contains(r) && !["cli", "fuzz"].contains(r)) {
        assert!(tour.contains(&format!("[`{room}`]")), "the tour in lib.rs does not visit {room}");
    }
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    for folder in ["src", "tests"] {
        for (file, text) in sources(folder) {
            assert!(text.starts_with("//! "), "{folder}/{} does not open with `//!`", file.display());
        }
    }
}

#[test]
fn backoff_is_named_in_one_file() {
    let naming: Vec<PathBuf> =
        sources("src").into_iter().filter(|(_, text)| code(text).contains("backoff::")).map(|(file, _)| file).collect();
    assert_eq!(naming, [Path::new("http/retry.rs")]);
}

#[test]
fn nothing_is_unsafe_and_nothing_waits_on_a_clock_of_its_own() {
    for (file, text) in sources("src") {
        let code = if file.ends_with("tests.rs") { String::new() } else { code(&text) };
        assert!(
            !["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|u| code.contains(u)),
            "{} is unsafe",
            file.display()
        );
        assert!(!code.contains("thread::sleep"), "{} sleeps outside tokio's time", file.display());
        assert!(!code.contains("#[allow("), "{} allows: use expect with a reason", file.display());
        if file != Path::new("clock.rs") {
            let own = ["SystemTime::now", "Utc::now", "Timestamp::now"].iter().any(|t| code.contains(t));
            assert!(!own, "{} reads a clock of its own", file.display());
        }
    }
}

#[test]
fn the_tests_run_the_program_in_one_place() {
    // That place searches all that the program says.
    let running: Vec<PathBuf> = sources("tests")
        .into_iter()
        .filter(|(file, text)| text.contains("CARGO_BIN_EXE_hirelake") && !file.ends_with("architecture.rs"))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(running, [Path::new("it/program.rs")]);
}

#[test]
fn secrets_are_exposed_in_few_places() {
    let exposing: BTreeSet<PathBuf> =
        sources("src").into_iter().filter(|(_, text)| code(text).contains(".expose()")).map(|(file, _)| file).collect();
    let rooms: BTreeSet<String> = exposing.iter().map(|f| room(f)).collect();
    assert!(
        rooms.iter().all(|r| ["auth", "http", "secret"].contains(&r.as_str())),
        "secrets are exposed in {exposing:?}"
    );
}

/// ARCHITECTURE.md names for each invariant the test that holds it: `tests/it/file.rs::test` or `room::tests::test`.
#[test]
fn every_invariant_names_a_test_that_exists() {
    // Without the file there is nothing to hold.
    let Ok(page) = std::fs::read_to_string(root().join("ARCHITECTURE.md")) else { return };
    let (src, tests) = (sources("src"), sources("tests"));
    let mut named = 0;
    for quoted in page.split('`').skip(1).step_by(2) {
        let Some((place, test)) = quoted.rsplit_once("::") else { continue };
        let has = |text: &str| text.contains(&format!("fn {test}("));
        let found = if let Some(file) = place.strip_prefix("tests/") {
            tests.get(Path::new(file)).is_some_and(|text| has(text))
        } else if let Some(file) = place.strip_prefix("src/") {
            src.get(Path::new(file)).is_some_and(|text| has(text))
        } else if place.split("::").any(|part| part == "tests") {
            let module = place.trim_end_matches("::tests").replace("::", "/");
            let files = [format!("{module}.rs"), format!("{module}/mod.rs"), format!("{module}/tests.rs")];
            files.iter().filter_map(|f| src.get(Path::new(f))).any(|text| has(text))
        } else {
            continue;
        };
        assert!(found, "ARCHITECTURE.md names `{quoted}`, and there is no such test");
        named += 1;
    }
    assert!(named > 0, "ARCHITECTURE.md names no test");
}
