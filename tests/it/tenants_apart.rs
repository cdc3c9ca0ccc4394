//! What happens to one tenant is no other's business.

use std::time::Duration;

use hirelake::names::RunId;
use hirelake::report::ExitCode;
use hirelake::sandbox::{AccountSize, Action, Fault};
use hirelake::sync::{LastRun, Options};
use insta::assert_snapshot;

use crate::harness::{Bench, Setup, tenant};

async fn two() -> Bench {
    let accounts = vec![AccountSize::new("acme", 120), AccountSize::new("birch", 60)];
    let bench = Setup { accounts, latency: Duration::from_millis(200), ..Setup::default() }.start().await;
    bench.connect("acme").await;
    bench.connect("birch").await;
    bench.pass(Duration::from_secs(3600)).await;
    bench
}

/// How long the tenant's part of the newest run took, from its beginning.
async fn took(bench: &Bench, name: &str, started: hirelake::clock::Timestamp) -> Duration {
    bench.state().runs(&tenant(name)).last::<LastRun>().await.unwrap().unwrap().body.ended.since(started)
}

#[tokio::test(start_paused = true)]
async fn a_dead_grant_disturbs_nobody_else() {
    let bench = two().await;
    bench.control.revoke("birch");
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    assert!(report.tenants[&tenant("acme")].failures.is_empty());
    assert_eq!(report.tenants[&tenant("birch")].failures[0].code, ExitCode::Reconnect);
    bench.assert_right("acme").await;
    assert!(bench.batches("birch", "opportunities").await.is_empty());
    let failed: serde_json::Value = serde_json::from_str(&report.summary()).unwrap();
    assert_eq!((&failed["exit"], &failed["failed"]), (&3.into(), &serde_json::json!(["birch"])));
}

