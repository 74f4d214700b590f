//! The part of HTTP/1.1 that a reader of metrics needs: one GET for each connection.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum bytes of a request.
const REQUEST_MAX_BYTES: usize = 8 << 10;
/// The only path.
const PATH: &str = "/metrics";
/// The content type (OpenMetrics 1.0).
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Reads one request and answers it with the text that `text` returns.
///
/// # Errors
/// The error of the system; the reader is gone.
pub(super) async fn answer<S, F>(mut stream: S, text: impl FnOnce() -> F) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Option<String>>,
{
    let request = read_head(&mut stream).await?;
    let line = request.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path = target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", PATH) => match text().await {
            Some(text) => ("200 OK", CONTENT_TYPE, text),
            None => (
                "503 Service Unavailable",
                "text/plain",
                "stopping\n".to_owned(),
            ),
        },
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", format!("see {PATH}\n")),
        _ => (
            "405 Method Not Allowed",
            "text/plain",
            "GET alone\n".to_owned(),
        ),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// Reads the request up to its empty line, or up to the limit.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    let is_whole = |head: &[u8]| head.windows(4).any(|end| end == b"\r\n\r\n");
    while head.len() < REQUEST_MAX_BYTES && !is_whole(&head) {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(request: &[u8]) -> String {
        let (mut near, far) = tokio::io::duplex(64 << 10);
        let answering = tokio::spawn(answer(far, || async { Some("p2pfs_up 1\n".to_owned()) }));
        near.write_all(request).await.unwrap();
        near.shutdown().await.unwrap();
        let mut said = String::new();
        near.read_to_string(&mut said).await.unwrap();
        answering.await.unwrap().unwrap();
        said
    }

    #[tokio::test]
    async fn the_one_path_is_answered_and_everything_else_refused() {
        let said = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        assert!(said.ends_with("\r\n\r\np2pfs_up 1\n") && said.contains("Content-Length: 11"));
        let head = ask(b"HEAD /metrics HTTP/1.1\r\n\r\n").await;
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        assert!(
            ask(b"GET / HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 404 ")
        );
        assert!(
            ask(b"POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405 ")
        );
        assert!(ask(b"\xff\xfe").await.starts_with("HTTP/1.1 405 "));
        let long = [b"GET /".to_vec(), vec![b'x'; REQUEST_MAX_BYTES + 1]].concat();
        assert!(ask(&long).await.starts_with("HTTP/1.1 404 "));
    }
}
