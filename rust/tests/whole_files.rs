//! Every file whole: headers whose numbers are wrong, files that are cut short or joined, and tags and
//! tails around the audio. What decodes counts, and `damage` is true.

mod common;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{Folder, ffmpeg, piece, write_wav};
use feelprint::decode::decode;
use feelprint::{AudioEmbeddingModel, Embedding, SAMPLE_RATE};

const SECONDS: f64 = 6.0;

fn model() -> &'static AudioEmbeddingModel {
    static MODEL: OnceLock<AudioEmbeddingModel> = OnceLock::new();
    MODEL.get_or_init(|| AudioEmbeddingModel::load_default().unwrap())
}

/// A folder with a piece of music, and another one.
struct Music {
    folder: Folder,
}

impl Music {
    fn new() -> Self {
        let music = Self { folder: Folder::new() };
        for (name, seed) in [("a.wav", 1), ("b.wav", 4)] {
            let channels =
                [piece(seed, 44_100, SECONDS as f32), piece(seed + 1, 44_100, SECONDS as f32)];
            write_wav(&music.path(name), 44_100, &channels);
        }
        music
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The piece in a format.
    fn coded(&self, from: &str, name: &str, arguments: &[&str]) -> Vec<u8> {
        let input = self.path(from);
        let arguments = [&["-i", input.to_str().unwrap()], arguments].concat();
        std::fs::read(ffmpeg(&arguments, &self.path(name))).unwrap()
    }

    /// Decodes and embeds these bytes: the duration in seconds, the embedding, the damage.
    fn analyse(&self, what: &str, bytes: &[u8]) -> (f64, Embedding, Option<String>) {
        let path = self.path("file");
        std::fs::write(&path, bytes).unwrap();
        analyse(what, &path)
    }

    /// Asserts the duration within 0.06 s, two frames of MP3, and whether the file is damaged.
    fn assert(&self, what: &str, bytes: &[u8], seconds: f64, is_damaged: bool) -> Embedding {
        let (duration_s, embedding, damage) = self.analyse(what, bytes);
        assert!((duration_s - seconds).abs() < 0.06, "{what}: {duration_s} s of {seconds} s");
        assert_eq!(damage.is_some(), is_damaged, "{what}: {damage:?}");
        embedding
    }

    /// Asserts that all is decoded, whether or not the file counts as damaged.
    fn assert_whole(&self, what: &str, bytes: &[u8], whole: &Embedding) {
        let (duration_s, embedding, _) = self.analyse(what, bytes);
        assert!((duration_s - SECONDS).abs() < 0.06, "{what}: {duration_s} s");
        let distance = embedding.distance(whole);
        assert!(distance < 0.05, "{what}: distance {distance}");
    }
}

fn analyse(what: &str, path: &Path) -> (f64, Embedding, Option<String>) {
    let track = model().embed_file(path).unwrap_or_else(|error| panic!("{what}: {error}"));
    let damage = track.damage().map(ToString::to_string);
    (track.duration().as_secs_f64(), track.analysis().embedding(), damage)
}

/// Where `pattern` is for the first time.
fn position(bytes: &[u8], pattern: &[u8]) -> usize {
    bytes.windows(pattern.len()).position(|window| window == pattern).unwrap()
}

/// The bytes with a number of four bytes, the highest first, replaced.
fn with_number(bytes: &[u8], at: usize, change: impl Fn(u32) -> u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let number = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes[at..at + 4].copy_from_slice(&change(number).to_be_bytes());
    bytes
}

/// Bytes that look like nothing.
fn garbage(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn id3v1() -> Vec<u8> {
    [&b"TAG"[..], &[b' '; 125]].concat()
}

/// An APE tag with a cover.
fn ape() -> Vec<u8> {
    let cover = [&b"c.png\0"[..], &garbage(100_000)].concat();
    let item = [
        &(cover.len() as u32).to_le_bytes()[..],
        &2_u32.to_le_bytes(),
        b"Cover Art (Front)\0",
        &cover,
    ]
    .concat();
    let mark = |flags: u32| {
        let mut mark = b"APETAGEX".to_vec();
        for field in [2_000, item.len() as u32 + 32, 1, flags, 0, 0] {
            mark.extend(field.to_le_bytes());
        }
        mark
    };
    [mark(0xa000_0000), item.clone(), mark(0x8000_0000)].concat()
}

#[test]
fn no_number_in_an_mp3_cuts_it_off() {
    let music = Music::new();
    let mp3 = music.coded("a.wav", "a.mp3", &["-b:a", "128k"]);
    let vbr = music.coded("a.wav", "v.mp3", &["-q:a", "2"]);
    let whole = music.assert("whole", &mp3, SECONDS, false);
    for (file, name) in [(&mp3, &b"Info"[..]), (&vbr, b"Xing")] {
        let count = position(file, name) + 8;
        for (what, by) in [("none", 0), ("half", 1), ("as it is", 2)] {
            let bytes = with_number(file, count, |frames| frames / 2 * by);
            music.assert_whole(what, &bytes, &whole);
            music.assert(what, &bytes, SECONDS, false);
        }
        let twice = with_number(file, count, |frames| frames * 2);
        music.assert_whole("twice", &twice, &whole);
    }
    // Without a header, and with a loud beginning.
    let arguments =
        ["-af", "volume='if(lt(t,1),1,0.01)':eval=frame", "-q:a", "2", "-write_xing", "0"];
    let guessed = music.coded("a.wav", "guess.mp3", &arguments);
    music.assert("no header", &guessed, SECONDS + 0.04, false);
    // A VBRI header that states too few frames.
    let plain =
        music.coded("a.wav", "p.mp3", &["-b:a", "128k", "-write_xing", "0", "-id3v2_version", "0"]);
    let mut vbri = vec![0; 417];
    vbri[..4].copy_from_slice(&plain[..4]);
    vbri[36..42].copy_from_slice(b"VBRI\0\x01");
    vbri[50..54].copy_from_slice(&50_u32.to_be_bytes());
    music.assert("VBRI", &[&vbri[..], &plain].concat(), SECONDS + 0.04, false);
}

#[test]
fn joined_files_are_decoded_to_their_end() {
    let music = Music::new();
    for (name, arguments) in [
        ("mp3", &["-b:a", "128k"][..]),
        ("mp3", &["-b:a", "128k", "-write_xing", "0"]),
        ("mp2", &[]),
        ("aac", &["-c:a", "aac"]),
        ("ogg", &["-c:a", "libvorbis"]),
        ("opus", &[]),
        ("flac", &[]),
        ("wav", &[]),
        ("aiff", &[]),
    ] {
        let [a, b] =
            ["a.wav", "b.wav"].map(|from| music.coded(from, &format!("c.{name}"), arguments));
        let (a_s, ..) = music.analyse(name, &a);
        let (b_s, ..) = music.analyse(name, &b);
        music.assert(name, &[&a[..], &b].concat(), a_s + b_s, false);
        if matches!(name, "mp3" | "flac") {
            let tagged = [&a[..], &id3v1(), &b, &id3v1()].concat();
            music.assert(name, &tagged, a_s + b_s, false);
        }
    }
}

#[test]
fn the_mark_of_a_flac_without_metadata_is_passed_over() {
    let music = Music::new();
    let flac = music.coded("a.wav", "a.flac", &[]);
    let (seconds, ..) = music.analyse("flac", &flac);
    for behind in [b"fLaC".to_vec(), b"fLaC\x00\x00\x00\x22".to_vec(), b"fLaC".repeat(1_000)] {
        let at_the_end = [&flac[..], &behind].concat();
        assert_eq!(music.analyse("flac", &at_the_end).0, seconds, "{} bytes", behind.len());
        let between = [&flac[..], &behind, &flac].concat();
        music.assert("flac", &between, 2.0 * seconds, false);
    }
    // Many beginnings, behind each of which a first frame is looked for: it must come to an end.
    let beginnings = flac[..4 + 4 + 34].repeat(20_000);
    assert_eq!(music.analyse("flac", &[&flac[..], &beginnings].concat()).0, seconds);
}

/// The search for the ends of frames has a bound, which files of short frames must not reach.
#[test]
fn a_long_flac_of_short_frames_is_whole() {
    let music = Music::new();
    let quiet =
        ["-af", "volume=0.01,lowpass=f=2000,aloop=-1:44100,atrim=0:600,pan=stereo|c0=c0|c1=c0"];
    let short = [&quiet[..], &["-frame_size", "1152"]].concat();
    let silent = ["-af", "volume=0,apad=whole_dur=600"];
    for (name, arguments) in [("short.flac", &short[..]), ("silent.flac", &silent[..])] {
        let flac = music.coded("a.wav", name, arguments);
        music.assert("flac", &flac, 600.0, false);
    }
}

#[test]
fn a_file_that_is_cut_short_is_used_and_damaged() {
    let music = Music::new();
    let fragments = ["-c:a", "aac", "-movflags", "empty_moov", "-frag_duration", "500000"];
    // With the seconds that may be missing beyond the cut: a page or a fragment.
    for (name, arguments, lost_s) in [
        ("a.mp3", &[][..], 0.1),
        ("p.mp3", &["-write_xing", "0"], 0.1),
        ("a.mp2", &[], 0.1),
        ("a.aac", &["-c:a", "aac"], 0.5),
        ("a.ogg", &["-c:a", "libvorbis"], 1.1),
        ("a.opus", &[], 1.1),
        ("a.oga", &["-c:a", "flac"], 1.1),
        ("a.flac", &[], 0.3),
        ("cut.wav", &[], 0.1),
        ("a.aiff", &[], 0.1),
        ("a.caf", &[], 0.1),
        ("a.mka", &["-c:a", "flac"], 1.1),
        ("aac.m4a", &["-c:a", "aac", "-movflags", "faststart"], 0.5),
        ("alac.m4a", &["-c:a", "alac", "-movflags", "faststart"], 0.5),
        ("pcm.mov", &["-c:a", "pcm_s16be", "-movflags", "faststart"], 0.2),
        ("f.m4a", &fragments, 1.1),
    ] {
        let whole = music.coded("a.wav", name, arguments);
        let (whole_s, _, damage) = music.analyse(name, &whole);
        assert_eq!(damage, None, "{name}");
        for percent in [95, 50] {
            let kept_s = whole_s * f64::from(percent) / 100.0;
            // Not at a boundary of frames by chance.
            let cut = &whole[..whole.len() * percent as usize / 100 / 2 * 2 - 1];
            let (duration_s, _, damage) = music.analyse(name, cut);
            assert!(duration_s > kept_s - lost_s - 0.4, "{name}: {duration_s} s of {percent} %");
            assert!(damage.is_some(), "{name}, {percent} %: {duration_s} s");
        }
    }
}

#[test]
fn tags_and_tails_are_no_audio_and_no_damage() {
    let music = Music::new();
    for (name, arguments) in
        [("a.mp3", &["-b:a", "128k"][..]), ("a.aac", &["-c:a", "aac"]), ("a.flac", &[])]
    {
        let file = music.coded("a.wav", name, arguments);
        let (seconds, whole, _) = music.analyse(name, &file);
        let id3v2 = [&b"ID3\x03\0\0\0\0\x02\0"[..], &[0; 256]].concat();
        for (what, bytes) in [
            ("ID3v1", [&file[..], &id3v1()].concat()),
            ("APE", [&file[..], &ape()].concat()),
            ("APE and ID3v1", [&file[..], &ape(), &id3v1()].concat()),
            ("ID3v2", [&id3v2[..], &file].concat()),
            ("zeros", [&file[..], &[0; 100_000]].concat()),
        ] {
            let embedding = music.assert(&format!("{name}, {what}"), &bytes, seconds, false);
            assert!(embedding.distance(&whole) < 1e-6, "{name}, {what}");
        }
    }
    let flac = music.coded("a.wav", "a.flac", &[]);
    let tailed = [&flac[..], &garbage(100_000)].concat();
    let (seconds, ..) = music.analyse("FLAC, garbage", &tailed);
    assert!((seconds - SECONDS).abs() < 1e-6, "{seconds}");
}

/// A recording of a broadcast begins anywhere.
#[test]
fn a_stream_that_begins_within_a_frame_is_not_damaged() {
    let music = Music::new();
    let mp3 = music.coded("a.wav", "a.mp3", &["-b:a", "320k", "-write_xing", "0"]);
    music.assert("MP3", &mp3[5_000..], SECONDS - 0.1, false);
    let aac = music.coded("a.wav", "a.aac", &["-c:a", "aac"]);
    music.assert("AAC", &aac[100..], SECONDS, false);
}

#[test]
fn the_sizes_in_a_wav_need_not_be_right() {
    let music = Music::new();
    let wav = std::fs::read(music.path("a.wav")).unwrap();
    let whole = music.assert("whole", &wav, SECONDS, false);
    let (form, data) = (wav.len() as u32 - 8, wav.len() as u32 - 44);
    let with = |riff: u32, size: u32| {
        let mut bytes = wav.clone();
        bytes[4..8].copy_from_slice(&riff.to_le_bytes());
        bytes[40..44].copy_from_slice(&size.to_le_bytes());
        bytes
    };
    for (riff, size, is_damaged) in [
        (u32::MAX, u32::MAX, false),
        (0, 0, false),
        (form, 0, false),
        (0x7fff_f024, 0x7fff_f000, false),
        (0, data, false),
        (form / 2, data, false),
        (form * 2, data, false),
        (form, data / 2, true),
        (form / 2, data / 2, true),
        (form * 2, data * 2, true),
    ] {
        let what = format!("{riff:#x}, {size:#x}");
        let embedding = music.assert(&what, &with(riff, size), SECONDS, is_damaged);
        assert!(embedding.distance(&whole) < 1e-6, "{what}");
    }
    let chunk = [&wav[..], b"LIST\x0c\0\0\0INFOIPRD\0\0\0\0"].concat();
    assert!(music.assert("a chunk behind", &chunk, SECONDS, false).distance(&whole) < 1e-6);
    // Tags do not matter: the last text lacks its padding, or its size is wrong.
    for (size, text_size) in [(27_u32, 15_u32), (28, 500), (28, u32::MAX)] {
        let text = [&b"INFOISFT"[..], &text_size.to_le_bytes(), b"Lavf58.29.100xx\0"].concat();
        let list = [&wav[..36], b"LIST", &size.to_le_bytes(), &text, &wav[36..]].concat();
        let what = format!("LIST of {size} bytes with a text of {text_size}");
        assert!(music.assert(&what, &list, SECONDS, false).distance(&whole) < 1e-6, "{what}");
    }
    let rf64 = music.coded("a.wav", "rf64.wav", &["-rf64", "always"]);
    assert!(music.assert("RF64", &rf64, SECONDS, false).distance(&whole) < 1e-6);
}

/// Faults of the software that wrote a file of floats.
#[test]
fn a_sample_that_is_not_finite_counts_as_0() {
    let music = Music::new();
    let wav = music.coded("a.wav", "f.wav", &["-c:a", "pcm_f32le"]);
    let (_, whole, _) = music.analyse("f.wav", &wav);
    // One in the middle of the first second of two channels.
    let at = position(&wav, b"data") + 8 + 8 * 20_000;
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut bytes = wav.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let embedding = music.assert(&value.to_string(), &bytes, SECONDS, true);
        let distance = embedding.distance(&whole);
        assert!(distance < 0.05, "{value}: distance {distance}");
        let (.., damage) = music.analyse("f.wav", &bytes);
        assert!(damage.unwrap().contains("counts as 0"), "{value}");
    }
}

#[test]
fn the_sizes_in_a_caf_need_not_be_right() {
    let music = Music::new();
    for (name, arguments) in [
        ("a.caf", &["-c:a", "pcm_s16be"][..]),
        ("l.caf", &["-c:a", "pcm_s24le"]),
        ("alac.caf", &["-c:a", "alac"]),
        ("s8.caf", &["-c:a", "pcm_s8"]),
    ] {
        let caf = music.coded("a.wav", name, arguments);
        let whole = music.assert(name, &caf, SECONDS, false);
        let tailed = [&caf[..], &[0; 50_000]].concat();
        let embedding = music.assert(&format!("{name}, zeros"), &tailed, SECONDS, false);
        assert!(embedding.distance(&whole) < 1e-6, "{name}, zeros");
    }
    let caf = music.coded("a.wav", "a.caf", &["-c:a", "pcm_s16be"]);
    let whole = music.assert("a.caf", &caf, SECONDS, false);
    // The samples are the last chunk, of a size that is not known.
    let size = position(&caf, b"data") + 4;
    let end = size + 8 + i64::from_be_bytes(caf[size..size + 8].try_into().unwrap()) as usize;
    let mut unknown = caf[..end].to_vec();
    unknown[size..size + 8].copy_from_slice(&(-1_i64).to_be_bytes());
    let embedding = music.assert("unknown", &unknown, SECONDS, false);
    assert!(embedding.distance(&whole) < 1e-6);
    // 8 bits are those of 16, rounded.
    let eight = music.coded("a.wav", "s8.caf", &["-c:a", "pcm_s8"]);
    let wav = music.coded("s8.caf", "u8.wav", &["-c:a", "pcm_u8"]);
    let (_, same, _) = music.analyse("u8.wav", &wav);
    assert!(music.assert("s8.caf", &eight, SECONDS, false).distance(&same) < 1e-6);
}

/// Recordings, pipes and browsers do not know the sizes when they write them.
#[test]
fn the_sizes_in_a_matroska_need_not_be_right() {
    let music = Music::new();
    let unknown = |bytes: &[u8], id: &[u8]| {
        let mut bytes = bytes.to_vec();
        let size = position(&bytes, id) + id.len();
        let len = bytes[size].leading_zeros() as usize + 1;
        bytes[size] |= (0xff_u16 >> len) as u8;
        bytes[size + 1..size + len].fill(0xff);
        bytes
    };
    for (name, arguments) in [
        ("a.webm", &["-c:a", "libopus"][..]),
        ("v.mka", &["-c:a", "libvorbis"]),
        ("m.mka", &["-c:a", "libmp3lame"]),
        ("live.webm", &["-c:a", "libopus", "-f", "webm", "-live", "1"]),
    ] {
        let file = music.coded("a.wav", name, arguments);
        let (seconds, whole, damage) = music.analyse(name, &file);
        assert!((seconds - SECONDS).abs() < 0.06 && damage.is_none(), "{name}: {damage:?}");
        let segment = unknown(&file, b"\x18\x53\x80\x67");
        let cluster = unknown(&segment, b"\x1f\x43\xb6\x75");
        for (what, bytes) in [
            ("zeros", [&file[..], &[0; 50_000]].concat()),
            ("segment", segment.clone()),
            ("segment, zeros", [&segment[..], &[0; 50_000]].concat()),
            ("segment and cluster", cluster.clone()),
        ] {
            let embedding = music.assert(&format!("{name}, {what}"), &bytes, seconds, false);
            assert!(embedding.distance(&whole) < 1e-6, "{name}, {what}");
        }
        for bytes in [&file, &segment, &cluster] {
            let cut = &bytes[..bytes.len() / 2];
            let (cut_s, _, damage) = music.analyse(name, cut);
            assert!(cut_s > SECONDS / 2.0 - 0.5 && cut_s < SECONDS - 0.5, "{name}: {cut_s} s");
            assert!(damage.is_some(), "{name}: {cut_s} s");
        }
        let joined = [&file[..], &file].concat();
        let (joined_s, ..) = music.analyse(name, &joined);
        assert!((joined_s - 2.0 * seconds).abs() < 0.06, "{name}: {joined_s} s of two files");
    }
}

#[test]
fn what_is_behind_a_hole_in_a_matroska_is_used() {
    let music = Music::new();
    for (name, codec) in [("a.webm", "libopus"), ("a.mka", "flac"), ("v.mka", "libvorbis")] {
        let arguments = ["-c:a", codec, "-cluster_time_limit", "500"];
        let mut file = music.coded("a.wav", name, &arguments);
        let middle = file.len() * 4 / 10;
        file[middle..middle + 5_000].fill(0);
        let (seconds, _, damage) = music.analyse(name, &file);
        assert!(seconds > SECONDS - 1.6, "{name}: {seconds} s");
        assert!(damage.is_some(), "{name}");
    }
}

#[test]
fn the_sizes_in_an_aiff_need_not_be_right() {
    let music = Music::new();
    let aiff = music.coded("a.wav", "a.aiff", &[]);
    let whole = music.assert("whole", &aiff, SECONDS, false);
    let (samples, frames) = (position(&aiff, b"SSND") + 4, position(&aiff, b"COMM") + 10);
    let changes: [fn(u32) -> u32; 4] = [|_| 0, |n| n / 2, |n| n * 2, |_| u32::MAX];
    for change in changes {
        for (what, at) in [("FORM", 4), ("SSND", samples), ("COMM", frames)] {
            music.assert_whole(what, &with_number(&aiff, at, change), &whole);
        }
        let all = with_number(&with_number(&aiff, 4, change), samples, change);
        music.assert_whole("all", &with_number(&all, frames, change), &whole);
    }
}

#[test]
fn samples_may_have_more_bytes_than_bits_need() {
    let music = Music::new();
    let wav = std::fs::read(music.path("a.wav")).unwrap();
    let samples: Vec<i32> = wav[44..]
        .chunks_exact(2)
        .map(|b| i32::from(i16::from_le_bytes([b[0], b[1]])) << 16)
        .collect();
    let whole = model().embed_file(music.path("a.wav")).unwrap().analysis().embedding();
    // Bits and bytes of a sample, and whether the header is the extensible one.
    for (bits, width, is_extensible) in
        [(24, 4, false), (20, 3, false), (20, 4, false), (24, 4, true), (16, 4, true)]
    {
        let data: Vec<u8> =
            samples.iter().flat_map(|sample| sample.to_le_bytes()[4 - width..].to_vec()).collect();
        let tag: u16 = if is_extensible { 0xfffe } else { 1 };
        let mut format = Vec::new();
        format.extend(tag.to_le_bytes());
        format.extend(2_u16.to_le_bytes());
        format.extend(44_100_u32.to_le_bytes());
        format.extend((44_100 * 2 * width as u32).to_le_bytes());
        format.extend((2 * width as u16).to_le_bytes());
        format.extend((bits as u16).to_le_bytes());
        if is_extensible {
            format.extend([22, 0, bits, 0, 3, 0, 0, 0]);
            format.extend(*b"\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
        }
        let mut bytes = b"RIFF\xff\xff\xff\xffWAVEfmt ".to_vec();
        bytes.extend((format.len() as u32).to_le_bytes());
        bytes.extend(format);
        bytes.extend(b"data");
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        let what = format!("{bits} bits in {width} bytes");
        let distance = music.assert(&what, &bytes, SECONDS, false).distance(&whole);
        assert!(distance < 1e-4, "{what}: {distance}");
    }
}

#[test]
fn pcm_in_quicktime_may_be_of_either_byte_order() {
    let music = Music::new();
    let whole = model().embed_file(music.path("a.wav")).unwrap().analysis().embedding();
    for bits in ["s16", "s24", "s32", "f32", "f64"] {
        for order in ["be", "le"] {
            let codec = format!("pcm_{bits}{order}");
            let mov = music.coded("a.wav", "a.mov", &["-c:a", &codec]);
            let distance = music.assert(&codec, &mov, SECONDS, false).distance(&whole);
            assert!(distance < 1e-4, "{codec}: {distance}");
        }
    }
}

#[test]
fn the_delay_of_an_encoder_in_mp4_is_skipped() {
    let music = Music::new();
    let original = decode(music.path("a.wav")).unwrap().samples;
    for (name, arguments) in [
        ("aac.m4a", &["-c:a", "aac", "-b:a", "256k"][..]),
        ("mp3.mp4", &["-c:a", "libmp3lame", "-b:a", "256k"]),
        ("opus.mp4", &["-c:a", "libopus", "-b:a", "256k", "-strict", "-2"]),
    ] {
        music.coded("a.wav", name, arguments);
        let samples = decode(music.path(name)).unwrap().samples;
        let seconds = samples.len() as f64 / f64::from(SAMPLE_RATE);
        assert!((seconds - SECONDS).abs() < 1e-3, "{name}: {seconds} s");
        // No shift makes the signals more similar.
        let product = |shift: usize, sign: bool| -> f64 {
            let (a, b) = if sign { (&samples, &original) } else { (&original, &samples) };
            a[shift..].iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
        };
        let best = (0..1_500).max_by(|&a, &b| {
            let [a, b] = [a, b].map(|shift| product(shift, true).max(product(shift, false)));
            a.total_cmp(&b)
        });
        assert!(best.unwrap() <= 1, "{name} is shifted by {best:?} samples");
        assert_eq!(analyse(name, &music.path(name)).2, None, "{name}");
    }
}

#[test]
fn the_tables_of_an_mp4_need_not_be_right() {
    let music = Music::new();
    for codec in ["aac", "alac"] {
        let arguments = ["-c:a", codec, "-movflags", "faststart"];
        let mp4 = music.coded("a.wav", "a.m4a", &arguments);
        let whole = music.assert(codec, &mp4, SECONDS, false);
        let changes: [fn(u32) -> u32; 3] = [|_| 0, |n| n / 2, |n| n * 2];
        for change in changes {
            for (table, at) in [
                ("stsz", 12),
                ("stts", 8),
                ("stts", 12),
                ("stsc", 8),
                ("stco", 8),
                ("mdhd", 20),
                ("mdat", 0),
            ] {
                let at = position(&mp4, table.as_bytes()) + at;
                let at = if table == "mdat" { at - 4 } else { at };
                let what = format!("{codec}, {table}");
                music.assert_whole(&what, &with_number(&mp4, at, change), &whole);
            }
        }
        for table in ["stts", "stsc", "stco", "udta", "ftyp"] {
            let mut bytes = mp4.clone();
            let at = position(&mp4, table.as_bytes());
            bytes[at..at + 4].copy_from_slice(b"free");
            music.assert_whole(&format!("{codec} without {table}"), &bytes, &whole);
        }
    }
}

#[test]
fn an_mp4_whose_index_is_cut_off_is_used_or_says_what_is_missing() {
    let music = Music::new();
    let error = |what: &str, bytes: &[u8]| {
        let path = music.path("file");
        std::fs::write(&path, bytes).unwrap();
        let error = model().embed_file(&path).expect_err(what);
        assert!(error.is_audio(), "{what}: {error}");
        error.to_string()
    };
    let formats = [
        ("aac.m4a", "aac"),
        ("alac.m4a", "alac"),
        ("opus.mp4", "libopus"),
        ("mp3.mp4", "libmp3lame"),
        ("pcm.mov", "pcm_s24be"),
    ];
    for (name, codec) in formats {
        let mp4 = music.coded("a.wav", name, &["-c:a", codec, "-strict", "-2"]);
        let whole = music.assert(name, &mp4, SECONDS, false);
        // The index is at the end. Every table of it is cut in its middle.
        let index = position(&mp4, b"moov");
        let table = |name: &str| index + position(&mp4[index..], name.as_bytes());
        let middle = |name: &str| {
            let at = table(name);
            let len = u32::from_be_bytes(mp4[at - 4..at].try_into().unwrap()) as usize;
            &mp4[..at - 4 + len / 2]
        };
        let without = |name: &str| {
            let mut bytes = mp4.clone();
            bytes[table(name)..][..4].copy_from_slice(b"free");
            bytes
        };
        let cut = music.assert(name, middle("stco"), SECONDS, true);
        assert!(cut.distance(&whole) < 0.05, "{name}");
        let is_pcm = name == "pcm.mov";
        if is_pcm {
            // The sizes of its samples are known from the codec.
            for table in ["stts", "stsc", "stsz"] {
                music.assert(&format!("{name} cut in {table}"), middle(table), SECONDS, true);
                music.assert_whole(&format!("{name} without {table}"), &without(table), &whole);
            }
        } else {
            let (half_s, _, damage) = music.analyse(name, middle("stsz"));
            assert!((2.0..4.0).contains(&half_s), "{name}: {half_s} s");
            assert!(damage.is_some(), "{name}");
            let mut zeros = mp4.clone();
            zeros[table("stsz") + 4..table("stco") - 4].fill(0);
            for bytes in [middle("stts"), middle("stsc"), &without("stsz"), &zeros] {
                let problem = error(name, bytes);
                assert!(problem.contains("stsz, the table of sample sizes"), "{name}: {problem}");
            }
        }
        for bytes in [middle("hdlr"), &without("stsd"), &without("mdia")] {
            let problem = error(name, bytes);
            assert!(problem.contains("stsd, the table of codecs"), "{name}: {problem}");
        }
        let problem = error(name, &mp4[..index - 4]);
        assert!(problem.contains("the index (moov)"), "{name}: {problem}");
    }
}

/// The pages of an Ogg file.
fn pages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    while !bytes.is_empty() {
        let segments = usize::from(bytes[26]);
        let body: usize = bytes[27..27 + segments].iter().map(|&len| usize::from(len)).sum();
        let (page, rest) = bytes.split_at(27 + segments + body);
        pages.push(page.to_vec());
        bytes = rest;
    }
    pages
}

/// An Ogg file with other positions.
fn with_positions(bytes: &[u8], change: impl Fn(i64) -> i64) -> Vec<u8> {
    let changed = pages(bytes).into_iter().flat_map(|mut page| {
        let position = i64::from_le_bytes(page[6..14].try_into().unwrap());
        if position > 0 {
            page[6..14].copy_from_slice(&change(position).to_le_bytes());
        }
        page[22..26].fill(0);
        let mut checksum = 0_u32;
        for &byte in &page {
            checksum ^= u32::from(byte) << 24;
            for _ in 0..8 {
                let high = checksum >> 31;
                checksum = (checksum << 1) ^ (high * 0x04c1_1db7);
            }
        }
        page[22..26].copy_from_slice(&checksum.to_le_bytes());
        page
    });
    changed.collect()
}

#[test]
fn the_positions_in_an_ogg_file_need_not_be_right() {
    let music = Music::new();
    for (name, arguments) in
        [("a.ogg", &["-c:a", "libvorbis"][..]), ("a.opus", &[]), ("a.oga", &["-c:a", "flac"])]
    {
        let ogg = music.coded("a.wav", name, arguments);
        let whole = music.assert(name, &ogg, SECONDS, false);
        // A recording of a broadcast begins late.
        let late = with_positions(&ogg, |position| position + 100_000_000);
        assert!(music.assert("late", &late, SECONDS, false).distance(&whole) < 0.05, "{name}");
        let changes: [fn(i64) -> i64; 4] = [|_| 0, |n| n / 2, |n| n * 2, |_| -1];
        for (what, change) in ["none", "half", "twice", "unknown"].into_iter().zip(changes) {
            music.assert_whole(&format!("{name}, {what}"), &with_positions(&ogg, change), &whole);
        }
        for tail in [vec![0; 100_000], garbage(100_000), vec![0; 1_000_000]] {
            let (duration_s, embedding, _) = music.analyse(name, &[&ogg[..], &tail].concat());
            assert!((duration_s - SECONDS).abs() < 0.01, "{name} with a tail: {duration_s} s");
            assert!(embedding.distance(&whole) < 1e-6, "{name} with a tail");
        }
        let mut pages = pages(&ogg);
        pages.remove(4);
        let (duration_s, _, damage) = music.analyse(name, &pages.concat());
        assert!((3.0..SECONDS).contains(&duration_s) && damage.is_some(), "{name}: {damage:?}");
    }
}

#[test]
fn broken_metadata_does_not_stop_a_flac() {
    let music = Music::new();
    let flac = music.coded("a.wav", "a.flac", &["-metadata", "album=An album"]);
    let whole = music.assert("whole", &flac, SECONDS, false);
    let mut blocks = Vec::new();
    let mut at = 4;
    loop {
        let len = u32::from_be_bytes([0, flac[at + 1], flac[at + 2], flac[at + 3]]) as usize;
        blocks.push((flac[at] & 0x7f, flac[at + 4..at + 4 + len].to_vec()));
        let is_last = flac[at] & 0x80 != 0;
        at += 4 + len;
        if is_last {
            break;
        }
    }
    let with = |blocks: &[(u8, Vec<u8>)]| {
        let mut bytes = b"fLaC".to_vec();
        for (i, (kind, content)) in blocks.iter().enumerate() {
            bytes.push(if i + 1 == blocks.len() { kind | 0x80 } else { *kind });
            // The length has 24 bits, so that it wraps.
            bytes.extend(&(content.len() as u32).to_be_bytes()[1..]);
            bytes.extend(content);
        }
        [bytes, flac[at..].to_vec()].concat()
    };
    let picture = |stated: u32, len: usize| {
        let mut picture = [&[0, 0, 0, 3, 0, 0, 0, 9][..], b"image/png", &[0; 20]].concat();
        picture.extend(stated.to_be_bytes());
        picture.extend(garbage(len));
        (6, picture)
    };
    let and = |block: (u8, Vec<u8>)| [&blocks[..], &[block]].concat();
    let comments = |change: fn(&mut Vec<u8>)| {
        let mut changed = blocks.clone();
        changed.iter_mut().filter(|block| block.0 == 4).for_each(|block| change(&mut block.1));
        changed
    };
    for (what, bytes, is_damaged) in [
        ("a cover", with(&and(picture(1_000, 1_000))), false),
        ("a cover that states more", with(&and(picture(99_999, 1_000))), true),
        ("a cover over 16 MiB", with(&and(picture(17_000_000, 17_000_000))), true),
        (
            "too many comments",
            with(&comments(|block| {
                let at = 4 + u32::from_le_bytes(block[..4].try_into().unwrap()) as usize;
                block[at..at + 4].copy_from_slice(&9_999_999_u32.to_le_bytes());
            })),
            true,
        ),
        ("a long comment", with(&comments(|block| block[..4].fill(0x7f))), true),
        ("an odd seek table", with(&and((3, vec![0; 17]))), false),
        ("a broken cue sheet", with(&and((5, garbage(500)))), false),
    ] {
        let embedding = music.assert(what, &bytes, SECONDS, is_damaged);
        assert!(embedding.distance(&whole) < 1e-6, "{what}");
    }
    std::fs::write(music.path("a.flac"), with(&and(picture(99_999, 1_000)))).unwrap();
    assert_eq!(model().embed_file(music.path("a.flac")).unwrap().album(), Some("An album"));
}

#[test]
fn channels_that_cancel_have_the_embedding_of_one() {
    let music = Music::new();
    let left = piece(1, 44_100, 6.0);
    let inverted: Vec<f32> = left.iter().map(|sample| -sample).collect();
    write_wav(&music.path("left.wav"), 44_100, std::slice::from_ref(&left));
    write_wav(&music.path("both.wav"), 44_100, &[left, inverted]);
    let (_, left, _) = analyse("left", &music.path("left.wav"));
    let track = model().embed_file(music.path("both.wav")).unwrap();
    assert!(!track.analysis().is_silent());
    assert!(track.analysis().embedding().distance(&left) < 1e-5);
    // Lossy codecs leave a rest.
    for name in ["both.mp3", "both.ogg", "both.opus", "both.m4a"] {
        music.coded("both.wav", name, &["-b:a", "192k"]);
        let distance = analyse(name, &music.path(name)).1.distance(&left);
        assert!(distance < 0.1, "{name}: {distance}");
    }
}

/// The ratio of signal to difference, in dB.
fn signal_to_noise(got: &[f32], want: &[f32]) -> f64 {
    let energy = |sum: f64, x: f32| sum + f64::from(x) * f64::from(x);
    let difference = got.iter().zip(want).map(|(got, want)| got - want).fold(0.0, energy);
    10.0 * (want.iter().copied().fold(0.0, energy) / difference.max(1e-30)).log10()
}

#[test]
fn every_lossy_decoder_gives_what_ffmpeg_gives() {
    let music = Music::new();
    // Bright noise on top, so that what is above half the model's rate is not silent.
    let noise = ["-f", "lavfi", "-i", "anoisesrc=d=6:r=44100:a=0.2:seed=3"];
    let (a, mixed) = (music.path("a.wav"), music.path("bright.wav"));
    let mix = ["-i", a.to_str().unwrap(), "-filter_complex", "[0][1]amix=inputs=2", "-ac", "2"];
    ffmpeg(&[&noise[..], &mix].concat(), &mixed);
    // HE-AAC, for which ffmpeg has no encoder.
    let samples = decode(&a).unwrap().samples;
    let he_aac = syom::encode_with(
        &[&samples, &samples],
        SAMPLE_RATE * 2,
        &syom::EncodeOptions::low_rate().with_bitrate_bps(48_000),
    );
    std::fs::write(music.path("he.aac"), he_aac.unwrap()).unwrap();
    let opus: &[&str] = &["-c:a", "libopus"];
    for (name, encoder, decoder) in [
        ("a.mp3", &["-b:a", "128k"][..], &[][..]),
        ("low.mp3", &["-ar", "22050", "-b:a", "48k"], &[]),
        ("mono.mp3", &["-ac", "1", "-q:a", "5"], &[]),
        ("a.mp2", &[], &[]),
        ("a.ogg", &["-c:a", "libvorbis"], &[]),
        ("a.opus", &["-c:a", "libopus", "-b:a", "128k"], opus),
        ("low.opus", &["-c:a", "libopus", "-b:a", "24k", "-ac", "1"], opus),
        ("a.mp4", &["-c:a", "libopus", "-strict", "-2"], opus),
        ("a.webm", &["-c:a", "libopus"], opus),
        ("v.webm", &["-c:a", "libvorbis"], &[]),
        ("a.m4a", &["-c:a", "aac", "-b:a", "128k"], &[]),
        ("6.m4a", &["-c:a", "aac", "-ac", "6"], &[]),
        ("a.aac", &["-c:a", "aac"], &[]),
        ("he.aac", &[], &[]),
        ("adpcm.wav", &["-c:a", "adpcm_ms"], &[]),
        ("alaw.wav", &["-c:a", "pcm_alaw"], &[]),
    ] {
        let file = music.path(name);
        if name != "he.aac" {
            music.coded("bright.wav", name, encoder);
        }
        let back = music.path("back.wav");
        let input = ["-i", file.to_str().unwrap(), "-c:a", "pcm_f32le"];
        ffmpeg(&[decoder, &input].concat(), &back);
        let (got, want) = (decode(&file).unwrap().samples, decode(&back).unwrap().samples);
        assert!(
            (got.len() as f64 - want.len() as f64).abs() < 1_200.0,
            "{name}: {} {}",
            got.len(),
            want.len()
        );
        // ffmpeg keeps what is behind the end.
        let common = got.len().min(want.len()) - 200;
        let ratio = signal_to_noise(&got[..common], &want[..common]);
        assert!(ratio > 60.0, "{name}: {ratio} dB");
        assert_eq!(analyse(name, &file).2, None, "{name}");
    }
}
