//! Tracks that `similar` and `playlist` leave out: lately played ones, and those of some artists.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::args::ExcludeArgs;
use super::input::list_file;
use super::library::{Entry, Library};
use super::numbers::{count, is_or_are, thousands};
use super::output::note;

/// What is left out.
#[derive(Debug, Default)]
pub struct Exclude {
    /// Files.
    pub songs: Vec<PathBuf>,
    /// Names of artists.
    pub artists: Vec<String>,
    /// Files of artists; each with the name that it is if it is no file of the library.
    pub artists_of: Vec<(PathBuf, String)>,
}

impl Exclude {
    /// Reads the list files of `args`.
    pub fn read(args: &ExcludeArgs) -> Result<Self> {
        let list = |path: Option<&PathBuf>| path.map_or(Ok(Vec::new()), |path| list_file(path));
        let folder = args.exclude_artists.as_deref().and_then(Path::parent);
        let with_name = |entry: PathBuf| {
            let name = folder.and_then(|folder| entry.strip_prefix(folder).ok()).unwrap_or(&entry);
            let name = name.to_string_lossy().into_owned();
            (entry, name)
        };
        let artists_of = list(args.exclude_artists.as_ref())?.into_iter().map(with_name).collect();
        let songs = list(args.exclude_songs.as_ref())?;
        Ok(Self { songs, artists: args.exclude_artist.clone(), artists_of })
    }
}

/// The positions of the tracks that `exclude` leaves out, ascending. Notes how many entries match
/// nothing in the library.
pub fn excluded(library: &Library, exclude: &Exclude) -> Vec<usize> {
    let mut positions = HashSet::new();
    let mut artists = HashSet::new();
    let mut names: Vec<&str> = exclude.artists.iter().map(String::as_str).collect();
    if !(exclude.songs.is_empty() && exclude.artists_of.is_empty()) {
        let places = places(&library.entries);
        let mut unknown = Vec::new();
        for entry in &exclude.songs {
            let found = find(&places, entry);
            if found.is_empty() {
                unknown.push(entry);
            }
            positions.extend(found);
        }
        if let Some(first) = unknown.first() {
            let songs = count(exclude.songs.len(), "song");
            let (number, are) = (thousands(unknown.len() as u64), is_or_are(unknown.len()));
            note(&format!(
                "{number} of {songs} to leave out {are} not in the index, or cannot be compared{}",
                such_as(unknown.len(), &first.display()),
            ));
        }
        for (entry, name) in &exclude.artists_of {
            let found = find(&places, entry);
            if found.is_empty() {
                names.push(name.trim());
            }
            artists.extend(found.iter().map(|&at| library.tracks[at].artist.to_lowercase()));
        }
    }
    names.retain(|name| !name.is_empty());
    if !names.is_empty() {
        let known: HashSet<_> =
            library.tracks.iter().map(|track| track.artist.to_lowercase()).collect();
        let is_unknown = |name: &&&str| !known.contains(&name.to_lowercase());
        let unknown: Vec<_> = names.iter().filter(is_unknown).collect();
        if let Some(first) = unknown.first() {
            let artists = count(names.len() + artists.len(), "artist");
            let number = thousands(unknown.len() as u64);
            let have = if unknown.len() == 1 { "has" } else { "have" };
            note(&format!(
                "{number} of {artists} to leave out {have} no song in the index that can be \
                 compared{}",
                such_as(unknown.len(), first),
            ));
        }
    }
    artists.extend(names.iter().map(|name| name.to_lowercase()));
    artists.remove("");
    if !artists.is_empty() {
        let tracks = library.tracks.iter().enumerate();
        let of_artist = tracks.filter(|(_, track)| artists.contains(&track.artist.to_lowercase()));
        positions.extend(of_artist.map(|(position, _)| position));
    }
    let mut positions: Vec<_> = positions.into_iter().collect();
    positions.sort_unstable();
    positions
}

/// The first of some in words.
fn such_as(number: usize, first: &dyn Display) -> String {
    if number == 1 { format!(": {first}") } else { format!(", such as {first}") }
}

/// The positions of the tracks of each file.
fn places(songs: &[Entry]) -> HashMap<&Path, Vec<usize>> {
    let mut places: HashMap<_, Vec<_>> = HashMap::new();
    for (position, song) in songs.iter().enumerate() {
        places.entry(song.path.as_path()).or_default().push(position);
    }
    places
}

fn find(places: &HashMap<&Path, Vec<usize>>, entry: &Path) -> Vec<usize> {
    let full = entry.canonicalize().unwrap_or_else(|_| entry.to_path_buf());
    places.get(full.as_path()).cloned().unwrap_or_default()
}
