//! The messages of DNS-based service discovery (RFC 6762, RFC 6763) for one service type.
//!
//! Reading a datagram allocates a bounded amount of memory, whatever the datagram contains. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{MessageBuilder, PushError, StaticCompressor};
use domain::base::name::ParsedName;
use domain::base::record::ParsedRecord;
use domain::base::wire::ParseError;
use domain::base::{Message, Name, Ttl};
use domain::rdata::{A, Aaaa, Ptr, Srv, Txt};

const SERVICE: &str = "_p2pfs._udp.local.";
/// RFC 6763, section 9: the question for all service types.
const SERVICE_TYPES: &str = "_services._dns-sd._udp.local.";
/// A datagram that concerns the service contains one of these labels or the label of this node.
const MARKS: [&[u8]; 2] = [b"_p2pfs", b"_dns-sd"];

/// Largest datagram that is read (RFC 6762, section 17), in bytes.
pub const DATAGRAM_MAX_BYTES: usize = 9000;
/// Largest number of records in a datagram that is read. A question with as many known answers as
/// fit into one Ethernet frame has fewer.
const RECORDS_MAX: usize = 256;
/// Largest number of questions in a datagram that is read.
const QUESTIONS_MAX: usize = 32;
/// Largest number of PTR records, and of SRV records, read from one datagram. A node announces only
/// itself; a repeater of multicast DNS may join the announcements of several nodes.
const NODES_PER_DATAGRAM: usize = 16;
/// Largest number of addresses read from one datagram, of all hosts together.
const ADDRESSES_PER_DATAGRAM: usize = 64;
/// Largest number of addresses of one node that are read or announced.
const ADDRESSES_PER_NODE: usize = 8;
/// Largest number of other nodes named as known answers in a question, so that it fits into one
/// Ethernet frame.
pub(super) const KNOWN_ANSWERS: usize = 32;
/// Lifetime of the records that depend on an address (RFC 6762, section 10), in seconds.
const HOST_TTL_S: u32 = 120;
/// Lifetime of the other records, in seconds.
const SERVICE_TTL_S: u32 = 4500;
/// Marks a record that replaces earlier ones of its name (RFC 6762, section 10.2).
const CACHE_FLUSH: u16 = 1 << 15;

/// First label of a node's name under the service. It is random and tells the nodes apart.
pub(super) type Label = Box<[u8]>;

/// The names of a node and of its service.
#[derive(Clone, Debug)]
pub(super) struct ServiceNames {
    pub label: Label,
    service: Name<Vec<u8>>,
    service_types: Name<Vec<u8>>,
    instance: Name<Vec<u8>>,
    host: Name<Vec<u8>>,
}

/// A datagram about the service.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Question(ServiceQuestion),
    Nodes(Vec<Announced>),
}

/// Records of this node that a question asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceQuestion {
    /// The node's own records.
    pub node: bool,
    /// The service type.
    pub service_type: bool,
}

/// A node as a datagram announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub label: Label,
    /// How long the announcement counts. Zero means that the node says goodbye.
    pub lifetime: Duration,
    pub addresses: Vec<SocketAddr>,
}

/// How long others remember a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    Normal,
    Goodbye,
}

impl ServiceNames {
    /// Creates the names of the node `label`, which has at most 63 letters and digits. Returns
    /// `None` if a name is not valid in DNS.
    pub(super) fn new(label: &str) -> Option<Self> {
        let name = |text: &str| Name::vec_from_str(text).ok();
        Some(Self {
            label: label.as_bytes().into(),
            service: name(SERVICE)?,
            service_types: name(SERVICE_TYPES)?,
            instance: name(&format!("{label}.{SERVICE}"))?,
            host: name(&format!("{label}.local."))?,
        })
    }

    /// Returns whether a datagram can concern the service, without parsing it.
    pub(super) fn occur_in(&self, datagram: &[u8]) -> bool {
        let marks = MARKS.into_iter().chain([&*self.label]);
        let mut windows = marks.map(|mark| datagram.windows(mark.len()).any(|it| it == mark));
        windows.any(|found| found)
    }

    /// Reads a datagram. Returns `None` if it is malformed, too large or about other things.
    pub(super) fn read(&self, datagram: &[u8]) -> Option<Received> {
        let message = Message::from_slice(datagram).ok()?;
        let (header, counts) = (message.header(), message.header_counts());
        let records = [counts.ancount(), counts.nscount(), counts.arcount()];
        let records: usize = records.into_iter().map(usize::from).sum();
        let is_small = datagram.len() <= DATAGRAM_MAX_BYTES
            && records <= RECORDS_MAX
            && usize::from(counts.qdcount()) <= QUESTIONS_MAX;
        let is_plain = header.opcode() == Opcode::QUERY && header.rcode() == Rcode::NOERROR;
        if !is_small || !is_plain {
            return None;
        }
        if header.qr() {
            let nodes = self.read_nodes(message).ok()?;
            (!nodes.is_empty()).then_some(Received::Nodes(nodes))
        } else {
            let question = self.read_question(message).ok()?;
            (question != ServiceQuestion::default()).then_some(Received::Question(question))
        }
    }

