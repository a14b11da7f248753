//! The nearest of many embeddings, exactly: every one is looked at.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::embeddings::{DIM_EMBEDDING, Embedding};

/// Embeddings that are looked at between two changes of the list of the nearest.
const BLOCK: usize = 4096;

/// Partial sums of a distance: as many as the widest registers hold.
const LANES: usize = 16;

/// A list of embeddings to search. They must all be of one version of the model.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    /// (songs, `DIM_EMBEDDING`), row by row.
    rows: Vec<[f32; DIM_EMBEDDING]>,
}

/// A song that was found: its place in the list, and its Euclidean distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// The place of the song in the list, from 0.
    pub place: usize,
    /// The Euclidean distance, from 0 to 2.
    pub distance: f32,
}

impl Eq for Neighbour {}

/// By distance, then by place, so that the order is always the same.
impl Ord for Neighbour {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Neighbour {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromIterator<Embedding> for Neighbours {
    fn from_iter<I: IntoIterator<Item = Embedding>>(embeddings: I) -> Self {
        Self { rows: embeddings.into_iter().map(|embedding| embedding.0).collect() }
    }
}

impl Neighbours {
    /// Adds an embedding at the end of the list.
    pub fn push(&mut self, embedding: Embedding) {
        self.rows.push(embedding.0);
    }

    /// The number of embeddings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The embedding at a place, if there is such a place.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<Embedding> {
        self.rows.get(place).copied().map(Embedding)
    }

    /// The `n` nearest, the nearest first; of two at the same distance, the one listed first.
    #[must_use]
    pub fn nearest(&self, to: &Embedding, n: usize) -> Vec<Neighbour> {
        self.nearest_where(to, n, |_| true)
    }

    /// The `n` nearest of those whose place is `wanted`.
    #[must_use]
    pub fn nearest_where(
        &self,
        to: &Embedding,
        n: usize,
        wanted: impl Fn(usize) -> bool,
    ) -> Vec<Neighbour> {
        if n == 0 {
            return Vec::new();
        }
        let mut heap: BinaryHeap<Neighbour> = BinaryHeap::with_capacity(n.min(self.len()) + 1);
        let mut squares = [0.0; BLOCK];
        for (block, rows) in self.rows.chunks(BLOCK).enumerate() {
            for (square, row) in squares.iter_mut().zip(rows) {
                *square = square_distance(row, &to.0);
            }
            for (row, &square) in squares[..rows.len()].iter().enumerate() {
                let place = block * BLOCK + row;
                let found = Neighbour { place, distance: square };
                let full = heap.len() == n;
                if full && heap.peek().is_some_and(|farthest| *farthest <= found) {
                    continue;
                }
                if wanted(place) {
                    if full {
                        heap.pop();
                    }
                    heap.push(found);
                }
            }
        }
        let mut nearest = heap.into_sorted_vec();
        for found in &mut nearest {
            found.distance = found.distance.sqrt();
        }
        nearest
    }

    /// The places whose distance is at most `distance`, in their order.
    #[must_use]
    pub fn within(&self, to: &Embedding, distance: f32) -> Vec<Neighbour> {
        let limit = distance * distance;
        let squares = self.rows.iter().map(|row| square_distance(row, &to.0));
        let near = squares.enumerate().filter(|&(_, square)| square <= limit);
        near.map(|(place, square)| Neighbour { place, distance: square.sqrt() }).collect()
    }
}

#[inline]
fn square_distance(a: &[f32; DIM_EMBEDDING], b: &[f32; DIM_EMBEDDING]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            let difference = a[lane] - b[lane];
            sums[lane] += difference * difference;
        }
    }
    // Halves are added to halves, which is a few wide additions.
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}
