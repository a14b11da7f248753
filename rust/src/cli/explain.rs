//! `explain`: which parts of two tracks make them near or far.

use std::path::Path;

use crate::{Analysis, AudioEmbeddingModel, Embedding, SAMPLE_RATE, Track};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::input::{Input, inputs};
use super::output::Output;
use super::progress;

/// How many parts of each track, and how many pairs of windows, are printed.
const TOP_K: usize = 5;

/// The most parts of a track that are left out one by one. In a longer track, a part is several
/// windows.
const MAX_PARTS: usize = 256;

/// A part of a track, and how the distance changes without it.
struct Part {
    start_s: f64,
    end_s: f64,
    change: f32,
}

/// A window of each of two tracks, by their starts, and the cosine similarity of their tokens.
struct WindowPair {
    a_s: f64,
    b_s: f64,
    cosine: f32,
}

/// Prints the distance, the seconds of each track that move it most, and the pairs of windows with
/// the most similar tokens.
pub fn explain(model: &AudioEmbeddingModel, a: &Path, b: &Path, output: &mut Output) -> Result<()> {
    let window_s = model.window() as f64 / f64::from(SAMPLE_RATE);
    let inputs = inputs(&[a.to_path_buf(), b.to_path_buf()])?;
    let [a, b] = &inputs[..] else {
        bail!("{} songs, expected two: standard input must be one of them", inputs.len());
    };
    let embed = |input: &Input| {
        progress::begin(format!("analysing {}", input.name.display()));
        model.embed_file(&input.path)
    };
    let [a_track, b_track] = [embed(a)?, embed(b)?];
    let [a, b] = [&a.name, &b.name];
    progress::begin("comparing the windows");
    let [a_analysis, b_analysis] = [a_track.analysis(), b_track.analysis()];
    let distance = a_analysis.embedding().distance(&b_analysis.embedding());
    let parts = [
        moving_parts(model, &a_track, &b_analysis.embedding(), window_s)?,
        moving_parts(model, &b_track, &a_analysis.embedding(), window_s)?,
    ];
    let pairs = similar_windows(a_analysis, b_analysis);
    let value = json!({
        "distance": distance,
        "window_s": window_s,
        "songs": [to_json(a, &parts[0]), to_json(b, &parts[1])],
        "alike": pairs.iter().map(|WindowPair { a_s, b_s, cosine }| {
            json!({ "a_s": a_s, "b_s": b_s, "cosine": cosine })
        }).collect::<Vec<_>>(),
    });
    let mut lines = vec![format!("distance {distance:.4} (0: equal)")];
    for (path, parts) in [(a, &parts[0]), (b, &parts[1])] {
        let name = path.to_string_lossy();
        let name = output.text(&name);
        lines.push(format!("how the distance changes without these seconds of {name}"));
        for Part { start_s, end_s, change } in parts {
            lines.push(format!("  {} to {}  {change:+.4}", clock(*start_s), clock(*end_s)));
        }
    }
    lines.push("most similar windows of the first and the second (cosine)".to_string());
    for WindowPair { a_s, b_s, cosine } in &pairs {
        lines.push(format!("  {}  {}  {cosine:.3}", clock(*a_s), clock(*b_s)));
    }
    output.print(&value, lines.join("\n"))
}

/// The parts of a track without which its distance to `other` changes most, the largest change first.
fn moving_parts(
    model: &AudioEmbeddingModel,
    track: &Track,
    other: &Embedding,
    window_s: f64,
) -> Result<Vec<Part>> {
    let analysis = track.analysis();
    let distance = analysis.embedding().distance(other);
    let duration_s = track.duration().as_secs_f64();
    let count = analysis.windows();
    let len = count.div_ceil(MAX_PARTS);
    let mut parts = Vec::new();
    for first in (0..count).step_by(len) {
        let end = (first + len).min(count);
        let without = model.embedding_without(analysis, first..end)?;
        parts.push(Part {
            start_s: analysis.start_s(first),
            end_s: (analysis.start_s(end - 1) + window_s).min(duration_s),
            change: without.distance(other) - distance,
        });
    }
    let size = |part: &Part| part.change.abs();
    parts.sort_by(|x, y| size(y).total_cmp(&size(x)).then(x.start_s.total_cmp(&y.start_s)));
    parts.truncate(TOP_K);
    Ok(parts)
}

fn to_json(path: &Path, parts: &[Part]) -> Value {
    let parts: Vec<_> = parts
        .iter()
        .map(|Part { start_s, end_s, change }| {
            json!({ "start_s": start_s, "end_s": end_s, "change": change })
        })
        .collect();
    json!({ "path": path.to_string_lossy(), "without": parts })
}

/// The pairs of windows with the most similar tokens, most similar first. Each window is in at most
/// one pair.
fn similar_windows(a: &Analysis, b: &Analysis) -> Vec<WindowPair> {
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
    let pairs = pairs.into_iter();
    pairs
        .map(|(i, j, cosine)| WindowPair { a_s: a.start_s(i), b_s: b.start_s(j), cosine })
        .collect()
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
