//! `similar`: the tracks nearest to given ones, from the index or from a folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::duplicates::LibraryTrack;
use crate::neighbours::{Neighbour, Neighbours};
use crate::{AudioEmbeddingModel, Embedding};
use anyhow::{Result, bail};
use rayon::prelude::*;

use super::args::{ExcludeArgs, ListArgs};
use super::exclude::{Exclude, excluded};
use super::input::{Input, inputs};
use super::library::{Entry, Library};
use super::list::{TrackList, distance_value};
use super::output::{Output, note};
use super::paths::full_path;
use super::progress;
use super::tags::read_tags;
use super::walk::walk;

/// Prints the tracks of the index that are nearest to one of `queries`.
pub fn similar(
    model: &AudioEmbeddingModel,
    index: &Path,
    queries: &[PathBuf],
    n: usize,
    exclude: &ExcludeArgs,
    list: &ListArgs,
    output: &mut Output,
) -> Result<()> {
    let library = Library::open(model, index)?;
    let excluded = excluded(&library, &Exclude::read(exclude)?);
    let nearest = nearest(model, &library, &inputs(queries)?, n, &excluded)?;
    let mut list = TrackList::new(list, output)?;
    for neighbour in nearest {
        let (song, track) = (&library.entries[neighbour.index], &library.tracks[neighbour.index]);
        list.print(song, track, distance_value(neighbour.distance), neighbour.distance)?;
    }
    Ok(())
}

/// The tracks of the library that are nearest to one of `queries`, without the `excluded` ones.
pub fn nearest(
    model: &AudioEmbeddingModel,
    library: &Library,
    queries: &[Input],
    n: usize,
    excluded: &[usize],
) -> Result<Vec<Neighbour>> {
    let mut left_out: HashSet<usize> = excluded.iter().copied().collect();
    let mut embeddings = Vec::new();
    for input in queries {
        for seed in library.seeds(model, input)? {
            embeddings.push(seed.track.embedding);
            left_out.extend(seed.position);
        }
    }
    let neighbours: Neighbours = library.tracks.iter().map(|track| track.embedding).collect();
    let nearest = neighbours.nearest_to_any(&embeddings, n, |at| !left_out.contains(&at));
    if nearest.is_empty() && n > 0 {
        note(&"the index has no other song to compare with");
    }
    Ok(nearest)
}

/// Prints the files of `folder` that are nearest to one of `queries`.
pub fn similar_in_folder(
    model: &AudioEmbeddingModel,
    queries: &[PathBuf],
    folder: &Path,
    n: usize,
    list: &ListArgs,
    output: &mut Output,
) -> Result<()> {
    let mut embeddings: Vec<Embedding> = Vec::new();
    let mut itself = HashSet::new();
    for input in inputs(queries)? {
        progress::begin(format!("analysing {}", input.name.display()));
        embeddings.push(model.embed_file(&input.path)?.analysis().embedding());
        itself.insert(full_path(&input.path)?);
    }
    let mut found = walk(&full_path(folder)?, &[])?;
    for problem in &found.unreadable {
        output.failure(problem);
    }
    if found.files.is_empty() {
        bail!("{}: {}", folder.display(), found.nothing());
    }
    if let Some(unsupported) = found.unsupported() {
        note(&unsupported);
    }
    found.files.retain(|path| !itself.contains(path));
    progress::begin_of("analysing songs", found.files.len() as u64);
    let embed = |path: &PathBuf| {
        let track = model.embed_file(path);
        progress::advance(1);
        track
    };
    let tracks: Vec<_> = found.files.par_iter().map(embed).collect();
    let mut songs = Vec::new();
    let mut neighbours = Neighbours::default();
    for (path, track) in found.files.into_iter().zip(tracks) {
        match track {
            Ok(track) => {
                neighbours.push(track.analysis().embedding());
                songs.push((path, track.duration().as_secs_f64()));
            }
            Err(error) => output.failure(&error),
        }
    }
    let nearest = neighbours.nearest_to_any(&embeddings, n, |_| true);
    if nearest.is_empty() && n > 0 {
        note(&format!("{}: no other song there to compare with", folder.display()));
    }
    let mut list = TrackList::new(list, output)?;
    for neighbour in nearest {
        let (path, duration_s) = songs[neighbour.index].clone();
        let tags = read_tags(&path);
        let track = LibraryTrack {
            embedding: neighbours.get(neighbour.index).expect("the neighbour is in the list"),
            content_hash: [0; 32],
            duration_s,
            silent: false,
            album: String::new(),
            artist: tags.artist.unwrap_or_default(),
        };
        let song = Entry { path, section: None, title: tags.title };
        list.print(&song, &track, distance_value(neighbour.distance), neighbour.distance)?;
    }
    Ok(())
}
