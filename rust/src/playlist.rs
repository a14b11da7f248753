//! Playlists: the nearest tracks, in an order with short steps.
//!
//! ```
//! use feelprint::Embedding;
//! use feelprint::duplicates::LibraryTrack;
//! use feelprint::playlist::{PlaylistOptions, playlist};
//!
//! let track = |value: f32, album: &str| LibraryTrack {
//!     embedding: Embedding([value; 32]),
//!     // In a real library, `feelprint::duplicates::content_hash(path)`.
//!     content_hash: blake3::hash(&value.to_le_bytes()).into(),
//!     duration_s: 200.0,
//!     silent: false,
//!     album: album.to_string(),
//! };
//! let library = [track(0.5, "a"), track(0.3, "b"), track(0.4, "c"), track(0.31, "a")];
//! let options = PlaylistOptions { length: 2, max_per_album: Some(1) };
//! // The seed is itself of album "a", and may be in the library.
//! assert_eq!(playlist(&library, &library[0], &options)?, [2, 1]);
//! # Ok::<(), feelprint::Error>(())
//! ```

use std::collections::HashMap;

use crate::duplicates::{LibraryTrack, MAX_DISTANCE};
use crate::embeddings::Embedding;
use crate::error::{Error, Result};
use crate::neighbours::Neighbours;

/// How many neighbours are searched per track that is to be selected, and by how much their number
/// grows while they do not suffice.
const SEARCH_FACTOR: usize = 4;

/// The least decrease of the path's length that counts as an improvement.
const MIN_IMPROVEMENT: f32 = 1e-6;

/// The options of [`playlist`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaylistOptions {
    /// The number of tracks; the playlist is shorter if the library does not have enough.
    pub length: usize,
    /// The largest number of tracks of one album, the seed included; `None` is no limit.
    pub max_per_album: Option<usize>,
}

impl Default for PlaylistOptions {
    /// 20 tracks, no limit per album.
    fn default() -> Self {
        Self { length: 20, max_per_album: None }
    }
}

/// A playlist of the tracks nearest to `seed`, as indices into `tracks` in playing order.
///
/// Each recording is in it once, and that of `seed` is not (see
/// [`LibraryTrack::is_same_recording`]), so that `seed` may be one of `tracks`. The order starts
/// near `seed` and has short steps from track to track.
///
/// # Errors
///
/// Fails if `max_per_album` is 0.
pub fn playlist(
    tracks: &[LibraryTrack],
    seed: &LibraryTrack,
    options: &PlaylistOptions,
) -> Result<Vec<usize>> {
    if options.max_per_album == Some(0) {
        return Err(Error::argument("max_per_album is 0, expected at least 1"));
    }
    let selected = select(tracks, seed, options);
    let embeddings: Vec<_> = selected.iter().map(|&index| tracks[index].embedding).collect();
    let mut path = greedy_path(&seed.embedding, &embeddings);
    two_opt(&seed.embedding, &embeddings, &mut path);
    Ok(path.into_iter().map(|step| selected[step]).collect())
}

/// The nearest tracks that the options allow, nearest first.
fn select(tracks: &[LibraryTrack], seed: &LibraryTrack, options: &PlaylistOptions) -> Vec<usize> {
    let neighbours: Neighbours = tracks.iter().map(|track| track.embedding).collect();
    let mut n = options.length.saturating_mul(SEARCH_FACTOR);
    loop {
        let nearest = neighbours.nearest(&seed.embedding, n);
        let mut selected: Vec<usize> = Vec::new();
        let mut per_album = HashMap::from([(seed.album.as_str(), 1)]);
        for neighbour in &nearest {
            if selected.len() == options.length {
                break;
            }
            let track = &tracks[neighbour.index];
            let count = per_album.entry(&track.album).or_default();
            let mut before = selected.iter().map(|&index| &tracks[index]).chain([seed]);
            if options.max_per_album.is_none_or(|max| *count < max)
                && !before.any(|before| track.is_same_recording(before, MAX_DISTANCE))
            {
                *count += 1;
                selected.push(neighbour.index);
            }
        }
        if selected.len() == options.length || nearest.len() < n {
            return selected;
        }
        n = n.saturating_mul(SEARCH_FACTOR);
    }
}

