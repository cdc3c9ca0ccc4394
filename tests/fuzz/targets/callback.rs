//! See `hirelake::fuzz::callback`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hirelake::fuzz::callback(data));
