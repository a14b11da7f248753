//! Lists of songs: several seeds, exclusions, playlists in files, and standard input.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use common::{Folder, feelprint, json_lines, piece, write_wav};

/// Six songs of three artists, as FLAC files with tags, in two folders.
fn library() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let index = folder.path().join("index.sqlite");
    for song in 0..6_u32 {
        let path = folder.path().join(format!("music/{}", song % 2));
        std::fs::create_dir_all(&path).unwrap();
        let wav = folder.path().join("song.wav");
        write_wav(&wav, 22_050, &[piece(song, 22_050, 3.0)]);
        let (title, artist) = (format!("title=Song {song}"), format!("artist=Artist {}", song % 3));
        let tags = ["-i", wav.to_str().unwrap(), "-metadata", &title, "-metadata", &artist];
        common::ffmpeg(&tags, &path.join(format!("{song}.flac")));
    }
    let output = feelprint(&index, &["index", folder.path().join("music").to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (folder, index)
}

fn song(folder: &Folder, song: u32) -> String {
    let path = folder.path().join(format!("music/{}/{song}.flac", song % 2));
    path.canonicalize().unwrap().to_str().unwrap().to_string()
}

/// The numbers of the songs that a command printed, sorted.
fn songs(output: &Output) -> Vec<u32> {
    let name = |line: &serde_json::Value| {
        let path = PathBuf::from(line["path"].as_str().unwrap());
        path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
    };
    let mut songs: Vec<u32> = json_lines(output).iter().map(name).collect();
    songs.sort();
    songs
}

fn with_stdin(index: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = common::command(index, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn several_seeds_and_limits() {
    let (folder, index) = library();
    let (a, b) = (song(&folder, 0), song(&folder, 1));
    let run = |arguments: &[&str]| songs(&feelprint(&index, &[arguments, &["--json"]].concat()));
    assert_eq!(run(&["similar", &a, &b]), [2, 3, 4, 5]);
    assert_eq!(run(&["playlist", &a, &b]), [2, 3, 4, 5]);
    // The distance is that to the nearer one.
    let distances = |seeds: &[&str]| -> Vec<(String, f64)> {
        let output = feelprint(&index, &[&["similar"], seeds, &["--json"]].concat());
        let distance = |line: &serde_json::Value| {
            (line["path"].as_str().unwrap().to_string(), line["distance"].as_f64().unwrap())
        };
        json_lines(&output).iter().map(distance).collect()
    };
    let (of_a, of_b) = (distances(&[&a]), distances(&[&b]));
    for (path, distance) in distances(&[&a, &b]) {
        let of = |list: &[(String, f64)]| list.iter().find(|(other, _)| *other == path).unwrap().1;
        assert_eq!(distance, of(&of_a).min(of(&of_b)));
    }
    // Song 0 is of artist 0, as song 3 is.
    assert_eq!(run(&["playlist", &a, "--max-per-artist", "1"]).len(), 2);
    assert!(!run(&["playlist", &a, "--max-per-artist", "1"]).contains(&3));
    let output = feelprint(&index, &["playlist", &a, "--max-per-artist", "0"]);
    assert!(!output.status.success());
}

#[test]
fn played_songs_and_artists_are_left_out() {
    let (folder, index) = library();
    let a = song(&folder, 0);
    let run = |arguments: &[&str]| songs(&feelprint(&index, &[arguments, &["--json"]].concat()));
    // The list is an M3U file, with a path relative to itself and one that is not in the index.
    let list = folder.path().join("played.m3u8");
    std::fs::write(
        &list,
        format!("#EXTM3U\n#EXTINF:3,x\nmusic/1/1.flac\n{}\ngone.mp3\n", song(&folder, 2)),
    )
    .unwrap();
    let list = list.to_str().unwrap();
    for command in ["similar", "playlist"] {
        assert_eq!(run(&[command, &a, "--exclude-songs", list]), [3, 4, 5]);
        assert_eq!(run(&[command, &a, "--exclude-artist", "artist 1"]), [2, 3, 5]);
        // The artists of the songs in the list.
        assert_eq!(run(&[command, &a, "--exclude-artists", list]), [3]);
    }
    let names = folder.path().join("artists.txt");
    std::fs::write(&names, "ARTIST 2\r\nnobody\r\n").unwrap();
    assert_eq!(run(&["similar", &a, "--exclude-artists", names.to_str().unwrap()]), [1, 3, 4]);
    let output = with_stdin(
        &index,
        &["similar", &a, "--exclude-songs", "-", "--json"],
        song(&folder, 1).as_bytes(),
    );
    assert_eq!(songs(&output), [2, 3, 4, 5]);
    // A list as players write it: an address with percent-encoding, and backslashes of Windows.
    let spaced = folder.path().join("music/1/1 \u{e4}.flac");
    std::fs::rename(song(&folder, 1), &spaced).unwrap();
    let music = folder.path().join("music");
    assert!(feelprint(&index, &["index", music.to_str().unwrap()]).status.success());
    let address = spaced.canonicalize().unwrap();
    let address = address.to_str().unwrap().replace(' ', "%20").replace('\u{e4}', "%C3%A4");
    let list = folder.path().join("player.m3u");
    let run = |option: &str, entries: &str| {
        std::fs::write(&list, entries).unwrap();
        let output = feelprint(&index, &["similar", &a, option, list.to_str().unwrap(), "--json"]);
        (json_lines(&output).len(), String::from_utf8(output.stderr).unwrap())
    };
    let players = format!("#EXTM3U\nfile://{address}\r\nmusic\\0\\2.flac\r\n");
    assert_eq!(run("--exclude-songs", &players), (3, String::new()));
    assert_eq!(run("--exclude-artists", &players), (1, String::new()));
    // What matches nothing is counted.
    let (found, problem) = run("--exclude-songs", &format!("{players}gone.mp3\n"));
    assert_eq!((found, problem.lines().count()), (3, 1));
    assert!(problem.contains("1 of 3 songs to leave out is not in the index"), "{problem}");
    assert!(problem.contains("gone.mp3"), "{problem}");
    let (found, problem) = run("--exclude-songs", "C:\\gone.mp3\nhttp://host/gone.mp3\n");
    assert_eq!(found, 5);
    assert!(problem.contains("2 of 2 songs to leave out are not in the index"), "{problem}");
    let (found, problem) = run("--exclude-artists", "Artist 1\nnobody\n");
    assert_eq!(found, 3);
    assert!(problem.contains("1 of 2 artists to leave out has no song"), "{problem}");
    assert!(problem.trim_end().ends_with(": nobody"), "{problem}");
    let output = feelprint(&index, &["similar", &a, "--exclude-songs", "missing.txt"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.txt"));
}

#[test]
fn a_playlist_file_names_songs_for_players() {
    let (folder, index) = library();
    let a = song(&folder, 0);
    let text = |arguments: &[&str]| {
        let output = feelprint(&index, &[&["playlist", &a, "-n", "2"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let absolute = text(&["--m3u"]);
    let lines: Vec<_> = absolute.lines().collect();
    assert_eq!((lines[0], lines.len()), ("#EXTM3U", 5));
    assert!(
        lines[1].starts_with("#EXTINF:3,Artist ") && lines[1].contains(" - Song "),
        "{absolute}"
    );
    assert!(Path::new(lines[2]).is_absolute() && Path::new(lines[2]).exists());
    // Relative to a folder beside the music, that is a way up and down again.
    let lists = folder.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    let relative = text(&["--m3u", "--relative-to", lists.to_str().unwrap()]);
    for (line, full) in relative.lines().zip(&lines).filter(|(line, _)| !line.starts_with('#')) {
        assert!(line.starts_with("../music/"), "{relative}");
        assert_eq!(lists.join(line).canonicalize().unwrap(), Path::new(full));
    }
    let nul = text(&["-0"]);
    let paths: Vec<_> = nul.split_terminator('\0').collect();
    assert_eq!(paths, [lines[2], lines[4]]);
    for arguments in [&["playlist", &a, "--m3u", "-0"][..], &["--json", "playlist", &a, "--m3u"]] {
        assert!(!feelprint(&index, arguments).status.success());
    }
}

#[test]
fn standard_input_is_a_song_or_a_list() {
    let (folder, index) = library();
    let (a, b) = (song(&folder, 0), song(&folder, 1));
    let bytes = std::fs::read(&a).unwrap();
    let from_file = json_lines(&feelprint(&index, &["embed", &a])).remove(0);
    let from_stdin = json_lines(&with_stdin(&index, &["embed", "-"], &bytes)).remove(0);
    assert_eq!(from_stdin["path"], "-");
    assert_eq!(from_stdin["embedding"], from_file["embedding"]);
    let output = with_stdin(&index, &["similar", "-", "--json", "-n", "1"], &bytes);
    assert_eq!(json_lines(&output)[0]["distance"], 0.0);
    for list in [format!("{a}\n{b}\n"), format!("{a}\0{b}\0")] {
        let output = with_stdin(&index, &["embed", "-"], list.as_bytes());
        assert_eq!(songs(&output), [0, 1]);
        let output = with_stdin(&index, &["playlist", "-", "--json"], list.as_bytes());
        assert_eq!(songs(&output), [2, 3, 4, 5]);
    }
    let explained = json_lines(&feelprint(&index, &["explain", "--json", &b, &a])).remove(0);
    let output = with_stdin(&index, &["explain", "--json", &b, "-"], &bytes);
    let from_stdin = json_lines(&output).remove(0);
    assert_eq!(from_stdin["songs"][1]["path"], "-");
    for key in ["distance", "alike"] {
        assert_eq!(from_stdin[key], explained[key]);
    }
    let music = folder.path().join("music");
    let output = with_stdin(&index, &["index", "-", "--json"], music.to_str().unwrap().as_bytes());
    assert_eq!(json_lines(&output)[0]["unchanged"], 6);
    let two = format!("{a}\n{b}\n");
    let output = with_stdin(&index, &["explain", &a, "-"], two.as_bytes());
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("3 songs, expected two"));
    let output = with_stdin(&index, &["embed", "-"], b"");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard input is empty"));
    for arguments in [&["embed", "-"][..], &["index", "-"]] {
        let output = with_stdin(&index, arguments, b"#EXTM3U\n\n");
        assert_eq!(output.status.code(), Some(2));
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(problem.contains("a list without an entry"), "{problem}");
    }
}

#[test]
fn an_empty_album_tag_is_no_album() {
    let folder = Folder::new();
    let index = folder.path().join("index.sqlite");
    // ID3v2.3 with an empty album, one of a space, and one of a NUL.
    let tag = |text: &[u8]| {
        let size = 11 + text.len() as u8;
        let mut tag = vec![b'I', b'D', b'3', 3, 0, 0, 0, 0, 0, size];
        tag.extend([b'T', b'A', b'L', b'B', 0, 0, 0, 1 + text.len() as u8, 0, 0, 0]);
        tag.extend(text);
        tag
    };
    for (song, text) in [&b""[..], b" ", b"\0", b""].iter().enumerate() {
        let path = folder.path().join(format!("music/{song}"));
        std::fs::create_dir_all(&path).unwrap();
        let wav = folder.path().join("song.wav");
        write_wav(&wav, 22_050, &[piece(song as u32, 22_050, 3.0)]);
        let mp3 = path.join("song.mp3");
        let from = ["-i", wav.to_str().unwrap(), "-id3v2_version", "0", "-write_id3v1", "0"];
        common::ffmpeg(&from, &mp3);
        let audio = std::fs::read(&mp3).unwrap();
        std::fs::write(&mp3, [tag(text), audio].concat()).unwrap();
        // Vorbis comments, which ffmpeg writes only if they are not empty.
        let flac = ["-i", wav.to_str().unwrap(), "-metadata", "album= "];
        std::fs::create_dir_all(folder.path().join(format!("flac/{song}"))).unwrap();
        common::ffmpeg(&flac, &folder.path().join(format!("flac/{song}/song.flac")));
    }
    for kind in ["music/0/song.mp3", "flac/0/song.flac"] {
        let root = folder.path().join(kind.split('/').next().unwrap());
        let index = index.with_extension(kind.split('/').next().unwrap());
        assert!(feelprint(&index, &["index", root.to_str().unwrap()]).status.success());
        let seed = folder.path().join(kind);
        let arguments = ["playlist", seed.to_str().unwrap(), "--max-per-album", "1", "--json"];
        assert_eq!(json_lines(&feelprint(&index, &arguments)).len(), 3, "{kind}");
    }
}

#[test]
fn tags_of_every_format_are_read() {
    let folder = Folder::new();
    let index = folder.path().join("index.sqlite");
    let music = folder.path().join("music");
    std::fs::create_dir(&music).unwrap();
    let wav = folder.path().join("song.wav");
    let formats = ["mp3", "flac", "ogg", "opus", "m4a", "aiff", "wav"];
    for (song, format) in formats.iter().enumerate() {
        write_wav(&wav, 22_050, &[piece(song as u32, 22_050, 3.0)]);
        let tags =
            ["-metadata", "artist=Ärtist", "-metadata", "title=Tïtle", "-metadata", "album=A"];
        let from = [&["-i", wav.to_str().unwrap(), "-write_id3v2", "1"][..], &tags].concat();
        let from: Vec<_> = match *format {
            "aiff" => from,
            _ => from.into_iter().filter(|it| !["-write_id3v2", "1"].contains(it)).collect(),
        };
        common::ffmpeg(&from, &music.join(format!("song.{format}")));
    }
    assert!(feelprint(&index, &["index", music.to_str().unwrap()]).status.success());
    let outside = folder.path().join("outside.wav");
    write_wav(&outside, 22_050, &[piece(20, 22_050, 3.0)]);
    let all = json_lines(&feelprint(&index, &["similar", outside.to_str().unwrap(), "--json"]));
    assert_eq!(all.len(), formats.len());
    for line in all {
        assert_eq!(
            (&line["artist"], &line["title"]),
            (&"Ärtist".into(), &"Tïtle".into()),
            "{line}"
        );
    }
    let arguments = ["playlist", outside.to_str().unwrap(), "--max-per-album", "2", "--json"];
    assert_eq!(json_lines(&feelprint(&index, &arguments)).len(), 2);

    // The tags of rows that an older feelprint wrote are read without another analysis.
    let db = rusqlite::Connection::open(&index).unwrap();
    db.execute_batch("UPDATE songs SET artist = NULL, title = NULL").unwrap();
    drop(db);
    let counts =
        json_lines(&feelprint(&index, &["index", music.to_str().unwrap(), "--json"])).remove(0);
    assert_eq!(counts["unchanged"], formats.len());
    let all = json_lines(&feelprint(&index, &["similar", outside.to_str().unwrap(), "--json"]));
    assert!(all.iter().all(|line| line["artist"] == "Ärtist" && line["title"] == "Tïtle"));
}