    fn read_question(&self, message: &Message<[u8]>) -> Result<ServiceQuestion, ParseError> {
        let mut asked = ServiceQuestion::default();
        let mut names_this_node = false;
        for question in message.question() {
            let question = question?;
            let (name, kind) = (question.qname(), question.qtype());
            let asks_for = |kinds: &[Rtype]| kind == Rtype::ANY || kinds.contains(&kind);
            if *name == self.service && asks_for(&[Rtype::PTR]) {
                asked.node = true;
            } else if *name == self.service_types && asks_for(&[Rtype::PTR]) {
                asked.service_type = true;
            } else if *name == self.instance && asks_for(&[Rtype::SRV, Rtype::TXT])
                || *name == self.host && asks_for(&[Rtype::A, Rtype::AAAA])
            {
                names_this_node = true;
            }
        }
        if asked.node && !names_this_node {
            asked.node = !self.is_known_in(message)?;
        }
        asked.node |= names_this_node;
        Ok(asked)
    }

    /// Returns whether the sender of a question knows this node already (RFC 6762, section 7.1).
    fn is_known_in(&self, message: &Message<[u8]>) -> Result<bool, ParseError> {
        for record in message.answer()? {
            let record = record?;
            let is_fresh = record.ttl().as_secs() >= SERVICE_TTL_S / 2;
            if is_fresh && self.pointer(&record)?.is_some_and(|it| it == self.instance) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the name that a pointer of the service points to.
    fn pointer<'a>(
        &self,
        record: &ParsedRecord<'a, [u8]>,
    ) -> Result<Option<ParsedName<&'a [u8]>>, ParseError> {
        if record.owner() != self.service {
            return Ok(None);
        }
        let pointer = record.to_record::<Ptr<_>>()?;
        Ok(pointer.map(|it| it.into_data().into_ptrdname()))
    }

    /// Returns the label of an instance of the service.
    fn label_of(&self, instance: &ParsedName<&[u8]>) -> Option<Label> {
        let is_instance = instance.label_count() == self.service.label_count() + 1
            && instance.ends_with(&self.service);
        is_instance.then(|| instance.first().as_slice().into())
    }

    fn read_nodes(&self, message: &Message<[u8]>) -> Result<Vec<Announced>, ParseError> {
        let mut found = ServiceRecords::default();
        for record in message.answer()?.chain(message.additional()?) {
            self.read_record(&record?, &mut found)?;
        }
        Ok(found.into_nodes())
    }

    fn read_record<'a>(
        &self,
        record: &ParsedRecord<'a, [u8]>,
        found: &mut ServiceRecords<'a>,
    ) -> Result<(), ParseError> {
        let lifetime = record.ttl().into_duration();
        let owner = record.owner().deref_octets();
        if let Some(instance) = self.pointer(record)? {
            if let Some(label) = self.label_of(&instance) {
                found.add_pointer(label, lifetime);
            }
        } else if let Some(place) = record.to_record::<Srv<_>>()? {
            if let Some(label) = self.label_of(&owner) {
                let port = place.data().port();
                found.add_service(label, lifetime, port, place.into_data().into_target());
            }
        } else if let Some(address) = record.to_record::<A>()? {
            found.add_address(owner, address.data().addr().into());
        } else if let Some(address) = record.to_record::<Aaaa>()? {
            found.add_address(owner, address.data().addr().into());
        }
        Ok(())
    }

    /// Returns the question for nodes of the service, with `known` and this node as known answers.
    /// So the nodes in `known` do not answer, and this node does not answer itself.
    pub(super) fn question(&self, known: &[(Label, Duration)]) -> Vec<u8> {
        composed(|message| {
            let mut question = message.question();
            question.push((&self.service, Rtype::PTR))?;
            let mut answer = question.answer();
            let own = (self.label.clone(), ttl(SERVICE_TTL_S).into_duration());
            for (label, lifetime) in known.iter().chain([&own]) {
                let instance = self.instance_of(label)?;
                let ttl = Ttl::from_duration_lossy(*lifetime);
                answer.push((&self.service, Class::IN, ttl, Ptr::new(instance)))?;
            }
            Ok(answer.finish())
        })
    }

    fn instance_of(&self, label: &[u8]) -> Result<Name<Vec<u8>>, PushError> {
        let length = u8::try_from(label.len()).unwrap_or(u8::MAX);
        let wire = [&[length], label, self.service.as_slice()].concat();
        Name::from_octets(wire).map_err(|_| PushError::ShortBuf)
    }

    /// Returns the records that `question` asks for: those of this node, the service type, or both.
    pub(super) fn announcement(
        &self,
        question: ServiceQuestion,
        port: u16,
        addresses: &[IpAddr],
        validity: Validity,
    ) -> Vec<u8> {
        let (host, service) = match validity {
            Validity::Normal => (ttl(HOST_TTL_S), ttl(SERVICE_TTL_S)),
            Validity::Goodbye => (Ttl::ZERO, Ttl::ZERO),
        };
        let flush = Class::from_int(Class::IN.to_int() | CACHE_FLUSH);
        composed(|mut message| {
            let header = message.header_mut();
            header.set_qr(true);
            header.set_aa(true);
            let mut answer = message.answer();
            if question.service_type {
                let pointer = Ptr::new(&self.service);
                answer.push((&self.service_types, Class::IN, service, pointer))?;
            }
            if question.node {
                let pointer = Ptr::new(&self.instance);
                answer.push((&self.service, Class::IN, service, pointer))?;
                let place = Srv::new(0, 0, port, &self.host);
                answer.push((&self.instance, flush, host, place))?;
                // one empty text: RFC 6763, section 6.1
                let text = Txt::from_octets(&[0u8][..]).map_err(|_| PushError::ShortBuf)?;
                answer.push((&self.instance, flush, service, text))?;
                for ip in addresses.iter().take(ADDRESSES_PER_NODE) {
                    match ip {
                        IpAddr::V4(ip) => answer.push((&self.host, flush, host, A::new(*ip)))?,
                        IpAddr::V6(ip) => answer.push((&self.host, flush, host, Aaaa::new(*ip)))?,
                    }
                }
            }
            Ok(answer.finish())
        })
    }
}

