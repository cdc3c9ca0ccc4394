//! The binary as people and programs meet it. Real time, real processes; short.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::sandbox::{self, AccountSize, Action};
use hirelake::sync::World;
use serde_json::Value;

use crate::harness::{Bench, CALLBACK, CLIENT, CLIENT_SECRET, VAULT_KEY, fault, files, plain, write_config};
use crate::program::program;

/// Runs to the end, on a thread of its own so that an in-process sandbox goes on.
pub async fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = program(dir, args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A connected tenant on real time.
pub async fn connected(opportunities: usize) -> Bench {
    let clock = Clock::system();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let sandbox = sandbox::start(sandbox::Options {
        accounts: vec![AccountSize::new("acme", opportunities)],
        clients: vec![sandbox::Client {
            id: CLIENT.into(),
            secret: CLIENT_SECRET.into(),
            redirect_uris: vec![CALLBACK.into()],
            scopes: hirelake::catalog::embedded().unwrap().oauth.scopes,
        }],
        clock,
        ..sandbox::Options::default()
    })
    .await
    .unwrap();
    write_config(dir.path(), &sandbox.url(), "rate = { per_second = 1000.0, burst = 1000 }", "");
    let config = Config::load_with(Some(&dir.path().join("hirelake.toml")), std::iter::empty()).unwrap();
    let world = World::open(Arc::new(config), clock).unwrap();
    let bench = Bench { control: sandbox.control(), sandbox, world, dir };
    bench.connect("acme").await;
    bench
}

#[tokio::test]
async fn help_says_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]).await;
    assert_eq!(code(&help), 0);
    insta::assert_snapshot!(out(&help), @"
    Keeps OAuth grants of applicant-tracking systems alive and a Parquet lake of their data right

    Usage: hirelake [OPTIONS] <COMMAND>

    Commands:
      init         Write a commented configuration
      connect      Connect a tenant: by consent in a browser, or with a credential you already have
      check        Look at everything a sync relies on, and say what cures each trouble
      plan         What a sync would read: windows, parents due, requests, minutes at the limit; asks
                   nobody
      sync         Bring the lake up to date
      status       How every tenant stands: grant, last run, rows, cursors; a verdict for monitors
      keepalive    Refresh the grants that would die unused: for a weekly cron
      disconnect   Let a tenant go: revoke its grant, forget its tokens, and erase its lake if asked to
      verify       Read a tenant's lake back and judge it, or prove that a person was erased from it
      catalog      What can be read: resources, scopes, modes; of one resource its columns
      relay        Lay a table anew after its granularity was changed in the configuration
      vault        The keys under which tokens are sealed
      sandbox      Run a pretend Lever on this machine
      demo         See the whole path in a minute: a pretend Lever, two tenants, two syncs
      completions  Print a completion script for your shell
      help         Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE>            The configuration file [default: hirelake.toml, if it is there]
                                     [env: HIRELAKE_CONFIG=]
          --log-format <LOG_FORMAT>  How log lines are written to stderr [default: text] [possible
                                     values: text, json]
          --log <FILTER>             What is logged, such as `info` or `hirelake=debug` [default: info;
                                     on a terminal: warn] [env: HIRELAKE_LOG=]
      -h, --help                     Print help
      -V, --version                  Print version

    Exit codes: 0 done, 2 usage or configuration, 3 partial, 4 a customer must reconnect, 5 busy, 6
    stopped and resumable, 7 lake or state, 8 provider, 1 a bug.
    ");
    let nothing = run(dir.path(), &[]).await;
    assert_eq!((code(&nothing), out(&nothing).as_str()), (2, ""));
    let version = run(dir.path(), &["--version"]).await;
    assert_eq!(out(&version), format!("hirelake {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_word_that_is_no_level_does_not_silence_the_log() {
    let dir = tempfile::tempdir().unwrap();
    for (filter, hint) in [
        ("inof", "did you mean `info`?"),
        ("hirelake", "or `hirelake=debug`"),
        ("warn,hirelake=debugg", "did you mean `debug`?"),
    ] {
        let refused = run(dir.path(), &["--log", filter, "catalog"]).await;
        assert_eq!(code(&refused), 2, "{filter}");
        assert!(err(&refused).contains("is no level\nhint: ") && err(&refused).contains(hint), "{}", err(&refused));
    }
    for filter in ["info", "OFF", "warn,hirelake=debug", "hirelake::sync=trace"] {
        assert_eq!(code(&run(dir.path(), &["--log", filter, "catalog"]).await), 0, "{filter}");
    }
}

#[tokio::test]
async fn nobody_is_asked_for_a_consent_that_cannot_be_exchanged() {
    let bench = connected(1).await;
    std::fs::remove_file(bench.dir.path().join("client.secret")).unwrap();
    for more in ["--no-browser", "--paste"] {
        let refused = run(bench.dir.path(), &["connect", "birch", more]).await;
        assert_eq!(code(&refused), 2, "{}", err(&refused));
        assert!(
            err(&refused).contains("the client secret of app main") && !err(&refused).contains("http"),
            "{}",
            err(&refused)
        );
    }
}

#[tokio::test]
async fn init_writes_a_configuration_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), &["init"]).await;
    assert_eq!(code(&first), 0);
    insta::assert_snapshot!(out(&first), @"wrote hirelake.toml; next: set the client id, the two secrets, then `hirelake connect TENANT`");
    let file = dir.path().join("hirelake.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    // What is written is taken, as it is.
    assert_eq!(code(&run(dir.path(), &["catalog"]).await), 0);

    std::fs::write(&file, format!("{text}\n# mine\n")).unwrap();
    let second = run(dir.path(), &["init"]).await;
    assert_eq!((code(&second), out(&second).as_str()), (2, ""));
    insta::assert_snapshot!(err(&second), @"
    error: hirelake.toml is already there
    hint: nothing was changed; remove it first, or print the template with --print
    ");
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("# mine\n"));

    let printed = run(dir.path(), &["init", "--print"]).await;
    assert_eq!(out(&printed).trim_end(), text.trim_end());
    let elsewhere = run(dir.path(), &["--config", "no/such/hirelake.toml", "init"]).await;
    assert_eq!(code(&elsewhere), 7);
    insta::assert_snapshot!(err(&elsewhere), @"
    error: writing no/such/hirelake.toml failed: No such file or directory (os error 2)
    hint: check that this user may write there
    ");
}

#[tokio::test]
async fn the_catalogue_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let all = run(dir.path(), &["catalog"]).await;
    assert_eq!(code(&all), 0);
    for resource in &hirelake::catalog::embedded().unwrap().resources {
        assert!(out(&all).contains(resource.name.as_str()), "{} is not listed", resource.name);
    }
    let one = run(dir.path(), &["catalog", "opportunities"]).await;
    assert_eq!(code(&one), 0);
    let head: Vec<String> = out(&one).lines().take(16).map(|l| l.trim_end().to_owned()).collect();
    insta::assert_snapshot!(head.join("\n"), @"
    lever/opportunities: a person considered for a job, or for none yet: the pipeline's unit

    read       GET /opportunities, then only what changed
    first load windows of created_at (created_at_start, created_at_end)
    changes by updated_at (updated_at_start, updated_at_end)
    expands    applications (needs applications:read:admin)
    expands    contact (needs contact:read:admin)
    page       100 records
    scope      opportunities:read:admin
    key        id
    partition  year of created_at
    default    on
    hidden     confidential ones, unless `confidential = true`

    COLUMN                    TYPE                SOURCE                                       WHAT
    id                        text                id                                           the opportunity
    ");
    assert_eq!(files(dir.path()).len(), 0, "looking made something");
}

#[tokio::test]
async fn what_does_not_exist_is_refused_with_what_is_near() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = String::new();
    for args in [
        &["catalog", "opportunites"][..],
        &["sync", "--resource", "postngs"],
        &["sync", "--resource", "zzzzzz"],
        &["relay", "user"],
        &["sync", "--tenant", "../acme"],
        &["sync", "--from", "yesterday"],
        &["sync", "--from", "2026-02-01", "--to", "2026-01-01"],
        &["sync", "--deadline", "soon"],
        &["snyc"],
        &["--config", "nowhere.toml", "sync"],
    ] {
        let refused = run(dir.path(), args).await;
        assert_eq!((code(&refused), out(&refused).as_str()), (2, ""), "{args:?}");
        said += &format!("$ hirelake {}\n{}\n", args.join(" "), err(&refused).trim_end());
    }
    insta::assert_snapshot!(said, @r#"
    $ hirelake catalog opportunites
    error: there is no resource `opportunites`
    hint: did you mean `opportunities`?
    $ hirelake sync --resource postngs
    error: there is no resource `postngs`
    hint: did you mean `postings`?
    $ hirelake sync --resource zzzzzz
    error: there is no resource `zzzzzz`
    hint: `hirelake catalog` lists them
    $ hirelake relay user
    error: there is no resource `user`
    hint: did you mean `users`?
    $ hirelake sync --tenant ../acme
    error: invalid value '../acme' for '--tenant <TENANT>': tenant name "../acme" cannot be used: it does not begin with a lower-case letter or a digit
    hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`

    For more information, try '--help'.
    $ hirelake sync --from yesterday
    error: invalid value 'yesterday' for '--from <TIME>': write it as 2026-01-31 or 2026-01-31T12:00:00Z

    For more information, try '--help'.
    $ hirelake sync --from 2026-02-01 --to 2026-01-01
    error: --from is not before --to
    hint: give a window with something in it
    $ hirelake sync --deadline soon
    error: invalid value 'soon' for '--deadline <DURATION>': write it as 90s, 50m or 1h 30m

    For more information, try '--help'.
    $ hirelake snyc
    error: unrecognized subcommand 'snyc'

      tip: a similar subcommand exists: 'sync'

    Usage: hirelake [OPTIONS] <COMMAND>

    For more information, try '--help'.
    $ hirelake --config nowhere.toml sync
    error: cannot read the configuration nowhere.toml: No such file or directory (os error 2)
    hint: check --config, or write one with `hirelake init`
    "#);
}

#[tokio::test]
async fn a_bad_configuration_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hirelake.toml"), "lake = \"lake\"\nstaet = \"state\"\n").unwrap();
    for args in [&["sync"][..], &["status"], &["connect", "acme"]] {
        let refused = run(dir.path(), args).await;
        assert_eq!((code(&refused), out(&refused).as_str()), (2, ""));
        assert!(err(&refused).starts_with("error: hirelake.toml:2:1: "), "{}", err(&refused));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn status_of_nothing_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let people = run(dir.path(), &["status"]).await;
    assert_eq!(code(&people), 0);
    insta::assert_snapshot!(err(&people), @"
    no tenant is connected yet, and there is no hirelake.toml here, so the defaults hold
    hint: --config FILE (or HIRELAKE_CONFIG) names the configuration, `hirelake init` writes one; `hirelake connect TENANT` connects a tenant
    ");
    let monitor = run(dir.path(), &["status", "--check"]).await;
    assert_eq!((code(&monitor), out(&monitor).as_str()), (2, ""));
    let programs = run(dir.path(), &["status", "--json"]).await;
    assert_eq!(out(&programs).trim(), "{}");
}

#[tokio::test]
async fn completions_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(dir.path(), &["completions", shell]).await;
        assert_eq!(code(&script), 0);
        assert!(out(&script).contains("hirelake") && out(&script).contains("dry-run"), "{shell}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_ends_stdout_with_one_object_and_says_the_rest_on_stderr() {
    let bench = connected(120).await;
    let dir = bench.dir.path();

    let before = files(dir);
    let dry = run(dir, &["sync", "--dry-run"]).await;
    assert_eq!(code(&dry), 0, "{}", err(&dry));
    let lines: Vec<Value> = out(&dry).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let read = lines.iter().map(|l| l["resource"].as_str().unwrap()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(read.len(), 21, "what the consent asked for, and what it opens besides: {read:?}");
    assert!(lines.iter().any(|l| l["resource"] == "opportunities" && l["mode"] == "load"));
    assert!(files(dir) == before, "a dry run wrote something");

    bench.control.reset_stats();
    let lost = run(dir, &["sync", "--report", "no/such/report.json"]).await;
    assert_eq!(code(&lost), 7, "{}", err(&lost));
    assert!(err(&lost).contains("hint: nothing was read yet"), "{}", err(&lost));
    assert!(bench.control.stats().requests.is_empty());

    let done = run(dir, &["--log-format", "json", "sync", "--report", "report.json"]).await;
    assert_eq!(code(&done), 0, "{}", err(&done));
    assert_eq!(out(&done).lines().count(), 1, "{}", out(&done));
    let summary: Value = serde_json::from_str(out(&done).trim_end()).unwrap();
    assert_eq!((&summary["exit"], &summary["tenants"]), (&0.into(), &1.into()));
    assert!(summary["inserted"].as_u64().unwrap() >= 120, "{summary}");
    let report: Value = serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["run"], summary["run"]);
    assert_eq!(
        report["tenants"]["acme"]["resources"]["opportunities"]["rows"],
        bench.truth("acme", "opportunities").len()
    );
    bench.assert_right("acme").await;

    for text in [out(&done), err(&done)] {
        for secret in [CLIENT_SECRET, VAULT_KEY] {
            assert!(!text.contains(secret));
        }
    }
    let status = run(dir, &["status"]).await;
    assert!(out(&status).contains("acme") && out(&status).contains("live"), "{}", out(&status));
    let status: Value = serde_json::from_str(&out(&run(dir, &["status", "--json"]).await)).unwrap();
    assert_eq!(status["acme"]["grant"]["health"], "live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_log_line_is_an_object_when_asked_for_json() {
    let bench = connected(30).await;
    bench.control.fault(fault("GET /v1/sources", 0, 0, Action::Status { code: 404, body: None, retry_after: None }));
    let args =
        ["--log-format", "json", "--log", "hirelake=debug", "sync", "--resource", "sources", "--resource", "users"];
    let failed = run(bench.dir.path(), &args).await;
    assert_eq!(code(&failed), 3);
    // The log, then (for people) the table and the troubles.
    let text = err(&failed);
    let (log, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.starts_with('{'));
    let errors: Vec<Value> =
        log.iter().map(|l| serde_json::from_str(l).unwrap()).filter(|l: &Value| l["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "a failure is logged once: {text}");
    assert_eq!((&errors[0]["span"]["tenant"], &errors[0]["fields"]["resource"]), (&"acme".into(), &"sources".into()));
    insta::assert_snapshot!(plain(rest.iter().skip_while(|l| !l.starts_with("error:")).copied().collect::<Vec<_>>().join("\n").as_str(), bench.dir.path()), @"
    error: acme/sources: tenant acme: sources is not there (404 on /sources)
    hint: the account may not have this feature, or the path in the catalogue is wrong; when every resource says so, the app's api_base is
    ");
    let summary: Value = serde_json::from_str(out(&failed).trim_end()).unwrap();
    assert_eq!((&summary["code"], &summary["failed"][0]), (&"partial".into(), &"acme".into()));
}

/// Waits until opportunities are asked for.
async fn has_asked(bench: &Bench) {
    for _ in 0..100 {
        if bench.control.stats().requests.contains_key("GET /v1/opportunities") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the sync did not begin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_sync_ends_with_6_and_the_next_one_completes() {
    let bench = connected(60).await;
    // Slow enough that the signal comes in the middle.
    bench.control.fault(fault("GET /v1/opportunities$", 0, 0, Action::Delay { ms: 8_000 }));
    let child = program(bench.dir.path(), &["sync"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    has_asked(&bench).await;
    let began = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    assert_eq!(code(&ended), 6, "{}", err(&ended));
    let summary: Value = serde_json::from_str(out(&ended).lines().last().unwrap()).unwrap();
    assert_eq!(summary["code"], "stopped");

    bench.control.clear_faults();
    let done = run(bench.dir.path(), &["sync"]).await;
    assert_eq!(code(&done), 0, "{}", err(&done));
    bench.assert_right("acme").await;
}

/// glibc reads it before a program starts.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_has_few_heaps_unless_somebody_set_them() {
    let cases = [
        (None, "GLIBC_TUNABLES=glibc.malloc.arena_max="),
        (Some(("GLIBC_TUNABLES", "glibc.rtld.nns=8")), "GLIBC_TUNABLES=glibc.rtld.nns=8:glibc.malloc.arena_max="),
        (Some(("GLIBC_TUNABLES", "glibc.malloc.perturb=1")), "GLIBC_TUNABLES=glibc.malloc.perturb=1:"),
        (Some(("MALLOC_ARENA_MAX", "3")), "MALLOC_ARENA_MAX=3:"),
    ];
    for (given, found) in cases {
        let bench = connected(5).await;
        bench.control.fault(fault("GET /v1/opportunities$", 0, 0, Action::Delay { ms: 60_000 }));
        let mut command = program(bench.dir.path(), &["--log-format", "json", "sync", "--wait", "1m"]);
        command.env_remove("GLIBC_TUNABLES").stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((name, value)) = given {
            command.env(name, value);
        }
        let mut child = command.spawn().unwrap();
        has_asked(&bench).await;
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", child.id())).unwrap();
        // glibc itself may put an end behind each of them.
        let around = read("environ").replace('\0', ":");
        assert!(around.contains(found), "{given:?}: {around}");
        assert_eq!(around.contains("arena_max="), found.contains("arena_max="), "{given:?}: {around}");
        let words = read("cmdline");
        assert!(words.ends_with("--log-format\0json\0sync\0--wait\x001m\0"), "{words:?}");
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        assert_eq!(ended.code(), Some(6), "{given:?}");
    }
}

#[tokio::test]
async fn of_two_processes_on_one_tenant_one_works_and_the_other_ends_with_5() {
    let bench = connected(60).await;
    bench.control.fault(fault("GET /v1/opportunities$", 0, 1, Action::Delay { ms: 6_000 }));
    let mut first = program(bench.dir.path(), &["sync"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    has_asked(&bench).await;
    let tokens = bench.control.stats().token_requests;
    let second = run(bench.dir.path(), &["sync"]).await;
    assert_eq!(code(&second), 5, "{}", err(&second));
    assert!(first.try_wait().unwrap().is_none(), "it waited for the other to end");
    assert!(err(&second).contains("tenant acme is busy"), "{}", err(&second));
    assert_eq!(bench.control.stats().token_requests, tokens, "the busy one left the grant alone");
    let first = tokio::task::spawn_blocking(move || first.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(code(&first), 0, "{}", err(&first));
    bench.assert_right("acme").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_kept_alive_watched_and_let_go_from_the_command_line() {
    let bench = connected(20).await;
    let dir = bench.dir.path();
    assert_eq!(code(&run(dir, &["sync"]).await), 0);
    let well = run(dir, &["status", "--check", "--max-lag", "1h"]).await;
    assert_eq!((code(&well), out(&well).trim()), (0, "all well: 1 tenant"));
    let tokens = bench.control.stats().token_requests;
    for (args, refreshed) in [(&["keepalive"][..], 0), (&["keepalive", "--within", "90d"], 1)] {
        let kept = run(dir, args).await;
        let summary: Value = serde_json::from_str(out(&kept).trim_end()).unwrap();
        assert_eq!((code(&kept), &summary["refreshed"]), (0, &refreshed.into()), "{}", err(&kept));
    }
    assert_eq!(bench.control.stats().token_requests, tokens + 1);
    let one = run(dir, &["status", "acme"]).await;
    assert!(out(&one).contains("idle deadline") && out(&one).contains("scopes missing"), "{}", out(&one));

    bench.control.revoke("acme");
    let dead = run(dir, &["keepalive", "--within", "90d"]).await;
    assert_eq!(code(&dead), 4);
    let told = run(dir, &["status", "--check"]).await;
    assert_eq!(code(&told), 4);
    assert!(out(&told).starts_with("acme: its grant is dead since "), "{}", out(&told));
    let told: Vec<Value> = serde_json::from_str(&out(&run(dir, &["status", "--check", "--json"]).await)).unwrap();
    assert_eq!((&told[0]["tenant"], &told[0]["code"]), (&"acme".into(), &"reconnect".into()));

    let before = files(dir);
    let asks = run(dir, &["disconnect", "acme", "--erase-lake"]).await;
    assert_eq!((code(&asks), out(&asks).as_str()), (2, ""));
    insta::assert_snapshot!(err(&asks), @"
    error: --erase-lake asks before it erases, and nobody is here to answer
    hint: add --yes; nothing was touched
    ");
    let unknown = run(dir, &["disconnect", "akme"]).await;
    assert_eq!((code(&unknown), code(&run(dir, &["status", "akme"]).await)), (2, 2));
    insta::assert_snapshot!(err(&unknown), @"
    error: tenant akme was never connected
    hint: did you mean `acme`?
    ");
    // Whatever is asked of a name that is nobody's, is refused, and nothing is made for it.
    for args in [
        &["sync", "--tenant", "akme"][..],
        &["sync", "--dry-run", "--tenant", "acme", "--tenant", "akme"],
        &["plan", "--tenant", "akme"],
        &["keepalive", "--tenant", "akme"],
        &["status", "akme"],
        &["status", "akme", "--check"],
        &["check", "--tenant", "akme"],
        &["vault", "rotate-key", "--tenant", "akme"],
    ] {
        let refused = run(dir, args).await;
        assert_eq!((code(&refused), out(&refused)), (2, String::new()), "{args:?}");
        assert_eq!(err(&refused), err(&unknown), "{args:?}");
    }
    insta::assert_snapshot!(err(&run(dir, &["sync", "--tenant", "globex"]).await), @"
    error: tenant globex was never connected
    hint: `hirelake status` lists those that were
    ");
    assert!(files(dir) == before);
    let gone = run(dir, &["disconnect", "acme", "--erase-lake", "--yes"]).await;
    assert_eq!(code(&gone), 0, "{}", err(&gone));
    assert!(out(&gone).starts_with("acme is disconnected: its tokens are forgotten"), "{}", out(&gone));
    assert_eq!(files(&dir.join("lake")).len(), 0);
    assert_eq!(code(&run(dir, &["status", "--check"]).await), 0);
    for text in [out(&gone), err(&gone), out(&one), err(&dead)] {
        assert!(!text.contains(CLIENT_SECRET) && !text.contains(VAULT_KEY));
    }
}

#[tokio::test]
async fn a_state_that_cannot_be_read_is_shown_and_hides_no_other() {
    let bench = connected(10).await;
    let dir = bench.dir.path();
    std::fs::create_dir_all(dir.join("state/grants/birch")).unwrap();
    std::fs::write(dir.join("state/grants/birch/999999999999998.json"), "{").unwrap();
    let all = run(dir, &["status"]).await;
    assert_eq!(code(&all), 3);
    assert!(out(&all).contains("live") && out(&all).contains("unreadable"), "{}", out(&all));
    assert!(err(&all).starts_with("error: birch: state entry grants/birch/999999999999998.json"), "{}", err(&all));
    assert_eq!(code(&run(dir, &["status", "--check"]).await), 7);
    assert_eq!(code(&run(dir, &["status", "acme"]).await), 0);
}

#[tokio::test]
async fn the_demo_can_be_repeated_and_touches_nothing_of_others() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let demo = run(dir.path(), &["demo", "--opportunities", "60"]).await;
        assert_eq!(code(&demo), 0, "{}{}", out(&demo), err(&demo));
        let text = out(&demo);
        for expected in ["First sync", "Second sync", "The lake:", "created_year=", "Try next:", "tenant=globex"] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(dir.path().join("hirelake-demo/lake/lever/opportunities/tenant=acme").is_dir());
    }
    // What it leaves can be looked at.
    let status = run(dir.path(), &["--config", "hirelake-demo/hirelake.toml", "status", "--json"]).await;
    let status: Value = serde_json::from_str(&out(&status)).unwrap();
    assert_eq!(status.as_object().unwrap().keys().collect::<Vec<_>>(), ["acme", "globex"]);

    std::fs::create_dir(dir.path().join("mine")).unwrap();
    std::fs::write(dir.path().join("mine/thesis.txt"), "years of work").unwrap();
    let refused = run(dir.path(), &["demo", "--dir", "mine"]).await;
    assert_eq!(code(&refused), 2);
    insta::assert_snapshot!(err(&refused), @"
    error: mine holds something that no demo made
    hint: choose another --dir; nothing was touched
    ");
    assert_eq!(std::fs::read_to_string(dir.path().join("mine/thesis.txt")).unwrap(), "years of work");
}

/// Waits until the sandbox was asked for that.
async fn asked_for(bench: &Bench, route: &str) {
    let mut waited = 0;
    while !bench.control.stats().requests.contains_key(route) {
        assert!(waited < 200, "{route} was not asked for");
        waited += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a run ends with that is sent SIGTERM while it waits for new tokens, and how long it took to end.
async fn terminated_while_it_refreshes(bench: &Bench, args: &[&str]) -> Output {
    bench.control.reset_stats();
    bench.control.fault(fault("POST /oauth/token", 0, 0, Action::Delay { ms: 3_000 }));
    let child = program(bench.dir.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    asked_for(bench, "POST /oauth/token").await;
    let began = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(18), "it took {:?}", began.elapsed());
    bench.control.clear_faults();
    ended
}

/// The grant that is stored works, and needs no request for it.
async fn assert_saved(bench: &Bench) {
    bench.control.reset_stats();
    let done = run(bench.dir.path(), &["sync"]).await;
    assert_eq!((code(&done), bench.control.stats().token_requests), (0, 0), "{}", err(&done));
    bench.assert_right("acme").await;
}

#[tokio::test]
async fn a_terminated_keepalive_saves_the_tokens_it_waits_for() {
    let bench = connected(10).await;
    let ended = terminated_while_it_refreshes(&bench, &["keepalive", "--within", "90d"]).await;
    let summary: Value = serde_json::from_str(out(&ended).lines().last().unwrap()).unwrap();
    assert_eq!((code(&ended), &summary["refreshed"]), (0, &1.into()), "{}", err(&ended));
    assert!(err(&ended).contains("stopping: what was begun is brought to a safe end"), "{}", err(&ended));
    assert_saved(&bench).await;
}

#[tokio::test]
async fn a_terminated_check_saves_the_tokens_it_waits_for() {
    let bench = connected(10).await;
    bench.control.expire_access_tokens("acme");
    // The doctor asks the endpoint about the client first, with a code that nobody issued.
    bench.control.reset_stats();
    bench.control.fault(fault("POST /oauth/token", 1, 0, Action::Delay { ms: 3_000 }));
    let child = program(bench.dir.path(), &["check"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    let mut waited = 0;
    while bench.control.stats().requests.get("POST /oauth/token") != Some(&2) {
        assert!(waited < 200, "it did not refresh");
        waited += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(code(&ended), 0, "{}{}", out(&ended), err(&ended));
    bench.control.clear_faults();
    assert_saved(&bench).await;
}

#[tokio::test]
async fn a_terminated_connect_saves_the_tokens_it_waits_for() {
    let bench = connected(10).await;
    let scopes = hirelake::catalog::embedded().unwrap().oauth.scopes.join(" ");
    let seed = bench.control.grant("acme", CLIENT, &scopes).unwrap().refresh_token.unwrap();
    std::fs::write(bench.dir.path().join("seed"), seed).unwrap();
    let ended = terminated_while_it_refreshes(&bench, &["connect", "acme", "--refresh-token-file", "seed"]).await;
    assert_eq!((code(&ended), out(&ended).trim()), (0, "acme is connected"), "{}", err(&ended));
    assert!(err(&ended).contains("one moment: tokens are being exchanged and saved"), "{}", err(&ended));
    assert_saved(&bench).await;
}
