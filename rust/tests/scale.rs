//! A large index: the search is fast, and finds what is there.

mod common;

use std::path::Path;
use std::process::Output;

use common::{Folder, feelprint, json_lines, piece, write_wav};
use rusqlite::params;

const SONGS: usize = 100_000;

/// Numbers from -1 to 1 (a linear congruential generator, D. Knuth's constants of MMIX).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

/// Copies the one row of an index until there are [`SONGS`], with other embeddings. Every tenth song
/// has a copy that is a bit different.
fn fill(index: &Path) {
    let mut db = rusqlite::Connection::open(index).unwrap();
    let one = db.transaction().unwrap();
    let mut random = Random(1);
    let mut statement = one
        .prepare(
            "INSERT INTO songs (path, size, changed_ns, hash, version, embedding, duration_s, album,
             artist, folder) SELECT ?1, size, changed_ns, ?2, version, ?3, ?4, ?5, ?6, folder
             FROM songs WHERE rowid = 1",
        )
        .unwrap();
    let mut values = [0.0_f32; 32];
    let mut duration_s = 0.0;
    for song in 1..SONGS {
        if song % 10 == 0 {
            values[0] += 0.01;
        } else {
            values = std::array::from_fn(|_| random.next() * 0.3);
            duration_s = f64::from(240.0 + 60.0 * random.next());
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(song as u64).to_le_bytes());
        let path = format!("/library/Artist {}/Album {}/{song}.flac", song / 100, song / 10);
        let (album, artist) = (format!("Album {}", song / 10), format!("Artist {}", song / 100));
        statement.execute(params![path, hash, bytes, duration_s, album, artist]).unwrap();
    }
    drop(statement);
    one.commit().unwrap();
}

/// The processor time of the programs that this one has waited for, from `/proc/self/stat`; the clock
/// on other systems. Other programs that run do not count.
fn time_s() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        return clock.as_secs_f64();
    };
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // cutime and cstime, in hundredths of a second (man proc_pid_stat).
    fields[13..15].iter().map(|field| field.parse::<f64>().unwrap() / 100.0).sum()
}

/// The result of a command, and the time that it took in seconds.
fn timed(index: &Path, arguments: &[&str]) -> (Output, f64) {
    let start = time_s();
    let output = feelprint(index, arguments);
    let time = time_s() - start;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{arguments:?}: {time:.2} s");
    (output, time)
}

#[test]
fn a_hundred_thousand_songs() {
    let folder = Folder::new();
    let index = folder.path().join("index.sqlite");
    let song = folder.path().join("song.wav");
    write_wav(&song, 22_050, &[piece(1, 22_050, 2.0)]);
    let song = song.to_str().unwrap();
    assert!(feelprint(&index, &["index", song]).status.success());
    fill(&index);

    let (output, time) = timed(&index, &["similar", song, "--json"]);
    assert_eq!(json_lines(&output).len(), 10);
    assert!(time < 0.5, "similar took {time} s");

    let arguments = ["playlist", song, "-n", "50", "--max-per-artist", "1", "--json"];
    let (output, time) = timed(&index, &arguments);
    assert_eq!(json_lines(&output).len(), 50);
    assert!(time < 2.0, "playlist took {time} s");

    let (output, time) = timed(&index, &["duplicates", "--json"]);
    let groups = json_lines(&output);
    assert_eq!(groups.len(), SONGS / 10 - 1);
    assert!(groups.iter().all(|group| group["paths"].as_array().unwrap().len() == 2));
    assert!(time < 10.0, "duplicates took {time} s");

    let (output, _) = timed(&index, &["status", "--json"]);
    assert_eq!(json_lines(&output)[0]["songs"], SONGS);
}
