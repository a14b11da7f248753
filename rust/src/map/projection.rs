//! Embeddings to two dimensions, by t-SNE.
//!
//! The ignored test of this module measures how many neighbours it keeps, and its time.

use bhtsne::tSNE;

use super::Progress;
use crate::embeddings::{DIM_EMBEDDING, Embedding};
use crate::neighbours::Neighbour;

/// How many neighbours a track effectively has in the high-dimensional distribution.
const PERPLEXITY: f32 = 15.0;

/// Steps of the optimisation.
const EPOCHS: usize = 750;

/// The learning rate for `n` tracks: n over the early exaggeration, 12 (A. Belkina et al., "Automated
/// optimized parameters for t-distributed stochastic neighbor embedding", 2019), or 50 for few. A
/// quarter of it, as bhtsne has, keeps fewer neighbours of large libraries.
fn learning_rate(n: usize) -> f32 {
    (n as f32 / 12.0).max(50.0)
}

/// From this many tracks on, repulsion is interpolated on a grid (G. Linderman et al., "Fast
/// interpolation-based t-SNE for improved visualization of single-cell RNA-seq data", 2019). Below,
/// it is computed by the Barnes-Hut algorithm, because the grid is as large as the map and few
/// tracks can spread very far.
const MIN_INTERPOLATED: usize = 2_000;

/// The accuracy of the Barnes-Hut algorithm, as its author has it (L. van der Maaten, "Accelerating
/// t-SNE using tree-based algorithms", 2014).
const THETA: f32 = 0.5;

/// The standard deviation of the start along the first axis, which is small, so that the start does
/// not hold the tracks where they are (D. Kobak and P. Berens, "The art of using t-SNE for
/// single-cell transcriptomics", 2019).
const INITIAL_STD: f32 = 1e-4;

/// Iterations of the power method, for each of two axes of 32 dimensions.
const POWER_ITERATIONS: usize = 300;

/// The perplexity for `n` tracks: a third of their neighbours at most.
fn perplexity(n: usize) -> f32 {
    PERPLEXITY.min(n.saturating_sub(1) as f32 / 3.0)
}

/// The number of neighbours that [`project`] uses, three times the perplexity.
pub(super) fn n_neighbours(n: usize) -> usize {
    (3.0 * perplexity(n)) as usize
}

/// Two coordinates from 0 to 1 for each of the rows, with `near` their nearest others.
///
/// It begins at the principal components, and runs on one thread, so that its sums have one order
/// and the result is deterministic.
pub(super) fn project(
    rows: &[Embedding],
    near: &[Vec<Neighbour>],
    progress: &(impl Fn(Progress) + Sync),
) -> Vec<[f32; 2]> {
    let n = rows.len();
    let start = principal_components(rows);
    // t-SNE needs some neighbours; two or three tracks stand as their components do.
    if n < 4 {
        return scaled(&start);
    }
    progress(Progress::Begin("arranging songs", EPOCHS));
    let neighbours: Vec<Vec<bhtsne::Neighbor<f32>>> = near
        .iter()
        .map(|row| {
            let row = row[..n_neighbours(n)].iter();
            row.map(|it| bhtsne::Neighbor { index: it.index, distance: it.distance }).collect()
        })
        .collect();
    let variance = start.iter().map(|place| place[0] * place[0]).sum::<f32>() / n as f32;
    let scale = INITIAL_STD / variance.sqrt().max(f32::MIN_POSITIVE.sqrt());
    // Equal tracks are a little apart, or else they would have one place for ever.
    let start: Vec<f32> = start
        .iter()
        .enumerate()
        .flat_map(|(at, place)| {
            let (sin, cos) = (at as f32).sin_cos();
            [
                place[0] * scale + 0.01 * INITIAL_STD * cos,
                place[1] * scale + 0.01 * INITIAL_STD * sin,
            ]
        })
        .collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can start");
    let flat = pool.install(|| {
        let mut tsne: tSNE<'_, f32, Embedding, 2> = tSNE::new(rows);
        tsne.perplexity(perplexity(n))
            .epochs(EPOCHS)
            .learning_rate(learning_rate(n))
            .initial_embedding(start)
            .epoch_callback(|_, _| progress(Progress::Step));
        if n < MIN_INTERPOLATED {
            tsne.barnes_hut_with_neighbors(THETA, &neighbours);
        } else {
            tsne.fit_sne_with_neighbors(&neighbours);
        }
        tsne.embedding()
    });
    let places: Vec<[f32; 2]> = flat.chunks_exact(2).map(|place| [place[0], place[1]]).collect();
    scaled(&places)
}

