//! `explain`: what two songs share, as the model hears it.

use std::path::Path;

use anyhow::Result;
use feelprint::decode::Song;
use feelprint::{AudioEmbeddingModel, Heard, SAMPLE_RATE};
use serde_json::{Value, json};

use crate::output::Output;

/// How many windows of a song, and how many pairs of windows, are told.
const TOLD: usize = 5;

/// Prints the seconds of each song that weighed most, and the windows of the two that are most
/// alike.
pub fn explain(model: &AudioEmbeddingModel, a: &Path, b: &Path, output: &mut Output) -> Result<()> {
    let songs = [model.embed_file(a)?, model.embed_file(b)?];
    let heard = [songs[0].heard(), songs[1].heard()];
    let distance = heard[0].embedding().distance(&heard[1].embedding());
    let window_s = model.window() as f64 / f64::from(SAMPLE_RATE);
    let weighed = [weighed_most(&songs[0], window_s), weighed_most(&songs[1], window_s)];
    let pairs: Vec<_> = alike(heard[0], heard[1])
        .into_iter()
        .map(|(i, j, cosine)| (i as f64 * window_s, j as f64 * window_s, cosine))
        .collect();

    let value = json!({
        "distance": distance,
        "window_s": window_s,
        "songs": [told(a, &weighed[0]), told(b, &weighed[1])],
        "alike": pairs.iter().map(|(a_s, b_s, cosine)| {
            json!({ "a_s": a_s, "b_s": b_s, "cosine": cosine })
        }).collect::<Vec<_>>(),
    });
    let mut lines = vec![format!("distance {distance:.4} (0 the same, 2 the opposite)")];
    for (path, weighed) in [(a, &weighed[0]), (b, &weighed[1])] {
        lines.push(format!("what weighed most in {}", path.display()));
        for (start, end, share) in weighed {
            let percent = share * 100.0;
            lines.push(format!("  {} to {}  {percent:.1} %", clock(*start), clock(*end)));
        }
    }
    lines.push("windows most alike, of the first and of the second (cosine)".to_string());
    for (a_s, b_s, cosine) in &pairs {
        lines.push(format!("  {}  {}  {cosine:.3}", clock(*a_s), clock(*b_s)));
    }
    output.print(&value, &lines.join("\n"))
}

/// Start and end in seconds, and share in the embedding, of the windows that weighed most.
fn weighed_most(song: &Song, window_s: f64) -> Vec<(f64, f64, f32)> {
    let attention = song.heard().attention();
    let mut order: Vec<usize> = (0..attention.len()).collect();
    order.sort_by(|&a, &b| attention[b].total_cmp(&attention[a]).then(a.cmp(&b)));
    let end = song.duration().as_secs_f64();
    let stretch = |w: usize| (w as f64 * window_s, ((w + 1) as f64 * window_s).min(end));
    let told = order.into_iter().take(TOLD);
    told.map(|w| (stretch(w).0, stretch(w).1, attention[w])).collect()
}

fn told(path: &Path, weighed: &[(f64, f64, f32)]) -> Value {
    let windows: Vec<_> = weighed
        .iter()
        .map(|(start, end, share)| json!({ "start_s": start, "end_s": end, "share": share }))
        .collect();
    json!({ "path": path.to_string_lossy(), "weighed_most": windows })
}

/// The pairs of windows with the highest cosine, each window in one pair at most.
fn alike(a: &Heard, b: &Heard) -> Vec<(usize, usize, f32)> {
    let unit = |heard: &Heard, w: usize| -> Vec<f32> {
        let token = heard.token(w);
        let norm = token.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        token.iter().map(|v| v / norm).collect()
    };
    let b_units: Vec<_> = (0..b.windows()).map(|w| unit(b, w)).collect();
    // The best partner of each of a's windows is enough to choose from: memory stays linear.
    let mut best: Vec<(usize, usize, f32)> = (0..a.windows())
        .filter_map(|i| {
            let a_unit = unit(a, i);
            let cosines = b_units.iter().enumerate().map(|(j, b_unit)| {
                (i, j, a_unit.iter().zip(b_unit).map(|(a, b)| a * b).sum::<f32>())
            });
            cosines.max_by(|x, y| x.2.total_cmp(&y.2))
        })
        .collect();
    best.sort_by(|x, y| y.2.total_cmp(&x.2).then(x.0.cmp(&y.0)));
    let mut told: Vec<(usize, usize, f32)> = Vec::new();
    for pair in best {
        if told.len() < TOLD && told.iter().all(|other| other.1 != pair.1) {
            told.push(pair);
        }
    }
    told
}

fn clock(seconds: f64) -> String {
    let whole = seconds as u64;
    let tenths = ((seconds - whole as f64) * 10.0) as u64;
    format!("{}:{:02}.{tenths}", whole / 60, whole % 60)
}
