//! What the levels of the filter `compress` cost and save: time, size and memory by algorithm and
//! level, and what it costs to let each piece of a body go at once.
//!
//! `cargo run --release --example compression` prints the tables of docs/performance.md.

use brotli::CompressorWriter;
use flate2::{Compression, write::GzEncoder};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{env, fmt::Write as _, fs, io::Write, process::Command, time::Duration};
use zstd::{stream::write::Encoder as ZstdEncoder, zstd_safe::CParameter};

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;
/// As much as Pingora reads at a time.
const PIECE: usize = 64 * KIB;
/// How long one number is measured: the kernel counts CPU time in steps of milliseconds.
const ENOUGH: Duration = Duration::from_millis(400);
/// How many encoders are alive at a time to see what one takes.
const HELD: usize = 40;

/// An algorithm with its level and, for those that have one to choose, its window as a power of two.
#[derive(Clone, Copy)]
enum Choice {
    Zstd(i32, u32),
    Br(u32, u32),
    Gzip(u32),
}

/// What is measured. The filter has `zstd 3`, `br 4` and `gzip 4`, with windows of 128 KiB.
const CHOICES: [Choice; 18] = [
    Choice::Zstd(1, 17),
    Choice::Zstd(2, 17),
    Choice::Zstd(3, 17),
    Choice::Zstd(3, 21),
    Choice::Zstd(5, 17),
    Choice::Zstd(7, 17),
    Choice::Br(1, 17),
    Choice::Br(2, 17),
    Choice::Br(3, 17),
    Choice::Br(4, 17),
    Choice::Br(4, 22),
    Choice::Br(5, 17),
    Choice::Gzip(1),
    Choice::Gzip(2),
    Choice::Gzip(3),
    Choice::Gzip(4),
    Choice::Gzip(5),
    Choice::Gzip(6),
];
const CHOSEN: [Choice; 3] = [Choice::Zstd(3, 17), Choice::Br(4, 17), Choice::Gzip(4)];

enum Encoder {
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Br(Box<CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Choice {
    fn name(self) -> String {
        match self {
            Self::Zstd(level, window) => format!("zstd {level}, {} KiB", (1 << window) / KIB),
            Self::Br(level, window) => format!("br {level}, {} KiB", (1 << window) / KIB),
            Self::Gzip(level) => format!("gzip {level}"),
        }
    }

    fn encoder(self, length: Option<usize>) -> Encoder {
        match self {
            Self::Zstd(level, window) => {
                let mut encoder = ZstdEncoder::new(Vec::new(), level).expect("a level");
                encoder.set_parameter(CParameter::WindowLog(window)).expect("a window");
                let length = length.map(|length| length as u64);
                encoder.set_pledged_src_size(length).expect("a length before the first byte");
                Encoder::Zstd(encoder)
            }
            Self::Br(level, window) => {
                Encoder::Br(Box::new(CompressorWriter::new(Vec::new(), 4096, level, window)))
            }
            Self::Gzip(level) => Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::new(level))),
        }
    }
}

impl Encoder {
    fn piece(&mut self, data: &[u8], flush: bool) -> usize {
        let writer: &mut dyn Write = match self {
            Self::Zstd(encoder) => encoder,
            Self::Br(encoder) => encoder,
            Self::Gzip(encoder) => encoder,
        };
        writer.write_all(data).expect("a vector takes all");
        if flush {
            writer.flush().expect("a vector takes all");
        }
        let out = match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Br(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        };
        std::mem::take(out).len()
    }

    fn finish(self) -> usize {
        let rest = match self {
            Self::Zstd(encoder) => encoder.finish().expect("a vector takes all"),
            Self::Br(encoder) => encoder.into_inner(),
            Self::Gzip(encoder) => encoder.finish().expect("a vector takes all"),
        };
        rest.len()
    }
}

/// The CPU time of one round on average, and the length of what came out.
fn measure(
    choice: Choice,
    data: &[u8],
    piece: usize,
    flush: bool,
    length: Option<usize>,
) -> (Duration, usize) {
    let (began, mut rounds, mut total) = (cpu_time(), 0, 0);
    let spent = || cpu_time().saturating_sub(began);
    while spent() < ENOUGH {
        let mut encoder = choice.encoder(length);
        total = data.chunks(piece).map(|piece| encoder.piece(piece, flush)).sum();
        total += encoder.finish();
        rounds += 1;
    }
    (spent() / rounds, total)
}

