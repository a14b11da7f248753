//! `playlist`: the tracks nearest to given ones, in an order with short steps.

use std::path::{Path, PathBuf};

use crate::AudioEmbeddingModel;
use crate::duplicates::LibraryTrack;
use crate::playlist::{PlaylistOptions, playlist};
use anyhow::Result;
use serde_json::json;

use super::args::{ExcludeArgs, ListArgs};
use super::exclude::{Exclude, excluded};
use super::input::{Input, inputs};
use super::library::Library;
use super::list::TrackList;
use super::output::{Output, note};
use super::progress;

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
    let excluded = excluded(&library, &Exclude::read(exclude)?);
    let steps = steps(model, &library, &inputs(seeds)?, limits, excluded)?;
    let mut list = TrackList::new(list, output)?;
    for Step { position, distance, step } in steps {
        let value = json!({ "distance": distance, "step": step });
        list.print(&library.entries[position], &library.tracks[position], value, step)?;
    }
    Ok(())
}

/// A track of a playlist.
pub struct Step {
    /// In the library.
    pub position: usize,
    /// From the nearest seed.
    pub distance: f32,
    /// The distance from the track before, or from the first seed.
    pub step: f32,
}

/// A playlist from the tracks of the library, without the `excluded` ones.
pub fn steps(
    model: &AudioEmbeddingModel,
    library: &Library,
    seeds: &[Input],
    limits: Limits,
    excluded: Vec<usize>,
) -> Result<Vec<Step>> {
    let mut tracks = Vec::new();
    for input in seeds {
        tracks.extend(library.seeds(model, input)?.into_iter().map(|seed| seed.track));
    }
    progress::begin("selecting songs");
    let Limits { length, max_per_album, max_per_artist } = limits;
    let options = PlaylistOptions { length, max_per_album, max_per_artist, excluded };
    let positions = playlist(&library.tracks, &tracks, &options)?;
    if positions.is_empty() && length > 0 {
        note(&"the index has no other song that may be in the playlist");
    }
    let mut before = tracks[0].embedding;
    let step = |position: usize| {
        let embedding = library.tracks[position].embedding;
        let to_seed = |seed: &LibraryTrack| embedding.distance(&seed.embedding);
        let distance = tracks.iter().map(to_seed).fold(f32::INFINITY, f32::min);
        let step = embedding.distance(&std::mem::replace(&mut before, embedding));
        Step { position, distance, step }
    };
    Ok(positions.into_iter().map(step).collect())
}
