//! Tracks that `similar` and `playlist` leave out: lately played ones, and those of some artists.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::args::ExcludeArgs;
use super::input::list_file;
use super::library::{Entry, Library};

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

/// The positions of the tracks that `exclude` leaves out, ascending.
pub fn excluded(library: &Library, exclude: &Exclude) -> Vec<usize> {
    let mut positions = HashSet::new();
    let mut artists: HashSet<String> =
        exclude.artists.iter().map(|artist| artist.to_lowercase()).collect();
    if !(exclude.songs.is_empty() && exclude.artists_of.is_empty()) {
        let places = places(&library.entries);
        positions.extend(exclude.songs.iter().flat_map(|entry| find(&places, entry)));
        for (entry, name) in &exclude.artists_of {
            let found = find(&places, entry);
            if found.is_empty() {
                artists.insert(name.trim().to_lowercase());
            }
            artists.extend(found.iter().map(|&at| library.tracks[at].artist.to_lowercase()));
        }
    }
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
