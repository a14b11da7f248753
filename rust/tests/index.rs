//! The index: updates, killed runs, and versions of the model.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::{Folder, command, feelprint, json_lines, piece, write_wav};
use serde_json::Value;

fn music(tracks: u32) -> (Folder, PathBuf, PathBuf) {
    let folder = Folder::new();
    let music = folder.path().join("music");
    std::fs::create_dir(&music).unwrap();
    for track in 0..tracks {
        let piece = piece(track, 22_050, 2.0 + track as f32 / 100.0);
        write_wav(&music.join(format!("{track:03}.wav")), 22_050, &[piece]);
    }
    let index = folder.path().join("index.sqlite");
    (folder, music, index)
}

/// Indexes the folder, and returns the counts. The run fails if a song has no embedding.
fn index(index: &Path, music: &Path) -> Value {
    let output = feelprint(index, &["index", music.to_str().unwrap(), "--json"]);
    let problem = String::from_utf8_lossy(&output.stderr);
    let counts = json_lines(&output).remove(0);
    let failed = counts["failed"].as_u64().unwrap() > 0;
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{problem}");
    assert_eq!(failed, problem.contains("feelprint status"), "{problem}");
    counts
}

/// Path, hash and embedding of every row.
type Rows = BTreeMap<String, (Vec<u8>, Option<Vec<u8>>)>;

fn rows(index: &Path) -> Rows {
    let db = rusqlite::Connection::open(index).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut statement = db.prepare("SELECT path, hash, embedding FROM songs").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))));
    let mut all = Rows::new();
    for row in rows.unwrap() {
        let (path, found) = row.unwrap();
        assert!(all.insert(path, found).is_none(), "two rows of one file");
    }
    all
}

fn assert_counts(counts: &Value, expected: &[(&str, u64)]) {
    let names =
        ["unchanged", "analysed", "recognised", "removed", "missing", "unreadable", "failed"];
    for name in names {
        let want = expected.iter().find(|(other, _)| *other == name).map_or(0, |(_, count)| *count);
        assert_eq!(counts[name].as_u64().unwrap(), want, "{name} of {counts}");
    }
}

#[test]
fn the_index_follows_the_folder() {
    let (_folder, music, path) = music(5);
    assert_counts(&index(&path, &music), &[("analysed", 5)]);
    assert_counts(&index(&path, &music), &[("unchanged", 5)]);
    let before = rows(&path);
    assert_eq!(before.len(), 5);

    // A renamed file is recognised by its content and its old row is removed, the row of a removed
    // file is kept as missing, and new and bad files are analysed.
    std::fs::create_dir(music.join("sub")).unwrap();
    std::fs::rename(music.join("000.wav"), music.join("sub/renamed.wav")).unwrap();
    std::fs::remove_file(music.join("001.wav")).unwrap();
    write_wav(&music.join("new.wav"), 22_050, &[piece(40, 22_050, 2.0)]);
    std::fs::write(music.join("bad.mp3"), "no music").unwrap();
    std::fs::write(music.join("cover.jpg"), "not looked at").unwrap();
    let counts = index(&path, &music);
    let expected = [
        ("unchanged", 3),
        ("analysed", 2),
        ("recognised", 1),
        ("removed", 1),
        ("missing", 1),
        ("failed", 1),
    ];
    assert_counts(&counts, &expected);
    // The bad file has a row, and is not tried again. It is still reported.
    let expected = [("unchanged", 6), ("missing", 1), ("failed", 1)];
    assert_counts(&index(&path, &music), &expected);
    // The removed file is forgotten on purpose.
    assert!(feelprint(&path, &["forget"]).status.success());
    assert_counts(&index(&path, &music), &[("unchanged", 6), ("failed", 1)]);

    // A changed file is analysed again, and its row overwritten.
    write_wav(&music.join("002.wav"), 22_050, &[piece(41, 22_050, 2.5)]);
    assert_counts(&index(&path, &music), &[("unchanged", 5), ("analysed", 1), ("failed", 1)]);
    let after = rows(&path);
    let name = |name: &str| music.canonicalize().unwrap().join(name).to_str().unwrap().to_string();
    assert_ne!(after[&name("002.wav")], before[&name("002.wav")]);
    assert_eq!(after[&name("sub/renamed.wav")], before[&name("000.wav")]);
    assert_eq!(after[&name("bad.mp3")].1, None);
    assert!(!after.contains_key(&name("001.wav")));

    // A file with another modification time and the same content is recognised.
    let touched = std::fs::File::options().append(true).open(music.join("003.wav")).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let expected = [("unchanged", 5), ("recognised", 1), ("failed", 1)];
    assert_counts(&index(&path, &music), &expected);
    assert_eq!(rows(&path), after);
}

