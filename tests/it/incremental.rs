//! The next run asks only for what changed, and the lake is right after every one.

use std::time::Duration;

use crate::harness::Setup;

#[tokio::test(start_paused = true)]
async fn every_resource_comes_back_equal_after_a_first_load_and_after_changes() {
    let bench = Setup::new(700).start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench.assert_right("acme").await;

    let control = &bench.control;
    let edited = control.edit("acme", 25, 3);
    control.add("acme", 7);
    control.archive("acme", &edited[0]);
    control.anonymize("acme", &edited[1]);
    bench.pass(Duration::from_secs(600)).await;
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    assert_eq!(report.tenants.values().next().unwrap().resources["opportunities"].mode, "increment");
    assert_eq!(control.stats().refused_429, 0);
}