/// A path from `start` through `points` that always goes to the nearest remaining point.
fn greedy_path(start: &Embedding, points: &[Embedding]) -> Vec<usize> {
    let mut remaining: Vec<usize> = (0..points.len()).collect();
    let mut path = Vec::with_capacity(points.len());
    let mut here = *start;
    while let Some(nearest) = (0..remaining.len()).min_by(|&a, &b| {
        here.distance(&points[remaining[a]]).total_cmp(&here.distance(&points[remaining[b]]))
    }) {
        let point = remaining.remove(nearest);
        here = points[point];
        path.push(point);
    }
    path
}

/// Shortens a path from `start` through `points` by 2-opt: sections of it are reversed until no
/// reversal makes it shorter. (G. A. Croes, "A method for solving traveling-salesman problems",
/// Operations Research 6, 1958.)
fn two_opt(start: &Embedding, points: &[Embedding], path: &mut [usize]) {
    let step_into = |path: &[usize], position: usize, to: usize| {
        let before = if position == 0 { start } else { &points[path[position - 1]] };
        before.distance(&points[to])
    };
    let mut improved = true;
    while improved {
        improved = false;
        for i in 0..path.len() {
            for j in i + 1..path.len() {
                // Reversing path[i..=j] changes the step into it and the step out of it.
                let mut old = step_into(path, i, path[i]);
                let mut new = step_into(path, i, path[j]);
                if j + 1 < path.len() {
                    old += points[path[j]].distance(&points[path[j + 1]]);
                    new += points[path[i]].distance(&points[path[j + 1]]);
                }
                if new < old - MIN_IMPROVEMENT {
                    path[i..=j].reverse();
                    improved = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(value: f32, album: &str) -> LibraryTrack {
        LibraryTrack {
            embedding: Embedding([value; 32]),
            content_hash: *blake3::hash(&value.to_le_bytes()).as_bytes(),
            duration_s: 100.0,
            silent: false,
            album: album.to_string(),
        }
    }

    /// 40 tracks of two albums, farther and farther from 0.
    fn library() -> Vec<LibraryTrack> {
        let album = |i: i32| if i <= 30 { "near" } else { "far" };
        (1..=40).map(|i| track(i as f32 / 10.0, album(i))).collect()
    }

    fn options(length: usize, max_per_album: Option<usize>) -> PlaylistOptions {
        PlaylistOptions { length, max_per_album }
    }

    #[test]
    fn it_holds_the_nearest_tracks_each_once() {
        let (tracks, seed) = (library(), track(0.0, "seed"));
        let list = playlist(&tracks, &seed, &options(5, None)).unwrap();
        assert_eq!(list, [0, 1, 2, 3, 4]);
        // A library that is too small gives all that it has.
        assert_eq!(playlist(&tracks, &seed, &options(100, None)).unwrap().len(), 40);
        assert!(playlist(&tracks, &seed, &options(0, None)).unwrap().is_empty());
        assert!(playlist(&[], &seed, &options(5, None)).unwrap().is_empty());
    }

    #[test]
    fn the_seed_and_other_files_of_a_recording_are_left_out() {
        let mut tracks = library();
        tracks.push(LibraryTrack { content_hash: [1; 32], ..tracks[1].clone() });
        let list = playlist(&tracks, &tracks[0], &options(3, None)).unwrap();
        // Indices 1 and 40 are one recording; the first of them is taken.
        assert_eq!(list, [1, 2, 3]);
    }

    #[test]
    fn the_search_goes_on_where_albums_are_full() {
        let seed = track(0.0, "seed");
        let list = playlist(&library(), &seed, &options(3, Some(2))).unwrap();
        assert_eq!(list, [0, 1, 30]);
        // The seed counts as a track of its album.
        let seed = track(0.0, "near");
        let list = playlist(&library(), &seed, &options(3, Some(2))).unwrap();
        assert_eq!(list, [0, 30, 31]);
        let error = playlist(&library(), &seed, &options(3, Some(0))).unwrap_err();
        assert!(error.is_argument() && error.to_string().contains("max_per_album"), "{error}");
    }

    #[test]
    fn two_opt_shortens_a_path() {
        let on_a_line = |x: f32| {
            let mut point = Embedding::default();
            point.0[0] = x;
            point
        };
        let start = on_a_line(0.0);
        let points = [1.0, -1.1, 3.0, -5.5].map(on_a_line);
        assert_eq!(greedy_path(&start, &points), [0, 2, 1, 3]);
        // 2-opt gets there from a longer path too.
        let mut path = [3, 0, 1, 2];
        two_opt(&start, &points, &mut path);
        assert_eq!(path, [0, 2, 1, 3]);
    }
}
