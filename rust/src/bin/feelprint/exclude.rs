//! Tracks that `similar` and `playlist` leave out: lately played ones, and those of some artists.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::Result;

use crate::args::ExcludeArgs;
use crate::input::list_file;
use crate::library::{Entry, Library};

/// The positions of the tracks that `args` leave out, ascending.
pub fn excluded(library: &Library, args: &ExcludeArgs) -> Result<Vec<usize>> {
    let mut positions = HashSet::new();
    let mut artists: HashSet<String> =
        args.exclude_artist.iter().map(|artist| artist.to_lowercase()).collect();
    if args.exclude_songs.is_some() || args.exclude_artists.is_some() {
        let places = places(&library.entries);
        if let Some(list) = &args.exclude_songs {
            for entry in list_file(list)? {
                positions.extend(find(&places, &entry));
            }
        }
        if let Some(list) = &args.exclude_artists {
            for entry in list_file(list)? {
                let found = find(&places, &entry);
                if found.is_empty() {
                    // The name of an artist, which is no path.
                    let folder = list.parent().unwrap_or(Path::new(""));
                    let name = entry.strip_prefix(folder).unwrap_or(&entry);
                    artists.insert(name.to_string_lossy().trim().to_lowercase());
                }
                artists.extend(found.iter().map(|&at| library.tracks[at].artist.to_lowercase()));
            }
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
    Ok(positions)
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
