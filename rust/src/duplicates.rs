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
//! };
//! // The first and the last are near and about equally long.
//! let library = [track(0.1, 200.0), track(0.3, 200.0), track(0.1001, 201.0)];
//! assert_eq!(duplicates(&library, MAX_DISTANCE)?, [[0, 2]]);
//! # Ok::<(), feelprint::Error>(())
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use crate::embeddings::Embedding;
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
    /// The album, or a substitute such as the folder. Only playlists use it.
    pub album: String,
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
    // Only tracks of similar duration need comparing.
    let mut by_duration: Vec<usize> = (0..tracks.len()).collect();
    by_duration.sort_by(|&a, &b| tracks[a].duration_s.total_cmp(&tracks[b].duration_s));
    for (rank, &a) in by_duration.iter().enumerate() {
        let limit = tracks[a].duration_s + MAX_DURATION_DIFFERENCE_S;
        for &b in by_duration[rank + 1..].iter().take_while(|&&b| tracks[b].duration_s <= limit) {
            if tracks[a].is_same_recording(&tracks[b], max_distance) {
                sets.union(a, b);
            }
        }
    }
    Ok(sets.groups())
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
