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
//!     artist: String::new(),
//! };
//! let library = [track(0.5, "a"), track(0.3, "b"), track(0.4, "c"), track(0.31, "a")];
//! let options = PlaylistOptions { length: 2, max_per_album: Some(1), ..Default::default() };
//! // The seed is itself of album "a", and may be in the library.
//! assert_eq!(playlist(&library, &library[..1], &options)?, [2, 1]);
//! # Ok::<(), feelprint::Error>(())
//! ```

use std::collections::{HashMap, HashSet};

use crate::duplicates::{LibraryTrack, MAX_DISTANCE};
use crate::embeddings::Embedding;
use crate::error::{Error, Result};
use crate::neighbours::{Neighbour, Neighbours};

/// How many neighbours are searched per track that is to be selected, and by how much their number
/// grows while they do not suffice.
const SEARCH_FACTOR: usize = 4;

/// The least decrease of the path's length that counts as an improvement.
const MIN_IMPROVEMENT: f32 = 1e-6;

/// The options of [`playlist`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaylistOptions {
    /// The number of tracks; the playlist is shorter if the library does not have enough.
    pub length: usize,
    /// The largest number of tracks of one album, the seeds included; `None` is no limit. Tracks
    /// without an album are not limited.
    pub max_per_album: Option<usize>,
    /// The largest number of tracks of one artist, the seeds included; `None` is no limit. Tracks
    /// without an artist are not limited.
    pub max_per_artist: Option<usize>,
    /// Indices of tracks that are left out, and with them all files of their recordings.
    pub excluded: Vec<usize>,
}

impl Default for PlaylistOptions {
    /// 20 tracks, no limit per album or artist, nothing left out.
    fn default() -> Self {
        Self { length: 20, max_per_album: None, max_per_artist: None, excluded: Vec::new() }
    }
}

/// A playlist of the tracks nearest to the `seeds`, as indices into `tracks` in playing order.
///
/// Several seeds take turns: each selects its nearest track that is not selected yet, so that all
/// have about equally many tracks near them.
///
/// Each recording is in the playlist once, and those of the seeds are not (see
/// [`LibraryTrack::is_same_recording`]), so that the seeds may be among `tracks`. The order starts
/// near the first seed and has short steps from track to track.
///
/// # Errors
///
/// Fails if there is no seed, if `max_per_album` or `max_per_artist` is 0, or if an index of
/// `excluded` is out of bounds.
pub fn playlist(
    tracks: &[LibraryTrack],
    seeds: &[LibraryTrack],
    options: &PlaylistOptions,
) -> Result<Vec<usize>> {
    let Some(first) = seeds.first() else {
        return Err(Error::argument("a playlist needs at least one seed, and 0 were given"));
    };
    let limits =
        [("max_per_album", options.max_per_album), ("max_per_artist", options.max_per_artist)];
    for (name, limit) in limits {
        if limit == Some(0) {
            return Err(Error::argument(format!("{name} is 0, expected at least 1")));
        }
    }
    if let Some(index) = options.excluded.iter().find(|&&index| index >= tracks.len()) {
        return Err(Error::argument(format!(
            "the excluded track {index} is out of bounds: there are {} tracks",
            tracks.len()
        )));
    }
    let selected = select(tracks, seeds, options);
    let embeddings: Vec<_> = selected.iter().map(|&index| tracks[index].embedding).collect();
    let mut path = greedy_path(&first.embedding, &embeddings);
    two_opt(&first.embedding, &embeddings, &mut path);
    Ok(path.into_iter().map(|step| selected[step]).collect())
}

/// The tracks nearest to the seeds that the options allow, in the order of selection.
fn select(
    tracks: &[LibraryTrack],
    seeds: &[LibraryTrack],
    options: &PlaylistOptions,
) -> Vec<usize> {
    let neighbours: Neighbours = tracks.iter().map(|track| track.embedding).collect();
    let mut n = options.length.saturating_mul(SEARCH_FACTOR);
    loop {
        let nearest: Vec<_> =
            seeds.iter().map(|seed| neighbours.nearest(&seed.embedding, n)).collect();
        let mut selection = Selection::new(tracks, seeds, options);
        let every_seed_had_enough = selection.take_turns(&nearest);
        if every_seed_had_enough || n >= tracks.len() {
            return selection.selected;
        }
        n = n.saturating_mul(SEARCH_FACTOR);
    }
}

