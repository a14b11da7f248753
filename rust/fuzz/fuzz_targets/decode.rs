//! Any bytes: samples or an error, never a crash, never a hang.
//!
//! After `cargo install cargo-fuzz`, in `rust/`, with the stable toolchain:
//! `cargo fuzz run -O -s none decode -- -timeout=20 -rss_limit_mb=1024`. Seeds: put short songs of
//! every format into `fuzz/corpus/decode`. `-fork=1 -ignore_crashes=1` goes on past the panics of
//! dependencies. With `cargo +nightly fuzz run decode` instead, memory errors and overflows show
//! too.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // A decoder's panic is contained by the library; here it must show. (libfuzzer-sys aborts on
    // any panic, contained or not.)
    if let Err(error) = feelprint::decode::decode_bytes(bytes.to_vec()) {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
});
