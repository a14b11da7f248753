//! The map of a library: one HTML page that shows its tracks in two dimensions.
//!
//! The page needs no network. It plays the files where they lie, by the links of its tracks.
//!
//! ```
//! use feelprint::Embedding;
//! use feelprint::map::{MapTrack, page, page_data};
//!
//! # fn main() -> feelprint::Result<()> {
//! let track = |title: &str, value| MapTrack {
//!     embedding: Embedding([value; 32]),
//!     path: format!("/music/{title}.mp3").into(),
//!     link: format!("{title}.mp3").into(),
//!     title: Some(title.to_string()),
//!     ..MapTrack::default()
//! };
//! let data = page_data(&[track("a", 0.1), track("b", 0.2)], |_| ())?;
//! assert_eq!(data["titles"][1], "b");
//! assert!(page(&data).starts_with("<!doctype html>"));
//! # Ok(())
//! # }
//! ```

mod clusters;
mod projection;
mod url;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::embeddings::Embedding;
use crate::error::{Error, Result};
use crate::neighbours::{Neighbour, Neighbours};

/// How many nearest tracks the page shows of each.
pub const NEAREST: usize = 10;

/// The first bytes of every page, by which a file is known to be a map.
pub const SIGNATURE: &str = "<!doctype html>\n<!-- a map by feelprint -->";

/// Coordinates in the page are integers from 0 to this.
const GRID: f32 = 65_535.0;

const TEMPLATE: &str = include_str!("page.html");
const DECK: &str = include_str!("deck.min.js");

/// A track of a map.
#[derive(Debug, Clone, Default)]
pub struct MapTrack {
    /// The embedding, of the same model for all tracks.
    pub embedding: Embedding,
    /// The audio file. Its folder is one of the colours.
    pub path: PathBuf,
    /// What the page links to: `path`, or its way from the folder of the page.
    pub link: PathBuf,
    /// The start and the end in the file, in seconds, of a track of a cue sheet.
    pub section_s: Option<(f64, f64)>,
    /// The title; without one, the page shows the name of the file.
    pub title: Option<String>,
    /// The artist, or "".
    pub artist: String,
    /// The album, or "".
    pub album: String,
    /// In seconds.
    pub duration_s: f64,
}

/// What `page_data` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A part of the work begins; the number of its steps.
    Begin(&'static str, usize),
    /// A step is done.
    Step,
}

/// The data of the page: places, neighbours, clusters, names and links of the tracks.
///
/// - `x`, `y`: integers from 0 to 65,535, by t-SNE of the embeddings (L. van der Maaten and
///   G. Hinton, "Visualizing data using t-SNE", 2008), which keeps near tracks near.
/// - `n_near`, `near`, `distances`: the nearest tracks of each, nearest first, one after another,
///   and their Euclidean distances in thousandths.
/// - `groups`: what colours the tracks (cluster, album, artist, folder): the names, largest group
///   first, and the index of each track's name.
/// - `titles`, `durations_s`, `bases`, `base`, `files` (a link is a base and a file), `sections_s`.
///
/// The result is the same for the same tracks on the same machine, with any number of threads.
///
/// # Errors
///
/// Without a track, and for an embedding with a value that is not finite.
pub fn page_data(tracks: &[MapTrack], progress: impl Fn(Progress) + Sync) -> Result<Value> {
    if tracks.is_empty() {
        return Err(Error::argument("no track given for the map, expected one or more"));
    }
    if let Some(track) = tracks.iter().find(|t| t.embedding.0.iter().any(|v| !v.is_finite())) {
        let problem = "the embedding has a value that is not finite; analyse the file again";
        return Err(Error::argument(problem).at(&track.path));
    }
    let rows: Vec<Embedding> = tracks.iter().map(|track| track.embedding).collect();
    let near = nearest(&rows, NEAREST.max(projection::n_neighbours(rows.len())), &progress);
    let places = projection::project(&rows, &near, &progress);
    progress(Progress::Begin("grouping songs", 0));
    let clusters = clusters::clusters(&rows);
    let n_near = NEAREST.min(tracks.len() - 1);
    let shown = || near.iter().flat_map(|row| &row[..n_near]);
    let on_grid = |axis: usize| -> Vec<u32> {
        places.iter().map(|place| (place[axis] * GRID).round() as u32).collect()
    };
    let titles: Vec<_> = tracks.iter().map(title).collect();
    let cluster_names = clusters.central.iter().map(|&at| match tracks[at].artist.as_str() {
        "" => format!("around {}", titles[at]),
        artist => format!("around {} · {artist}", titles[at]),
    });
    let cluster_names: Vec<_> = cluster_names.collect();
    let folders = folder_names(tracks);
    let links: Vec<_> = tracks.iter().map(|track| url::link(&track.link)).collect();
    let (bases, base) = distinct(links.iter().map(|(base, _)| base.as_str()));
    let sections_s: HashMap<_, _> = tracks
        .iter()
        .enumerate()
        .filter_map(|(at, track)| Some((at.to_string(), track.section_s?)))
        .collect();
    Ok(json!({
        "titles": titles,
        "durations_s": tracks.iter().map(|track| track.duration_s.round()).collect::<Vec<_>>(),
        "x": on_grid(0),
        "y": on_grid(1),
        "n_near": n_near,
        "near": shown().map(|neighbour| neighbour.index).collect::<Vec<_>>(),
        "distances": shown().map(|it| (1000.0 * it.distance).round() as u32).collect::<Vec<_>>(),
        "groups": [
            group("cluster", clusters.of.iter().map(|&of| cluster_names[of].as_str())),
            group("album", tracks.iter().map(|track| track.album.as_str())),
            group("artist", tracks.iter().map(|track| track.artist.as_str())),
            group("folder", folders.iter().map(String::as_str)),
        ],
        "bases": bases,
        "base": base,
        "files": links.iter().map(|(_, file)| file).collect::<Vec<_>>(),
        "sections_s": sections_s,
    }))
}

