//! `playlist`: the tracks nearest to a track, in an order with short steps.

use std::path::Path;

use anyhow::Result;
use feelprint::AudioEmbeddingModel;
use feelprint::playlist::{PlaylistOptions, playlist};
use serde_json::json;

use crate::library::Library;
use crate::output::Output;

/// Prints the playlist, with the distance from the track before.
pub fn print_playlist(
    model: &AudioEmbeddingModel,
    index: &Path,
    seed: &Path,
    options: &PlaylistOptions,
    output: &mut Output,
) -> Result<()> {
    let library = Library::open(model, index)?;
    let (seed, _) = library.track(model, seed)?;
    let mut before = seed.embedding;
    for position in playlist(&library.tracks, &seed, options)? {
        let path = &library.paths[position];
        let embedding = library.tracks[position].embedding;
        let distance = embedding.distance(&seed.embedding);
        let step = embedding.distance(&before);
        before = embedding;
        output.print(
            &json!({ "path": path, "distance": distance, "step": step }),
            &format!("{step:.4}  {path}"),
        )?;
    }
    Ok(())
}
