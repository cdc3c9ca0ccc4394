//! The C library's heap, set for a program whose threads hand to each other what they allocated.
//!
//! glibc gives nearly every thread an arena of its own, which keeps what was once freed in it: rows are decoded by one thread and written
//! by another, so that a run of ten threads held twice the memory that it used (`docs/performance.md`). It is told before a program
//! starts, and the crate has no unsafe code: so the program starts itself once more, in the same process.

/// Starts the program once more with few arenas. Does nothing where the C library is another one, where somebody has set the heap, or
/// where it cannot be done.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn settle() {
    use std::os::unix::process::CommandExt as _;

    const TUNABLES: &str = "GLIBC_TUNABLES";
    const OURS: &str = "glibc.malloc.";
    // A program with rights of its own (setcap) is started without the former: it must not start for ever.
    const DONE: &str = "_HIRELAKE_HEAP";
    let others = std::env::var_os(TUNABLES).filter(|o| !o.is_empty());
    let is_set = others.as_ref().is_some_and(|o| o.to_string_lossy().contains(OURS))
        // The same in older words: MALLOC_ARENA_MAX and others.
        || std::env::vars_os().any(|(name, _)| name == DONE || name.to_string_lossy().starts_with("MALLOC_"));
    let (false, Ok(program)) = (is_set, std::env::current_exe()) else { return };
    let arenas = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(4));
    let mut all = others.unwrap_or_default();
    if !all.is_empty() {
        all.push(":");
    }
    // A heap's end goes back to the system when 16 MiB are free there, not 128 KiB: it is taken again at once. What is larger than
    // 32 MiB has pages of its own.
    all.push(format!("{OURS}arena_max={arenas}:{OURS}trim_threshold=16777216:{OURS}mmap_threshold=33554432"));
    let mut words = std::env::args_os();
    let mut again = std::process::Command::new(program);
    if let Some(name) = words.next() {
        again.arg0(name);
    }
    // It returns only when it failed: then the program goes on as it is.
    let why = again.args(words).env(TUNABLES, all).env(DONE, "1").exec();
    tracing::debug!(%why, "the heap stays as it is");
}

/// As it is.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn settle() {}
