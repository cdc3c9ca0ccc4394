//! See `hirelake::fuzz::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hirelake::fuzz::token(data));