/// The time that this thread has had a CPU, whatever else the machine does.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with schedstat");
    let nanoseconds = text.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// How much memory one encoder has once a MiB has gone through it, in KiB: in a process of its own,
/// which has no memory left over to give it.
fn memory(index: usize) -> String {
    let own = env::current_exe().expect("this program");
    let output = Command::new(own).arg(index.to_string()).output().expect("this program runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn print_memory(choice: Choice, data: &[u8]) {
    let mut held = Vec::with_capacity(HELD);
    let before = resident();
    for _ in 0..HELD {
        let mut encoder = choice.encoder(None);
        for piece in data.chunks(PIECE) {
            encoder.piece(piece, true);
        }
        held.push(encoder);
    }
    println!("{}", (resident() - before) / HELD / KIB);
}

/// The memory of this process in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * KIB
}

/// Texts out of the words of the reference, the same in every run.
struct Author {
    words: Vec<&'static str>,
    random: StdRng,
}

impl Author {
    fn new() -> Self {
        let text = include_str!("../docs/configuration.md");
        let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| word.len() > 2);
        Self { words: words.take(5000).collect(), random: StdRng::seed_from_u64(1) }
    }

    fn text(&mut self, count: usize) -> String {
        let mut word = || self.words[self.random.random_range(0..self.words.len())];
        (0..count).map(|_| word()).collect::<Vec<_>>().join(" ")
    }

    fn number(&mut self, below: u32) -> u32 {
        self.random.random_range(0..below)
    }

    /// A MiB of records, as an API lists them.
    fn json(&mut self) -> Vec<u8> {
        let mut json = String::from("[");
        while json.len() < MIB {
            let (name, text) = (self.text(2), self.text(8));
            let id: u128 = self.random.random();
            write!(
                json,
                r#"{{"id":{},"uuid":"{id:032x}","name":"{name}","price":{}.{:02},"active":{},"created":"2026-{:02}-{:02}T{:02}:{:02}:00Z","text":"{text}"}},"#,
                self.number(1_000_000),
                self.number(500),
                self.number(100),
                self.number(5) > 0,
                self.number(12) + 1,
                self.number(28) + 1,
                self.number(24),
                self.number(60),
            )
            .expect("a string takes all");
        }
        json.truncate(MIB);
        json.into_bytes()
    }

    /// A MiB of a page with many entries.
    fn html(&mut self) -> Vec<u8> {
        let mut html = String::from("<!doctype html><html><body>\n");
        while html.len() < MIB {
            let (title, text) = (self.text(4), self.text(60));
            writeln!(
                html,
                r#"<article class="card" id="item-{}"><h2 class="card__title"><a href="/items/{}">{title}</a></h2><p class="card__text">{text}</p></article>"#,
                self.number(100_000),
                title.replace(' ', "-").to_lowercase(),
            )
            .expect("a string takes all");
        }
        html.truncate(MIB);
        html.into_bytes()
    }
}

fn cell((time, length): (Duration, usize), of: usize) -> String {
    format!("{:.1} ms | {:.1}%", time.as_secs_f64() * 1e3, length as f64 * 100.0 / of as f64)
}

fn main() {
    let mut author = Author::new();
    let (json, html) = (author.json(), author.html());

    if let Some(index) = env::args().nth(1) {
        let index: usize = index.parse().expect("the index of a choice");
        return print_memory(CHOICES[index], &json);
    }
    println!("| | JSON, 1 MiB | left | HTML, 1 MiB | left | JSON, 2 KiB | memory |");
    for (index, choice) in CHOICES.into_iter().enumerate() {
        let [json_cell, html_cell] =
            [&json, &html].map(|data| cell(measure(choice, data, PIECE, true, None), MIB));
        let (short, _) = measure(choice, &json[..2 * KIB], PIECE, true, Some(2 * KIB));
        let (short, memory) = (short.as_micros(), memory(index));
        let name = choice.name();
        println!("| {name} | {json_cell} | {html_cell} | {short} µs | {memory} KiB |");
    }

    println!("\n| JSON | not flushed | | 64 KiB | | 4 KiB | | 1 KiB | | 256 B | |");
    for choice in CHOSEN {
        let pieces = [(PIECE, false), (PIECE, true), (4 * KIB, true), (KIB, true), (256, true)];
        let cells =
            pieces.map(|(piece, flush)| cell(measure(choice, &json, piece, flush, None), MIB));
        println!("| {} | {} |", choice.name(), cells.join(" | "));
    }
}
