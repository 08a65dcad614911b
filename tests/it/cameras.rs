//! Cameras: RTSP servers on loopback with moving pictures of 160x120, five in a second.
//!
//! The pictures are encoded once, by ffmpeg, and repeated. A camera serves any number of clients,
//! over TCP, and sends its first picture a moment after the answer to PLAY, as cameras do.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;

use crate::environment::{install_packages, made_once, run};
use weir_testkit::fake::unused_address;

/// What [`picture`] finds at every camera.
pub const PICTURE: &str = "h264,160,120";
/// Below the build directory.
const PLACE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/pictures");
const PICTURES_PER_SECOND: u32 = 5;
/// A picture that arrives together with the answer to PLAY ends node-media-server 4.4.3, or leaves
/// it without what decoders need; on a busy machine it reads late.
const FIRST_PICTURE_AFTER: Duration = Duration::from_millis(1500);
/// Of the packets, as the description has it: 96.
const PAYLOAD_TYPE: u8 = 0x60;
/// Of the timestamps of video.
const CLOCK_RATE: u32 = 90_000;

/// A free port that no outgoing connection and no fake takes while its server is away.
pub fn fixed_port() -> u16 {
    unused_address().port()
}

/// Codec, width and height of the pictures at a URL, or why there are none.
pub fn picture(url: &str) -> String {
    let mut probe = Command::new("ffprobe");
    probe
        .args(["-v", "error", "-rw_timeout", "20000000"])
        .args(["-analyzeduration", "2000000", "-probesize", "40000"])
        .args(["-select_streams", "v:0", "-of", "csv=p=0"])
        .args(["-show_entries", "stream=codec_name,width,height", url]);
    let output = probe.stdin(Stdio::null()).output();
    let output = output.expect("the program can be started");
    let printed = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    String::from_utf8_lossy(&printed).trim().to_owned()
}

/// A film without an end.
struct Film {
    /// The units of each picture; the first picture of the film needs no other.
    pictures: Vec<Vec<Vec<u8>>>,
    /// What a decoder needs first, for the description of the stream.
    parameters: String,
}

impl Film {
    /// Encoded at first use.
    fn load(pattern: &str) -> Self {
        let directory = made_once(Path::new(PLACE), pattern, |directory| {
            std::fs::create_dir_all(directory).expect("the build directory can be written");
            encode(pattern, directory);
        });
        let bytes = std::fs::read(directory.join("film.h264")).expect("it was made");
        Self::parse(&bytes)
    }

    /// Reads units that are separated by start codes.
    fn parse(bytes: &[u8]) -> Self {
        let starts: Vec<usize> = (0..bytes.len().saturating_sub(2))
            .filter(|i| bytes[*i..*i + 3] == [0, 0, 1])
            .collect();
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        let units = starts.iter().zip(ends).map(|(start, end)| {
            let unit = &bytes[start + 3..end];
            let zeros = unit.iter().rev().take_while(|byte| **byte == 0).count();
            unit[..unit.len() - zeros].to_vec()
        });
        let (mut pictures, mut picture, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
        for unit in units {
            let kind = unit[0] & 31;
            if matches!(kind, 7 | 8) && parameters.len() < 2 {
                parameters.push(base64::engine::general_purpose::STANDARD.encode(&unit));
            }
            picture.push(unit);
            // A slice ends the picture: the encoder makes one of each.
            if matches!(kind, 1 | 5) {
                pictures.push(std::mem::take(&mut picture));
            }
        }
        assert!(pictures.len() >= 10, "{} pictures", pictures.len());
        Self {
            pictures,
            parameters: parameters.join(","),
        }
    }
}

fn encode(pattern: &str, directory: &Path) {
    let version = || run(Command::new("ffprobe").arg("-version"));
    if let Err(first) = version() {
        install_packages(&["ffmpeg"]).unwrap_or_else(|error| {
            panic!(
                "this test needs ffmpeg (Debian: apt-get install ffmpeg) and could not get it:\n\
                 {first}\n{error}"
            )
        });
    }
    let source = format!("{pattern}=size=160x120:rate={PICTURES_PER_SECOND}");
    let mut encoder = Command::new("ffmpeg");
    encoder
        .args(["-v", "error", "-f", "lavfi", "-i", &source, "-t", "4"])
        .args([
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-tune",
            "zerolatency",
        ])
        .args([
            "-pix_fmt",
            "yuv420p",
            "-profile:v",
            "baseline",
            "-g",
            "5",
            "-b:v",
            "60k",
        ])
        .args(["-x264-params", "slices=1:repeat-headers=1", "-threads", "1"])
        .args(["-f", "h264", "-y"])
        .arg(directory.join("film.h264"));
    run(&mut encoder).unwrap_or_else(|error| panic!("{error}"));
}

/// A camera, which listens as long as the process runs.
pub struct Camera {
    port: u16,
}

impl Camera {
    /// `pattern` is a source of ffmpeg.
    pub fn new(pattern: &str) -> Self {
        let film = Arc::new(Film::load(pattern));
        let port = fixed_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let film = film.clone();
                // A client that leaves ends its connection only.
                thread::spawn(move || drop(serve(socket, &film)));
            }
        });
        Self { port }
    }

    pub fn url(&self) -> String {
        format!("rtsp://127.0.0.1:{}/film", self.port)
    }
}

