//! `embed`: the embeddings of files.

use std::path::{Path, PathBuf};

use crate::{AudioEmbeddingModel, Track};
use anyhow::Result;
use serde_json::{Value, json};

use super::input::inputs;
use super::output::Output;
use super::progress;

/// Prints the embedding of each file as a line of JSON.
pub fn embed(model: &AudioEmbeddingModel, files: &[PathBuf], output: &mut Output) -> Result<()> {
    output.json = true;
    for input in inputs(files)? {
        progress::begin(format!("analysing {}", input.name.display()));
        match model.embed_file(&input.path) {
            Ok(track) => output.print(&to_json(model, &input.name, &track), "")?,
            Err(error) => output.failure(&error),
        }
    }
    Ok(())
}

fn to_json(model: &AudioEmbeddingModel, path: &Path, track: &Track) -> Value {
    json!({
        "path": path.to_string_lossy(),
        "version": model.version(),
        "duration_s": track.duration().as_secs_f64(),
        "silent": track.analysis().is_silent(),
        "damage": track.damage(),
        "embedding": track.analysis().embedding().as_slice(),
    })
}
