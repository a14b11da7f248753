//! Cue sheets: an album in one file is its songs.

mod common;

use std::path::{Path, PathBuf};

use common::{Folder, feelprint, json_lines, piece, write_wav};
use serde_json::Value;

const SHEET: &str = "PERFORMER \"Band\"\nTITLE \"Album\"\nFILE \"album.wav\" WAVE\n\
    TRACK 01 AUDIO\nTITLE \"One\"\nINDEX 01 00:00:00\n\
    TRACK 02 AUDIO\nTITLE \"Two\"\nINDEX 00 00:02:50\nINDEX 01 00:03:00\n\
    TRACK 03 AUDIO\nTITLE \"Three\"\nINDEX 01 00:07:00\n";

/// An album of three songs of 3, 4 and 5 seconds in one file, and the songs in files of their own.
fn library() -> (Folder, PathBuf) {
    let folder = Folder::new();
    for name in ["album", "single"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let mut album = Vec::new();
    for song in 0..3 {
        let samples = piece(song, 22_050, 3.0 + song as f32);
        let path = folder.path().join(format!("single/{song}.wav"));
        write_wav(&path, 22_050, std::slice::from_ref(&samples));
        album.extend(samples);
    }
    write_wav(&folder.path().join("album/album.wav"), 22_050, &[album]);
    std::fs::write(folder.path().join("album/album.cue"), SHEET).unwrap();
    let index = folder.path().join("index.sqlite");
    (folder, index)
}

fn index(index: &Path, folder: &Path) -> Value {
    let output = feelprint(index, &["index", folder.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    json_lines(&output).remove(0)
}

#[test]
fn an_album_in_one_file_is_its_songs() {
    let (folder, path) = library();
    assert_eq!(index(&path, folder.path())["analysed"], 6);
    assert_eq!(index(&path, folder.path())["unchanged"], 6);
    let album = folder.path().join("album/album.wav").canonicalize().unwrap();
    for song in 0..3_u32 {
        let single = folder.path().join(format!("single/{song}.wav"));
        let output = feelprint(&path, &["similar", single.to_str().unwrap(), "-n", "1", "--json"]);
        let nearest = json_lines(&output).remove(0);
        assert_eq!(nearest["path"], album.to_str().unwrap());
        assert_eq!(nearest["track"], song + 1);
        // A part of a file gives the same as a file of its own.
        assert!(nearest["distance"].as_f64().unwrap() < 1e-3, "{nearest}");
        assert_eq!(nearest["title"], ["One", "Two", "Three"][song as usize]);
        assert_eq!(nearest["artist"], "Band");
        let starts = [0.0, 3.0, 7.0, 12.0];
        assert!((nearest["start_s"].as_f64().unwrap() - starts[song as usize]).abs() < 1e-3);
        assert!((nearest["end_s"].as_f64().unwrap() - starts[song as usize + 1]).abs() < 1e-3);
    }
    // A track of the sheet can be the seed, and so can all of them.
    let second = format!("{}#2", album.display());
    let output = feelprint(&path, &["similar", &second, "-n", "1", "--json"]);
    assert!(json_lines(&output)[0]["path"].as_str().unwrap().ends_with("single/1.wav"));
    let output = feelprint(&path, &["playlist", album.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no other song"));
    let single = folder.path().join("single/0.wav");
    let output = feelprint(&path, &["similar", single.to_str().unwrap(), "--m3u", "-n", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("#EXTINF:3,Band - One\n#EXTVLCOPT:start-time=0.000\n"), "{text}");
    let output = feelprint(&path, &["similar", &format!("{}#9", album.display())]);
    assert!(!output.status.success());
}

/// A block CUESHEET (RFC 9639, section 8.7) of tracks that start at these samples; the second one
/// has a pause of 1,000 samples before it, and the last one is the lead-out.
fn cue_block(starts: &[u64]) -> Vec<u8> {
    let mut block = vec![0; 128 + 8 + 259];
    block.push(starts.len() as u8);
    for (position, &start) in starts.iter().enumerate() {
        let is_last = position == starts.len() - 1;
        let pause = if position == 1 { 1_000 } else { 0 };
        block.extend((start - pause).to_be_bytes());
        block.push(if is_last { 255 } else { position as u8 + 1 });
        block.extend([0; 12 + 14]);
        let points = match (is_last, pause) {
            (true, _) => &[][..],
            (false, 0) => &[(0, 1)],
            (false, _) => &[(0_u64, 0_u8), (1_000, 1)],
        };
        block.push(points.len() as u8);
        for &(offset, number) in points {
            block.extend(offset.to_be_bytes());
            block.extend([number, 0, 0, 0]);
        }
    }
    block
}

#[test]
fn a_sheet_in_a_flac_file_is_one_beside_it() {
    let (folder, path) = library();
    let album = folder.path().join("album");
    let wav = album.join("album.wav");
    std::fs::remove_file(album.join("album.cue")).unwrap();
    let plain = common::ffmpeg(&["-i", wav.to_str().unwrap()], &album.join("plain.flac"));
    let plain = std::fs::read(plain).unwrap();
    std::fs::remove_file(album.join("plain.flac")).unwrap();
    // The comment, with the name that the file had and without one; and the block, behind STREAMINFO.
    let without_file = SHEET.replace("FILE \"album.wav\" WAVE\n", "");
    let comments = ["-i", wav.to_str().unwrap(), "-metadata"];
    for (name, sheet) in [("comment", SHEET), ("nameless", &without_file)] {
        let comment = format!("CUESHEET={sheet}");
        let arguments = [&comments[..], &[&comment]].concat();
        common::ffmpeg(&arguments, &album.join(format!("{name}.flac")));
    }
    let block = cue_block(&[0, 3 * 22_050, 7 * 22_050, 12 * 22_050]);
    let header = [&[5][..], &(block.len() as u32).to_be_bytes()[1..]].concat();
    let with_block = [&plain[..42], &header, &block, &plain[42..]].concat();
    std::fs::write(album.join("block.flac"), with_block).unwrap();
    std::fs::remove_file(&wav).unwrap();

    assert_eq!(index(&path, &album)["analysed"], 9);
    assert_eq!(index(&path, &album)["unchanged"], 9);
    for name in ["comment", "nameless", "block"] {
        let file = album.join(format!("{name}.flac")).canonicalize().unwrap();
        for song in 0..3_usize {
            let single = folder.path().join(format!("single/{song}.wav"));
            let output = feelprint(&path, &["similar", single.to_str().unwrap(), "--json"]);
            let lines = json_lines(&output);
            let is_it = |line: &&Value| {
                line["path"] == file.to_str().unwrap() && line["track"] == song as u64 + 1
            };
            let found = lines.iter().find(is_it).unwrap_or_else(|| panic!("{name}: {lines:?}"));
            assert!(found["distance"].as_f64().unwrap() < 1e-3, "{name}: {found}");
            // The block has no titles.
            let titles = ["One", "Two", "Three"].map(|title| (name != "block").then_some(title));
            assert_eq!(found["title"].as_str(), titles[song], "{name}");
        }
    }
    // A sheet beside the file comes first; when it goes, that in the file counts again.
    let file = album.join("comment.flac");
    let beside = album.join("comment.cue");
    std::fs::write(&beside, SHEET.replace("Two", "Zwei")).unwrap();
    assert_eq!(index(&path, &file)["recognised"], 3);
    std::fs::remove_file(&beside).unwrap();
    assert_eq!(index(&path, &file)["recognised"], 3);
    assert_eq!(index(&path, &file)["unchanged"], 3);
    // A sheet with a file per track, and one that is broken, divide nothing.
    let two = "FILE \"0.wav\" WAVE\nTRACK 01 AUDIO\nINDEX 01 00:00:00\nFILE \"1.wav\" WAVE\n\
               TRACK 02 AUDIO\nINDEX 01 00:00:00\n";
    let single = folder.path().join("single/0.wav");
    for sheet in [two, "no sheet", ""] {
        let comment = format!("CUESHEET={sheet}");
        let arguments = ["-i", single.to_str().unwrap(), "-metadata", &comment];
        let flac = common::ffmpeg(&arguments, &folder.path().join("one.flac"));
        assert_eq!(index(&path, &flac)["analysed"], 1, "{sheet}");
        std::fs::remove_file(&flac).unwrap();
        feelprint(&path, &["forget", flac.to_str().unwrap()]);
    }
}

#[test]
fn the_songs_follow_the_sheet() {
    let (folder, path) = library();
    let sheet = folder.path().join("album/album.cue");
    index(&path, folder.path());
    // A title changes: the songs are recognised. The sheet goes: the file is one song.
    std::fs::write(&sheet, SHEET.replace("Two", "Zwei")).unwrap();
    assert_eq!(index(&path, folder.path())["recognised"], 3);
    // So they are when an artist or the album changes.
    let corrected = [
        ("PERFORMER \"Band\"", "PERFORMER \"The Band\""),
        ("PERFORMER \"Band\"\n", ""),
        ("TITLE \"Album\"", "TITLE \"The Album\""),
    ];
    for (from, to) in corrected {
        std::fs::write(&sheet, SHEET.replace(from, to)).unwrap();
        assert_eq!(index(&path, folder.path())["recognised"], 3, "{to}");
        assert_eq!(index(&path, folder.path())["unchanged"], 6, "{to}");
    }
    let db = rusqlite::Connection::open(&path).unwrap();
    let tags: (String, String) = db
        .query_row("SELECT artist, album FROM songs WHERE track = 2", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(tags, ("Band".to_string(), "The Album".to_string()));
    drop(db);
    std::fs::remove_file(&sheet).unwrap();
    let counts = index(&path, folder.path());
    assert_eq!((&counts["analysed"], &counts["unchanged"]), (&1.into(), &3.into()));
    // In Latin-1, for a file that was compressed since, which is moved with its sheet.
    let flac = folder.path().join("album/album.flac");
    common::ffmpeg(&["-i", folder.path().join("album/album.wav").to_str().unwrap()], &flac);
    std::fs::remove_file(folder.path().join("album/album.wav")).unwrap();
    let latin: Vec<u8> =
        SHEET.replace("Two", "Caf\u{e9}").chars().map(|c| u32::from(c) as u8).collect();
    std::fs::write(&sheet, latin).unwrap();
    let counts = index(&path, folder.path());
    assert_eq!((&counts["analysed"], &counts["missing"]), (&3.into(), &1.into()));
    let second = format!("{}#2", flac.canonicalize().unwrap().display());
    assert!(feelprint(&path, &["similar", &second]).status.success());
    std::fs::rename(folder.path().join("album"), folder.path().join("moved")).unwrap();
    let counts = index(&path, folder.path());
    assert_eq!((&counts["recognised"], &counts["removed"]), (&3.into(), &3.into()));
}

#[test]
fn a_sheet_names_its_file_in_any_case() {
    let (folder, path) = library();
    let album = folder.path().join("album");
    std::fs::remove_file(album.join("album.cue")).unwrap();
    std::fs::write(album.join("x.cue"), SHEET.replace("album.wav", "D:\\Rips\\ALBUM.Wav")).unwrap();
    assert_eq!(index(&path, &album)["analysed"], 3);
    // The exact name comes first.
    let single = folder.path().join("single/0.wav");
    std::fs::copy(&single, album.join("Album.wav")).unwrap();
    std::fs::write(album.join("x.cue"), SHEET).unwrap();
    let counts = index(&path, &album);
    assert_eq!((&counts["analysed"], &counts["unchanged"]), (&1.into(), &3.into()));
    // A sheet whose file is not there is reported; one whose file is excluded, or is not the one that
    // is indexed, is not.
    let run = |arguments: &[&str]| {
        let output = feelprint(&path, &[&["index"], arguments].concat());
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let name = album.to_str().unwrap();
    assert_eq!(run(&[name]), "");
    assert_eq!(run(&[album.join("Album.wav").to_str().unwrap()]), "");
    assert!(!run(&[name, "--exclude", "album.wav"]).contains("x.cue"));
    std::fs::write(album.join("x.cue"), SHEET.replace("album.wav", "other.wav")).unwrap();
    let problem = run(&[name]);
    assert_eq!(problem.lines().count(), 1, "{problem}");
    assert!(problem.contains("x.cue: other.wav") && problem.contains("is not there"), "{problem}");
}

#[test]
fn a_sheet_of_one_file_per_song_divides_nothing() {
    let (folder, path) = library();
    let sheet = "FILE \"0.wav\" WAVE\nTRACK 01 AUDIO\nINDEX 01 00:00:00\nTRACK 02 AUDIO\n\
                 INDEX 00 00:02:50\nFILE \"1.wav\" WAVE\nINDEX 01 00:00:00\n";
    std::fs::write(folder.path().join("single/x.cue"), sheet).unwrap();
    assert_eq!(index(&path, &folder.path().join("single"))["analysed"], 3);
    // Nor does one whose tracks have the same number or are not in order.
    let album = folder.path().join("album");
    let sheets = [SHEET.replace("TRACK 02", "TRACK 01"), SHEET.replace("00:07:00", "00:01:00")];
    for sheet in sheets {
        std::fs::write(album.join("album.cue"), sheet).unwrap();
        let counts = index(&path, &album);
        assert_eq!(counts["analysed"].as_u64().unwrap() + counts["unchanged"].as_u64().unwrap(), 1);
    }
    // A track after the end of the audio is reported, and the others are analysed.
    let late = SHEET.replace("00:07:00", "59:00:00");
    std::fs::write(folder.path().join("album/album.cue"), late).unwrap();
    let output = feelprint(&path, &["index", album.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let counts = json_lines(&output).remove(0);
    assert_eq!((&counts["analysed"], &counts["failed"]), (&3.into(), &1.into()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("after the end of the audio"));
}

#[test]
fn sections_are_what_files_of_their_own_are() {
    let (folder, _) = library();
    let model = feelprint::AudioEmbeddingModel::load_default().unwrap();
    let album = folder.path().join("album/album.wav");
    let tracks = model.embed_sections(&album, &[3.0, 7.0, 13.0]).unwrap();
    assert_eq!(tracks.len(), 3);
    for (song, track) in (1..).zip(&tracks[..2]) {
        let single = model.embed_file(folder.path().join(format!("single/{song}.wav"))).unwrap();
        let track = track.as_ref().unwrap();
        assert_eq!(track.duration(), single.duration());
        let distance = track.analysis().embedding().distance(&single.analysis().embedding());
        assert!(distance < 1e-5, "{distance}");
    }
    let error = tracks[2].as_ref().unwrap_err();
    assert!(error.is_audio() && error.to_string().contains("13.0 s"), "{error}");
    assert_eq!(error.path(), Some(album.as_path()));
    for starts_s in [&[][..], &[-1.0], &[f64::NAN], &[2.0, 2.0], &[0.0, f64::INFINITY]] {
        let error = model.embed_sections(&album, starts_s).unwrap_err();
        assert!(error.is_argument() && error.to_string().contains("ascending"), "{error}");
    }
    assert!(model.embed_sections("missing.wav", &[0.0]).unwrap_err().io_error().is_some());
}
