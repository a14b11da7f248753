//! The command: its help, its results and its errors.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Folder, feelprint, json_lines, piece, write_wav};

/// A folder of tracks: two albums of three, and a copy of one track.
fn library() -> (Folder, PathBuf, PathBuf) {
    let folder = Folder::new();
    let music = folder.path().join("music");
    for album in 0..2 {
        let path = music.join(format!("album {album}"));
        std::fs::create_dir_all(&path).unwrap();
        for track in 0..3 {
            let piece = piece(album * 3 + track, 22_050, 3.0 + track as f32);
            write_wav(&path.join(format!("{track}.wav")), 22_050, &[piece]);
        }
    }
    std::fs::copy(music.join("album 0/1.wav"), music.join("album 1/copy.wav")).unwrap();
    let index = folder.path().join("index.sqlite");
    (folder, music, index)
}

fn track(music: &Path, name: &str) -> String {
    music.join(name).to_str().unwrap().to_string()
}

fn indexed() -> (Folder, PathBuf, PathBuf) {
    let (folder, music, index) = library();
    assert_success(&feelprint(&index, &["index", music.to_str().unwrap()]));
    (folder, music, index)
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Asserts that a command failed with one line that holds `expected`.
fn assert_failure(output: &Output, expected: &str) {
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(problem.contains(expected), "{problem}");
    assert_eq!(problem.lines().count(), 1, "{problem}");
}

fn paths(output: &Output) -> Vec<String> {
    assert_success(output);
    let lines = json_lines(output);
    lines.iter().map(|line| line["path"].as_str().unwrap().to_string()).collect()
}

#[test]
fn every_command_has_help() {
    let index = Path::new("none");
    let all = feelprint(index, &["--help"]);
    let text = String::from_utf8(all.stdout).unwrap();
    for command in [
        "embed",
        "similar",
        "index",
        "playlist",
        "duplicates",
        "explain",
        "bench",
        "status",
        "forget",
        "completions",
        "man",
    ] {
        assert!(text.contains(command), "{text}");
        let help = feelprint(index, &[command, "--help"]);
        assert_success(&help);
        let text = String::from_utf8(help.stdout).unwrap();
        for option in ["--json", "--model", "--index", "--whole", "Usage: feelprint"] {
            assert!(text.contains(option), "{command}: {text}");
        }
    }
    assert!(!feelprint(index, &["dance"]).status.success());
}

#[test]
fn embed_prints_a_line_per_file_and_goes_on_after_a_bad_file() {
    let (folder, music, index) = library();
    let bad = folder.path().join("bad.mp3");
    std::fs::write(&bad, "no music").unwrap();
    let good = track(&music, "album 0/0.wav");
    let other = track(&music, "album 1/0.wav");
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
fn similar_in_a_folder_needs_no_index_and_skips_the_query() {
    let (_folder, music, index) = library();
    let itself = track(&music, "album 0/1.wav");
    let folder = music.to_str().unwrap();
    let output = feelprint(&index, &["similar", &itself, "--in", folder, "-n", "3", "--json"]);
    let found = paths(&output);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], track(&music, "album 1/copy.wav"));
    assert!(!found.contains(&itself));
    assert!(!index.exists());
    let distances: Vec<_> =
        json_lines(&output).iter().map(|line| line["distance"].as_f64().unwrap()).collect();
    assert!(distances[0] == 0.0 && distances.is_sorted());

    let text = feelprint(&index, &["similar", &itself, "--in", folder, "-n", "1"]);
    assert!(String::from_utf8(text.stdout).unwrap().starts_with("0.0000  "));
}

#[test]
fn similar_gives_the_same_from_the_index_and_from_the_folder() {
    let (_folder, music, index) = indexed();
    let itself = track(&music, "album 0/1.wav");
    let from_index = feelprint(&index, &["similar", &itself, "--json"]);
    let folder = music.to_str().unwrap();
    let from_folder = feelprint(&index, &["similar", &itself, "--in", folder, "--json"]);
    assert_eq!(paths(&from_index), paths(&from_folder));
    assert_eq!(paths(&from_index).len(), 6);
}

#[test]
fn a_playlist_repeats_nothing_and_limits_albums() {
    let (_folder, music, index) = indexed();
    let itself = track(&music, "album 0/1.wav");
    let list = paths(&feelprint(&index, &["playlist", &itself, "--json"]));
    // Neither the seed nor its copy, and each other track once.
    assert_eq!(list.len(), 5);
    assert!(!list.contains(&itself) && !list.contains(&track(&music, "album 1/copy.wav")));
    assert_eq!(list.iter().collect::<std::collections::HashSet<_>>().len(), 5);

    let arguments = ["playlist", &itself, "--json", "--max-per-album", "2"];
    let list = paths(&feelprint(&index, &arguments));
    let of_album = |album: &str| list.iter().filter(|path| path.contains(album)).count();
    // The seed counts as a track of its album.
    assert_eq!((of_album("album 0"), of_album("album 1")), (1, 2));
    assert_eq!(paths(&feelprint(&index, &["playlist", &itself, "--json", "-n", "2"])).len(), 2);
}

