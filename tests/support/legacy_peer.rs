//! A stand-in for a legacy peer, as limited as the original program: it never announces itself,
//! learns members only from lists, answers a `Get` by address, takes the first `File`, and keeps
//! what it receives. It needs no other program.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The peer's reaction to a TCP request for a name.
#[derive(Clone)]
pub(crate) enum Gives {
    /// Header, bytes, close.
    File(Vec<u8>),
    /// A header that announces this size, then these bytes, then a close.
    Announcing(u64, Vec<u8>),
    /// A header with another name.
    Named(&'static str, Vec<u8>),
    /// A header that announces this size, then bytes until the other side closes.
    Endless(u64),
    /// A header that announces this size, then a byte now and then until the other side closes.
    Drip(u64),
    /// A header, single bytes, a close.
    Slowly(Vec<u8>),
    /// A close without a header, although the file was offered.
    Nothing,
    /// The connection stays open and silent.
    Silence,
}

struct Inside {
    udp: UdpSocket,
    me: String,
    tcp_port: u16,
    files: Mutex<BTreeMap<String, Gives>>,
    members: Mutex<Vec<String>>,
    heard: Mutex<Vec<(SocketAddr, String)>>,
    prior: Mutex<HashSet<SocketAddr>>,
    asking: Mutex<Option<Sender<SocketAddr>>>,
    served: Mutex<Vec<String>>,
    delay: Duration,
}

/// The stand-in. Its threads end with the process.
pub(crate) struct OldPeer {
    inside: Arc<Inside>,
}

impl OldPeer {
    /// Starts a peer that answers strangers after a delay.
    pub(crate) fn start(delay: Duration) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let inside = Arc::new(Inside {
            me: udp.local_addr().unwrap().to_string(),
            udp,
            tcp_port: tcp.local_addr().unwrap().port(),
            files: Mutex::default(),
            members: Mutex::default(),
            heard: Mutex::default(),
            prior: Mutex::default(),
            asking: Mutex::default(),
            served: Mutex::default(),
            delay,
        });
        let peer = Self { inside };
        let inside = peer.inside.clone();
        thread::spawn(move || inside.hear());
        let inside = peer.inside.clone();
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let inside = inside.clone();
                thread::spawn(move || inside.serve(stream));
            }
        });
        peer
    }

    pub(crate) fn address(&self) -> &str {
        &self.inside.me
    }

    pub(crate) fn gives(&self, name: &str, what: Gives) {
        let mut files = self.inside.files.lock();
        files.insert(name.to_owned(), what);
    }

    pub(crate) fn gives_file(&self, name: &str, bytes: &[u8]) {
        self.gives(name, Gives::File(bytes.to_vec()));
    }

    pub(crate) fn members(&self) -> Vec<String> {
        self.inside.members.lock().clone()
    }

    /// Returns the text of every datagram so far, with its sender.
    pub(crate) fn heard(&self) -> Vec<(SocketAddr, String)> {
        self.inside.heard.lock().clone()
    }

    /// Returns the names requested by TCP.
    pub(crate) fn served(&self) -> Vec<String> {
        self.inside.served.lock().clone()
    }

    /// Sends its list to every member, as it does each period.
    pub(crate) fn ping(&self) {
        let list = self.members().join(",");
        self.send_all(&format!("DISCOVER,{list}\n"));
    }

    /// Sends a datagram to one address from its own.
    pub(crate) fn say(&self, to: SocketAddr, datagram: &[u8]) {
        self.inside.udp.send_to(datagram, to).unwrap();
    }

    fn send_all(&self, text: &str) {
        for member in self.members() {
            let _lost = self.inside.udp.send_to(text.as_bytes(), member);
        }
    }

    /// Asks every member and downloads from the first that answers. Returns the header's size and
    /// name, and all bytes until the close.
    pub(crate) fn get(&self, name: &str, limit: Duration) -> Option<Got> {
        let (sender, answers) = channel();
        *self.inside.asking.lock() = Some(sender);
        self.send_all(&format!("Get,{name}\n"));
        let first = answers.recv_timeout(limit);
        *self.inside.asking.lock() = None;
        Some(download(first.ok()?, name))
    }

    /// Asks for a name. Sends the answers to the receiver as they arrive.
    pub(crate) fn ask(&self, name: &str) -> Receiver<SocketAddr> {
        let (sender, answers) = channel();
        *self.inside.asking.lock() = Some(sender);
        self.send_all(&format!("Get,{name}\n"));
        answers
    }
}