/// The coordinates of the rows on their two principal axes, centred.
pub(super) fn principal_components(rows: &[Embedding]) -> Vec<[f32; 2]> {
    let n = rows.len() as f64;
    let mut mean = [0.0; DIM_EMBEDDING];
    for row in rows {
        for (sum, value) in mean.iter_mut().zip(row.0) {
            *sum += f64::from(value) / n;
        }
    }
    let centred = |row: &Embedding| -> [f64; DIM_EMBEDDING] {
        std::array::from_fn(|i| f64::from(row.0[i]) - mean[i])
    };
    let mut covariance = [[0.0; DIM_EMBEDDING]; DIM_EMBEDDING];
    for row in rows {
        let row = centred(row);
        for (sums, a) in covariance.iter_mut().zip(row) {
            for (sum, b) in sums.iter_mut().zip(row) {
                *sum += a * b / n;
            }
        }
    }
    let dot = |a: &[f64; DIM_EMBEDDING], b: &[f64; DIM_EMBEDDING]| -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    };
    let mut axes: Vec<[f64; DIM_EMBEDDING]> = Vec::new();
    for _ in 0..2 {
        let mut axis: [f64; DIM_EMBEDDING] = std::array::from_fn(|i| 1.0 / (1.0 + i as f64));
        for _ in 0..POWER_ITERATIONS {
            let mut next: [f64; DIM_EMBEDDING] =
                std::array::from_fn(|i| dot(&covariance[i], &axis));
            for found in &axes {
                let along = dot(found, &next);
                next = std::array::from_fn(|i| next[i] - along * found[i]);
            }
            let norm = dot(&next, &next).sqrt();
            // The rows are all on the axes that were found.
            if norm < 1e-30 {
                axis = [0.0; DIM_EMBEDDING];
                break;
            }
            axis = next.map(|value| value / norm);
        }
        axes.push(axis);
    }
    let place = |row: &Embedding| {
        let row = centred(row);
        [dot(&row, &axes[0]) as f32, dot(&row, &axes[1]) as f32]
    };
    rows.iter().map(place).collect()
}