#[test]
fn a_playlist_has_each_recording_once_whatever_its_format() {
    let (_folder, music, index) = library();
    let (itself, other) = (track(&music, "album 0/1.wav"), track(&music, "album 0/2.wav"));
    for (wav, name) in [(&itself, "itself.flac"), (&other, "other.flac")] {
        common::ffmpeg(&["-i", wav], &music.join(name));
    }
    assert_success(&feelprint(&index, &["index", music.to_str().unwrap()]));
    let list = paths(&feelprint(&index, &["playlist", &itself, "--json"]));
    assert_eq!(list.len(), 5);
    assert!(!list.contains(&track(&music, "itself.flac")));
    assert!(list.contains(&other) != list.contains(&track(&music, "other.flac")));

    // The recording of a seed that is not in the index is left out too.
    let outside = common::ffmpeg(&["-i", &itself], &index.with_file_name("outside.flac"));
    let outside = feelprint(&index, &["playlist", outside.to_str().unwrap(), "--json"]);
    assert!(!paths(&outside).contains(&itself) && paths(&outside).len() == 5);
}

#[test]
fn duplicates_are_found_across_formats() {
    let (_folder, music, index) = library();
    let wav = track(&music, "album 0/2.wav");
    common::ffmpeg(&["-i", &wav, "-b:a", "192k"], &music.join("other.mp3"));
    assert_success(&feelprint(&index, &["index", music.to_str().unwrap()]));
    let output = feelprint(&index, &["duplicates", "--json"]);
    assert_success(&output);
    let groups = json_lines(&output);
    let identical: Vec<_> = groups.iter().filter(|group| group["identical"] == true).collect();
    assert_eq!(identical.len(), 1);
    let paths =
        serde_json::json!([track(&music, "album 0/1.wav"), track(&music, "album 1/copy.wav")]);
    assert_eq!(identical[0]["paths"], paths);
    let same = groups.iter().find(|group| group["identical"] == false).unwrap();
    assert!(same["paths"].as_array().unwrap().contains(&track(&music, "other.mp3").into()));
    assert!(same["paths"].as_array().unwrap().contains(&wav.into()));
}

