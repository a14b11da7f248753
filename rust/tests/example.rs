//! The example `similar`.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Folder, piece, write_wav};

#[test]
fn the_example_prints_the_nearest_file_first() {
    let folder = Folder::new();
    let file = |name: &str, seed: u32| {
        let path = folder.path().join(name);
        write_wav(&path, 22_050, &[piece(seed, 22_050, 3.0)]);
        path
    };
    let (query, other, copy) = (file("query.wav", 1), file("other.wav", 2), file("copy.wav", 1));
    // Cargo puts examples beside the command.
    let bin = Path::new(env!("CARGO_BIN_EXE_feelprint"));
    let example = bin
        .with_file_name("examples")
        .join("similar")
        .with_extension(bin.extension().unwrap_or_default());
    assert!(example.exists(), "{}: run `cargo test`, which builds the examples", example.display());
    let output = Command::new(example).args([&query, &other, &copy]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], format!("0.0000  {}", copy.display()));
    assert!(lines[1].ends_with("other.wav"));
}
