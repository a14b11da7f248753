//! What the index keeps when files cannot be reached, are moved, linked, excluded or badly named.
#![cfg(unix)]

mod common;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Folder, feelprint, json_lines, piece, write_wav};
use serde_json::Value;

struct Library {
    folder: Folder,
    index: PathBuf,
}

impl Library {
    /// A folder with the songs of these paths.
    fn new(songs: &[&str]) -> Self {
        let folder = Folder::new();
        let index = folder.path().join("index.sqlite");
        let library = Self { folder, index };
        for (seed, song) in (0..).zip(songs) {
            library.add(song, seed);
        }
        library
    }

    fn add(&self, song: &str, seed: u32) {
        let path = self.path(song);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_wav(&path, 22_050, &[piece(seed, 22_050, 2.0)]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        feelprint(&self.index, arguments)
    }

    /// Indexes a folder of the library, whatever the exit code, and returns the counts.
    fn index(&self, name: &str) -> Value {
        json_lines(&self.run(&["index", &self.name(name), "--json"])).remove(0)
    }

    /// The names of the songs that `similar` and `playlist` print for a song, sorted.
    fn found(&self, command: &str, song: &str) -> Vec<String> {
        let output = self.run(&[command, &self.name(song), "--json"]);
        let root = self.folder.path().canonicalize().unwrap();
        let name = |line: &Value| {
            let path = Path::new(line["path"].as_str().unwrap())
                .strip_prefix(&root)
                .unwrap()
                .to_path_buf();
            path.to_str().unwrap().to_string()
        };
        let mut names: Vec<_> = json_lines(&output).iter().map(name).collect();
        names.sort();
        names
    }

    fn rows(&self) -> i64 {
        let db = rusqlite::Connection::open(&self.index).unwrap();
        db.query_row("SELECT count(*) FROM songs", [], |row| row.get(0)).unwrap()
    }

    fn status(&self) -> Value {
        json_lines(&self.run(&["status", "--json"])).remove(0)
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_empty_or_missing_folder_loses_no_song() {
    let library = Library::new(&["lib/1.wav", "usb/a/2.wav", "usb/3.wav"]);
    library.index("lib");
    library.index("usb");
    std::fs::rename(library.path("usb"), library.path("drawer")).unwrap();
    for empty in [false, true] {
        if empty {
            std::fs::create_dir(library.path("usb")).unwrap();
        }
        let output = library.run(&["index", &library.name("usb")]);
        let problem = text(&output);
        assert!(!output.status.success());
        assert!(problem.contains("2 songs of it are kept in the index"), "{problem}");
        assert_eq!(library.rows(), 3);
        assert_eq!(library.status()["missing"].as_array().unwrap().len(), 2);
        // Songs that are missing are in no result.
        let output = library.run(&["similar", &library.name("lib/1.wav")]);
        assert_eq!(output.stdout, b"");
        assert!(text(&output).contains("2 songs are left out, missing"), "{}", text(&output));
    }
    // Back again, nothing is analysed.
    std::fs::remove_dir(library.path("usb")).unwrap();
    std::fs::rename(library.path("drawer"), library.path("usb")).unwrap();
    let counts = library.index("usb");
    assert_eq!((&counts["unchanged"], &counts["missing"]), (&2.into(), &0.into()));
    assert_eq!(library.found("similar", "lib/1.wav"), ["usb/3.wav", "usb/a/2.wav"]);
}

#[test]
fn a_mount_point_inside_the_library_loses_no_song() {
    let library = Library::new(&["lib/1.wav", "lib/nas/2.wav"]);
    library.index("lib");
    std::fs::rename(library.path("lib/nas"), library.path("nas")).unwrap();
    std::fs::create_dir(library.path("lib/nas")).unwrap();
    let output = library.run(&["index", &library.name("lib")]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("1 song is missing and kept"), "{}", text(&output));
    assert_eq!(library.rows(), 2);
    // Found by its content under another path, it moves there.
    std::fs::rename(library.path("nas"), library.path("lib/nas/music")).unwrap();
    let counts = library.index("lib");
    assert_eq!((&counts["recognised"], &counts["removed"]), (&1.into(), &1.into()));
    assert_eq!((library.rows(), &counts["missing"]), (2, &0.into()));
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder for all, not in the build folder, which may be in a home that others may not enter.
fn open_folder(name: &str) -> PathBuf {
    let name = format!("feelprint-test-{name}-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    set_mode(&folder, 0o777);
    folder
}

/// Runs the command as somebody who may not read all, which root may. `None` if that is not possible.
fn as_nobody(folder: &Path, arguments: &[&str]) -> Option<Output> {
    let program = folder.join("feelprint");
    if !program.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_feelprint"), &program).unwrap();
    }
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let is_root = std::fs::metadata(folder).unwrap().uid() == 0;
    let mut command = if is_root {
        let mut command = std::process::Command::new("setpriv");
        command.args(nobody).arg(program);
        command
    } else {
        std::process::Command::new(program)
    };
    command.current_dir(folder).args(arguments).output().ok()
}

#[test]
fn a_folder_that_cannot_be_read_loses_no_song() {
    let folder = open_folder("folder");
    let locked = folder.join("lib/b");
    std::fs::create_dir_all(&locked).unwrap();
    for (seed, song) in [(1, "lib/1.wav"), (2, "lib/b/2.wav")] {
        write_wav(&folder.join(song), 22_050, &[piece(seed, 22_050, 2.0)]);
    }
    let run =
        |arguments: &[&str]| as_nobody(&folder, &[arguments, &["--index", "i.sqlite"]].concat());
    if let Some(first) = run(&["index", "lib"]) {
        assert!(first.status.success(), "{}", text(&first));
        set_mode(&locked, 0o000);
        let output = run(&["index", "lib", "--json"]).unwrap();
        let forgotten = run(&["forget", "--json"]).unwrap();
        set_mode(&locked, 0o755);
        assert_eq!(output.status.code(), Some(1));
        let counts = json_lines(&output).remove(0);
        assert_eq!((&counts["unreadable"], &counts["missing"]), (&1.into(), &1.into()));
        assert_eq!(json_lines(&forgotten)[0]["removed"], 0);
        let again = json_lines(&run(&["index", "lib", "--json"]).unwrap()).remove(0);
        assert_eq!((&again["unchanged"], &again["missing"]), (&2.into(), &0.into()));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_cue_sheet_that_cannot_be_read_loses_no_song() {
    let folder = open_folder("sheet");
    std::fs::create_dir(folder.join("lib")).unwrap();
    write_wav(&folder.join("lib/a.wav"), 22_050, &[piece(1, 22_050, 6.0)]);
    write_wav(&folder.join("lib/b.wav"), 22_050, &[piece(2, 22_050, 2.0)]);
    let sheet = folder.join("lib/album.cue");
    let tracks = "FILE \"a.wav\" WAVE\nTRACK 01 AUDIO\nINDEX 01 00:00:00\n\
                  TRACK 02 AUDIO\nINDEX 01 00:03:00\n";
    std::fs::write(&sheet, tracks).unwrap();
    let run =
        |arguments: &[&str]| as_nobody(&folder, &[arguments, &["--index", "i.sqlite"]].concat());
    if let Some(first) = run(&["index", "lib"]) {
        assert!(first.status.success(), "{}", text(&first));
        set_mode(&sheet, 0o000);
        // A song that is new is indexed, and one that was one song stays one.
        write_wav(&folder.join("lib/c.wav"), 22_050, &[piece(3, 22_050, 2.0)]);
        for (root, unchanged, analysed) in [("lib", 3, 1), ("lib/a.wav", 2, 0)] {
            let output = run(&["index", root, "--json"]).unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", text(&output));
            assert!(text(&output).contains("album.cue"), "{}", text(&output));
            assert!(text(&output).contains("1 file or folder could not be read"));
            let counts = json_lines(&output).remove(0);
            let found = (&counts["unchanged"], &counts["analysed"], &counts["unreadable"]);
            assert_eq!(found, (&unchanged.into(), &analysed.into(), &1.into()), "{root}");
        }
        set_mode(&sheet, 0o644);
        let again = run(&["index", "lib", "--json"]).unwrap();
        assert!(again.status.success(), "{}", text(&again));
        assert_eq!(json_lines(&again)[0]["unchanged"], 4);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_renamed_library_moves_its_rows() {
    let library = Library::new(&["Music/1.wav", "Music/2.wav", "Music/x/3.wav"]);
    std::fs::copy(library.path("Music/1.wav"), library.path("Music/copy of 1.wav")).unwrap();
    library.index("Music");
    std::fs::rename(library.path("Music"), library.path("Musik")).unwrap();
    std::fs::remove_file(library.path("Musik/2.wav")).unwrap();
    let counts = library.index("Musik");
    assert_eq!((&counts["recognised"], &counts["removed"]), (&3.into(), &3.into()));
    // The song that was removed on the way is missing, also without a run for the old folder.
    assert_eq!((library.rows(), &counts["missing"]), (4, &1.into()));
    assert_eq!(library.found("playlist", "Musik/1.wav"), ["Musik/x/3.wav"]);
    let old = library.name("Music");
    let output = library.run(&["forget", &old, "--dry-run"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("Music/2.wav") && printed.contains("1 song would be removed"));
    assert_eq!(library.rows(), 4);
    // Its whole folder is away, as a drive is that is not mounted.
    assert!(text(&library.run(&["forget"])).contains("its 1 song is kept"));
    assert_eq!(library.rows(), 4);
    assert!(library.run(&["forget", &old]).status.success());
    assert_eq!(library.rows(), 3);
}

#[test]
fn a_folder_is_forgotten_on_purpose() {
    let library = Library::new(&["lib/a/1.wav", "lib/a/2.wav", "lib/ab/3.wav"]);
    library.index("lib");
    let output = library.run(&["forget", &library.name("lib/a"), "--json"]);
    assert_eq!(json_lines(&output)[0]["removed"], 2);
    assert_eq!(library.rows(), 1);
    let output = library.run(&["forget", &library.name("lib/a")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("no song there"));
    assert_eq!(library.index("lib")["analysed"], 2);
    // Nothing is forgotten that is there.
    assert_eq!(json_lines(&library.run(&["forget", "--json"]))[0]["removed"], 0);
}

/// A song that is gone on purpose, beside a drive that is not mounted.
#[test]
fn forget_keeps_the_songs_of_a_folder_that_is_away() {
    for is_mount_point in [false, true] {
        let library = Library::new(&["home/a.wav", "home/b.wav", "usb/c.wav", "usb/d.wav"]);
        let (home, usb) = (library.name("home"), library.name("usb"));
        library.run(&["index", &home, &usb]);
        std::fs::remove_file(library.path("home/a.wav")).unwrap();
        std::fs::rename(library.path("usb"), library.path("away")).unwrap();
        if is_mount_point {
            std::fs::create_dir(library.path("usb")).unwrap();
        }
        let output = library.run(&["forget"]);
        assert!(output.status.success());
        let said = text(&output);
        assert!(said.contains("usb: nothing is there, and its 2 songs are kept"), "{said}");
        assert_eq!(library.rows(), 3);
        assert!(library.run(&["forget", &usb]).status.success());
        assert_eq!(library.rows(), 1);
    }
}

#[test]
fn a_song_behind_links_is_one_song() {
    let library = Library::new(&["real/1.wav", "real/2.wav", "real/sub/3.wav"]);
    std::fs::create_dir(library.path("lib")).unwrap();
    symlink("../real", library.path("lib/nas")).unwrap();
    symlink("../real/sub", library.path("lib/sub")).unwrap();
    symlink("../real/1.wav", library.path("lib/one.wav")).unwrap();
    symlink("..", library.path("real/loop")).unwrap();
    let output = library.run(&["index", &library.name("lib"), "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(json_lines(&output)[0]["analysed"], 3);
    for song in ["lib/nas/1.wav", "lib/one.wav", "real/1.wav"] {
        assert_eq!(library.found("similar", song), ["real/2.wav", "real/sub/3.wav"]);
    }
    let arguments = ["similar", &library.name("lib/one.wav"), "--in", &library.name("lib")];
    assert_eq!(String::from_utf8(library.run(&arguments).stdout).unwrap().lines().count(), 2);
    // A row that an older feelprint named by the link is not a second song.
    let db = rusqlite::Connection::open(&library.index).unwrap();
    let named = library.path("lib").canonicalize().unwrap().join("nas/1.wav");
    db.execute(
        "INSERT INTO songs (path, size, changed_ns, hash, version, embedding, duration_s)
         SELECT ?1, size, changed_ns, hash, version, embedding, duration_s FROM songs LIMIT 1",
        [named.to_str().unwrap()],
    )
    .unwrap();
    drop(db);
    let counts = library.index("lib");
    assert_eq!((&counts["unchanged"], &counts["removed"]), (&3.into(), &1.into()));
    // The target of the link goes away: its songs are missing, though they are not under lib.
    std::fs::rename(library.path("real"), library.path("away")).unwrap();
    library.add("lib/4.wav", 9);
    let counts = library.index("lib");
    assert_eq!((&counts["missing"], &counts["unreadable"]), (&3.into(), &0.into()));
    assert_eq!(library.rows(), 4);
}

#[test]
fn names_that_are_not_utf8_are_indexed() {
    let library = Library::new(&["lib/a.wav", "lib/b.wav"]);
    let bytes = |name: &[u8]| library.path("lib").join(std::ffi::OsStr::from_bytes(name));
    if std::fs::create_dir(bytes(b"caf\xe9")).is_err() {
        return; // The file system allows no such name.
    }
    write_wav(&bytes(b"caf\xe9/\xfc.wav"), 22_050, &[piece(7, 22_050, 2.0)]);
    assert_eq!(library.index("lib")["analysed"], 3);
    assert_eq!(library.index("lib")["unchanged"], 3);
    // The name is printed as it is, and found again in the index.
    let output = library.run(&["similar", &library.name("lib/a.wav"), "-0"]);
    let printed: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
    let full = library.path("lib").canonicalize().unwrap();
    let full = full.join(std::ffi::OsStr::from_bytes(b"caf\xe9/\xfc.wav"));
    assert!(printed.contains(&full.as_os_str().as_bytes()));
    let mut command = common::command(&library.index, &["similar", "--json"]);
    let output = command.arg(bytes(b"caf\xe9/\xfc.wav")).output().unwrap();
    assert_eq!(json_lines(&output).len(), 2);
    // A folder of such a name that goes away is missing, and can be forgotten.
    std::fs::remove_dir_all(bytes(b"caf\xe9")).unwrap();
    assert_eq!(library.index("lib")["missing"], 1);
    let mut command = common::command(&library.index, &["forget"]);
    assert!(command.arg(bytes(b"caf\xe9")).output().unwrap().status.success());
    assert_eq!(library.rows(), 2);
}

#[test]
fn hidden_folders_trash_and_excluded_songs_are_left_alone() {
    let library = Library::new(&[
        "lib/1.wav",
        "lib/...And Justice/2.wav",
        "lib/.5 hidden.wav",
        "lib/._1.wav",
        "lib/.hidden/4.wav",
        "lib/.Trash-1000/files/5.wav",
        "lib/$RECYCLE.BIN/6.wav",
        "lib/@eaDir/7.wav",
        "lib/Trash/8.wav",
        "lib/x/Trash/files/9.wav",
        "lib/spoken/10.wav",
        "lib/demos/11.wav",
    ]);
    std::fs::create_dir(library.path("lib/x/Trash/info")).unwrap();
    std::fs::write(library.path("lib/.feelprintignore"), "spoken/\n").unwrap();
    let counts = library.index("lib");
    assert_eq!(counts["analysed"], 5, "{counts}");
    assert_eq!(
        library.found("similar", "lib/1.wav"),
        ["lib/...And Justice/2.wav", "lib/.5 hidden.wav", "lib/Trash/8.wav", "lib/demos/11.wav"]
    );
    // What is excluded later stays in the index, is in no result, and comes back for nothing.
    let exclude =
        ["index", &library.name("lib"), "--exclude", "demos", "--exclude", "*.5*", "--json"];
    let counts = json_lines(&library.run(&exclude)).remove(0);
    assert_eq!((&counts["excluded"], &counts["missing"]), (&2.into(), &0.into()));
    assert_eq!(library.found("playlist", "lib/1.wav").len(), 2);
    assert_eq!(library.index("lib")["unchanged"], 5);
    assert_eq!(library.found("playlist", "lib/1.wav").len(), 4);
    // A hidden folder that is named is indexed.
    assert_eq!(library.index("lib/.hidden")["analysed"], 1);
    assert_eq!(library.index("lib")["excluded"], 0);
    assert_eq!(library.found("playlist", "lib/1.wav").len(), 5);
    // A path is as good as a glob.
    let demos = library.name("lib/demos");
    let counts =
        json_lines(&library.run(&["index", &library.name("lib"), "--exclude", &demos, "--json"]))
            .remove(0);
    assert_eq!(counts["excluded"], 1);
    // Where all is excluded, nothing is missing.
    let output = library.run(&["index", &library.name("lib/demos"), "--exclude", "*"]);
    let problem = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(problem.contains("no audio file left") && !problem.contains("mounted"), "{problem}");
    assert!(problem.contains("; 1 file or folder excluded; 1 song of it is kept"), "{problem}");
    // What cannot be read counts once, also where two folders have it.
    symlink("self.mp3", library.path("lib/demos/self.mp3")).unwrap();
    let both = ["index", &library.name("lib/demos"), &library.name("lib"), "--json"];
    assert_eq!(json_lines(&library.run(&both))[0]["unreadable"], 1);
    let output = library.run(&["index", &library.name("lib"), "--exclude", "a{"]);
    assert!(
        !output.status.success() && text(&output).contains("--exclude a{"),
        "{}",
        text(&output)
    );
}

/// The containers that `embed` reads, by the names that downloads and phones give them.
#[test]
fn sound_in_containers_of_video_is_indexed() {
    let names = ["a.webm", "b.mkv", "c.mov", "d.m4r", "e.mpa", "f.3gp", "g.MP4"];
    let library =
        Library::new(&names.map(|name| ["lib/", name].concat()).each_ref().map(|s| &s[..]));
    assert_eq!(library.index("lib")["analysed"], 7);
}

#[test]
fn kinds_that_are_skipped_are_counted() {
    let library = Library::new(&["lib/1.wav"]);
    std::fs::create_dir(library.path("wma")).unwrap();
    for song in 0..1_200 {
        std::fs::write(library.path(&format!("wma/{song}.WMA")), "").unwrap();
    }
    std::fs::write(library.path("lib/2.ape"), "").unwrap();
    std::fs::write(library.path("lib/cover.jpg"), "").unwrap();
    let output = library.run(&["index", &library.name("lib")]);
    assert!(output.status.success());
    assert!(text(&output).contains("1 .ape file left out"), "{}", text(&output));
    assert!(!text(&output).contains("jpg"));
    let output = library.run(&["index", &library.name("wma")]);
    assert!(!output.status.success());
    assert!(text(&output).contains("1,200 .wma files left out"), "{}", text(&output));
}
