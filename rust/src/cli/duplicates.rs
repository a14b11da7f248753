//! `duplicates`: the tracks of the index that are the same recording.

use std::path::Path;

use crate::AudioEmbeddingModel;
use crate::duplicates::duplicates;
use anyhow::Result;
use serde_json::json;

use super::library::Library;
use super::numbers::count;
use super::output::{Output, note};
use super::progress;

/// Prints the groups of tracks that are the same recording.
pub fn print_duplicates(
    model: &AudioEmbeddingModel,
    index: &Path,
    max_distance: f32,
    output: &mut Output,
) -> Result<()> {
    let Library { entries, tracks } = Library::open(model, index)?;
    progress::begin(format!("comparing {}", count(tracks.len(), "song")));
    let groups = duplicates(&tracks, max_distance)?;
    if groups.is_empty() {
        note(&format!("no duplicates among {}", count(tracks.len(), "song")));
    }
    for group in groups {
        let first = &tracks[group[0]];
        let identical = group.iter().all(|&i| tracks[i].content_hash == first.content_hash);
        let title = if identical { "the same content:" } else { "the same recording:" };
        let mut lines = title.as_bytes().to_vec();
        for &i in &group {
            let distance = tracks[i].embedding.distance(&first.embedding);
            lines.extend(format!("\n  {distance:.4}  ").into_bytes());
            lines.extend(output.name(&entries[i].path));
            if let Some(section) = entries[i].section {
                lines.extend(format!("#{}", section.track).into_bytes());
            }
        }
        let paths: Vec<_> = group.iter().map(|&i| entries[i].path.to_string_lossy()).collect();
        output.print(&json!({ "identical": identical, "paths": paths }), lines)?;
    }
    Ok(())
}
