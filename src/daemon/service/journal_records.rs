//! Messages of the log in the native format of the journal, with their fields and those of their
//! spans.
//!
//! Owns the format (systemd.io/JOURNAL_NATIVE_PROTOCOL) and the socket. A message is encoded by the
//! thread that logs it, and sent by the thread of the queue: sending waits while the journal stands
//! still.

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::record_queue::RecordQueue;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Name of the program in the journal (`journalctl -t`).
const PROGRAM: &str = "p2pfs";
/// Maximum bytes of a field's value. The journal itself splits longer lines of standard error
/// (`LineMax=`, journald.conf(5)), and a datagram has at most 208 KiB.
const VALUE_MAX_BYTES: usize = 48 << 10;

/// Socket that leads to the journal.
pub(super) struct JournalSocket {
    socket: UnixDatagram,
    path: &'static Path,
}

impl JournalSocket {
    /// Opens the socket of this machine's journal.
    ///
    /// # Errors
    /// If it has none. Does not wait for the journal.
    pub(super) fn open() -> io::Result<Self> {
        Self::open_at(Path::new(SOCKET))
    }

    fn open_at(path: &'static Path) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        // Each send names the path, so that a journal with a new socket receives it.
        let socket = UnixDatagram::unbound()?;
        Ok(Self { socket, path })
    }

    /// Sends a message, and waits while the journal stands still.
    pub(super) fn send(&self, record: &[u8]) {
        let _unread = self.socket.send_to(record, self.path);
    }
}

/// Layer that encodes each message and queues it for the journal.
pub(super) struct JournalRecords(pub(super) &'static RecordQueue);

/// Encoded fields of a span.
struct SpanFields(Encoder);

impl<S> Layer<S> for JournalRecords
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        let mut fields = Encoder::default();
        fields.put("SPAN_NAME", span.name());
        fields.put_place("SPAN_", span.metadata());
        attributes.record(&mut fields);
        span.extensions_mut().insert(SpanFields(fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut record = Encoder::default();
        let spans = context.lookup_current().into_iter();
        for span in spans.flat_map(|span| span.scope().from_root()) {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                record.0.extend_from_slice(&fields.0);
            }
        }
        let metadata = event.metadata();
        record.put("PRIORITY", priority(*metadata.level()));
        record.put_place("", metadata);
        record.put("SYSLOG_IDENTIFIER", PROGRAM);
        event.record(&mut record);
        self.0.push(record.0);
    }
}

/// Returns the level as in syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// Fields in the native format: the name, a line feed, the length of the value in 8 bytes, the
/// value, a line feed.
#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn put(&mut self, name: &str, value: impl fmt::Display) {
        self.put_name(name);
        let start = self.0.len() + size_of::<u64>();
        self.0.resize(start, 0);
        let _no_error_in_memory = write!(self.0, "{value}");
        let end = self.0.len().min(start + VALUE_MAX_BYTES);
        self.0.truncate(end);
        let length = (end - start) as u64;
        self.0[start - size_of::<u64>()..start].copy_from_slice(&length.to_le_bytes());
        self.0.push(b'\n');
    }

    /// Writes a name in the journal's form: capitals, digits and underscores, and no underscore at
    /// the begin.
    fn put_name(&mut self, name: &str) {
        let letters = name.trim_start_matches(['_', '.']).bytes();
        self.0.extend(letters.filter_map(|letter| {
            match letter {
                b'.' | b'_' => Some(b'_'),
                _ => letter
                    .is_ascii_alphanumeric()
                    .then(|| letter.to_ascii_uppercase()),
            }
        }));
        self.0.push(b'\n');
    }

    fn put_place(&mut self, prefix: &str, metadata: &Metadata<'_>) {
        self.put(&format!("{prefix}TARGET"), metadata.target());
        if let Some(file) = metadata.file() {
            self.put(&format!("{prefix}CODE_FILE"), file);
        }
        if let Some(line) = metadata.line() {
            self.put(&format!("{prefix}CODE_LINE"), line);
        }
    }
}

impl Visit for Encoder {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Decodes fields as the journal does.
    fn decode(mut record: &[u8]) -> HashMap<String, String> {
        let mut fields = HashMap::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        while let Some(end) = record.iter().position(|byte| *byte == b'\n') {
            let (name, rest) = record.split_at(end);
            let (length, rest) = rest[1..].split_first_chunk().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            let (value, rest) = rest.split_at(length);
            fields.insert(text(name), text(value));
            record = rest.strip_prefix(b"\n").unwrap();
        }
        assert!(record.is_empty());
        fields
    }

    /// Journal whose reader is the test, and a queue that leads to it.
    fn journal(limit_bytes: usize) -> (UnixDatagram, &'static RecordQueue) {
        let dir = tempfile::tempdir().unwrap();
        let path: &'static Path = Box::leak(dir.path().join("socket").into_boxed_path());
        let journal = UnixDatagram::bind(path).unwrap();
        journal.set_read_timeout(Some(PATIENCE)).unwrap();
        let socket = JournalSocket::open_at(path).unwrap();
        let queue: &'static RecordQueue = Box::leak(Box::new(RecordQueue::new(limit_bytes)));
        // The directory stays until the last message is sent.
        queue.serve(
            "test",
            move |record| {
                assert!(dir.path().exists());
                socket.send(record);
            },
            |dropped| eprintln!("{dropped} dropped"),
        );
        (journal, queue)
    }

    fn receive(journal: &UnixDatagram) -> HashMap<String, String> {
        let mut buffer = vec![0; 1 << 18];
        let length = journal.recv(&mut buffer).unwrap();
        decode(&buffer[..length])
    }

    #[test]
    fn messages_have_the_fields_of_their_event_and_of_their_spans() {
        let (journal, queue) = journal(1 << 20);
        let subscriber = tracing_subscriber::registry().with(JournalRecords(queue));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("read", read = 7, later = tracing::field::Empty);
            span.record("later", "now");
            let _entered = span.enter();
            tracing::warn!(message_id = "id", peer_name = %"b", _odd.name = 1, "two\nlines");
        });
        let message = receive(&journal);
        for (name, value) in [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "p2pfs"),
            ("MESSAGE", "two\nlines"),
            ("MESSAGE_ID", "id"),
            ("PEER_NAME", "b"),
            ("ODD_NAME", "1"),
            ("SPAN_NAME", "read"),
            ("READ", "7"),
            ("LATER", "now"),
            ("TARGET", module_path!()),
            ("SPAN_TARGET", module_path!()),
            ("CODE_FILE", file!()),
        ] {
            assert_eq!(message.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(message["CODE_LINE"].parse::<u32>().is_ok());
    }

    #[test]
    fn long_values_are_cut_so_that_each_message_fits_a_datagram() {
        let (journal, queue) = journal(1 << 20);
        let subscriber = tracing_subscriber::registry().with(JournalRecords(queue));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("{}", "x".repeat(1 << 19));
        });
        assert_eq!(receive(&journal)["MESSAGE"].len(), VALUE_MAX_BYTES);
    }

    #[test]
    fn no_thread_that_logs_waits_for_a_journal_that_stands_still() {
        const MESSAGES: usize = 20_000;
        let (journal, queue) = journal(1 << 20);
        let subscriber = tracing_subscriber::registry().with(JournalRecords(queue));
        // Without the queue, this thread would wait for ever.
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..MESSAGES {
                tracing::info!(number);
            }
        });
        assert!(!queue.flush(Duration::ZERO));
        for number in 0..1000 {
            assert_eq!(receive(&journal)["NUMBER"], number.to_string());
        }
    }
}
