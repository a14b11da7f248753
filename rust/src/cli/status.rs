//! `status`: what the index holds, and what needs attention.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::AudioEmbeddingModel;
use anyhow::Result;
use serde_json::{Value, json};

use super::database::{Absent, Index, RowState};
use super::numbers::{count, thousands};
use super::output::Output;

/// How many tracks of each kind are printed without `--all`.
const SHOWN: usize = 20;

/// Prints the state of the index.
pub fn status(
    model: &AudioEmbeddingModel,
    path: &Path,
    all: bool,
    output: &mut Output,
) -> Result<()> {
    let index = Index::open(path)?;
    let rows = index.states()?;
    let version = model.version();
    let failed: Vec<_> = rows.iter().filter(|row| row.error.is_some()).collect();
    let damaged: Vec<_> = rows.iter().filter(|row| row.damage.is_some()).collect();
    let of = |absent| rows.iter().filter(|row| row.absent == Some(absent)).collect::<Vec<_>>();
    let (missing, excluded) = (of(Absent::Missing), of(Absent::Excluded));
    let comparable =
        |row: &&RowState| row.error.is_none() && row.absent.is_none() && row.version == version;
    let comparable = rows.iter().filter(comparable).count();
    let mut folders: BTreeMap<Option<&PathBuf>, usize> = BTreeMap::new();
    let mut models: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        *folders.entry(row.folder.as_ref()).or_default() += 1;
        *models.entry(&row.version).or_default() += 1;
    }
    let value = json!({
        "index": path.to_string_lossy(),
        "version": version,
        "songs": rows.len(),
        "comparable": comparable,
        "folders": folders.iter().map(|(folder, number)| json!({
            "path": folder.map(|folder| folder.to_string_lossy()), "songs": number,
        })).collect::<Vec<_>>(),
        "models": models,
        "failed": failed.iter().map(|row| to_json(row, row.error.as_ref())).collect::<Vec<_>>(),
        "damaged": damaged.iter().map(|row| to_json(row, row.damage.as_ref())).collect::<Vec<_>>(),
        "missing": missing.iter().map(|row| to_json(row, None)).collect::<Vec<_>>(),
        "excluded": excluded.iter().map(|row| to_json(row, None)).collect::<Vec<_>>(),
    });
    let mut text = Vec::new();
    let mut line = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| text.extend_from_slice(part));
        text.push(b'\n');
    };
    line(&[b"index: ", &output.name(path)]);
    let songs = count(rows.len(), "song");
    line(&[format!("{songs}, {} can be compared", thousands(comparable as u64)).as_bytes()]);
    for (folder, number) in &folders {
        let name = match folder {
            Some(folder) => output.name(folder),
            None => b"(indexed by an older feelprint)".to_vec(),
        };
        line(&[b"folder: ", &name, format!(", {}", count(*number, "song")).as_bytes()]);
    }
    for (model, number) in &models {
        let in_use = if *model == version { ", in use" } else { ", not in use" };
        line(&[format!("model: {model}, {}{in_use}", count(*number, "song")).as_bytes()]);
    }
    if !models.contains_key(version) {
        line(&[format!("model: {version}, 0 songs, in use").as_bytes()]);
    }
    let lists = [
        ("failed", &failed, true),
        ("damaged", &damaged, true),
        ("missing", &missing, true),
        ("excluded", &excluded, all),
    ];
    for (title, rows, is_listed) in lists {
        line(&[format!("{title}: {}", count(rows.len(), "song")).as_bytes()]);
        let shown = if all { rows.len() } else { SHOWN };
        for row in rows.iter().take(shown).filter(|_| is_listed) {
            let reason = match title {
                "failed" => row.error.as_deref(),
                "damaged" => row.damage.as_deref(),
                _ => None,
            };
            let reason = reason.map_or(String::new(), |it| format!(": {}", output.text(it)));
            line(&[b"  ", &row_name(row, output), reason.as_bytes()]);
        }
        if is_listed && rows.len() > shown {
            let more = thousands((rows.len() - shown) as u64);
            line(&[format!("  and {more} more: `feelprint status --all`").as_bytes()]);
        }
    }
    // `print` ends the last line.
    text.pop();
    output.print(&value, text)
}

/// The path of a row, and its track in a cue sheet.
pub fn row_name(row: &RowState, output: &Output) -> Vec<u8> {
    let mut name = output.name(&row.path);
    if row.track > 0 {
        name.extend(format!("#{}", row.track).into_bytes());
    }
    name
}

fn to_json(row: &RowState, reason: Option<&String>) -> Value {
    let mut value = json!({ "path": row.path.to_string_lossy() });
    if row.track > 0 {
        value["track"] = row.track.into();
    }
    if let Some(reason) = reason {
        value["reason"] = reason.as_str().into();
    }
    value
}
