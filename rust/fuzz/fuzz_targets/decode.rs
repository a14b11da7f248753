//! Decoding any bytes gives samples or an error, never a crash or a hang.
//!
//! After `cargo install cargo-fuzz`, in `rust/`, with the stable toolchain:
//! `cargo fuzz run -O -s none decode -- -timeout=20 -rss_limit_mb=1024`. Seeds: short files of every
//! format in `fuzz/corpus/decode`. `-fork=1 -ignore_crashes=1` continues after panics of
//! dependencies. `cargo +nightly fuzz run decode` also finds memory errors and overflows.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The library turns a decoder's panic into an error; the fuzzer should report it. (libfuzzer-sys
    // aborts on any panic, caught or not.)
    if let Err(error) = feelprint::decode::decode_bytes(bytes.to_vec()) {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
});
