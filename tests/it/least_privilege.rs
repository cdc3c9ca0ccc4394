//! What lies on this machine is for its owner: the state, what is spilled, the keys.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::sandbox::Action;
use hirelake::sync::{Options, World};

use crate::harness::{Bench, Setup, fault};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The same world with a scratch folder that is there already and open to everybody, as `/tmp` is.
fn with_open_scratch(bench: &Bench) -> (World, PathBuf) {
    let scratch = bench.dir.path().join("tmp");
    std::fs::create_dir(&scratch).unwrap();
    open_to_all(&scratch);
    let mut config = Config::clone(&bench.world.config);
    config.scratch.clone_from(&scratch);
    (World { config: Arc::new(config), ..bench.world.clone() }, scratch)
}

#[tokio::test(start_paused = true)]
async fn rows_are_spilled_where_only_their_owner_looks() {
    let bench = Setup::new(20).start().await;
    bench.connect("acme").await;
    let (world, scratch) = with_open_scratch(&bench);
    bench.control.fault(fault("GET /v1/users", 0, 0, Action::Delay { ms: 30_000 }));
    let looked = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let inside: Vec<PathBuf> = std::fs::read_dir(&scratch).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(!inside.is_empty(), "nothing was spilled while a listing was under way");
        inside.iter().map(|path| (path.clone(), mode(path))).collect::<Vec<_>>()
    };
    let options = Options::default();
    let (report, inside) = tokio::join!(hirelake::sync::run(&world, &options), looked);
    assert!(report.unwrap().troubles().is_empty());
    for (path, mode) in inside {
        assert_eq!(mode & 0o077, 0, "{} has {mode:o}", path.display());
    }
}

#[tokio::test(start_paused = true)]
async fn the_state_is_shut_to_others() {
    let bench = Setup::new(20).start().await;
    let root = bench.dir.path().join("state");
    assert_eq!(mode(&root), 0o700, "a new one");
    bench.connect("acme").await;
    bench.sync().await;
    let inside = crate::harness::files(&root);
    assert!(inside.len() > 50, "{} files", inside.len());
    for path in inside.into_keys() {
        let path = root.join(path);
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    // One that an older version made, or somebody opened: a group of its own may still look, and nobody else.
    open_to_all(&root);
    World::open(bench.world.config.clone(), Clock::system()).unwrap();
    assert_eq!(mode(&root), 0o750, "an old one");
    // The lake is for its readers.
    assert_ne!(mode(&bench.dir.path().join("lake")) & 0o044, 0, "the umask of this test lets nobody read");
    bench.sync().await;
}
