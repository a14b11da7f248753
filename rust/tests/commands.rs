//! The command: its help, its answers and its refusals.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Folder, feelprint, json_lines, piece, write_wav};

/// A folder of songs: two albums of three, and a copy of one song.
fn library() -> (Folder, PathBuf, PathBuf) {
    let folder = Folder::new();
    let music = folder.path().join("music");
    for album in 0..2 {
        let path = music.join(format!("album {album}"));
        std::fs::create_dir_all(&path).unwrap();
        for song in 0..3 {
            let piece = piece(album * 3 + song, 22_050, 3.0 + song as f32);
            write_wav(&path.join(format!("{song}.wav")), 22_050, &[piece]);
        }
    }
    std::fs::copy(music.join("album 0/1.wav"), music.join("album 1/copy.wav")).unwrap();
    let index = folder.path().join("index.sqlite");
    (folder, music, index)
}

fn song(music: &Path, name: &str) -> String {
    music.join(name).to_str().unwrap().to_string()
}

fn indexed() -> (Folder, PathBuf, PathBuf) {
    let (folder, music, index) = library();
    succeeded(&feelprint(&index, &["index", music.to_str().unwrap()]));
    (folder, music, index)
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Asserts that a command failed with one line that holds `expected`.
fn refused(output: &Output, expected: &str) {
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(problem.contains(expected), "{problem}");
    assert_eq!(problem.lines().count(), 1, "{problem}");
}

fn paths(output: &Output) -> Vec<String> {
    succeeded(output);
    let lines = json_lines(output);
    lines.iter().map(|line| line["path"].as_str().unwrap().to_string()).collect()
}

#[test]
fn every_command_has_help() {
    let index = Path::new("none");
    let all = feelprint(index, &["--help"]);
    let text = String::from_utf8(all.stdout).unwrap();
    for command in ["embed", "similar", "index", "playlist", "duplicates", "explain", "bench"] {
        assert!(text.contains(command), "{text}");
        let help = feelprint(index, &[command, "--help"]);
        succeeded(&help);
        let text = String::from_utf8(help.stdout).unwrap();
        for option in ["--json", "--model", "--index", "Usage: feelprint"] {
            assert!(text.contains(option), "{command}: {text}");
        }
    }
    assert!(!feelprint(index, &["dance"]).status.success());
}

#[test]
fn embed_prints_a_line_a_file_and_goes_on_after_a_bad_one() {
    let (folder, music, index) = library();
    let bad = folder.path().join("bad.mp3");
    std::fs::write(&bad, "no music").unwrap();
    let good = song(&music, "album 0/0.wav");
    let other = song(&music, "album 1/0.wav");
    let output = feelprint(&index, &["embed", &good, bad.to_str().unwrap(), &other]);
    assert_eq!(output.status.code(), Some(1));
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(problem.contains("bad.mp3") && problem.lines().count() == 1, "{problem}");
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["path"], good.as_str());
    assert_eq!(lines[0]["embedding"].as_array().unwrap().len(), 32);
    assert!((lines[0]["duration_s"].as_f64().unwrap() - 3.0).abs() < 1e-6);
    assert_eq!(lines[0]["silent"], false);
    assert!(lines[0]["version"].as_str().unwrap().contains('-'));
}

#[test]
fn similar_in_a_folder_needs_no_index_and_leaves_the_song_out() {
    let (_folder, music, index) = library();
    let itself = song(&music, "album 0/1.wav");
    let folder = music.to_str().unwrap();
    let output = feelprint(&index, &["similar", &itself, "--in", folder, "-n", "3", "--json"]);
    let found = paths(&output);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], song(&music, "album 1/copy.wav"));
    assert!(!found.contains(&itself));
    assert!(!index.exists());
    let distances: Vec<_> =
        json_lines(&output).iter().map(|line| line["distance"].as_f64().unwrap()).collect();
    assert!(distances[0] == 0.0 && distances.is_sorted());

    let text = feelprint(&index, &["similar", &itself, "--in", folder, "-n", "1"]);
    assert!(String::from_utf8(text.stdout).unwrap().starts_with("0.0000  "));
}

#[test]
fn similar_from_the_index_gives_what_the_folder_gives() {
    let (_folder, music, index) = indexed();
    let itself = song(&music, "album 0/1.wav");
    let from_index = feelprint(&index, &["similar", &itself, "--json"]);
    let folder = music.to_str().unwrap();
    let from_folder = feelprint(&index, &["similar", &itself, "--in", folder, "--json"]);
    assert_eq!(paths(&from_index), paths(&from_folder));
    assert_eq!(paths(&from_index).len(), 6);
}

#[test]
fn a_playlist_repeats_nothing_and_keeps_to_albums() {
    let (_folder, music, index) = indexed();
    let itself = song(&music, "album 0/1.wav");
    let list = paths(&feelprint(&index, &["playlist", &itself, "--json"]));
    // Neither the song nor its copy, and each other song once.
    assert_eq!(list.len(), 5);
    assert!(!list.contains(&itself) && !list.contains(&song(&music, "album 1/copy.wav")));
    assert_eq!(list.iter().collect::<std::collections::HashSet<_>>().len(), 5);

    let arguments = ["playlist", &itself, "--json", "--max-per-album", "2"];
    let list = paths(&feelprint(&index, &arguments));
    let of_album = |album: &str| list.iter().filter(|path| path.contains(album)).count();
    // The song itself counts for its album.
    assert_eq!((of_album("album 0"), of_album("album 1")), (1, 2));
    assert_eq!(paths(&feelprint(&index, &["playlist", &itself, "--json", "-n", "2"])).len(), 2);
}