/// The tracks selected so far, and what limits the next ones.
struct Selection<'a> {
    tracks: &'a [LibraryTrack],
    seeds: &'a [LibraryTrack],
    options: &'a PlaylistOptions,
    excluded: HashSet<usize>,
    per_album: HashMap<&'a str, usize>,
    per_artist: HashMap<&'a str, usize>,
    selected: Vec<usize>,
}

impl<'a> Selection<'a> {
    fn new(
        tracks: &'a [LibraryTrack],
        seeds: &'a [LibraryTrack],
        options: &'a PlaylistOptions,
    ) -> Self {
        let mut selection = Self {
            tracks,
            seeds,
            options,
            excluded: options.excluded.iter().copied().collect(),
            per_album: HashMap::new(),
            per_artist: HashMap::new(),
            selected: Vec::new(),
        };
        seeds.iter().for_each(|seed| selection.count(seed));
        selection
    }

    fn count(&mut self, track: &'a LibraryTrack) {
        *self.per_album.entry(&track.album).or_default() += 1;
        *self.per_artist.entry(&track.artist).or_default() += 1;
    }

    /// Selects tracks from the lists of the seeds, nearest first, until the playlist is full.
    ///
    /// Returns whether it is full and no list ended before.
    fn take_turns(&mut self, nearest: &[Vec<Neighbour>]) -> bool {
        let mut lists: Vec<_> = nearest.iter().map(|list| list.iter()).collect();
        let mut complete = true;
        while self.selected.len() < self.options.length {
            let before = self.selected.len();
            for list in &mut lists {
                if self.selected.len() == self.options.length {
                    break;
                }
                match list.find(|neighbour| self.allows(neighbour.index)) {
                    Some(neighbour) => {
                        self.count(&self.tracks[neighbour.index]);
                        self.selected.push(neighbour.index);
                    }
                    None => complete = false,
                }
            }
            if self.selected.len() == before {
                return false;
            }
        }
        complete
    }

