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

#[tokio::test(start_paused = true)]
async fn settings_come_back_equal_too_whatever_their_envelope() {
    let bench = Setup::new(40).start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench.assert_right("acme").await;
    assert_eq!(bench.living("acme", "audit_events").await.len(), 230);

    let control = &bench.control;
    let event = control.add_audit_event("acme").unwrap();
    control.remove_stage("acme", "lead-responded");
    let hook = control.dump("acme", "webhooks").unwrap()[0]["id"].as_str().unwrap().to_owned();
    let template = control.dump("acme", "feedback_templates").unwrap()[0]["id"].as_str().unwrap().to_owned();
    assert!(control.set_field("acme", "feedback_templates", &template, "text", "Renamed".into(), true));
    // What is not declared of a webhook could be its secret: it is nowhere.
    assert!(control.set_field("acme", "webhooks", &hook, "signatureToken", "canary-signature".into(), true));
    bench.pass(Duration::from_secs(600)).await;
    control.reset_stats();
    bench.sync().await;
    bench.assert_right("acme").await;
    assert!(bench.living("acme", "audit_events").await.contains_key(&event));
    assert!(!bench.living("acme", "disposition_stages").await.contains_key("lead-responded"));
    assert_eq!(control.stats().requests["GET /v1/audit_events"], 1, "the log is read from where it was left");
    let held = |bytes: &Vec<u8>| bytes.windows(16).any(|w| w == b"canary-signature");
    assert!(!bench.files().values().any(held));
}
