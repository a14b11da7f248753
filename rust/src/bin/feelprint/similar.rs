//! `embed` and `similar`: songs as embeddings, and the nearest of them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use feelprint::AudioEmbeddingModel;
use feelprint::decode::Song;
use feelprint::neighbours::Neighbours;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::files::{audio_files, full_path};
use crate::output::Output;

/// Prints the embedding of each file as a line of JSON.
pub fn embed(model: &AudioEmbeddingModel, files: &[PathBuf], output: &mut Output) -> Result<()> {
    output.json = true;
    for path in files {
        match model.embed_file(path) {
            Ok(song) => output.print(&as_json(model, path, &song), "")?,
            Err(error) => output.failure(&error),
        }
    }
    Ok(())
}

fn as_json(model: &AudioEmbeddingModel, path: &Path, song: &Song) -> Value {
    json!({
        "path": path.to_string_lossy(),
        "version": model.version(),
        "duration_s": song.duration().as_secs_f64(),
        "silent": song.heard().is_silent(),
        "damage": song.damage(),
        "embedding": song.heard().embedding().as_slice(),
    })
}

/// Prints the files of `folder` that are nearest to `song`.
pub fn in_folder(
    model: &AudioEmbeddingModel,
    song: &Path,
    folder: &Path,
    n: usize,
    output: &mut Output,
) -> Result<()> {
    let to = model.embed_file(song)?.heard().embedding();
    let itself = full_path(song)?;
    let mut files = audio_files(folder)?;
    files.retain(|path| path.canonicalize().is_ok_and(|path| path != itself));
    let heard: Vec<_> = files.par_iter().map(|path| model.embed_file(path)).collect();
    let mut songs = Vec::new();
    let mut neighbours = Neighbours::default();
    for (path, heard) in files.into_iter().zip(heard) {
        match heard {
            Ok(song) => {
                neighbours.push(song.heard().embedding());
                songs.push(path);
            }
            Err(error) => output.failure(&error),
        }
    }
    for found in neighbours.nearest(&to, n) {
        let path = songs[found.place].to_string_lossy();
        let value = json!({ "path": path, "distance": found.distance });
        output.print(&value, &format!("{:.4}  {path}", found.distance))?;
    }
    Ok(())
}
