//! `explain`: which parts of two tracks make them near or far.

use std::path::Path;

use crate::{Analysis, AudioEmbeddingModel, SAMPLE_RATE, Track};
use anyhow::Result;
use serde_json::{Value, json};

use super::output::Output;
use super::progress;

/// How many windows of each track, and how many pairs of windows, are printed.
const TOP_K: usize = 5;

/// A window of a track and its attention weight.
struct WeightedWindow {
    start_s: f64,
    end_s: f64,
    weight: f32,
}

/// A window of each of two tracks, by their starts, and the cosine similarity of their tokens.
struct WindowPair {
    a_s: f64,
    b_s: f64,
    cosine: f32,
}

/// Prints the distance, the windows of each track with the highest attention, and the pairs of
/// windows with the most similar tokens.
pub fn explain(model: &AudioEmbeddingModel, a: &Path, b: &Path, output: &mut Output) -> Result<()> {
    let window_s = model.window() as f64 / f64::from(SAMPLE_RATE);
    let embed = |path: &Path| {
        progress::begin(format!("analysing {}", path.display()));
        model.embed_file(path)
    };
    let tracks = [embed(a)?, embed(b)?];
    progress::begin("comparing the windows");
    let [a_analysis, b_analysis] = [tracks[0].analysis(), tracks[1].analysis()];
    let distance = a_analysis.embedding().distance(&b_analysis.embedding());
    let top = [top_attention(&tracks[0], window_s), top_attention(&tracks[1], window_s)];
    let pairs = similar_windows(a_analysis, b_analysis, window_s);
    let value = json!({
        "distance": distance,
        "window_s": window_s,
        "songs": [to_json(a, &top[0]), to_json(b, &top[1])],
        "alike": pairs.iter().map(|WindowPair { a_s, b_s, cosine }| {
            json!({ "a_s": a_s, "b_s": b_s, "cosine": cosine })
        }).collect::<Vec<_>>(),
    });
    let mut lines = vec![format!("distance {distance:.4} (0: equal)")];
    for (path, windows) in [(a, &top[0]), (b, &top[1])] {
        lines.push(format!("highest attention in {}", output.text(&path.to_string_lossy())));
        for WeightedWindow { start_s, end_s, weight } in windows {
            let percent = weight * 100.0;
            lines.push(format!("  {} to {}  {percent:.1} %", clock(*start_s), clock(*end_s)));
        }
    }
    lines.push("most similar windows of the first and the second (cosine)".to_string());
    for WindowPair { a_s, b_s, cosine } in &pairs {
        lines.push(format!("  {}  {}  {cosine:.3}", clock(*a_s), clock(*b_s)));
    }
    output.print(&value, lines.join("\n"))
}

/// The windows with the highest attention weights, highest first.
fn top_attention(track: &Track, window_s: f64) -> Vec<WeightedWindow> {
    let attention = track.analysis().attention();
    let mut order: Vec<usize> = (0..attention.len()).collect();
    order.sort_by(|&a, &b| attention[b].total_cmp(&attention[a]).then(a.cmp(&b)));
    let duration_s = track.duration().as_secs_f64();
    let top = order.into_iter().take(TOP_K);
    top.map(|window| WeightedWindow {
        start_s: window as f64 * window_s,
        end_s: ((window + 1) as f64 * window_s).min(duration_s),
        weight: attention[window],
    })
    .collect()
}

fn to_json(path: &Path, windows: &[WeightedWindow]) -> Value {
    let windows: Vec<_> = windows
        .iter()
        .map(|WeightedWindow { start_s, end_s, weight }| {
            json!({ "start_s": start_s, "end_s": end_s, "share": weight })
        })
        .collect();
    json!({ "path": path.to_string_lossy(), "top_attention": windows })
}

/// The pairs of windows with the most similar tokens, most similar first. Each window is in at most
/// one pair.
fn similar_windows(a: &Analysis, b: &Analysis, window_s: f64) -> Vec<WindowPair> {
    let b_tokens: Vec<_> = (0..b.windows()).map(|window| unit_token(b, window)).collect();
    // Only the best partner of each window of `a`, so that memory is linear in the duration.
    let mut best: Vec<(usize, usize, f32)> = (0..a.windows())
        .filter_map(|i| {
            let a_token = unit_token(a, i);
            let cosines = b_tokens.iter().enumerate().map(|(j, b_token)| {
                (i, j, a_token.iter().zip(b_token).map(|(a, b)| a * b).sum::<f32>())
            });
            cosines.max_by(|x, y| x.2.total_cmp(&y.2))
        })
        .collect();
    best.sort_by(|x, y| y.2.total_cmp(&x.2).then(x.0.cmp(&y.0)));
    let mut pairs: Vec<(usize, usize, f32)> = Vec::new();
    for pair in best {
        if pairs.len() < TOP_K && pairs.iter().all(|other| other.1 != pair.1) {
            pairs.push(pair);
        }
    }
    let start_s = |window: usize| window as f64 * window_s;
    let pairs = pairs.into_iter();
    pairs.map(|(i, j, cosine)| WindowPair { a_s: start_s(i), b_s: start_s(j), cosine }).collect()
}

/// The token of a window, scaled to unit length (dim).
fn unit_token(analysis: &Analysis, window: usize) -> Vec<f32> {
    let token = analysis.token(window);
    let norm = token.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    token.iter().map(|v| v / norm).collect()
}

/// Minutes, seconds and tenths of a second.
fn clock(seconds: f64) -> String {
    let whole = seconds as u64;
    let tenths = ((seconds - whole as f64) * 10.0) as u64;
    format!("{}:{:02}.{tenths}", whole / 60, whole % 60)
}
