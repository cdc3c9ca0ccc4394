//! See `hirelake::fuzz::state_entry`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hirelake::fuzz::state_entry(data));
