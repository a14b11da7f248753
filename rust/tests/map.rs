//! The command `map`.

mod common;

use std::fs;
use std::path::Path;

use common::{Folder, feelprint, json_lines, piece, write_wav};
use serde_json::Value;

/// A library of twelve pieces in two folders, indexed. One name is not ASCII, and one holds HTML.
fn library() -> (Folder, std::path::PathBuf) {
    let folder = Folder::new();
    for (number, name) in (0..12).zip([
        "a/1.wav",
        "a/2.wav",
        "a/<b>&\"'.wav",
        "a/4.wav",
        "a/5 #%?.wav",
        "a/6.wav",
        "b/ü.wav",
        "b/2.wav",
        "b/3.wav",
        "b/4.wav",
        "b/5.wav",
        "b/6.wav",
    ]) {
        let path = folder.path().join("music").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_wav(&path, 22_050, &[piece(number, 22_050, 2.0)]);
    }
    let index = folder.path().join("index.sqlite");
    let music = folder.path().join("music");
    assert!(feelprint(&index, &["index", music.to_str().unwrap()]).status.success());
    (folder, index)
}

/// The data in a page.
fn data(page: &Path) -> Value {
    let page = fs::read_to_string(page).unwrap();
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

/// The link of each track.
fn links(data: &Value) -> Vec<String> {
    let files = data["files"].as_array().unwrap().iter().zip(data["base"].as_array().unwrap());
    files
        .map(|(file, base)| {
            let base = data["bases"][base.as_u64().unwrap() as usize].as_str().unwrap();
            format!("{base}{}", file.as_str().unwrap())
        })
        .collect()
}

#[test]
fn a_map_of_the_index_and_of_a_folder() {
    let (folder, index) = library();
    let out = folder.path().join("map.html");
    let done = feelprint(&index, &["map", "--json", "--out", out.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let summary = &json_lines(&done)[0];
    assert_eq!(summary["songs"], 12);
    assert_eq!(summary["bytes"], fs::metadata(&out).unwrap().len());
    let all = data(&out);
    let place = all["titles"].as_array().unwrap().iter().position(|it| it == "<b>&\"'").unwrap();
    let music = folder.path().canonicalize().unwrap().join("music");
    let url = format!("file://{}/a/%3Cb%3E%26%22%27.wav", music.display());
    assert_eq!(links(&all)[place], url);
    assert_eq!(all["groups"][3]["names"], serde_json::json!(["a", "b"]));
    assert_eq!(all["groups"][1]["names"], serde_json::json!([""])); // no tags

    // The same index makes the same page, byte by byte, and a map is replaced.
    let before = fs::read(&out).unwrap();
    assert!(feelprint(&index, &["map", "--out", out.to_str().unwrap()]).status.success());
    assert!(before == fs::read(&out).unwrap());

    let page = folder.path().join("pages");
    fs::create_dir(&page).unwrap();
    let (page, b) = (page.join("b.html"), folder.path().join("music/b"));
    let arguments = ["map", b.to_str().unwrap(), "--relative", "--out", page.to_str().unwrap()];
    assert!(feelprint(&index, &arguments).status.success());
    let links = links(&data(&page));
    assert_eq!(links.len(), 6);
    assert!(links.contains(&"../music/b/%C3%BC.wav".to_string()), "{links:?}");
    let left: Vec<_> = fs::read_dir(page.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the page is left");
}

/// What the command says when it fails.
fn error(index: &Path, arguments: &[&str]) -> String {
    let done = feelprint(index, arguments);
    assert_eq!(done.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(done.stderr).unwrap()
}

#[test]
fn what_cannot_be_mapped_or_written_is_an_error() {
    let (folder, index) = library();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let song = at("music/a/1.wav");
    let before = fs::read(&song).unwrap();
    let message = error(&index, &["map", "--out", &song]);
    assert!(message.contains("a file that is no map is there"), "{message}");
    assert!(before == fs::read(&song).unwrap());

    let message = error(&index, &["map", "--out", &at("music")]);
    assert!(message.contains("a folder, expected the name of a file"), "{message}");
    let message = error(&index, &["map", "--out", &at("none/map.html")]);
    assert!(message.contains("none: No such file"), "{message}");

    let out = at("map.html");
    let message = error(&index, &["map", &at("other"), "--out", &out]);
    assert!(message.contains("other: the index has no song there to show"), "{message}");
    let message = error(Path::new(&at("no.sqlite")), &["map", "--out", &out]);
    assert!(message.contains("no index there"), "{message}");

    assert!(feelprint(&index, &["forget", &at("music")]).status.success());
    let message = error(&index, &["map", "--out", &out]);
    assert!(message.contains("the index has no song yet"), "{message}");
    assert!(!Path::new(&out).exists());
}

#[test]
#[cfg(target_os = "linux")]
fn names_that_are_not_utf_8_are_linked() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let music = folder.path().join("music");
    fs::create_dir(&music).unwrap();
    for (number, name) in [&b"caf\xe9.wav"[..], b"line\nend.wav"].into_iter().enumerate() {
        let path = music.join(std::ffi::OsStr::from_bytes(name));
        write_wav(&path, 22_050, &[piece(number as u32, 22_050, 2.0)]);
    }
    let index = folder.path().join("index.sqlite");
    assert!(feelprint(&index, &["index", music.to_str().unwrap()]).status.success());
    let out = folder.path().join("map.html");
    let arguments = ["map", "--relative", "--out", out.to_str().unwrap()];
    assert!(feelprint(&index, &arguments).status.success());
    let data = data(&out);
    assert_eq!(links(&data), ["music/caf%E9.wav", "music/line%0Aend.wav"]);
    assert_eq!(data["titles"], serde_json::json!(["caf\u{fffd}", "line\nend"]));
    assert_eq!(data["n_near"], 1);
}
