//! Files of the same recording, whatever their formats.
//!
//! ```
//! use feelprint::Embedding;
//! use feelprint::duplicates::{LibraryTrack, MAX_DISTANCE, duplicates};
//!
//! let track = |value: f32, duration_s: f64| LibraryTrack {
//!     embedding: Embedding([value; 32]),
//!     // In a real library, `content_hash(path)`.
//!     content_hash: blake3::hash(&value.to_le_bytes()).into(),
//!     duration_s,
//!     silent: false,
//!     album: String::new(),
//!     artist: String::new(),
//! };
//! // The first and the last are near and about equally long.
//! let library = [track(0.1, 200.0), track(0.3, 200.0), track(0.1001, 201.0)];
//! assert_eq!(duplicates(&library, MAX_DISTANCE)?, [[0, 2]]);
//! # Ok::<(), feelprint::Error>(())
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::embeddings::{DIM_EMBEDDING, Embedding};
use crate::error::{Error, Result};
use crate::neighbours::squared_distance;

/// The default for the largest distance between the embeddings of two files of one recording, in
/// two formats.
pub const MAX_DISTANCE: f32 = 0.05;

/// The largest difference between the durations of two files of one recording, in seconds.
pub const MAX_DURATION_DIFFERENCE_S: f64 = 3.0;

/// A track as [`duplicates`] and [`playlist`](crate::playlist::playlist) need it.
#[derive(Debug, Clone, PartialEq)]
pub struct LibraryTrack {
    /// The embedding. All tracks must be embedded by one version of the model.
    pub embedding: Embedding,
    /// A hash of the file's content, such as [`content_hash`].
    pub content_hash: [u8; 32],
    /// The duration of the audio, in seconds.
    pub duration_s: f64,
    /// Whether the track is silent, see [`Analysis::is_silent`](crate::Analysis::is_silent).
    pub silent: bool,
    /// The album, or a substitute such as the folder; empty if it is unknown. Only playlists use it.
    pub album: String,
    /// The artist; empty if it is unknown. Only playlists use it.
    pub artist: String,
}

impl LibraryTrack {
    /// Whether two files hold the same recording: their content is equal, or their embeddings are
    /// at most `max_distance` apart and their durations differ by at most
    /// [`MAX_DURATION_DIFFERENCE_S`].
    ///
    /// Silent tracks are only compared by their content, since all have the same embedding.
    #[must_use]
    pub fn is_same_recording(&self, other: &Self, max_distance: f32) -> bool {
        self.content_hash == other.content_hash
            || (!self.silent
                && !other.silent
                && (self.duration_s - other.duration_s).abs() <= MAX_DURATION_DIFFERENCE_S
                && squared_distance(&self.embedding.0, &other.embedding.0).sqrt() <= max_distance)
    }
}

/// The BLAKE3 hash of a file's content.
///
/// # Errors
///
/// Fails if the file cannot be read.
pub fn content_hash<P: AsRef<Path>>(path: P) -> Result<[u8; 32]> {
    let path = path.as_ref();
    let io = |error| Error::io(path, error);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(io)?).map_err(io)?;
    Ok(hasher.finalize().into())
}

/// Groups of tracks that are the same recording: the connected components of
/// [`LibraryTrack::is_same_recording`].
///
/// A group holds two indices or more, in ascending order; groups are sorted by their first index.
///
/// # Errors
///
/// Fails if `max_distance` is negative or not finite.
pub fn duplicates(tracks: &[LibraryTrack], max_distance: f32) -> Result<Vec<Vec<usize>>> {
    if !(max_distance >= 0.0 && max_distance.is_finite()) {
        return Err(Error::argument(format!(
            "the distance of duplicates is {max_distance}, expected a number of at least 0"
        )));
    }
    let mut sets = DisjointSets::new(tracks.len());
    let mut first_of = HashMap::new();
    for (index, track) in tracks.iter().enumerate() {
        sets.union(*first_of.entry(track.content_hash).or_insert(index), index);
    }
    // Of tracks that are equal in embedding and duration, only the first needs comparing.
    let mut distinct = Vec::new();
    let mut first_equal = HashMap::new();
    for (index, track) in tracks.iter().enumerate().filter(|(_, track)| !track.silent) {
        // The sum makes -0 equal to 0.
        let key =
            (track.embedding.0.map(|value| (value + 0.0).to_bits()), track.duration_s.to_bits());
        let first = *first_equal.entry(key).or_insert(index);
        if first == index {
            distinct.push(index);
        } else {
            sets.union(first, index);
        }
    }
    drop(first_equal);
    let grid = Grid::new(tracks, &distinct, max_distance);
    grid.for_each_near_pair(|a, b| {
        if tracks[a].is_same_recording(&tracks[b], max_distance) {
            sets.union(a, b);
        }
    });
    Ok(sets.groups())
}