/// The page, from the result of [`page_data`].
#[must_use]
pub fn page(data: &Value) -> String {
    // In a script element of HTML, "<" alone can end the element or begin a comment.
    let data = data.to_string().replace('<', "\\u003c");
    let (head, rest) = TEMPLATE.split_once("{{ deck }}").expect("the template has a library");
    let (middle, end) = rest.split_once("{{ data }}").expect("the template has data");
    [head, DECK, middle, &data, end].concat()
}

/// The `n` nearest other tracks of each, nearest first.
fn nearest(
    rows: &[Embedding],
    n: usize,
    progress: &(impl Fn(Progress) + Sync),
) -> Vec<Vec<Neighbour>> {
    progress(Progress::Begin("comparing songs", rows.len()));
    let neighbours: Neighbours = rows.iter().copied().collect();
    let of = |at: usize| {
        let near = neighbours.nearest_where(&rows[at], n, |other| other != at);
        progress(Progress::Step);
        near
    };
    (0..rows.len()).into_par_iter().map(of).collect()
}

/// The title, or else the name of the file without its ending.
fn title(track: &MapTrack) -> String {
    let stem = || track.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    track.title.clone().or_else(stem).unwrap_or_default()
}

/// The folder of every track, from the lowest folder that holds them all.
fn folder_names(tracks: &[MapTrack]) -> Vec<String> {
    let folders: Vec<_> =
        tracks.iter().map(|track| track.path.parent().unwrap_or(Path::new(""))).collect();
    let mut common = folders[0];
    while let Some(above) = common.parent()
        && !folders.iter().all(|folder| folder.starts_with(common))
    {
        common = above;
    }
    let name = |folder: &&Path| {
        let below = folder.strip_prefix(common).unwrap_or(folder);
        let shown = if below.as_os_str().is_empty() { folder } else { below };
        shown.to_string_lossy().into_owned()
    };
    folders.iter().map(name).collect()
}

/// The distinct names, the most frequent first, and the index of each name among them.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> (Vec<&'a str>, Vec<usize>) {
    let names: Vec<&str> = names.collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for name in &names {
        *counts.entry(name).or_default() += 1;
    }
    let mut distinct: Vec<_> = counts.keys().copied().collect();
    distinct.sort_by(|a, b| counts[b].cmp(&counts[a]).then(a.cmp(b)));
    let index: HashMap<_, _> = distinct.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let of = names.iter().map(|name| index[name]).collect();
    (distinct, of)
}

