//! Groups of tracks by k-means.

use crate::embeddings::{DIM_EMBEDDING, Embedding};
use crate::neighbours::squared_distance;

type Row = [f32; DIM_EMBEDDING];

/// The clusters are fitted on this many tracks at most, evenly spaced.
const MAX_FITTED: usize = 5_000;

/// The fewest and the most clusters of a large library.
const LARGE: (usize, usize) = (6, 16);

/// A cluster has this many tracks or more on average.
const MIN_TRACKS: usize = 10;

/// Starts of k-means, of which the best counts, and its steps.
const STARTS: usize = 4;
const STEPS: usize = 50;

/// Groups of tracks.
pub(super) struct Clusters {
    /// The cluster of each track.
    pub of: Vec<usize>,
    /// The track nearest to the centre of each cluster.
    pub central: Vec<usize>,
}

/// Clusters by k-means. Of several numbers of clusters, the one with the largest simplified
/// silhouette is used (E. Hruschka et al., "A survey of evolutionary algorithms for clustering",
/// 2009): the mean of (b - a) / b, with a and b a track's distance to the nearest and to the second
/// nearest centre.
pub(super) fn clusters(rows: &[Embedding]) -> Clusters {
    let n = rows.len();
    let fitted: Vec<Row> = if n <= MAX_FITTED {
        rows.iter().map(|row| row.0).collect()
    } else {
        (0..MAX_FITTED).map(|at| rows[at * n / MAX_FITTED].0).collect()
    };
    let low = (fitted.len() / 40).clamp(2, LARGE.0);
    let high = (fitted.len() / MIN_TRACKS).min(LARGE.1);
    let mut random = Random(1);
    let mut best = (f64::NEG_INFINITY, mean_of(&fitted));
    for k in low..=high {
        let centres = k_means(&fitted, k, &mut random);
        let silhouette = silhouette(&fitted, &centres);
        if silhouette > best.0 {
            best = (silhouette, centres);
        }
    }
    let centres = best.1;
    let nearest: Vec<(usize, f32)> =
        rows.iter().map(|row| two_nearest(&row.0, &centres)).map(|two| two.0).collect();
    let central = |cluster: usize| {
        let members = nearest.iter().enumerate().filter(|(_, near)| near.0 == cluster);
        members.min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1)).map(|(at, _)| at)
    };
    // A cluster that no track is nearest to is none.
    let central: Vec<Option<usize>> = (0..centres.len()).map(central).collect();
    let number = |cluster: usize| central[..cluster].iter().flatten().count();
    Clusters {
        of: nearest.iter().map(|near| number(near.0)).collect(),
        central: central.iter().flatten().copied().collect(),
    }
}

fn mean_of(rows: &[Row]) -> Vec<Row> {
    vec![std::array::from_fn(|i| rows.iter().map(|row| row[i]).sum::<f32>() / rows.len() as f32)]
}

/// The centres of the best of several starts.
fn k_means(rows: &[Row], k: usize, random: &mut Random) -> Vec<Row> {
    let starts = (0..STARTS).map(|_| refined(rows, start(rows, k, random)));
    let best = starts.min_by(|a, b| a.0.total_cmp(&b.0));
    best.expect("there is a start").1
}

/// Centres by k-means++ (D. Arthur and S. Vassilvitskii, 2007): each is a row, drawn with a
/// probability that is proportional to its squared distance from the centres before it.
fn start(rows: &[Row], k: usize, random: &mut Random) -> Vec<Row> {
    let mut centres = vec![rows[(random.uniform() * rows.len() as f64) as usize]];
    let mut squares: Vec<f32> = rows.iter().map(|row| squared_distance(row, &centres[0])).collect();
    while centres.len() < k {
        let sum: f64 = squares.iter().map(|square| f64::from(*square)).sum();
        let mut rest = random.uniform() * sum;
        let drawn = squares.iter().position(|square| {
            rest -= f64::from(*square);
            rest < 0.0
        });
        let centre = rows[drawn.unwrap_or(rows.len() - 1)];
        for (square, row) in squares.iter_mut().zip(rows) {
            *square = square.min(squared_distance(row, &centre));
        }
        centres.push(centre);
    }
    centres
}

/// Lloyd's algorithm: the sum of squared distances to the centres, and the centres.
fn refined(rows: &[Row], mut centres: Vec<Row>) -> (f64, Vec<Row>) {
    let mut before = f64::INFINITY;
    for _ in 0..STEPS {
        let mut sums = vec![([0.0_f64; DIM_EMBEDDING], 0.0); centres.len()];
        let mut total = 0.0;
        for row in rows {
            let (nearest, square) = two_nearest(row, &centres).0;
            total += f64::from(square);
            let (sum, count) = &mut sums[nearest];
            *count += 1.0;
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        for (centre, (sum, count)) in centres.iter_mut().zip(sums) {
            if count > 0.0 {
                *centre = sum.map(|value| (value / count) as f32);
            }
        }
        if total >= before {
            break;
        }
        before = total;
    }
    (before, centres)
}

fn silhouette(rows: &[Row], centres: &[Row]) -> f64 {
    let of = |row: &Row| {
        let ((_, a), (_, b)) = two_nearest(row, centres);
        if b > 0.0 { f64::from(1.0 - (a / b).sqrt()) } else { 0.0 }
    };
    rows.iter().map(of).sum::<f64>() / rows.len() as f64
}

/// The nearest and the second nearest centre, with their squared distances.
fn two_nearest(row: &Row, centres: &[Row]) -> ((usize, f32), (usize, f32)) {
    let mut two = ((0, f32::INFINITY), (0, f32::INFINITY));
    for (at, centre) in centres.iter().enumerate() {
        let square = squared_distance(row, centre);
        if square < two.0.1 {
            two = ((at, square), two.0);
        } else if square < two.1.1 {
            two.1 = (at, square);
        }
    }
    two
}

/// Pseudorandom numbers by SplitMix64 (G. Steele et al., "Fast splittable pseudorandom number
/// generators", 2014), the same in every run.
struct Random(u64);

impl Random {
    /// From 0 to 1, without 1.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separate_groups_are_found() {
        let mut random = Random(3);
        let rows: Vec<Embedding> = (0..400)
            .map(|at| {
                let mut row = [0.0; DIM_EMBEDDING];
                row[at % 8] = 1.0;
                Embedding(row.map(|value| value + 0.1 * random.uniform() as f32))
            })
            .collect();
        let found = clusters(&rows);
        assert_eq!(found.central.len(), 8);
        for at in 8..400 {
            assert_eq!(found.of[at], found.of[at % 8]);
        }
        for (cluster, &at) in found.central.iter().enumerate() {
            assert_eq!(found.of[at], cluster);
        }
    }

    #[test]
    fn few_or_equal_tracks_are_one_cluster() {
        let few = clusters(&[Embedding([0.1; 32]), Embedding([0.2; 32])]);
        assert_eq!((few.of, few.central.len()), (vec![0, 0], 1));
        let equal = clusters(&[Embedding([0.1; 32]); 100]);
        assert_eq!((equal.of, equal.central), (vec![0; 100], vec![0]));
    }
}
