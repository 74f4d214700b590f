//! The transfer of one file over a TCP connection: a request, a header of fixed width, as many
//! bytes as the header announces, and the end of the connection.

use super::message::{encode_get, fields_of, number};
use super::name::{FILL, NAME_FIELD_BYTES, Name};

/// Width of the size in the header.
const SIZE_FIELD_BYTES: usize = 10;
/// Length of the header: the size and the name.
pub const HEADER_BYTES: usize = SIZE_FIELD_BYTES + NAME_FIELD_BYTES;
/// Size of the largest file that ten digits can express.
pub const SIZE_MAX_BYTES: u64 = 9_999_999_999;
/// Maximum bytes that are read of a request, as in the original programs.
pub const REQUEST_MAX_BYTES: usize = 2048;

/// The header of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferHeader {
    /// Number of bytes that follow, at most [`SIZE_MAX_BYTES`].
    pub size_bytes: u64,
    /// Name of the file.
    pub name: Name,
}

/// Why a header cannot be sent or is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The size exceeds [`SIZE_MAX_BYTES`].
    #[error("a file of {size_bytes} bytes has more digits than the 10 legacy peers can carry")]
    TooLarge {
        /// Size of the file.
        size_bytes: u64,
    },
    /// The size field is not a valid number.
    #[error("the header of the transfer says no size")]
    NoSize,
    /// The name field differs from the requested name.
    #[error("the header of the transfer names another file")]
    OtherName,
}

impl TransferHeader {
    /// Creates the header of a file.
    ///
    /// # Errors
    /// [`HeaderError::TooLarge`]: the original programs would use the first ten digits as
    /// the size.
    pub fn new(name: Name, size_bytes: u64) -> Result<Self, HeaderError> {
        if size_bytes > SIZE_MAX_BYTES {
            return Err(HeaderError::TooLarge { size_bytes });
        }
        Ok(Self { size_bytes, name })
    }

    /// Encodes the header, both fields padded on the right.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [FILL; HEADER_BYTES];
        let digits = self.size_bytes.to_string();
        let name = self.name.as_bytes();
        header[..digits.len()].copy_from_slice(digits.as_bytes());
        header[SIZE_FIELD_BYTES..][..name.len()].copy_from_slice(name);
        header
    }

    /// Parses the header that answers a request for `asked`.
    ///
    /// # Errors
    /// [`HeaderError`]; the peer is at fault, and the transfer must be discarded.
    pub fn decode(header: &[u8; HEADER_BYTES], asked: &Name) -> Result<Self, HeaderError> {
        let size = number(unfilled(&header[..SIZE_FIELD_BYTES])).ok_or(HeaderError::NoSize)?;
        let size_bytes = u64::try_from(size).map_err(|_| HeaderError::NoSize)?;
        if unfilled(&header[SIZE_FIELD_BYTES..]) != asked.as_bytes() {
            return Err(HeaderError::OtherName);
        }
        Self::new(asked.clone(), size_bytes)
    }
}

fn unfilled(field: &[u8]) -> &[u8] {
    let end = field.iter().rposition(|b| *b != FILL);
    &field[..end.map_or(0, |at| at + 1)]
}

/// Encodes the request for a file. The caller must send the request in one write, because the
/// original programs read only once.
pub fn encode_request(name: &Name) -> Vec<u8> {
    encode_get(name)
}

/// Returns the name that a request asks for, or `None` if it is not a request.
pub fn decode_request(request: &[u8]) -> Option<Name> {
    let mut fields = fields_of(request);
    fields.next().filter(|keyword| *keyword == b"Get")?;
    Name::from_field(fields.next()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_header_is_padded_with_colons_to_ten_and_sixty_four_bytes() {
        let header = TransferHeader::new(name("b.txt"), 13).unwrap();
        let expected = format!("13::::::::b.txt{}", ":".repeat(59));
        assert_eq!(header.encode(), expected.as_bytes());
        let full = TransferHeader::new(name(&"n".repeat(64)), SIZE_MAX_BYTES).unwrap();
        assert_eq!(
            full.encode(),
            format!("9999999999{}", "n".repeat(64)).as_bytes()
        );
    }

    #[test]
    fn a_size_of_eleven_digits_is_refused_because_old_programs_truncate_it() {
        let refused = TransferHeader::new(name("a"), SIZE_MAX_BYTES + 1).unwrap_err();
        assert_eq!(
            refused,
            HeaderError::TooLarge {
                size_bytes: 10_000_000_000
            }
        );
    }

    #[test]
    fn a_header_with_an_invalid_size_or_name_is_an_error() {
        let read = |size: &[u8], named: &[u8]| {
            let mut header = [FILL; HEADER_BYTES];
            header[..size.len()].copy_from_slice(size);
            header[10..10 + named.len()].copy_from_slice(named);
            TransferHeader::decode(&header, &name("a.txt")).map(|h| h.size_bytes)
        };
        assert_eq!(read(b"5", b"a.txt"), Ok(5));
        assert_eq!(read(b"0000000005", b"a.txt"), Ok(5));
        assert_eq!(read(b"0", b"a.txt"), Ok(0));
        for size in [&b""[..], b"-1", b"5 ", b"x", b"1:2", b"0x10"] {
            assert_eq!(read(size, b"a.txt"), Err(HeaderError::NoSize));
        }
        for other in [&b""[..], b"b.txt", b"../a.txt", b"a.txt2"] {
            assert_eq!(read(b"5", other), Err(HeaderError::OtherName));
        }
    }

    #[test]
    fn a_request_is_one_line_and_its_last_component_counts() {
        assert_eq!(encode_request(&name("b.txt")), b"Get,b.txt\n");
        for good in [
            &b"Get,b.txt\n"[..],
            b"Get,b.txt",
            b"Get,b.txt\r\n",
            b"Get,../b.txt,x\n",
        ] {
            assert_eq!(decode_request(good), Some(name("b.txt")));
        }
        for bad in [
            &b""[..],
            b"Get",
            b"Get,",
            b"Put,b.txt",
            b"GET / HTTP/1.1\r\n",
            b"Get,..",
        ] {
            assert_eq!(decode_request(bad), None);
        }
    }

    proptest! {
        #[test]
        fn no_input_breaks_the_header_decoder(bytes in proptest::collection::vec(any::<u8>(), 74)) {
            let header: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
            if let Ok(read) = TransferHeader::decode(&header, &name("a.txt")) {
                prop_assert!(read.size_bytes <= SIZE_MAX_BYTES);
            }
            let _ = decode_request(&header);
        }

        #[test]
        fn every_header_that_can_be_sent_is_decoded_equal(size in 0..=SIZE_MAX_BYTES,
            bytes in proptest::collection::vec(any::<u8>(), 1..65))
        {
            if let Ok(name) = Name::new(&bytes) {
                let header = TransferHeader::new(name.clone(), size).unwrap();
                prop_assert_eq!(TransferHeader::decode(&header.encode(), &name).unwrap(), header);
            }
        }
    }
}