/// The places moved and scaled into the unit square; both axes are scaled alike.
fn scaled(places: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let range = |axis: usize| {
        let values = places.iter().map(|place| place[axis]);
        values.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let ranges = [range(0), range(1)];
    let side = ranges.iter().map(|(low, high)| high - low).fold(0.0, f32::max);
    let to_unit = |value: f32, (low, high): (f32, f32)| match side > 0.0 {
        true => (0.5 + (value - f32::midpoint(low, high)) / side).clamp(0.0, 1.0),
        false => 0.5,
    };
    places.iter().map(|place| [0, 1].map(|axis| to_unit(place[axis], ranges[axis]))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::neighbours::squared_distance;

    /// Embeddings of albums of ten tracks, of artists of three albums.
    pub(crate) fn albums(n: usize) -> Vec<Embedding> {
        let mut state = 1_u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let (mut artist, mut album) = ([0.0; DIM_EMBEDDING], [0.0; DIM_EMBEDDING]);
        let mut rows = Vec::new();
        for at in 0..n {
            if at % 30 == 0 {
                artist = artist.map(|_| 0.5 * uniform());
            }
            if at % 10 == 0 {
                album = artist.map(|value| value + 0.3 * uniform());
            }
            rows.push(Embedding(album.map(|value| value + 0.2 * uniform())));
        }
        rows
    }

    /// How well places keep the neighbours of rows, on some 1,000 rows: trustworthiness with ten
    /// neighbours (J. Venna and S. Kaski, 2001), and the share of the ten nearest rows that are
    /// among the nearest 50 places.
    fn quality(rows: &[Embedding], places: &[[f32; 2]]) -> (f64, f64) {
        let n = rows.len();
        let order = |square: &dyn Fn(usize) -> f32, at: usize| -> Vec<usize> {
            let mut others: Vec<_> = (0..n).filter(|other| *other != at).collect();
            others.sort_by(|a, b| square(*a).total_cmp(&square(*b)));
            others
        };
        let (mut penalty, mut kept, mut count) = (0.0, 0, 0);
        for at in (0..n).step_by(n.div_ceil(1_000)) {
            let near = order(&|other| squared_distance(&rows[at].0, &rows[other].0), at);
            let [x, y] = places[at];
            let shown = order(&|other| (places[other][0] - x).hypot(places[other][1] - y), at);
            let mut rank = vec![0; n];
            near.iter().enumerate().for_each(|(position, other)| rank[*other] = position + 1);
            penalty +=
                shown[..10].iter().map(|it| rank[*it].saturating_sub(10)).sum::<usize>() as f64;
            kept += near[..10].iter().filter(|other| shown[..50].contains(other)).count();
            count += 1;
        }
        let scale = 2.0 / (10 * count * (2 * n - 31)) as f64;
        (1.0 - scale * penalty, kept as f64 / (10 * count) as f64)
    }

    fn neighbours(rows: &[Embedding]) -> Vec<Vec<Neighbour>> {
        super::super::nearest(rows, n_neighbours(rows.len()), &|_| ())
    }

    #[test]
    fn neighbours_stay_neighbours() {
        // By both ways to compute the repulsion.
        for n in [1_200, 2_400] {
            let rows = albums(n);
            let map = quality(&rows, &project(&rows, &neighbours(&rows), &|_| ()));
            let components = quality(&rows, &principal_components(&rows));
            assert!(map.0 > 0.97 && map.1 > 0.85, "{n} tracks, t-SNE: {map:?}");
            let better = map.0 > components.0 + 0.1 && map.1 > components.1 + 0.2;
            assert!(better, "{n} tracks, t-SNE: {map:?}, PCA: {components:?}");
        }
    }

    #[test]
    #[ignore = "it measures 50,000 tracks in minutes: run it with --ignored --nocapture"]
    fn quality_and_time_of_fifty_thousand() {
        let rows = albums(50_000);
        let start = std::time::Instant::now();
        let near = neighbours(&rows);
        eprintln!("neighbours: {:.1} s", start.elapsed().as_secs_f64());
        let start = std::time::Instant::now();
        let map = project(&rows, &near, &|_| ());
        eprintln!("t-SNE: {:.1} s", start.elapsed().as_secs_f64());
        let (map, components) =
            (quality(&rows, &map), quality(&rows, &principal_components(&rows)));
        eprintln!("trustworthiness, share kept: t-SNE {map:?}, PCA {components:?}");
        assert!(map.0 > components.0 && map.1 > components.1);
    }

    #[test]
    fn components_are_those_of_the_largest_variance() {
        // Along two axes of 32, and nowhere else.
        let rows: Vec<_> = (0..50)
            .map(|at| {
                let mut row = [0.5; DIM_EMBEDDING];
                row[3] += (at as f32).sin() * 3.0;
                row[7] += (at as f32 * 2.3).cos();
                Embedding(row)
            })
            .collect();
        let mean = |axis: usize| rows.iter().map(|row| row.0[axis]).sum::<f32>() / 50.0;
        let (mean_3, mean_7) = (mean(3), mean(7));
        let components = principal_components(&rows);
        // The axes are nearly the third and the seventh; a distance is kept exactly.
        for (row, place) in rows.iter().zip(&components) {
            let before = (row.0[3] - mean_3).hypot(row.0[7] - mean_7);
            assert!((place[0].hypot(place[1]) - before).abs() < 1e-4);
        }
    }
}