#[test]
fn explain_prints_what_moves_the_distance_and_similar_windows() {
    let (_folder, music, index) = library();
    let (a, b) = (track(&music, "album 0/2.wav"), track(&music, "album 1/2.wav"));
    let output = feelprint(&index, &["explain", &a, &b, "--json"]);
    assert_success(&output);
    let explanation = &json_lines(&output)[0];
    let songs = explanation["songs"].as_array().unwrap();
    assert_eq!(songs[0]["path"], a.as_str());
    for song in songs {
        let parts = song["without"].as_array().unwrap();
        // Five seconds have five windows, which are all printed.
        assert_eq!(parts.len(), 5);
        let changes: Vec<_> = parts.iter().map(|p| p["change"].as_f64().unwrap()).collect();
        assert!(changes.is_sorted_by(|a, b| a.abs() >= b.abs()) && changes[0] != 0.0);
        assert!(parts.iter().all(|p| p["end_s"].as_f64().unwrap() <= 5.0));
        let mut starts: Vec<_> = parts.iter().map(|p| p["start_s"].as_f64().unwrap()).collect();
        starts.sort_by(f64::total_cmp);
        assert!(starts.iter().zip(0..).all(|(s, i)| (s - f64::from(i) * 1.0217).abs() < 0.001));
    }
    assert!(explanation["alike"][0]["cosine"].as_f64().unwrap() <= 1.0 + 1e-6);
    // A track is at distance 0 from itself, and its windows are too.
    let output = feelprint(&index, &["explain", &a, &a, "--json"]);
    let explanation = &json_lines(&output)[0];
    assert_eq!(explanation["distance"], 0.0);
    assert!((explanation["alike"][0]["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    // Without any part of it, the track is no longer equal to itself.
    let changes = explanation["songs"][0]["without"].as_array().unwrap();
    assert!(changes.iter().all(|part| part["change"].as_f64().unwrap() > 0.0));
    let text = feelprint(&index, &["explain", &a, &b]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("without these seconds"));
}

/// An embedding of every window is never compared with one of the windows that the model needs.
#[test]
fn whole_embeddings_have_a_version_of_their_own() {
    let (_folder, music, index) = library();
    let (folder, itself) = (music.to_str().unwrap(), track(&music, "album 0/1.wav"));
    let version = |arguments: &[&str]| {
        let output = feelprint(&index, &[&["embed", &itself], arguments].concat());
        assert_success(&output);
        json_lines(&output)[0]["version"].as_str().unwrap().to_string()
    };
    assert_eq!(version(&["--whole"]), version(&[]) + "+whole");
    assert_success(&feelprint(&index, &["index", folder, "--whole"]));
    assert_failure(&feelprint(&index, &["similar", &itself]), "+whole");
    let whole = feelprint(&index, &["similar", &itself, "--whole", "-n", "3", "--json"]);
    assert_eq!(paths(&whole).len(), 3);
    // The index takes the embeddings of the model without the option again.
    assert_success(&feelprint(&index, &["index", folder]));
    assert_eq!(paths(&feelprint(&index, &["similar", &itself, "-n", "3", "--json"])).len(), 3);
    assert_failure(&feelprint(&index, &["similar", &itself, "--whole"]), "the model in use is");
}

#[test]
fn errors_are_one_line() {
    let (folder, music, index) = library();
    let itself = track(&music, "album 0/1.wav");
    assert_failure(&feelprint(&index, &["similar", &itself]), "feelprint index");
    assert_failure(&feelprint(&index, &["duplicates"]), "no index there");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_failure(&feelprint(&index, &["index", empty.to_str().unwrap()]), "no audio file");
    assert_failure(&feelprint(&index, &["index", "missing"]), "missing");
    assert_failure(&feelprint(&index, &["similar", "missing.mp3", "--in", "."]), "missing.mp3");
    let model = folder.path().join("other.onnx");
    let model = ["embed", &itself, "--model", model.to_str().unwrap()];
    let output = feelprint(&index, &model);
    assert_failure(&output, "other.onnx");
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("No such file").count(), 1);
    std::fs::write(&index, "not a database, but long enough to look at it").unwrap();
    assert_failure(&feelprint(&index, &["duplicates"]), "index.sqlite");
    // What is broken, of a file that is none and of one that was cut.
    let broken = folder.path().join("broken.sqlite");
    assert_success(&feelprint(&broken, &["index", music.to_str().unwrap()]));
    let bytes = std::fs::read(&broken).unwrap();
    for bytes in [&b"not a database, but long enough to look at it"[..], &bytes[..6_000]] {
        std::fs::write(&broken, bytes).unwrap();
        for arguments in [&["status"][..], &["duplicates"], &["index", music.to_str().unwrap()]] {
            let output = feelprint(&broken, arguments);
            let problem = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_failure(&output, "broken.sqlite: the file is broken, or is not an index");
            assert!(problem.contains("remove it") && problem.contains("--index FILE"), "{problem}");
        }
    }
    let other = folder.path().join("other.sqlite");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert_failure(&feelprint(&other, &["duplicates"]), "not an index of feelprint");
    assert_failure(
        &feelprint(&other, &["index", music.to_str().unwrap()]),
        "not an index of feelprint",
    );
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    use std::io::Read;
    let (_folder, music, index) = indexed();
    let itself = track(&music, "album 0/1.wav");
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
#[cfg(target_os = "linux")]
fn the_index_is_in_the_users_data_folder_by_default() {
    let (folder, music, _) = library();
    let run = |data_home: Option<&Path>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_feelprint"));
        command.arg("index").arg(&music).env("HOME", folder.path().join("home"));
        command.env_remove("FEELPRINT_INDEX").env_remove("XDG_DATA_HOME");
        if let Some(data_home) = data_home {
            command.env("XDG_DATA_HOME", data_home);
        }
        assert_success(&command.output().unwrap());
    };
    let data = folder.path().join("data");
    run(Some(&data));
    assert!(data.join("feelprint/index.sqlite").exists());
    let in_home = folder.path().join("home/.local/share/feelprint/index.sqlite");
    assert!(!in_home.exists());
    run(None);
    assert!(in_home.exists());
    // The XDG specification ignores relative paths.
    std::fs::remove_file(&in_home).unwrap();
    run(Some(Path::new("relative")));
    assert!(in_home.exists());
}

#[test]
fn bench_measures_files() {
    let (_folder, music, index) = library();
    let file = track(&music, "album 0/1.wav");
    let arguments = ["bench", "--json", "--repeat", "1", "--seconds", "1,2", &file];
    let output = feelprint(&index, &arguments);
    assert_success(&output);
    let lines = json_lines(&output);
    let of =
        |what: &str| lines.iter().find(|line| line["what"].as_str().unwrap().starts_with(what));
    for what in [
        "load",
        "model, 1 s",
        "model, 2 s",
        "read, ",
        "decode, ",
        "resample, ",
        "front end, ",
        "CNN, ",
        "head, ",
        "embed, ",
        "all, ",
    ] {
        assert!(of(what).unwrap()["median_ms"].as_f64().unwrap() > 0.0, "{what}");
    }
}