/// The number of dimensions of the embedding that [`Grid`] uses.
const GRID_DIMS: usize = 3;

/// By how much a cell of [`Grid`] is wider than the largest difference, for rounding errors.
const CELL_MARGIN: f64 = 1.01;

/// The least width of a cell, for a largest distance of 0.
const MIN_CELL: f64 = 1e-6;

/// The coordinates of a cell: of the duration, and of some dimensions of the embedding.
type Cell = [i64; GRID_DIMS + 1];

/// Tracks by duration and by the dimensions of the embedding that vary most, in cells so wide that
/// two files of one recording are in the same cell or in two that touch. Memory is linear in the
/// tracks.
struct Grid {
    /// Sorted, so that each cell is a range.
    members: Vec<(Cell, usize)>,
    ranges: HashMap<Cell, Range<usize>>,
}

impl Grid {
    fn new(tracks: &[LibraryTrack], indices: &[usize], max_distance: f32) -> Self {
        let dims = most_varied_dims(tracks, indices);
        let width = (f64::from(max_distance) * CELL_MARGIN).max(MIN_CELL);
        let cell = |track: &LibraryTrack| {
            let mut cell = [0; GRID_DIMS + 1];
            cell[0] = (track.duration_s / (MAX_DURATION_DIFFERENCE_S * CELL_MARGIN)).floor() as i64;
            for (coordinate, &dim) in cell[1..].iter_mut().zip(&dims) {
                *coordinate = (f64::from(track.embedding.0[dim]) / width).floor() as i64;
            }
            cell
        };
        let mut members: Vec<_> =
            indices.iter().map(|&index| (cell(&tracks[index]), index)).collect();
        members.sort_unstable();
        let mut ranges = HashMap::new();
        let mut start = 0;
        for chunk in members.chunk_by(|a, b| a.0 == b.0) {
            ranges.insert(chunk[0].0, start..start + chunk.len());
            start += chunk.len();
        }
        Self { members, ranges }
    }

    /// Calls `pair` with each pair of tracks in the same cell or in two that touch, once.
    fn for_each_near_pair(&self, mut pair: impl FnMut(usize, usize)) {
        let offsets = offsets();
        for (cell, range) in &self.ranges {
            let here = &self.members[range.clone()];
            for (position, &(_, a)) in here.iter().enumerate() {
                here[position + 1..].iter().for_each(|&(_, b)| pair(a, b));
            }
            for offset in &offsets {
                let mut other = *cell;
                for (coordinate, step) in other.iter_mut().zip(offset) {
                    *coordinate = coordinate.saturating_add(*step);
                }
                // A saturated coordinate can lead back to the same cell.
                let Some(there) = self.ranges.get(&other).filter(|_| other != *cell) else {
                    continue;
                };
                for &(_, a) in here {
                    self.members[there.clone()].iter().for_each(|&(_, b)| pair(a, b));
                }
            }
        }
    }
}

/// Half of the steps to the cells that touch a cell, so that each pair of cells occurs once.
fn offsets() -> Vec<Cell> {
    let steps = 3_usize.pow(GRID_DIMS as u32 + 1);
    // The last half of the numbers in base 3, whose first digit that is not 1 is 2.
    (steps / 2 + 1..steps)
        .map(|number| {
            let mut offset = [0; GRID_DIMS + 1];
            let mut rest = number;
            for step in offset.iter_mut().rev() {
                *step = (rest % 3) as i64 - 1;
                rest /= 3;
            }
            offset
        })
        .collect()
}

/// The dimensions of the embedding with the largest variance.
fn most_varied_dims(tracks: &[LibraryTrack], indices: &[usize]) -> [usize; GRID_DIMS] {
    let variance = |dim: usize| {
        let values = || indices.iter().map(|&index| f64::from(tracks[index].embedding.0[dim]));
        let mean = values().sum::<f64>() / indices.len().max(1) as f64;
        values().map(|value| (value - mean).powi(2)).sum::<f64>()
    };
    let mut by_variance: Vec<_> = (0..DIM_EMBEDDING).map(|dim| (variance(dim), dim)).collect();
    by_variance.sort_by(|a, b| b.0.total_cmp(&a.0));
    std::array::from_fn(|rank| by_variance[rank].1)
}

/// A union-find structure. The root of a set is its smallest member.
struct DisjointSets {
    parent: Vec<usize>,
}

impl DisjointSets {
    fn new(len: usize) -> Self {
        Self { parent: (0..len).collect() }
    }

