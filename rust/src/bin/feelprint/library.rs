//! `similar`, `playlist` and `duplicates`: questions to the index.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use feelprint::neighbours::Neighbours;
use feelprint::{AudioEmbeddingModel, Embedding};
use rayon::prelude::*;
use serde_json::json;

use crate::analyse::content_hash;
use crate::files::full_path;
use crate::index::{Entry, Index};
use crate::output::Output;

/// How many near songs a playlist picks from, for each song that it has.
const CANDIDATES: usize = 4;

/// How far apart the embeddings of the same recording may lie, in two files of two formats.
pub const SAME_DISTANCE: f32 = 0.05;

/// How far the lengths of two recordings may lie apart that are called the same, in seconds.
const SAME_DURATION_S: f64 = 3.0;

/// All songs of the index.
struct Library {
    entries: Vec<Entry>,
    neighbours: Neighbours,
}

impl Library {
    fn open(model: &AudioEmbeddingModel, index: &Path) -> Result<Self> {
        let entries = Index::open(index)?.entries(model.version())?;
        let neighbours = entries.iter().map(|entry| entry.embedding).collect();
        Ok(Self { entries, neighbours })
    }

    /// A song, and its place if the index holds it. A song that it does not hold is heard now.
    fn song(&self, model: &AudioEmbeddingModel, song: &Path) -> Result<(Entry, Option<usize>)> {
        let full = full_path(song)?;
        let path = full.to_string_lossy().into_owned();
        if let Ok(place) = self.entries.binary_search_by(|entry| entry.path.cmp(&path)) {
            return Ok((self.entries[place].clone(), Some(place)));
        }
        let heard = model.embed_file(song)?;
        let entry = Entry {
            path,
            embedding: heard.heard().embedding(),
            hash: content_hash(&full)?,
            duration_s: heard.duration().as_secs_f64(),
            silent: heard.heard().is_silent(),
            album: heard.album().map(str::to_string),
        };
        Ok((entry, None))
    }
}

/// The album in the tags, or else the folder.
fn album(entry: &Entry) -> String {
    let folder = Path::new(&entry.path).parent().unwrap_or(Path::new(""));
    entry.album.clone().unwrap_or_else(|| folder.to_string_lossy().into_owned())
}

/// Whether two files hold the same recording: the same content, or embeddings within `distance`
/// and lengths within some seconds.
fn same_recording(a: &Entry, b: &Entry, distance: f32) -> bool {
    // Silence sounds like silence: only the same file is the same then.
    a.hash == b.hash
        || (!a.silent
            && (a.duration_s - b.duration_s).abs() <= SAME_DURATION_S
            && a.embedding.distance(&b.embedding) <= distance)
}

/// Prints the songs nearest to `song`.
pub fn similar(
    model: &AudioEmbeddingModel,
    index: &Path,
    song: &Path,
    n: usize,
    output: &mut Output,
) -> Result<()> {
    let library = Library::open(model, index)?;
    let (song, itself) = library.song(model, song)?;
    let to = &song.embedding;
    for found in library.neighbours.nearest_where(to, n, |place| Some(place) != itself) {
        let path = &library.entries[found.place].path;
        output.print(
            &json!({ "path": path, "distance": found.distance }),
            &format!("{:.4}  {path}", found.distance),
        )?;
    }
    Ok(())
}

/// Prints a path through the songs near `song`, from song to near song. No recording is in it
/// twice, and that of `song` is not.
pub fn playlist(
    model: &AudioEmbeddingModel,
    index: &Path,
    song: &Path,
    n: usize,
    max_per_album: Option<usize>,
    output: &mut Output,
) -> Result<()> {
    let library = Library::open(model, index)?;
    let (seed, itself) = library.song(model, song)?;
    let mut picked: Vec<usize> = Vec::new();
    // Near songs of albums that are full, and other files of what is in, are passed over: look
    // further out until there are enough.
    let mut look_at = n.saturating_mul(CANDIDATES);
    loop {
        picked.clear();
        let mut albums = HashMap::from([(album(&seed), 1)]);
        let other = |place| Some(place) != itself;
        let near = library.neighbours.nearest_where(&seed.embedding, look_at, other);
        for found in &near {
            let entry = &library.entries[found.place];
            let count = albums.entry(album(entry)).or_default();
            let mut before = picked.iter().map(|&place| &library.entries[place]).chain([&seed]);
            if picked.len() < n
                && max_per_album.is_none_or(|max| *count < max)
                && !before.any(|before| same_recording(entry, before, SAME_DISTANCE))
            {
                *count += 1;
                picked.push(found.place);
            }
        }
        if picked.len() == n || near.len() < look_at {
            break;
        }
        look_at = look_at.saturating_mul(CANDIDATES);
    }
    let embeddings: Vec<_> = picked.iter().map(|&place| library.entries[place].embedding).collect();
    let seed = seed.embedding;
    let mut before = seed;
    for step in path_through(&seed, &embeddings) {
        let path = &library.entries[picked[step]].path;
        let embedding = embeddings[step];
        let distance = embedding.distance(&seed);
        let jump = embedding.distance(&before);
        before = embedding;
        output.print(
            &json!({ "path": path, "distance": distance, "step": jump }),
            &format!("{jump:.4}  {path}"),
        )?;
    }
    Ok(())
}