#[tokio::test(start_paused = true)]
async fn an_outage_for_one_does_not_delay_another() {
    let alone = {
        let bench = two().await;
        let report = bench.sync_with(Options::default()).await;
        took(&bench, "acme", report.started).await
    };
    for route in ["GET /v1/", "POST /oauth/token"] {
        let bench = two().await;
        let action = Action::Status { code: 503, body: None, retry_after: Some("90".into()) };
        bench.control.fault(Fault { route: route.into(), account: Some("birch".into()), skip: 0, times: 0, action });
        let report = bench.sync_with(Options::default()).await;
        assert_eq!(report.code, ExitCode::Partial, "{route}");
        assert!(report.tenants[&tenant("birch")].failures.iter().all(|f| f.code == ExitCode::Provider));
        bench.assert_right("acme").await;
        let acme = took(&bench, "acme", report.started).await;
        assert!(acme <= alone + Duration::from_secs(1), "{route}: {acme:?}, and {alone:?} alone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_state_stops_its_own_tenant_only() {
    let bench = two().await;
    let folder = bench.dir.path().join("state/grants/birch");
    let newest = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    std::fs::write(&newest, "{\"n\": 1, \"non").unwrap();
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    assert_snapshot!(report.tenants[&tenant("birch")].failures[0], @r"
    state entry grants/birch/999999999999998.json cannot be read: it is cut short at line 1, column 13
    hint: the entry was changed or cut by something else than hirelake; restore it from a backup, or move it away so that the entry before it counts again (of a grant: its token may be used up, and then the tenant must connect again)
    ");
    bench.assert_right("acme").await;
    assert_eq!(std::fs::read_to_string(&newest).unwrap(), "{\"n\": 1, \"non", "nothing is reset");
}

#[tokio::test(start_paused = true)]
async fn of_two_runs_on_one_tenant_one_works_and_the_other_is_told_so_at_once() {
    let bench = two().await;
    let only = || Options { tenants: vec![tenant("acme")], ..Options::default() };
    let late = async {
        bench.pass(Duration::from_millis(50)).await;
        bench.sync_with(only()).await
    };
    let (works, busy) = tokio::join!(bench.sync_with(only()), late);
    assert_eq!((works.code, busy.code), (ExitCode::Done, ExitCode::Busy));
    assert!(busy.ended.since(busy.started) < Duration::from_millis(100));
    let said = busy.troubles().join("\n");
    assert!(said.contains(&format!("run {} ", works.run)), "{said}");
    bench.assert_right("acme").await;
    // Also when both begin in one moment.
    let (one, other) = tokio::join!(bench.sync_with(only()), bench.sync_with(only()));
    let mut codes = [one.code, other.code];
    codes.sort();
    assert_eq!(codes, [ExitCode::Done, ExitCode::Busy]);
    // Its hold ends with it.
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_tenant_leaves_the_others_their_sync() {
    let bench = two().await;
    let held = bench.state().lease(&tenant("birch"), RunId::new()).await.unwrap();
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    assert_eq!(report.tenants[&tenant("birch")].failures[0].code, ExitCode::Busy);
    bench.assert_right("acme").await;
    held.release().await.unwrap();
    bench.sync().await;
    bench.assert_right("birch").await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_begins_no_further_tenant() {
    let names = ["acme", "birch", "cedar", "dogwood"];
    let accounts = names.iter().map(|n| AccountSize::new(*n, 60)).collect();
    let config = "tenants_at_once = 1".to_owned();
    let bench = Setup { accounts, config, latency: Duration::from_millis(400), ..Setup::default() }.start().await;
    for name in names {
        bench.connect(name).await;
    }
    bench.pass(Duration::from_secs(3600)).await;
    bench.control.reset_stats();
    let options = Options { deadline: Some(Duration::from_millis(600)), ..Options::default() };
    let report = bench.sync_with(options).await;
    assert_eq!(report.code, ExitCode::Stopped, "{}", report.troubles().join("\n"));
    assert_eq!(bench.control.stats().token_requests, 1, "no grant was refreshed for nothing");
    assert!(names.iter().all(|n| report.tenants[&tenant(n)].stopped), "each is told to be unfinished");
    bench.sync().await;
    for name in names {
        bench.assert_right(name).await;
    }
}

/// Tenants of a fleet, so many; every tenth is the provider's problem child.
const FLEET: usize = 40;

/// When the last of those that are well was done, when `route` fails for every tenth.
async fn fleet(route: Option<&str>) -> Duration {
    let names: Vec<String> = (0..FLEET).map(|i| format!("t{i:02}")).collect();
    let accounts = names.iter().map(|n| AccountSize::new(n, 200)).collect();
    let rate = Some(hirelake::sandbox::Limit { per_second: 10.0, burst: 20 });
    let latency = Duration::from_millis(100);
    let bench = Setup { accounts, rate, latency, defaults: String::new(), ..Setup::default() }.start().await;
    for name in &names {
        bench.connect(name).await;
    }
    bench.pass(Duration::from_secs(3600)).await;
    let (ill, well): (Vec<_>, Vec<_>) = names.iter().enumerate().partition(|(i, _)| i % 10 == 5);
    for (_, name) in ill.iter().filter(|_| route.is_some()) {
        let action = Action::Status { code: 503, body: None, retry_after: None };
        let route = route.unwrap_or_default().into();
        bench.control.fault(Fault { route, account: Some((*name).clone()), skip: 0, times: 0, action });
    }
    let report = bench.sync_with(Options::default()).await;
    let mut all = Duration::ZERO;
    for (_, name) in &well {
        assert!(
            report.tenants[&tenant(name)].failures.is_empty(),
            "{name}: {:?}",
            report.tenants[&tenant(name)].failures
        );
        all = all.max(took(&bench, name, report.started).await);
    }
    for (_, name) in &ill {
        assert_eq!(report.tenants[&tenant(name)].failures.is_empty(), route.is_none(), "{name}");
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_tenth_of_the_tenants_failing_hardly_slows_the_others() {
    let without = fleet(None).await;
    for route in ["GET /v1/", "POST /oauth/token", "GET /v1/opportunities"] {
        let with = fleet(Some(route)).await;
        assert!(with.as_secs_f64() < 1.05 * without.as_secs_f64(), "{route} fails: {with:?}, without {without:?}");
    }
}
