//! The search against the definition.

use feelprint::neighbours::{Neighbours, nearest_to_each};
use feelprint::{DIM_EMBEDDING, Embedding};
use proptest::prelude::*;

fn embedding() -> impl Strategy<Value = Embedding> {
    // Few distinct values, so that there are ties.
    prop::collection::vec((-2_i8..=2).prop_map(f32::from), DIM_EMBEDDING)
        .prop_map(|values| Embedding(values.try_into().unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nearest_is_exact(
        tracks in prop::collection::vec(embedding(), 0..300),
        to in embedding(),
        n in 0_usize..320,
    ) {
        let neighbours: Neighbours = tracks.iter().copied().collect();
        let mut want: Vec<(f32, usize)> =
            tracks.iter().enumerate().map(|(index, track)| (track.distance(&to), index)).collect();
        want.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let got = neighbours.nearest(&to, n);
        prop_assert_eq!(got.len(), n.min(tracks.len()));
        for (got, (distance, index)) in got.iter().zip(&want) {
            prop_assert_eq!(got.index, *index);
            prop_assert!((got.distance - distance).abs() < 1e-5);
        }
    }

    #[test]
    fn nearest_to_each_is_nearest_for_each(
        tracks in prop::collection::vec(embedding(), 0..300),
        queries in prop::collection::vec(embedding(), 0..20),
        n in 0_usize..320,
    ) {
        let rows: Vec<_> = tracks.iter().map(|track| track.0).collect();
        let queries_rows: Vec<_> = queries.iter().map(|query| query.0).collect();
        let neighbours: Neighbours = tracks.into_iter().collect();
        let want: Vec<_> = queries.iter().map(|query| neighbours.nearest(query, n)).collect();
        prop_assert_eq!(nearest_to_each(&rows, &queries_rows, n), want);
    }

    #[test]
    fn within_and_nearest_where_are_exact(
        tracks in prop::collection::vec(embedding(), 0..200),
        to in embedding(),
    ) {
        let neighbours: Neighbours = tracks.iter().copied().collect();
        let near: Vec<_> = neighbours.within(&to, 9.5).iter().map(|found| found.index).collect();
        let want: Vec<_> =
            (0..tracks.len()).filter(|&index| tracks[index].distance(&to) <= 9.5).collect();
        prop_assert_eq!(near, want);
        let even = neighbours.nearest_where(&to, 10, |index| index % 2 == 0);
        prop_assert_eq!(even.len(), tracks.len().div_ceil(2).min(10));
        prop_assert!(even.iter().all(|found| found.index % 2 == 0));
    }

    #[test]
    fn nearest_to_any_is_exact(
        tracks in prop::collection::vec(embedding(), 0..100),
        queries in prop::collection::vec(embedding(), 0..4),
        n in 0_usize..120,
    ) {
        let neighbours: Neighbours = tracks.iter().copied().collect();
        let distance = |track: &Embedding| {
            queries.iter().map(|query| track.distance(query)).fold(f32::INFINITY, f32::min)
        };
        let odd = (0..tracks.len()).filter(|index| index % 2 == 1 && !queries.is_empty());
        let mut want: Vec<(f32, usize)> =
            odd.map(|index| (distance(&tracks[index]), index)).collect();
        want.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let got = neighbours.nearest_to_any(&queries, n, |index| index % 2 == 1);
        prop_assert_eq!(got.len(), n.min(want.len()));
        for (got, (distance, index)) in got.iter().zip(&want) {
            prop_assert_eq!(got.index, *index);
            prop_assert!((got.distance - distance).abs() < 1e-5);
        }
    }
}

#[test]
fn more_rows_than_a_block_are_searched() {
    let far = Embedding([1.0; DIM_EMBEDDING]);
    let mut neighbours: Neighbours = std::iter::repeat_n(far, 10_000).collect();
    let near = Embedding([0.5; DIM_EMBEDDING]);
    neighbours.push(near);
    assert_eq!(neighbours.len(), 10_001);
    let found = neighbours.nearest(&near, 2);
    assert_eq!((found[0].index, found[0].distance), (10_000, 0.0));
    assert_eq!(found[1].index, 0);
    assert_eq!(neighbours.get(10_000), Some(near));
    assert_eq!(neighbours.get(10_001), None);
}
