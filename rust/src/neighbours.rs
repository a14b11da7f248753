//! Exact nearest-neighbour search by brute force.
//!
//! ```
//! use feelprint::Embedding;
//! use feelprint::neighbours::Neighbours;
//!
//! let library: Neighbours = [Embedding([0.1; 32]), Embedding([0.3; 32])].into_iter().collect();
//! let nearest = library.nearest(&Embedding([0.25; 32]), 1);
//! assert_eq!(nearest[0].index, 1);
//! ```

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};

use crate::embeddings::{DIM_EMBEDDING, Embedding};

/// Rows whose distances are computed before the heap is updated.
const BLOCK: usize = 4096;

/// Partial sums of a distance: as many as the widest SIMD registers hold.
const LANES: usize = 16;

/// A list of embeddings to search. They must all be of one version of the model.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    /// (tracks, `DIM_EMBEDDING`), row-major.
    rows: Vec<[f32; DIM_EMBEDDING]>,
}

/// A search result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// The index of the embedding in the list, from 0.
    pub index: usize,
    /// The Euclidean distance to the query: 0 for equal embeddings, without an upper bound.
    pub distance: f32,
}

impl Eq for Neighbour {}

/// By distance, then by index, so that the order is deterministic.
impl Ord for Neighbour {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.index.cmp(&other.index))
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
    /// Appends an embedding to the list.
    pub fn push(&mut self, embedding: Embedding) {
        self.rows.push(embedding.0);
    }

    /// The number of embeddings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The embedding at an index, or `None` if the index is out of bounds.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Embedding> {
        self.rows.get(index).copied().map(Embedding)
    }

    /// The `n` nearest embeddings to `query`, nearest first. Ties are in the order of the list.
    #[must_use]
    pub fn nearest(&self, query: &Embedding, n: usize) -> Vec<Neighbour> {
        self.nearest_where(query, n, |_| true)
    }

    /// The `n` nearest embeddings to `query` among those whose index satisfies `predicate`.
    #[must_use]
    pub fn nearest_where(
        &self,
        query: &Embedding,
        n: usize,
        predicate: impl Fn(usize) -> bool,
    ) -> Vec<Neighbour> {
        let mut nearest = Nearest::new(n, self.len());
        for (block, rows) in self.rows.chunks(BLOCK).enumerate() {
            nearest.add(block * BLOCK, rows, &query.0, &predicate);
        }
        nearest.sorted()
    }

    /// The `n` embeddings nearest to any of `queries`, among those whose index satisfies
    /// `predicate`. The distance is that to the nearest query.
    #[must_use]
    pub fn nearest_to_any(
        &self,
        queries: &[Embedding],
        n: usize,
        predicate: impl Fn(usize) -> bool,
    ) -> Vec<Neighbour> {
        let lists = queries.iter().map(|query| self.nearest_where(query, n, &predicate));
        let mut nearest: Vec<Neighbour> = lists.flatten().collect();
        nearest.sort();
        let mut seen = HashSet::new();
        nearest.retain(|neighbour| seen.insert(neighbour.index));
        nearest.truncate(n);
        nearest
    }

    /// All embeddings whose distance to `query` is at most `distance`, in the order of the list.
    #[must_use]
    pub fn within(&self, query: &Embedding, distance: f32) -> Vec<Neighbour> {
        let limit = distance * distance;
        let squares = self.rows.iter().map(|row| squared_distance(row, &query.0));
        let near = squares.enumerate().filter(|&(_, square)| square <= limit);
        near.map(|(index, square)| Neighbour { index, distance: square.sqrt() }).collect()
    }
}

/// The `n` nearest of `rows` to each of `queries`, nearest first: the results of
/// [`Neighbours::nearest`], in less time, because each block of rows is read from memory once for all
/// queries. Embeddings are given by their values.
#[must_use]
pub fn nearest_to_each(
    rows: &[[f32; DIM_EMBEDDING]],
    queries: &[[f32; DIM_EMBEDDING]],
    n: usize,
) -> Vec<Vec<Neighbour>> {
    let mut nearest: Vec<_> = queries.iter().map(|_| Nearest::new(n, rows.len())).collect();
    for (block, rows) in rows.chunks(BLOCK).enumerate() {
        for (query, nearest) in queries.iter().zip(&mut nearest) {
            nearest.add(block * BLOCK, rows, query, |_| true);
        }
    }
    nearest.into_iter().map(Nearest::sorted).collect()
}

/// The nearest rows so far.
struct Nearest {
    n: usize,
    /// Their distances are squared.
    heap: BinaryHeap<Neighbour>,
}

impl Nearest {
    fn new(n: usize, rows: usize) -> Self {
        Self { n, heap: BinaryHeap::with_capacity(n.min(rows) + 1) }
    }

    /// Adds a block of rows, of which the first has the index `first`.
    fn add(
        &mut self,
        first: usize,
        rows: &[[f32; DIM_EMBEDDING]],
        query: &[f32; DIM_EMBEDDING],
        predicate: impl Fn(usize) -> bool,
    ) {
        if self.n == 0 {
            return;
        }
        let mut squares = [0.0; BLOCK];
        for (square, row) in squares.iter_mut().zip(rows) {
            *square = squared_distance(row, query);
        }
        for (row, &square) in squares[..rows.len()].iter().enumerate() {
            let index = first + row;
            let candidate = Neighbour { index, distance: square };
            let full = self.heap.len() == self.n;
            if full && self.heap.peek().is_some_and(|farthest| *farthest <= candidate) {
                continue;
            }
            if predicate(index) {
                if full {
                    self.heap.pop();
                }
                self.heap.push(candidate);
            }
        }
    }

    fn sorted(self) -> Vec<Neighbour> {
        let mut nearest = self.heap.into_sorted_vec();
        for neighbour in &mut nearest {
            neighbour.distance = neighbour.distance.sqrt();
        }
        nearest
    }
}

#[inline]
pub(crate) fn squared_distance(a: &[f32; DIM_EMBEDDING], b: &[f32; DIM_EMBEDDING]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            let difference = a[lane] - b[lane];
            sums[lane] += difference * difference;
        }
    }
    // Pairwise sum of the lanes, which vectorises.
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}
