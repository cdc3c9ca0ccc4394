//! The real program, as every test runs it, and the search for secrets in all that it and the tests' own runs say.
//!
//! Each run logs everything there is (`HIRELAKE_LOG=trace`). What it prints is searched; what a test then sees of its stderr
//! is what the program says without being asked for more.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

use crate::harness::{CLIENT_SECRET, VAULT_KEY, files};

/// The program in `folder`, with nothing of the environment that speaks to it.
pub fn program(folder: &Path, args: &[&str]) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hirelake"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HIRELAKE_") || name == "COLUMNS") {
        command.env_remove(name);
    }
    // A test that chooses what is logged sees it; and the help would show the variable.
    let quiet = !args.is_empty() && !args.iter().any(|a| ["--log", "--help", "-h"].contains(a));
    if quiet {
        command.env("HIRELAKE_LOG", "trace");
    }
    Program {
        command,
        quiet,
        shown: if args.contains(&"sync") { &["INFO", "WARN", "ERROR"] } else { &["WARN", "ERROR"] },
    }
}

/// A run to be started.
#[derive(Debug)]
pub struct Program {
    command: Command,
    /// Whether the test sees only what the program logs by default,
    quiet: bool,
    /// which are these levels.
    shown: &'static [&'static str],
}

impl Program {
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.command.env_remove(name);
        self
    }
    pub fn stdin(&mut self, to: Stdio) -> &mut Self {
        self.command.stdin(to);
        self
    }
    pub fn stdout(&mut self, to: Stdio) -> &mut Self {
        self.command.stdout(to);
        self
    }
    pub fn stderr(&mut self, to: Stdio) -> &mut Self {
        self.command.stderr(to);
        self
    }

    /// Runs to the end.
    pub fn output(&mut self) -> io::Result<Output> {
        self.command.output().map(|out| self.searched(out))
    }

    pub fn spawn(&mut self) -> io::Result<Running> {
        let child = self.command.spawn()?;
        Ok(Running { child, quiet: self.quiet, shown: self.shown })
    }

    fn searched(&self, out: Output) -> Output {
        searched(out, self.quiet, self.shown)
    }
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    quiet: bool,
    shown: &'static [&'static str],
}

impl Running {
    /// Waits for its end.
    pub fn wait_with_output(self) -> io::Result<Output> {
        self.child.wait_with_output().map(|out| searched(out, self.quiet, self.shown))
    }
}

impl Deref for Running {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

fn searched(out: Output, quiet: bool, shown: &[&str]) -> Output {
    assert_no_secret("stdout", &out.stdout);
    assert_no_secret("stderr", &out.stderr);
    let stderr = if quiet { by_default(&out.stderr, shown) } else { out.stderr };
    Output { stderr, ..out }
}

/// Without the log lines of other levels than `shown`.
fn by_default(stderr: &[u8], shown: &[&str]) -> Vec<u8> {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.split_inclusive('\n').filter(|line| level(line).is_none_or(|level| shown.contains(&level)));
    lines.collect::<String>().into_bytes()
}

/// The level of a log line; `None` for other lines.
fn level(line: &str) -> Option<&str> {
    let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
    if line.starts_with('{') {
        return levels.into_iter().find(|l| line.contains(&format!("\"level\":\"{l}\"")));
    }
    let mut words = line.split_whitespace();
    words.next().filter(|time| time.len() > 20 && time.ends_with('Z') && time.contains('T'))?;
    words.next().filter(|word| levels.contains(word))
}

/// Fails when `bytes` hold a secret of any test, or anything that looks like a token or a candidate of the sandbox.
pub fn assert_no_secret(place: &str, bytes: &[u8]) {
    if let Some((what, before)) = secret_in(&String::from_utf8_lossy(bytes)) {
        panic!("{what} stands in {place} behind: {before}");
    }
}

fn secret_in(text: &str) -> Option<(&'static str, String)> {
    let plain = ["canary", CLIENT_SECRET, VAULT_KEY, "@example.com"].map(|mark| (mark, text.find(mark)));
    let word =
        |at: usize| text[at..].bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-').count();
    // `v1.` and 43 characters of base64: a refresh token. `eyJ`: the head of a JWT, and so an access token.
    let refresh = text.match_indices("v1.").map(|(at, _)| at).find(|at| word(at + 3) >= 40);
    let access = text
        .match_indices("eyJ")
        .map(|(at, _)| at)
        .find(|at| word(*at) >= 20 && text[at + word(*at)..].starts_with('.'));
    let found = plain.into_iter().chain([("a refresh token", refresh), ("an access token", access)]);
    let (what, at) = found.filter_map(|(what, at)| Some((what, at?))).next()?;
    let before: String = text[..at].chars().rev().take(300).collect();
    Some((what, before.chars().rev().collect()))
}

/// Searches every file below a folder of the state: reports, commits, leases, grants, quarantine.
pub fn search_files(folder: &Path) {
    for (path, bytes) in files(folder) {
        assert_no_secret(&path.display().to_string(), &bytes);
    }
}

/// From the first call on, everything that the tests' own runs log is written out, whatever its level, and searched.
pub fn search_every_log() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let ours = filter_fn(|of| of.target().starts_with("hirelake") || *of.level() <= tracing::Level::WARN);
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Searched);
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines.with_filter(ours)));
    });
}

/// Nowhere, but not unread. A test cannot be failed from here, so all end.
struct Searched;

impl Write for Searched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some((what, before)) = secret_in(&String::from_utf8_lossy(bytes)) {
            // Past what the test runner captures, which would be lost.
            let _ = writeln!(io::stderr(), "{what} stands in the log behind: {before}");
            std::process::exit(101);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_looks_like_a_secret_is_found_and_what_does_not_is_not() {
    let token = format!("v1.{}", "aB3_-".repeat(9));
    let jwt = format!("{}.payload", "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9");
    for secret in [CLIENT_SECRET, VAULT_KEY, "canary-x", "jane.doe@example.com", &token, &jwt] {
        assert!(secret_in(&format!("a line with {secret} in it")).is_some(), "{secret}");
    }
    for fine in ["GET http://127.0.0.1:1/v1/opportunities", "v1.0.2", "eyJ", "run 019ac3e0-0000-7000-8000-000000000000"]
    {
        assert!(secret_in(fine).is_none(), "{fine}");
    }
}

#[test]
fn a_test_sees_of_the_log_what_is_logged_by_default() {
    let said = "2026-06-15T08:00:00.000000Z TRACE sync{tenant=acme}: a\n2026-06-15T08:00:00.000000Z  WARN b\nhint: c\n{\"timestamp\":\"x\",\"level\":\"DEBUG\"}\n{\"level\":\"INFO\"}\n";
    let seen = |shown: &[&str]| String::from_utf8(by_default(said.as_bytes(), shown)).unwrap();
    assert_eq!(seen(&["WARN", "ERROR"]), "2026-06-15T08:00:00.000000Z  WARN b\nhint: c\n");
    assert!(seen(&["INFO", "WARN", "ERROR"]).ends_with("{\"level\":\"INFO\"}\n"));
}
