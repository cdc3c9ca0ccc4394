//! See `hirelake::fuzz::offsets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hirelake::fuzz::offsets(data));
