//! See `hirelake::fuzz::page`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hirelake::fuzz::page(data));
