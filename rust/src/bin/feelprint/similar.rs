//! `similar`: the tracks nearest to a track, from the index or from a folder.

use std::path::Path;

use anyhow::Result;
use feelprint::AudioEmbeddingModel;
use feelprint::neighbours::Neighbours;
use rayon::prelude::*;
use serde_json::json;

use crate::files::{audio_files, full_path};
use crate::library::Library;
use crate::output::Output;

/// Prints the tracks of the index that are nearest to `query`.
pub fn similar(
    model: &AudioEmbeddingModel,
    index: &Path,
    query: &Path,
    n: usize,
    output: &mut Output,
) -> Result<()> {
    let library = Library::open(model, index)?;
    let (track, itself) = library.track(model, query)?;
    let neighbours: Neighbours = library.tracks.iter().map(|track| track.embedding).collect();
    for neighbour in neighbours.nearest_where(&track.embedding, n, |index| Some(index) != itself) {
        print(&library.paths[neighbour.index], neighbour.distance, output)?;
    }
    Ok(())
}

/// Prints the files of `folder` that are nearest to `query`.
pub fn similar_in_folder(
    model: &AudioEmbeddingModel,
    query: &Path,
    folder: &Path,
    n: usize,
    output: &mut Output,
) -> Result<()> {
    let embedding = model.embed_file(query)?.analysis().embedding();
    let itself = full_path(query)?;
    let mut files = audio_files(folder)?;
    files.retain(|path| path.canonicalize().is_ok_and(|path| path != itself));
    let tracks: Vec<_> = files.par_iter().map(|path| model.embed_file(path)).collect();
    let mut paths = Vec::new();
    let mut neighbours = Neighbours::default();
    for (path, track) in files.into_iter().zip(tracks) {
        match track {
            Ok(track) => {
                neighbours.push(track.analysis().embedding());
                paths.push(path);
            }
            Err(error) => output.failure(&error),
        }
    }
    for neighbour in neighbours.nearest(&embedding, n) {
        print(&paths[neighbour.index].to_string_lossy(), neighbour.distance, output)?;
    }
    Ok(())
}

fn print(path: &str, distance: f32, output: &mut Output) -> Result<()> {
    let value = json!({ "path": path, "distance": distance });
    output.print(&value, &format!("{distance:.4}  {path}"))
}