/// An order of `songs` from `start` on with short steps: each time the nearest that is left, then
/// stretches are turned round while that makes the whole path shorter (2-opt).
fn path_through(start: &Embedding, songs: &[Embedding]) -> Vec<usize> {
    let mut left: Vec<usize> = (0..songs.len()).collect();
    let mut path = Vec::with_capacity(songs.len());
    let mut here = *start;
    while !left.is_empty() {
        let nearest = (0..left.len())
            .min_by(|&a, &b| {
                here.distance(&songs[left[a]]).total_cmp(&here.distance(&songs[left[b]]))
            })
            .expect("some are left");
        let song = left.remove(nearest);
        here = songs[song];
        path.push(song);
    }
    let step = |path: &[usize], from: usize, to: usize| {
        let before = if from == 0 { start } else { &songs[path[from - 1]] };
        before.distance(&songs[path[to]])
    };
    let mut shorter = true;
    while shorter {
        shorter = false;
        for i in 0..path.len() {
            for j in i + 1..path.len() {
                // Turning path[i..=j] round changes the step into it and the step out of it.
                let (mut old, mut new) = (step(&path, i, i), step(&path, i, j));
                if j + 1 < path.len() {
                    old += songs[path[j]].distance(&songs[path[j + 1]]);
                    new += songs[path[i]].distance(&songs[path[j + 1]]);
                }
                if new < old - 1e-6 {
                    path[i..=j].reverse();
                    shorter = true;
                }
            }
        }
    }
    path
}

/// Prints groups of songs that are the same recording: the same content, or embeddings within
/// `distance` and lengths within some seconds.
pub fn duplicates(
    model: &AudioEmbeddingModel,
    index: &Path,
    distance: f32,
    output: &mut Output,
) -> Result<()> {
    let library = Library::open(model, index)?;
    let entries = &library.entries;
    let pairs: Vec<(usize, usize)> = (0..entries.len())
        .into_par_iter()
        .flat_map_iter(|a| {
            let near = library.neighbours.within(&entries[a].embedding, distance);
            let later = near.into_iter().map(|found| found.place).filter(move |&b| b > a);
            later
                .filter(|&b| same_recording(&entries[a], &entries[b], distance))
                .map(|b| (a, b))
                .collect::<Vec<_>>()
        })
        .collect();
    for group in groups(entries.len(), &pairs) {
        let first = &entries[group[0]];
        let songs: Vec<_> = group.iter().map(|&place| &entries[place]).collect();
        let identical = songs.iter().all(|song| song.hash == first.hash);
        let mut lines =
            vec![if identical { "the same content:" } else { "the same recording:" }.to_string()];
        for song in &songs {
            let distance = song.embedding.distance(&first.embedding);
            lines.push(format!("  {distance:.4}  {}", song.path));
        }
        let paths: Vec<_> = songs.iter().map(|song| &song.path).collect();
        output.print(&json!({ "identical": identical, "paths": paths }), &lines.join("\n"))?;
    }
    Ok(())
}

/// The groups that pairs hang together in, each sorted, in the order of their first members.
fn groups(count: usize, pairs: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..count).collect();
    fn root(parent: &mut [usize], mut of: usize) -> usize {
        while parent[of] != of {
            parent[of] = parent[parent[of]];
            of = parent[of];
        }
        of
    }
    for &(a, b) in pairs {
        let (a, b) = (root(&mut parent, a), root(&mut parent, b));
        parent[a.max(b)] = a.min(b);
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); count];
    for member in 0..count {
        let root = root(&mut parent, member);
        members[root].push(member);
    }
    members.retain(|group| group.len() > 1);
    members
}
