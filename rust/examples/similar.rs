//! Prints the files most similar to the first file, nearest first:
//! `cargo run --release --example similar -- a.mp3 b.flac c.ogg`.

use std::path::PathBuf;

use feelprint::neighbours::Neighbours;
use feelprint::{AudioEmbeddingModel, Error};

fn main() -> Result<(), Error> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(query) = paths.next() else {
        eprintln!("usage: similar QUERY FILE...");
        std::process::exit(2);
    };
    let model = AudioEmbeddingModel::load_default()?;
    let query = model.embed_file(query)?.analysis().embedding();
    let paths: Vec<_> = paths.collect();
    let mut library = Neighbours::default();
    for path in &paths {
        library.push(model.embed_file(path)?.analysis().embedding());
    }
    for neighbour in library.nearest(&query, 10) {
        println!("{:.4}  {}", neighbour.distance, paths[neighbour.index].display());
    }
    Ok(())
}