fn group<'a>(label: &str, names: impl Iterator<Item = &'a str>) -> Value {
    let (names, of) = distinct(names);
    json!({ "label": label, "names": names, "of": of })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracks(n: usize) -> Vec<MapTrack> {
        let rows = projection::tests::albums(n);
        let track = |(at, embedding): (usize, Embedding)| MapTrack {
            embedding,
            path: format!("/m/album {}/{at}.flac", at / 10).into(),
            link: format!("/m/album {}/{at}.flac", at / 10).into(),
            title: (at % 2 == 0).then(|| format!("title {at}")),
            artist: format!("artist {}", at / 30),
            album: format!("album {}", at / 10),
            ..MapTrack::default()
        };
        rows.into_iter().enumerate().map(track).collect()
    }

    #[test]
    fn every_track_has_a_place_neighbours_and_names() {
        let tracks = tracks(120);
        let data = page_data(&tracks, |_| ()).unwrap();
        for column in ["titles", "durations_s", "x", "y", "base", "files"] {
            assert_eq!(data[column].as_array().unwrap().len(), 120, "{column}");
        }
        assert_eq!(data["n_near"], 10);
        let (near, distances) = (data["near"].as_array().unwrap(), &data["distances"]);
        assert_eq!((near.len(), distances.as_array().unwrap().len()), (1200, 1200));
        let rows: Neighbours = tracks.iter().map(|track| track.embedding).collect();
        let of_7 = rows.nearest_where(&tracks[7].embedding, 10, |at| at != 7);
        for (at, neighbour) in of_7.iter().enumerate() {
            assert_eq!(near[70 + at], neighbour.index);
            assert_eq!(distances[70 + at], (1000.0 * neighbour.distance).round() as u32);
        }
        assert_eq!(data["titles"][2], "title 2");
        assert_eq!(data["titles"][3], "3");
        let labels: Vec<_> =
            data["groups"].as_array().unwrap().iter().map(|group| &group["label"]).collect();
        assert_eq!(labels, ["cluster", "album", "artist", "folder"]);
        let name = |group: usize, at: usize| {
            let group = &data["groups"][group];
            group["names"][group["of"][at].as_u64().unwrap() as usize].as_str().unwrap().to_string()
        };
        assert_eq!((name(1, 25), name(2, 35), name(3, 119)).0, "album 2");
        assert_eq!(name(2, 35), "artist 1");
        assert_eq!(name(3, 119), "album 11");
        assert!(name(0, 0).starts_with("around "));
        let (base, file) = (&data["bases"][data["base"][11].as_u64().unwrap() as usize], 11);
        assert_eq!(base, "file:///m/album%201/");
        assert_eq!(data["files"][file], "11.flac");
    }

    #[test]
    fn the_map_is_the_same_with_any_number_of_threads() {
        let tracks = tracks(150);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| page_data(&tracks, |_| ()).unwrap())
        };
        assert_eq!(with(1), with(4));
    }

    #[test]
    fn few_tracks_and_equal_tracks_have_a_map() {
        for n in 1..8 {
            let data = page_data(&tracks(n), |_| ()).unwrap();
            assert_eq!(data["x"].as_array().unwrap().len(), n);
            assert_eq!(data["n_near"], (n - 1).min(NEAREST));
        }
        for n in [60, 2_100] {
            let mut equal = tracks(n);
            let embedding = equal[0].embedding;
            equal.iter_mut().for_each(|track| track.embedding = embedding);
            let data = page_data(&equal, |_| ()).unwrap();
            assert_eq!(data["x"].as_array().unwrap().len(), n);
        }
    }

    #[test]
    fn no_track_and_no_number_are_errors() {
        assert!(page_data(&[], |_| ()).unwrap_err().is_argument());
        let mut bad = tracks(5);
        bad[3].embedding.0[1] = f32::NAN;
        let error = page_data(&bad, |_| ()).unwrap_err().to_string();
        assert!(error.starts_with("/m/album 0/3.flac: ") && error.contains("finite"), "{error}");
    }

    #[test]
    fn names_cannot_end_the_script() {
        let mut tracks = tracks(4);
        tracks[1].title = Some("</script><script>alert(1)</script><!--".into());
        let data = page_data(&tracks, |_| ()).unwrap();
        let page = page(&data);
        let end = page.split_once("id=\"data\">").unwrap().1;
        let json = end.split_once("</script>").unwrap().0;
        assert_eq!(serde_json::from_str::<Value>(json).unwrap(), data);
        assert!(!json.contains('<'));
        assert!(page.starts_with(SIGNATURE));
        assert!(!DECK.contains("</script") && !DECK.contains("<!--"));
    }

    #[test]
    fn folders_are_named_from_the_folder_above_all() {
        let names = |paths: &[&str]| {
            let track = |path: &&str| MapTrack { path: path.into(), ..MapTrack::default() };
            folder_names(&paths.iter().map(track).collect::<Vec<_>>())
        };
        assert_eq!(names(&["/m/a/x/1.mp3", "/m/b/2.mp3"]), ["a/x", "b"]);
        assert_eq!(names(&["/m/a/1.mp3", "/m/2.mp3"]), ["a", "/m"]);
        assert_eq!(names(&["/m/1.mp3"]), ["/m"]);
        assert_eq!(names(&["/a/1.mp3", "/b/2.mp3"]), ["a", "b"]);
    }
}