    fn root(&mut self, mut member: usize) -> usize {
        while self.parent[member] != member {
            self.parent[member] = self.parent[self.parent[member]];
            member = self.parent[member];
        }
        member
    }

    fn union(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b)] = a.min(b);
    }

    /// The sets of two members or more.
    fn groups(mut self) -> Vec<Vec<usize>> {
        let mut groups = vec![Vec::new(); self.parent.len()];
        for member in 0..groups.len() {
            let root = self.root(member);
            groups[root].push(member);
        }
        groups.retain(|group| group.len() > 1);
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn track(value: f32, duration_s: f64, hash: u8) -> LibraryTrack {
        LibraryTrack {
            embedding: Embedding([value; 32]),
            content_hash: [hash; 32],
            duration_s,
            silent: false,
            album: String::new(),
            artist: String::new(),
        }
    }

    #[test]
    fn equal_content_is_one_recording_even_if_silent() {
        let silent = |hash| LibraryTrack { silent: true, ..track(0.1, 10.0, hash) };
        let tracks = [silent(1), silent(2), silent(1), track(0.1, 10.0, 3)];
        assert_eq!(duplicates(&tracks, MAX_DISTANCE).unwrap(), [[0, 2]]);
    }

    #[test]
    fn distance_and_duration_must_both_be_near() {
        let tracks = [track(0.1, 100.0, 1), track(0.1, 103.5, 2), track(0.2, 100.0, 3)];
        assert!(duplicates(&tracks, MAX_DISTANCE).unwrap().is_empty());
        // The distance of 0.1 in each of 32 values is 0.57.
        assert_eq!(duplicates(&tracks, 0.6).unwrap(), [[0, 2]]);
    }

    #[test]
    fn groups_are_connected_components() {
        // Near are 0 and 2, 1 and 5, and 5 and 3.
        let values = [0.3, 0.1, 0.3035, 0.107, 0.5, 0.1035];
        let tracks: Vec<_> =
            values.iter().zip(1..).map(|(&value, hash)| track(value, 60.0, hash)).collect();
        assert_eq!(duplicates(&tracks, 0.03).unwrap(), [vec![0, 2], vec![1, 3, 5]]);
        assert!(duplicates(&[], 0.03).unwrap().is_empty());
    }

    #[test]
    fn equal_embeddings_are_one_recording_at_distance_0() {
        let tracks = [track(0.0, 60.0, 1), track(-0.0, 60.0, 2), track(0.0, 62.0, 3)];
        assert_eq!(duplicates(&tracks, 0.0).unwrap(), [[0, 1, 2]]);
        // Also where a coordinate is beyond the range of the cells.
        let far = [track(1e30, 60.0, 1), track(1e30, 61.0, 2), track(-1e30, 61.0, 3)];
        assert_eq!(duplicates(&far, 0.0).unwrap(), [[0, 1]]);
    }

    #[test]
    fn an_invalid_distance_is_an_error() {
        for distance in [-0.1, f32::NAN, f32::INFINITY] {
            let error = duplicates(&[], distance).unwrap_err();
            assert!(error.is_argument() && error.to_string().contains("at least 0"), "{error}");
        }
    }

    #[test]
    fn the_content_hash_is_that_of_the_bytes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(
            content_hash(path).unwrap(),
            *blake3::hash(&std::fs::read(path).unwrap()).as_bytes()
        );
        let error = content_hash("missing.wav").unwrap_err();
        assert!(error.io_error().is_some() && error.path() == Some(Path::new("missing.wav")));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        /// Against the comparison of all pairs.
        #[test]
        fn no_pair_is_missed(
            tracks in prop::collection::vec(
                (0_u8..40, 0_u8..20, any::<u8>(), prop::bool::weighted(0.2)),
                0..40,
            )
        ) {
            let tracks: Vec<_> = tracks
                .into_iter()
                .map(|(value, duration, hash, silent)| LibraryTrack {
                    silent,
                    ..track(f32::from(value) / 150.0, f64::from(duration), hash)
                })
                .map(|mut track| {
                    // The values of two dimensions differ.
                    track.embedding.0[5] = -track.embedding.0[5];
                    track
                })
                .collect();
            let mut sets = DisjointSets::new(tracks.len());
            for a in 0..tracks.len() {
                for b in a + 1..tracks.len() {
                    if tracks[a].is_same_recording(&tracks[b], MAX_DISTANCE) {
                        sets.union(a, b);
                    }
                }
            }
            prop_assert_eq!(duplicates(&tracks, MAX_DISTANCE).unwrap(), sets.groups());
        }
    }
}