/// The result of a download.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub header: String,
    pub bytes: Vec<u8>,
}

/// Does one TCP exchange like the original program: one write, then reads until the close.
pub(crate) fn download(from: SocketAddr, name: &str) -> Got {
    let mut stream = TcpStream::connect(from).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
        .write_all(format!("Get,{name}\n").as_bytes())
        .unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let bytes = all.split_off(all.len().min(74));
    Got {
        header: String::from_utf8_lossy(&all).into_owned(),
        bytes,
    }
}

/// Returns the header in the format of the protocol.
pub(crate) fn header(size: u64, name: &str) -> String {
    // The length counts bytes, not characters.
    let fill = ":".repeat(64_usize.saturating_sub(name.len()));
    format!("{size::<10}{name}{fill}")
}

impl Inside {
    fn hear(&self) {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.udp.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.heard.lock().push((from, text.clone()));
            let fields: Vec<&str> = text.trim().split(',').collect();
            match fields[..] {
                ["DISCOVER", ..] => self.merge(&fields[1..]),
                ["Get", name, ..] if self.files.lock().contains_key(name) => {
                    self.offer(from);
                }
                ["File", _, port] => {
                    let asking = self.asking.lock();
                    if let Some(answers) = &*asking {
                        self.prior.lock().insert(from);
                        let at = SocketAddr::new(from.ip(), port.parse().unwrap());
                        let _late = answers.send(at);
                    }
                }
                _ => {}
            }
        }
    }

    fn merge(&self, names: &[&str]) {
        let mut members = self.members.lock();
        for name in names.iter().filter(|name| !name.is_empty()) {
            if *name != self.me && !members.iter().any(|member| member == name) {
                members.push((*name).to_owned());
            }
        }
    }

    fn offer(&self, to: SocketAddr) {
        let (udp, port) = (self.udp.try_clone().unwrap(), self.tcp_port);
        let is_prior = self.prior.lock().contains(&to);
        let delay = if is_prior { Duration::ZERO } else { self.delay };
        thread::spawn(move || {
            wait(delay);
            let _lost = udp.send_to(format!("File,1,{port}\n").as_bytes(), to);
        });
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut request = [0; 2048];
        let Ok(length) = stream.read(&mut request) else {
            return;
        };
        let text = String::from_utf8_lossy(&request[..length]).into_owned();
        let Some(name) = text.trim().strip_prefix("Get,") else {
            return;
        };
        self.served.lock().push(name.to_owned());
        let gives = self.files.lock().get(name).cloned();
        let mut send = |header: String, bytes: &[u8]| {
            let _gone = stream.write_all(header.as_bytes());
            let _gone = stream.write_all(bytes);
        };
        match gives {
            None | Some(Gives::Nothing) => {}
            Some(Gives::File(bytes)) => send(header(bytes.len() as u64, name), &bytes),
            Some(Gives::Announcing(size, bytes)) => send(header(size, name), &bytes),
            Some(Gives::Named(other, bytes)) => send(header(bytes.len() as u64, other), &bytes),
            Some(Gives::Endless(size)) => {
                send(header(size, name), b"");
                while stream.write_all(&[b'x'; 65536]).is_ok() {}
            }
            Some(Gives::Drip(size)) => {
                send(header(size, name), b"");
                while stream.write_all(b"x").is_ok() {
                    wait(Duration::from_millis(200));
                }
            }
            Some(Gives::Slowly(bytes)) => {
                send(header(bytes.len() as u64, name), b"");
                for byte in bytes.chunks(1) {
                    wait(Duration::from_millis(200));
                    let _gone = stream.write_all(byte);
                }
            }
            Some(Gives::Silence) => {
                let _until_closed = stream.read(&mut request);
            }
        }
    }
}

/// Waits as long as the protocol itself requires.
pub(crate) fn wait(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}