/// Answers one client, until it leaves.
fn serve(socket: TcpStream, film: &Arc<Film>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut lines = BufReader::new(socket.try_clone()?);
    // Pictures that are played end when these are dropped.
    let mut playing = Vec::new();
    loop {
        // Between requests the client may send reports, in frames that begin with a dollar.
        if lines.fill_buf()?.first() == Some(&b'$') {
            let mut head = [0; 4];
            lines.read_exact(&mut head)?;
            let length = u16::from_be_bytes([head[2], head[3]]);
            io::copy(&mut (&mut lines).take(length.into()), &mut io::sink())?;
            continue;
        }
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if lines.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let field = |name: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(':'));
            let mut found = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value.trim())
        };
        let number = field("cseq").unwrap_or("0");
        let method = head.split(' ').next().unwrap_or_default();
        let answer = match method {
            "OPTIONS" => "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n".to_owned(),
            "DESCRIBE" => {
                let description = describe(film);
                let length = description.len();
                format!(
                    "Content-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{description}"
                )
            }
            "SETUP" => {
                let transport = "RTP/AVP/TCP;unicast;interleaved=0-1";
                format!("Transport: {transport}\r\nSession: 1\r\n\r\n")
            }
            _ => "Session: 1\r\n\r\n".to_owned(),
        };
        let answer = format!("RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{answer}");
        (&socket).write_all(answer.as_bytes())?;
        match method {
            "PLAY" => {
                let (socket, film) = (socket.try_clone()?, film.clone());
                let (watched, left) = mpsc::channel();
                playing.push(watched);
                thread::spawn(move || drop(play(&socket, &film, &left)));
            }
            "TEARDOWN" => return socket.shutdown(std::net::Shutdown::Both),
            _ => {}
        }
    }
}

fn describe(film: &Film) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=film\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n\
         m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/{CLOCK_RATE}\r\n\
         a=fmtp:96 packetization-mode=1;sprop-parameter-sets={}\r\na=control:track1\r\n",
        film.parameters
    )
}

/// Sends the pictures at the rate of a camera, until the client has left.
fn play(mut socket: &TcpStream, film: &Film, left: &Receiver<()>) -> io::Result<()> {
    let (mut sequence, mut timestamp) = (0_u16, 0_u32);
    let mut pause = FIRST_PICTURE_AFTER;
    loop {
        for picture in &film.pictures {
            if left.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return Ok(());
            }
            pause = Duration::from_secs(1) / PICTURES_PER_SECOND;
            let mut bytes = Vec::new();
            for (i, unit) in picture.iter().enumerate() {
                let is_last = i + 1 == picture.len();
                let length = u16::try_from(unit.len() + 12).expect("pictures are small");
                bytes.extend_from_slice(b"$\0");
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(&[0x80, PAYLOAD_TYPE | (u8::from(is_last) << 7)]);
                bytes.extend_from_slice(&sequence.to_be_bytes());
                bytes.extend_from_slice(&timestamp.to_be_bytes());
                bytes.extend_from_slice(b"cam1");
                bytes.extend_from_slice(unit);
                sequence = sequence.wrapping_add(1);
            }
            socket.write_all(&bytes)?;
            timestamp = timestamp.wrapping_add(CLOCK_RATE / PICTURES_PER_SECOND);
        }
    }
}
