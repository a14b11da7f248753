//! `playlist`: the tracks nearest to given ones, in an order with short steps.

use std::path::{Path, PathBuf};

use anyhow::Result;
use feelprint::AudioEmbeddingModel;
use feelprint::playlist::{PlaylistOptions, playlist};
use serde_json::json;

use crate::args::{ExcludeArgs, ListArgs};
use crate::exclude::excluded;
use crate::input::inputs;
use crate::library::Library;
use crate::list::TrackList;
use crate::output::{Output, note};
use crate::progress;

/// How many tracks there are at most.
#[derive(Clone, Copy)]
pub struct Limits {
    pub length: usize,
    pub max_per_album: Option<usize>,
    pub max_per_artist: Option<usize>,
}

/// Prints the playlist, with the distance from the track before.
pub fn print_playlist(
    model: &AudioEmbeddingModel,
    index: &Path,
    seeds: &[PathBuf],
    limits: Limits,
    exclude: &ExcludeArgs,
    list: &ListArgs,
    output: &mut Output,
) -> Result<()> {
    let library = Library::open(model, index)?;
    let mut tracks = Vec::new();
    for input in inputs(seeds)? {
        tracks.extend(library.seeds(model, &input)?.into_iter().map(|seed| seed.track));
    }
    progress::begin("selecting songs");
    let Limits { length, max_per_album, max_per_artist } = limits;
    let excluded = excluded(&library, exclude)?;
    let options = PlaylistOptions { length, max_per_album, max_per_artist, excluded };
    let positions = playlist(&library.tracks, &tracks, &options)?;
    if positions.is_empty() && length > 0 {
        note(&"the index has no other song that may be in the playlist");
    }
    let mut list = TrackList::new(list, output)?;
    let mut before = tracks[0].embedding;
    for position in positions {
        let track = &library.tracks[position];
        let to_seed =
            |seed: &feelprint::duplicates::LibraryTrack| track.embedding.distance(&seed.embedding);
        let distance = tracks.iter().map(to_seed).fold(f32::INFINITY, f32::min);
        let step = track.embedding.distance(&before);
        before = track.embedding;
        let value = json!({ "distance": distance, "step": step });
        list.print(&library.entries[position], track, value, step)?;
    }
    Ok(())
}