fn ttl(seconds: u32) -> Ttl {
    Ttl::from_secs(seconds)
}

type Composer = StaticCompressor<Vec<u8>>;

/// Returns a composed message, or an empty one if it is too large, which no message here is.
fn composed(
    compose: impl FnOnce(MessageBuilder<Composer>) -> Result<Composer, PushError>,
) -> Vec<u8> {
    let empty = StaticCompressor::new(Vec::new());
    let composed = MessageBuilder::from_target(empty).map_err(|_| PushError::ShortBuf);
    let composed = composed.and_then(compose);
    composed
        .map(StaticCompressor::into_target)
        .unwrap_or_default()
}

/// The records of a datagram that can belong to nodes of the service.
#[derive(Default)]
struct ServiceRecords<'a> {
    pointers: Vec<(Label, Duration)>,
    services: Vec<ServiceRecord<'a>>,
    addresses: Vec<(ParsedName<&'a [u8]>, IpAddr)>,
}

struct ServiceRecord<'a> {
    label: Label,
    lifetime: Duration,
    port: u16,
    host: ParsedName<&'a [u8]>,
}

impl<'a> ServiceRecords<'a> {
    fn add_pointer(&mut self, label: Label, lifetime: Duration) {
        if self.pointers.len() < NODES_PER_DATAGRAM {
            self.pointers.push((label, lifetime));
        }
    }

    fn add_service(
        &mut self,
        label: Label,
        lifetime: Duration,
        port: u16,
        host: ParsedName<&'a [u8]>,
    ) {
        if self.services.len() < NODES_PER_DATAGRAM {
            self.services.push(ServiceRecord {
                label,
                lifetime,
                port,
                host,
            });
        }
    }

    fn add_address(&mut self, host: ParsedName<&'a [u8]>, address: IpAddr) {
        if self.addresses.len() < ADDRESSES_PER_DATAGRAM {
            self.addresses.push((host, address));
        }
    }

    /// Returns a node for each goodbye, and for each service with an address and without a goodbye.
    fn into_nodes(self) -> Vec<Announced> {
        let goodbyes = self
            .pointers
            .iter()
            .filter(|(_, lifetime)| lifetime.is_zero());
        let mut nodes: Vec<_> = goodbyes
            .map(|(label, lifetime)| Announced {
                label: label.clone(),
                lifetime: *lifetime,
                addresses: Vec::new(),
            })
            .collect();
        for service in self.services {
            let pointer = self.pointers.iter().find(|(it, _)| *it == service.label);
            let lifetime = pointer.map_or(service.lifetime, |(_, lifetime)| *lifetime);
            let of_it = self
                .addresses
                .iter()
                .filter(|(host, _)| *host == service.host);
            let addresses: Vec<_> = of_it
                .map(|(_, ip)| SocketAddr::new(ip.to_canonical(), service.port))
                .take(ADDRESSES_PER_NODE)
                .collect();
            if !addresses.is_empty() && !lifetime.is_zero() {
                nodes.push(Announced {
                    label: service.label,
                    lifetime,
                    addresses,
                });
            }
        }
        nodes
    }
}