#[test]
fn two_files_that_swap_names_are_recognised() {
    let (_folder, music, path) = music(2);
    index(&path, &music);
    let before = rows(&path);
    let old = music.join("old.wav");
    std::fs::rename(music.join("000.wav"), &old).unwrap();
    std::fs::rename(music.join("001.wav"), music.join("000.wav")).unwrap();
    std::fs::rename(&old, music.join("001.wav")).unwrap();
    index(&path, &music);
    let after = rows(&path);
    let name = |name: &str| music.canonicalize().unwrap().join(name).to_str().unwrap().to_string();
    assert_eq!(after[&name("000.wav")], before[&name("001.wav")]);
    assert_eq!(after[&name("001.wav")], before[&name("000.wav")]);
}

#[test]
fn two_folders_share_an_index_and_one_is_updated_alone() {
    let (folder, music, path) = music(2);
    let other = folder.path().join("music and more");
    std::fs::create_dir(&other).unwrap();
    write_wav(&other.join("a.wav"), 22_050, &[piece(50, 22_050, 2.0)]);
    index(&path, &music);
    assert_counts(&index(&path, &other), &[("analysed", 1)]);
    assert_counts(&index(&path, &music), &[("unchanged", 2)]);
    assert_eq!(rows(&path).len(), 3);
}

#[test]
fn a_killed_run_loses_and_duplicates_no_row() {
    let (_folder, music, path) = music(60);
    let (_other_folder, _, whole) = self::music(0);
    index(&whole, &music);
    let want = rows(&whole);
    assert_eq!(want.len(), 60);

    let mut kept = 0;
    for round in 0..12_u64 {
        let arguments = ["index", music.to_str().unwrap()];
        let mut child =
            command(&path, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From before the index exists to the middle of the run.
        std::thread::sleep(Duration::from_millis(round * round * 5 % 400));
        child.kill().unwrap();
        child.wait().unwrap();
        if path.exists() && std::fs::metadata(&path).unwrap().len() > 0 {
            let db = rusqlite::Connection::open(&path).unwrap();
            let tables: i64 =
                db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
            if tables > 0 {
                let now = rows(&path);
                assert!(now.len() >= kept, "{} rows, and there were {kept}", now.len());
                assert!(now.iter().all(|(path, found)| want[path] == *found));
                kept = now.len();
            }
        }
    }
    let counts = index(&path, &music);
    assert_eq!(counts["unchanged"].as_u64().unwrap() as usize, kept);
    assert_eq!(counts["analysed"].as_u64().unwrap() as usize, 60 - kept);
    assert_eq!(rows(&path), want);
}

#[test]
fn embeddings_of_two_versions_are_not_compared() {
    let (folder, music, path) = music(3);
    index(&path, &music);
    // Another model: the same network under another version.
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/feelprint.onnx");
    let mut bytes = std::fs::read(bundled).unwrap();
    let key = b"feelprint.version\x12";
    let at = bytes.windows(key.len()).position(|bytes| bytes == key).unwrap() + key.len() + 1;
    bytes[at] = b'9';
    let model = folder.path().join("other.onnx");
    std::fs::write(&model, bytes).unwrap();
    let model = model.to_str().unwrap();

    let song = music.join("000.wav");
    let song = song.to_str().unwrap();
    for arguments in [vec!["similar", song], vec!["playlist", song], vec!["duplicates"]] {
        let output = feelprint(&path, &[&arguments[..], &["--model", model]].concat());
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(problem.contains("two versions cannot be compared"), "{problem}");
        assert!(problem.contains("feelprint index"), "{problem}");
        assert_eq!(problem.lines().count(), 1);
    }

    // A new track embedded by the other model: each model compares its own, and counts the others.
    write_wav(&music.join("new.wav"), 22_050, &[piece(9, 22_050, 2.0)]);
    let sub = music.join("sub");
    std::fs::create_dir(&sub).unwrap();
    std::fs::rename(music.join("new.wav"), sub.join("new.wav")).unwrap();
    let output = feelprint(&path, &["index", sub.to_str().unwrap(), "--model", model]);
    assert!(output.status.success());
    for (arguments, found, left_out) in [
        (vec!["similar", song], 2, "1 song is left out, of another model"),
        (vec!["similar", song, "--model", model], 1, "3 songs are left out, of another model"),
    ] {
        let output = feelprint(&path, &[&arguments[..], &["--json"]].concat());
        let problem = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && problem.contains(left_out), "{problem}");
        assert!(problem.contains("forget --outdated"), "{problem}");
        assert_eq!(json_lines(&output).len(), found);
    }

    // Indexing all of it with one model resolves it; what is of that model is not analysed again.
    let output = feelprint(&path, &["index", music.to_str().unwrap(), "--model", model, "--json"]);
    assert_counts(&json_lines(&output)[0], &[("unchanged", 1), ("analysed", 3)]);
    assert!(feelprint(&path, &["similar", song, "--model", model]).status.success());

    // So does forgetting what is of another model.
    assert_eq!(rows(&path).len(), 4);
    assert!(feelprint(&path, &["forget", "--outdated"]).status.success());
    assert!(rows(&path).is_empty());
}