    fn allows(&self, index: usize) -> bool {
        let track = &self.tracks[index];
        let below = |counts: &HashMap<&str, usize>, name: &str, limit: Option<usize>| {
            limit.is_none_or(|limit| {
                name.is_empty() || counts.get(name).is_none_or(|&count| count < limit)
            })
        };
        let of = |&index: &usize| &self.tracks[index];
        let mut others = self
            .selected
            .iter()
            .map(of)
            .chain(self.seeds)
            .chain(self.options.excluded.iter().map(of));
        !self.excluded.contains(&index)
            && below(&self.per_album, &track.album, self.options.max_per_album)
            && below(&self.per_artist, &track.artist, self.options.max_per_artist)
            && !others.any(|other| track.is_same_recording(other, MAX_DISTANCE))
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
            artist: String::new(),
        }
    }

    /// 40 tracks of two albums, farther and farther from 0.
    fn library() -> Vec<LibraryTrack> {
        let album = |i: i32| if i <= 30 { "near" } else { "far" };
        (1..=40).map(|i| track(i as f32 / 10.0, album(i))).collect()
    }

    fn options(length: usize, max_per_album: Option<usize>) -> PlaylistOptions {
        PlaylistOptions { length, max_per_album, ..PlaylistOptions::default() }
    }

    #[test]
    fn it_holds_the_nearest_tracks_each_once() {
        let (tracks, seed) = (library(), track(0.0, "seed"));
        let list = playlist(&tracks, std::slice::from_ref(&seed), &options(5, None)).unwrap();
        assert_eq!(list, [0, 1, 2, 3, 4]);
        // A library that is too small gives all that it has.
        assert_eq!(
            playlist(&tracks, std::slice::from_ref(&seed), &options(100, None)).unwrap().len(),
            40
        );
        assert!(
            playlist(&tracks, std::slice::from_ref(&seed), &options(0, None)).unwrap().is_empty()
        );
        assert!(playlist(&[], std::slice::from_ref(&seed), &options(5, None)).unwrap().is_empty());
    }

    #[test]
    fn the_seed_and_other_files_of_a_recording_are_left_out() {
        let mut tracks = library();
        tracks.push(LibraryTrack { content_hash: [1; 32], ..tracks[1].clone() });
        let list = playlist(&tracks, &tracks[..1], &options(3, None)).unwrap();
        // Indices 1 and 40 are one recording; the first of them is taken.
        assert_eq!(list, [1, 2, 3]);
    }

    #[test]
    fn the_search_goes_on_where_albums_are_full() {
        let seed = track(0.0, "seed");
        let list = playlist(&library(), std::slice::from_ref(&seed), &options(3, Some(2))).unwrap();
        assert_eq!(list, [0, 1, 30]);
        // The seed counts as a track of its album.
        let seed = track(0.0, "near");
        let list = playlist(&library(), std::slice::from_ref(&seed), &options(3, Some(2))).unwrap();
        assert_eq!(list, [0, 30, 31]);
        let error =
            playlist(&library(), std::slice::from_ref(&seed), &options(3, Some(0))).unwrap_err();
        assert!(error.is_argument() && error.to_string().contains("max_per_album"), "{error}");
    }

    #[test]
    fn artists_are_limited_and_unknown_ones_are_not() {
        let mut tracks = library();
        tracks[..3].iter_mut().for_each(|track| track.artist = "one".to_string());
        let seed = [LibraryTrack { artist: "two".to_string(), ..track(0.0, "seed") }];
        let limited = PlaylistOptions { max_per_artist: Some(1), ..options(3, None) };
        assert_eq!(playlist(&tracks, &seed, &limited).unwrap(), [0, 3, 4]);
        // The seed counts as a track of its artist.
        let seed = [LibraryTrack { artist: "one".to_string(), ..seed[0].clone() }];
        assert_eq!(playlist(&tracks, &seed, &limited).unwrap(), [3, 4, 5]);
        let none = PlaylistOptions { max_per_artist: Some(0), ..options(3, None) };
        let error = playlist(&tracks, &seed, &none).unwrap_err();
        assert!(error.is_argument() && error.to_string().contains("max_per_artist"), "{error}");
    }

    #[test]
    fn tracks_without_an_album_are_not_of_one_album() {
        let tracks: Vec<_> = (1..=4).map(|i| track(i as f32 / 10.0, "")).collect();
        let seed = [track(0.0, "")];
        assert_eq!(playlist(&tracks, &seed, &options(4, Some(1))).unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn excluded_tracks_and_their_recordings_are_left_out() {
        let mut tracks = library();
        tracks.push(LibraryTrack { content_hash: [1; 32], ..tracks[1].clone() });
        let seed = [track(0.0, "seed")];
        let without = |excluded| PlaylistOptions { excluded, ..options(3, None) };
        // Indices 1 and 40 are one recording.
        assert_eq!(playlist(&tracks, &seed, &without(vec![40, 2])).unwrap(), [0, 3, 4]);
        // The search goes on past any number of them.
        assert_eq!(playlist(&tracks, &seed, &without((0..30).collect())).unwrap(), [30, 31, 32]);
        assert!(playlist(&tracks, &seed, &without((0..41).collect())).unwrap().is_empty());
        let error = playlist(&tracks, &seed, &without(vec![41])).unwrap_err();
        assert!(error.is_argument() && error.to_string().contains("41"), "{error}");
    }

    #[test]
    fn several_seeds_have_equally_many_tracks() {
        // Around 0 the tracks are dense, around 10 they are not.
        let mut tracks = library();
        tracks.extend([8.0, 9.0, 11.5].map(|value| track(value, "away")));
        let seeds = [track(0.0, "seed"), track(10.0, "seed")];
        let list = playlist(&tracks, &seeds, &options(4, None)).unwrap();
        assert_eq!(list, [0, 1, 41, 42]);
        // The playlist starts near the first seed.
        let seeds = [track(10.0, "seed"), track(0.0, "seed")];
        let list = playlist(&tracks, &seeds, &options(4, None)).unwrap();
        assert_eq!(list, [42, 41, 1, 0]);
        // Where albums are full, a seed takes a track farther away: index 39 is the nearest to 10
        // that is of neither album.
        let list = playlist(&tracks, &seeds, &options(4, Some(1))).unwrap();
        assert_eq!(list, [41, 39, 0]);
        let error = playlist(&tracks, &[], &options(4, None)).unwrap_err();
        assert!(error.is_argument() && error.to_string().contains("seed"), "{error}");
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
