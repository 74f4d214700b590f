//! A stand-in for a peer of the older mesh, as limited as the original program: lines, counted
//! bytes, and files pushed to all peers. It needs no other program.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

/// A message that a stand-in received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// Any line except `BYTES`.
    Line(String),
    /// A payload.
    Bytes(Vec<u8>),
    /// The other side closed.
    Closed,
}

/// One connection of a stand-in.
pub(crate) struct MeshPeer {
    stream: TcpStream,
    came: Arc<Mutex<Vec<Came>>>,
}

/// Returns the SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

impl MeshPeer {
    /// Dials, and sends its identity and its listening port, as the original program does.
    pub(crate) fn dial(at: &str, id: &str, name: &str, port: u16) -> Self {
        let peer = Self::connect(at);
        peer.send(format!("{id}:{name}\n").as_bytes());
        peer.send(format!("LISTEN:localhost:{port}\n").as_bytes());
        peer
    }

    /// Dials and sends nothing.
    pub(crate) fn connect(at: &str) -> Self {
        Self::of(TcpStream::connect(at).unwrap(), true)
    }

    /// Dials, sends its identity, and never reads.
    pub(crate) fn deaf(at: &str, id: &str, name: &str) -> Self {
        let peer = Self::of(TcpStream::connect(at).unwrap(), false);
        peer.send(format!("{id}:{name}\nLISTEN:localhost:9\n").as_bytes());
        peer
    }

    /// Accepts one connection and answers its first lines.
    pub(crate) fn accept(listener: &TcpListener, id: &str, name: &str) -> Self {
        let peer = Self::of(listener.accept().unwrap().0, true);
        peer.send(format!("{id}:{name}\n").as_bytes());
        peer
    }

    fn of(stream: TcpStream, reads: bool) -> Self {
        let came = Arc::<Mutex<Vec<Came>>>::default();
        if reads {
            let (stream, came) = (stream.try_clone().unwrap(), came.clone());
            thread::spawn(move || read_all(stream, &came));
        }
        Self { stream, came }
    }

    /// Sends bytes. Returns false if the other side has closed the connection.
    pub(crate) fn send(&self, bytes: &[u8]) -> bool {
        (&self.stream).write_all(bytes).is_ok()
    }

    /// Sends a payload with its length.
    pub(crate) fn send_bytes(&self, payload: &[u8]) -> bool {
        let head = format!("BYTES:{}\n", payload.len());
        self.send(&[head.as_bytes(), payload].concat())
    }

    /// Pushes a file as the original program does, in chunks of this size.
    pub(crate) fn push(&self, name: &[u8], bytes: &[u8], chunk: usize) {
        self.push_as(name, bytes, &sha256(bytes), chunk);
    }

    /// Pushes a file with any hash.
    pub(crate) fn push_as(&self, name: &[u8], bytes: &[u8], hash: &str, chunk: usize) {
        self.begin(name, bytes.len(), hash);
        for part in bytes.chunks(chunk) {
            self.send_bytes(&[b"FILECHUNK:", name, b"\n", part].concat());
        }
        let end = format!("|{hash}\n");
        self.send_bytes(&[b"FILEEND:", name, end.as_bytes()].concat());
    }

    pub(crate) fn begin(&self, name: &[u8], size: usize, hash: &str) {
        let rest = format!("|{size}|{hash}\n");
        self.send_bytes(&[b"FILESTART:", name, rest.as_bytes()].concat());
    }

    /// Returns all messages so far.
    pub(crate) fn came(&self) -> Vec<Came> {
        self.came.lock().clone()
    }

    /// Returns the lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |came| match came {
            Came::Line(line) => Some(line),
            _ => None,
        };
        self.came().into_iter().filter_map(line).collect()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.came.lock().last() == Some(&Came::Closed)
    }

    /// Returns the name and bytes of the files that arrived whole, after the checks of the original
    /// receiver.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<(String, u64, String, Vec<u8>, bool)> = Vec::new();
        for came in self.came() {
            let Came::Bytes(payload) = came else { continue };
            if !payload.starts_with(b"FILE") {
                continue;
            }
            let end = payload.iter().position(|b| *b == b'\n').unwrap();
            let (head, body) = (
                String::from_utf8_lossy(&payload[..end]),
                &payload[end + 1..],
            );
            let (keyword, rest) = head.split_once(':').unwrap();
            match keyword {
                "FILESTART" => {
                    let fields: Vec<&str> = rest.split('|').collect();
                    assert_eq!(fields.len(), 3, "an original program refuses {rest}");
                    let size = fields[1].parse().unwrap();
                    files.push((fields[0].into(), size, fields[2].into(), Vec::new(), false));
                }
                "FILECHUNK" => {
                    let file = files.iter_mut().rfind(|file| file.0 == rest).unwrap();
                    file.3.extend_from_slice(body);
                }
                "FILEEND" => {
                    let name = rest.split('|').next().unwrap();
                    let file = files.iter_mut().rfind(|file| file.0 == name).unwrap();
                    file.4 = file.1 == file.3.len() as u64 && file.2 == sha256(&file.3);
                }
                other => panic!("{other}"),
            }
        }
        let whole = files.into_iter().filter(|file| file.4);
        whole.map(|file| (file.0, file.3)).collect()
    }

    /// Ends the connection.
    pub(crate) fn close(&self) {
        let _gone = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Drop for MeshPeer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Answers pings as every peer does, and records all other messages.
fn read_all(stream: TcpStream, came: &Mutex<Vec<Came>>) {
    let _patient = stream.set_read_timeout(Some(Duration::from_secs(600)));
    let mut reader = std::io::BufReader::with_capacity(1 << 20, stream);
    loop {
        let mut line = Vec::new();
        let read = std::io::BufRead::read_until(&mut reader, b'\n', &mut line);
        if !read.is_ok_and(|count| count > 0) {
            break;
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        if let Some(length) = text.strip_prefix("BYTES:") {
            let mut payload = vec![0; length.parse().unwrap()];
            if reader.read_exact(&mut payload).is_err() {
                break;
            }
            came.lock().push(Came::Bytes(payload));
            continue;
        }
        if text == "PING" {
            let _gone = reader.get_mut().write_all(b"PONG\n");
        }
        came.lock().push(Came::Line(text));
    }
    came.lock().push(Came::Closed);
}