#[test]
fn forced_and_dry_runs() {
    let (folder, music, path) = music(2);
    let run = |arguments: &[&str]| {
        let output = feelprint(&path, &[&["index", music.to_str().unwrap()], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // A dry run makes no index, and names what would be analysed.
    let text = run(&["--dry-run"]);
    assert!(text.contains("analyse  ") && text.contains("001.wav"), "{text}");
    assert!(text.contains("2 to analyse") && text.contains("nothing was changed"), "{text}");
    assert!(!path.exists());
    index(&path, &music);
    std::fs::remove_file(music.join("000.wav")).unwrap();
    write_wav(&music.join("new.wav"), 22_050, &[piece(9, 22_050, 2.0)]);
    let before = rows(&path);
    let text = run(&["--dry-run"]);
    assert!(text.contains("1 to analyse, 1 unchanged, 1 missing"), "{text}");
    assert_eq!(rows(&path), before);
    run(&[]);
    let text = run(&["--force", "--threads", "1"]);
    assert!(text.contains("2 analysed, 1 missing"), "{text}");
    drop(folder);
}

#[test]
fn several_folders_and_files_are_indexed_at_once() {
    let (folder, music, path) = music(2);
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    write_wav(&other.join("a.wav"), 22_050, &[piece(50, 22_050, 2.0)]);
    write_wav(&folder.path().join("single.wav"), 22_050, &[piece(51, 22_050, 2.0)]);
    let name = |path: &Path| path.to_str().unwrap().to_string();
    let single = folder.path().join("single.wav");
    let arguments = ["index", &name(&music), &name(&other), &name(&single), "--json"];
    let output = feelprint(&path, &arguments);
    assert!(output.status.success());
    assert_counts(&json_lines(&output)[0], &[("analysed", 4)]);
    // A folder that is not there does not stop the others, and is reported.
    let away = name(&folder.path().join("away"));
    let output = feelprint(&path, &["index", &away, &name(&music), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("away"));
    assert_counts(&json_lines(&output)[0], &[("unchanged", 2)]);
    assert_eq!(rows(&path).len(), 4);
}

/// The index as feelprint 0.11 and older made it.
const LAYOUT_1: &str = "
CREATE TABLE songs (
    path       TEXT PRIMARY KEY NOT NULL,
    size       INTEGER NOT NULL,           -- bytes
    changed_ns INTEGER NOT NULL,           -- nanoseconds since 1970
    hash       BLOB NOT NULL,              -- BLAKE3 of the content, 32 bytes
    version    TEXT NOT NULL,              -- of the model
    embedding  BLOB,                       -- 32 little-endian f32
    duration_s REAL,
    silent     INTEGER NOT NULL DEFAULT 0,
    album      TEXT,                       -- from the file's tags
    damage     TEXT,                       -- of a file that was decoded in part
    error      TEXT,                       -- why there is no embedding; else NULL
    CHECK ((embedding IS NULL) = (error IS NOT NULL))
);
CREATE INDEX songs_by_hash ON songs (hash);
PRAGMA application_id = 1717922928;
PRAGMA user_version = 1;
";

#[test]
fn an_older_index_is_brought_to_the_new_layout() {
    let (folder, music, path) = music(3);
    std::fs::write(music.join("bad.mp3"), "no music").unwrap();
    index(&path, &music);
    let want = rows(&path);
    let old = folder.path().join("old.sqlite");
    let db = rusqlite::Connection::open(&old).unwrap();
    db.execute_batch(LAYOUT_1).unwrap();
    db.execute("ATTACH ?1 AS new", [path.to_str().unwrap()]).unwrap();
    db.execute_batch(
        "INSERT INTO songs SELECT path, size, changed_ns, hash, version, embedding, duration_s,
         silent, album, damage, error FROM new.songs",
    )
    .unwrap();
    drop(db);
    // A command that only reads opens it too.
    let song = music.join("000.wav");
    let output = feelprint(&old, &["similar", song.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(json_lines(&output).len(), 2);
    assert_eq!(rows(&old), want);
    let layout = |path: &Path| -> i32 {
        let db = rusqlite::Connection::open(path).unwrap();
        db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(layout(&old), layout(&path));
    // No song is analysed again, except what older decoders could not decode.
    let counts = index(&old, &music);
    assert_counts(&counts, &[("unchanged", 3), ("analysed", 1), ("failed", 1)]);
    assert_counts(&index(&old, &music), &[("unchanged", 4), ("failed", 1)]);
    assert_eq!(rows(&old), want);

    // An index of a newer feelprint is left alone.
    let db = rusqlite::Connection::open(&old).unwrap();
    db.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(db);
    let output = feelprint(&old, &["duplicates"]);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && problem.contains("layout 99"), "{problem}");
}