#[test]
fn a_playlist_holds_a_recording_once_whatever_its_format() {
    let (_folder, music, index) = library();
    let (itself, other) = (song(&music, "album 0/1.wav"), song(&music, "album 0/2.wav"));
    for (wav, name) in [(&itself, "itself.flac"), (&other, "other.flac")] {
        common::ffmpeg(&["-i", wav], &music.join(name));
    }
    succeeded(&feelprint(&index, &["index", music.to_str().unwrap()]));
    let list = paths(&feelprint(&index, &["playlist", &itself, "--json"]));
    assert_eq!(list.len(), 5);
    assert!(!list.contains(&song(&music, "itself.flac")));
    assert!(list.contains(&other) != list.contains(&song(&music, "other.flac")));

    // A song that the index does not hold is told from its other files too.
    let outside = common::ffmpeg(&["-i", &itself], &index.with_file_name("outside.flac"));
    let outside = feelprint(&index, &["playlist", outside.to_str().unwrap(), "--json"]);
    assert!(!paths(&outside).contains(&itself) && paths(&outside).len() == 5);
}

#[test]
fn duplicates_are_found_across_formats() {
    let (_folder, music, index) = library();
    let wav = song(&music, "album 0/2.wav");
    common::ffmpeg(&["-i", &wav, "-b:a", "192k"], &music.join("other.mp3"));
    succeeded(&feelprint(&index, &["index", music.to_str().unwrap()]));
    let output = feelprint(&index, &["duplicates", "--json"]);
    succeeded(&output);
    let groups = json_lines(&output);
    let identical: Vec<_> = groups.iter().filter(|group| group["identical"] == true).collect();
    assert_eq!(identical.len(), 1);
    let paths =
        serde_json::json!([song(&music, "album 0/1.wav"), song(&music, "album 1/copy.wav")]);
    assert_eq!(identical[0]["paths"], paths);
    let same = groups.iter().find(|group| group["identical"] == false).unwrap();
    assert!(same["paths"].as_array().unwrap().contains(&song(&music, "other.mp3").into()));
    assert!(same["paths"].as_array().unwrap().contains(&wav.into()));
}

#[test]
fn explain_tells_seconds_and_windows() {
    let (_folder, music, index) = library();
    let (a, b) = (song(&music, "album 0/2.wav"), song(&music, "album 1/2.wav"));
    let output = feelprint(&index, &["explain", &a, &b, "--json"]);
    succeeded(&output);
    let told = &json_lines(&output)[0];
    let songs = told["songs"].as_array().unwrap();
    assert_eq!(songs[0]["path"], a.as_str());
    for song in songs {
        let windows = song["weighed_most"].as_array().unwrap();
        let shares: Vec<_> = windows.iter().map(|w| w["share"].as_f64().unwrap()).collect();
        assert!(shares.is_sorted_by(|a, b| a >= b));
        // Five windows are all that five seconds have.
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-3);
        assert!(windows.iter().all(|w| w["end_s"].as_f64().unwrap() <= 5.0));
    }
    assert!(told["alike"][0]["cosine"].as_f64().unwrap() <= 1.0 + 1e-6);
    // A song is nearest to itself, window by window.
    let output = feelprint(&index, &["explain", &a, &a, "--json"]);
    let told = &json_lines(&output)[0];
    assert_eq!(told["distance"], 0.0);
    assert!((told["alike"][0]["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    let text = feelprint(&index, &["explain", &a, &b]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("what weighed most"));
}

#[test]
fn refusals_are_one_clear_line() {
    let (folder, music, index) = library();
    let itself = song(&music, "album 0/1.wav");
    refused(&feelprint(&index, &["similar", &itself]), "feelprint index");
    refused(&feelprint(&index, &["duplicates"]), "no index there");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(&feelprint(&index, &["index", empty.to_str().unwrap()]), "no audio file");
    refused(&feelprint(&index, &["index", "missing"]), "missing");
    refused(&feelprint(&index, &["similar", "missing.mp3", "--in", "."]), "missing.mp3");
    let model = folder.path().join("other.onnx");
    let model = ["embed", &itself, "--model", model.to_str().unwrap()];
    let output = feelprint(&index, &model);
    refused(&output, "other.onnx");
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("No such file").count(), 1);
    std::fs::write(&index, "not a database, but long enough to look at it").unwrap();
    refused(&feelprint(&index, &["duplicates"]), "index.sqlite");
    let other = folder.path().join("other.sqlite");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    refused(&feelprint(&other, &["duplicates"]), "not an index of feelprint");
    refused(&feelprint(&other, &["index", music.to_str().unwrap()]), "not an index of feelprint");
}

#[test]
fn a_reader_that_stops_is_no_error() {
    use std::io::Read;
    let (_folder, music, index) = indexed();
    let itself = song(&music, "album 0/1.wav");
    let mut command = common::command(&index, &["similar", &itself]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut problem = String::new();
    child.stderr.take().unwrap().read_to_string(&mut problem).unwrap();
    assert!(child.wait().unwrap().success(), "{problem}");
    assert_eq!(problem, "");
}

#[test]
fn bench_measures_files() {
    let (_folder, music, index) = library();
    let file = song(&music, "album 0/1.wav");
    let arguments = ["bench", "--json", "--repeat", "1", "--seconds", "1,2", &file];
    let output = feelprint(&index, &arguments);
    succeeded(&output);
    let lines = json_lines(&output);
    let of =
        |what: &str| lines.iter().find(|line| line["what"].as_str().unwrap().starts_with(what));
    for what in ["load", "model, 1 s", "model, 2 s", "decode, ", "resample, ", "embed, ", "all, "] {
        assert!(of(what).unwrap()["median_ms"].as_f64().unwrap() > 0.0, "{what}");
    }
}
