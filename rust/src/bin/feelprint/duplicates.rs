//! `duplicates`: the files of the index that are the same recording.

use std::path::Path;

use anyhow::Result;
use feelprint::AudioEmbeddingModel;
use feelprint::duplicates::duplicates;
use serde_json::json;

use crate::library::Library;
use crate::output::Output;

/// Prints the groups of files that are the same recording.
pub fn print_duplicates(
    model: &AudioEmbeddingModel,
    index: &Path,
    max_distance: f32,
    output: &mut Output,
) -> Result<()> {
    let Library { paths, tracks } = Library::open(model, index)?;
    for group in duplicates(&tracks, max_distance)? {
        let first = &tracks[group[0]];
        let identical = group.iter().all(|&i| tracks[i].content_hash == first.content_hash);
        let title = if identical { "the same content:" } else { "the same recording:" };
        let mut lines = vec![title.to_string()];
        for &i in &group {
            let distance = tracks[i].embedding.distance(&first.embedding);
            lines.push(format!("  {distance:.4}  {}", paths[i]));
        }
        let paths: Vec<_> = group.iter().map(|&i| &paths[i]).collect();
        output.print(&json!({ "identical": identical, "paths": paths }), &lines.join("\n"))?;
    }
    Ok(())
}
