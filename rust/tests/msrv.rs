//! No dependency needs a newer Rust than `rust-version`. (Clippy's `incompatible_msrv` checks the
//! crate's own code.)

use std::process::Command;

#[test]
fn no_dependency_needs_a_newer_rust() {
    // Dependencies for other systems are not downloaded, and not checked.
    let about = Command::new(env!("CARGO")).arg("-vV").output().unwrap();
    let about = String::from_utf8(about.stdout).unwrap();
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let done = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let version =
        |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    let ours = version(env!("CARGO_PKG_RUST_VERSION"));
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50);
    for package in packages {
        if let Some(wanted) = package["rust_version"].as_str() {
            assert!(version(wanted) <= ours, "{} wants Rust {wanted}", package["id"]);
        }
    }
}
