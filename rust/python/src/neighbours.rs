//! The search among embeddings in memory.

use feelprint::DIM_EMBEDDING;
use feelprint::neighbours::{Neighbour, nearest_to_each};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::prelude::*;
use rayon::prelude::*;

use crate::errors::Error;

/// Queries that a thread searches for together, between two looks at the signals.
const TOGETHER: usize = 16;

/// The indices and distances, (queries, up to n).
type Found<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>);

/// The `n` nearest of `embeddings` to each of `queries`, both (rows, 32) and contiguous. `threads`
/// is 0 for one per processor.
#[pyfunction]
pub fn nearest<'py>(
    py: Python<'py>,
    embeddings: PyReadonlyArray2<'py, f32>,
    queries: PyReadonlyArray2<'py, f32>,
    n: usize,
    threads: usize,
) -> PyResult<Found<'py>> {
    let (rows, _) = embeddings.as_slice()?.as_chunks::<DIM_EMBEDDING>();
    let (queries, _) = queries.as_slice()?.as_chunks::<DIM_EMBEDDING>();
    // Not the global pool, which would have no threads after a fork.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Error::new_err(error.to_string()))?;
    let mut found: Vec<Neighbour> = Vec::with_capacity(queries.len() * n.min(rows.len()));
    for queries in queries.chunks(TOGETHER * pool.current_num_threads()) {
        let search = || {
            let parts = queries.par_chunks(TOGETHER);
            parts.flat_map_iter(|part| nearest_to_each(rows, part, n)).flatten_iter().collect()
        };
        let part: Vec<_> = py.detach(|| pool.install(search));
        found.extend(part);
        py.check_signals()?;
    }
    let shape = [queries.len(), n.min(rows.len())];
    let indices = found.iter().map(|it| it.index as i64);
    let indices = PyArray1::from_iter(py, indices).reshape(shape)?;
    let distances = PyArray1::from_iter(py, found.iter().map(|it| it.distance)).reshape(shape)?;
    Ok((indices, distances))
}
