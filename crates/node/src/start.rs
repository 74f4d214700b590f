//! The start of a node. [`NodeStart::open`] opens the parts of the node in an order in which a
//! failure leaves as little as possible behind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::NodeError;
use super::api::{
    FileAccess, Messenger, NameLookup, NodeCache, NodeHealth, NodeKeeper, NodeMembership,
    NodePeers, NodePins, NodeShares, NodeTraffic, OwnDirectory,
};
use super::checks::{check_cache, drop_marks, restore_responders, warn_of_what_was_found};
use super::claims::holders_of;
use super::commands::CommandSender;
use super::config::NodeConfig;
use super::deletions::Deletions;
use super::events::EventLog;
use super::file_sender::FileSender;
use super::floods::FloodMeter;
use super::foreign::{ForeignHost, ForeignPushes, ForeignReads, ForeignTraffic, OfferSources};
use super::generation::{next_generation, random_seed};
use super::giving::{self, GivingContext, GivingSides};
use super::handle::{LoopControl, Node};
use super::inbox::{InboxHandle, Pushes, SenderLookup};
use super::machine::{Machine, MachineConfig};
use super::names::Names;
use super::namespace::NodeNamespace;
use super::offenders::Offenders;
use super::own_thread::OwnThread;
use super::persist::{Persister, unix_now_s};
use super::prompt::answer_beside;
use super::published::{Outdated, Published};
use super::read_watch::{NodeReadWatch, ReadEnd};
use super::receivers::Receivers;
use super::recovery::{self, StoredState};
use super::remote_bytes::FetchedBytes;
use super::run::{COMMANDS_MAX, EventLoop, LoopCommand, LoopParts, NodeHandles};
use super::sockets::Sockets;
use super::state_dir::StateDir;
use super::traffic::{ForeignThrottle, Traffic};
use super::vacated::VacatedShares;
use super::writable::MountWriting;
use super::{address, cache_news, refused_joins};
use p2pfs_catalogue::Catalogue;
use p2pfs_content::shares::{Known, ShareConfig};
use p2pfs_content::{ContentOpener, ContentStore, PublishedNames, StoreStart};
use p2pfs_fetch::FetchEvent;
use p2pfs_membership::ClusterConfig;
use p2pfs_proto::trust::{Invites, Keyring, KeyringFiles, NodeKey, TrustReader};
use p2pfs_transfer::batches::Batches;
use p2pfs_transfer::net::gossip::UdpPort;
use p2pfs_transfer::net::lan::{Lan, LanEvent};
use p2pfs_transfer::net::peer::{ConnectionLimits, ConnectionTimes, PeerLimits, PeerNet};
use p2pfs_transfer::net::{LedgerHandle, PortPair};
use p2pfs_transfer::{FetchConfig, Fetcher, Server, ServerLimits};
use p2pfs_types::id::Generation;

/// Maximum number of [`Outdated`] messages queued for the owner of the mount.
const CHANGES_MAX: usize = 256;
/// Maximum number of queued ends of reads that may change the ranking of versions.
const READ_ENDS_MAX: usize = 64;

fn foreign_traffic(handles: &NodeHandles) -> ForeignTraffic {
    let (download, upload) = (handles.fetcher.download(), handles.server.upload());
    ForeignTraffic {
        taken: ForeignThrottle::new(download, &handles.traffic.taken),
        given: ForeignThrottle::new(upload, &handles.traffic.sent),
    }
}

/// The channels between the handle of the node, the event loop and the inboxes.
struct NodeChannels {
    commands: mpsc::Sender<LoopCommand>,
    deletions: Deletions,
    control: LoopControl,
    inboxes: Vec<InboxHandle>,
}

/// The parts through which the programs of this machine read contents.
struct Reading {
    opener: ContentOpener,
    namespace: Arc<NodeNamespace>,
    batches: Batches,
}

/// The parts of a node that is being started.
pub(super) struct NodeStart {
    config: NodeConfig,
    state: StateDir,
    key: Arc<NodeKey>,
    ledger: LedgerHandle,
    contents: ContentStore,
    names: PublishedNames,
    net: PeerNet,
    invites: Arc<Invites>,
}

/// Stored state and inputs of a node that is being started.
pub(super) struct StartInputs {
    kept: StoredState,
    keyring: Keyring,
    /// The files of the keyring, unless a configured file has the secret.
    keyring_files: Option<KeyringFiles>,
    /// Whether a stored secret without a ledger was removed. An earlier version left it, and it
    /// proves no membership.
    dropped_secret: bool,
    receivers: Receivers,
}

impl NodeStart {
    /// Opens the parts, on sockets that an earlier process has opened or on new ones. Nothing keeps
    /// running after a failure.
    pub(super) fn open(
        config: NodeConfig,
        sockets: Sockets,
    ) -> Result<(Self, StartInputs), NodeError> {
        let state = StateDir::open(&config.state_dir)?;
        let dropped_secret =
            config.secret_file.is_none() && KeyringFiles::drops_secret(state.path());
        let key = Arc::new(NodeKey::load_or_create(state.path())?);
        let (keyring, files) = match &config.secret_file {
            Some(file) => (Keyring::from_secret_file(file, key.clone())?, None),
            None => {
                let (path, key) = (state.path(), key.clone());
                let (keyring, files) =
                    Keyring::load_or_create(path, key, &config.name, unix_now_s())?;
                (keyring, Some(files))
            }
        };
        let (ledger_access, trust_commands) = LedgerHandle::new(keyring.reader());
        let empty = || Catalogue::of_key(key.clone(), config.name.clone());
        let (mut kept, ledger) = recovery::open(state.path(), empty, unix_now_s())?;
        let (opened, cache_events) = StoreStart::open(config.cache.clone())?;
        drop_marks(&mut kept.catalogue, &mut kept.store, opened.cache())?;
        let open = sockets
            .peers
            .map_or_else(|| PortPair::bind(config.network.listen), Ok);
        let PortPair { listener, udp } = open?;
        let limits = PeerLimits {
            bulk_code_point: config.network.bulk_code_point,
            times: ConnectionTimes::within_read_deadline(config.read_deadline),
            connections: ConnectionLimits {
                accepted: config.network.peer_connections,
                ..ConnectionLimits::default()
            },
            ..PeerLimits::default()
        };
        let (net, incoming) = PeerNet::listen(listener, &key, ledger_access.clone(), limits)?;
        let invites = Arc::new(Invites::new());
        net.set_invites(invites.clone());
        let names = PublishedNames::new(kept.catalogue.view());
        let shares = share_config(&config, &kept.catalogue);
        let (contents, share_events) =
            opened.add_shares(shares, ledger, names.clone(), net.pieces().clone())?;
        let start = Self {
            config,
            state,
            key,
            ledger: ledger_access,
            contents,
            names,
            net,
            invites,
        };
        let receivers = Receivers {
            own_thread: OwnThread::prepare(&udp)?,
            udp,
            incoming,
            shares: share_events,
            cache: cache_news::forward_events(cache_events, start.contents.cache().clone()),
            trust: trust_commands,
        };
        let inputs = StartInputs {
            kept,
            keyring,
            keyring_files: files,
            dropped_secret,
            receivers,
        };
        Ok((start, inputs))
    }

    /// Builds the node from its parts. From here on the node gossips and serves.
    pub(super) fn assemble(self, inputs: StartInputs) -> Node {
        let StartInputs {
            mut kept,
            keyring,
            keyring_files,
            dropped_secret,
            mut receivers,
        } = inputs;
        let generation = next_generation(kept.generation);
        let address = address::advertised(self.config.network.advertise, self.net.local_addr());
        let published = Published::new(self.names.clone(), address, kept.addresses.clone());
        let (handles, fetches) = self.handles(published);
        let cache = self.contents.cache();
        warn_of_what_was_found(dropped_secret, &kept.warnings, cache, &handles.events);
        restore_responders(&kept.responders, &handles, &mut kept.catalogue);
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (deletions, deletion_queue) = Deletions::new();
        let changes = mpsc::channel(CHANGES_MAX);
        let (stopped, stopping) = watch::channel(false);
        let unstored = Arc::new(Mutex::new(None));
        let (lan, lan_events) = start_lan(&self.config, self.net.local_addr());
        let (reading, read_ends) = self.reading(&handles, &deletions, &changes.0);
        let giving = self.giving(&handles);
        let pushes = giving.foreign;
        self.start_foreign(
            &handles,
            &receivers.udp,
            &reading,
            pushes,
            (&changes.0, &stopping),
        );
        let parts = LoopParts {
            persister: Persister::start(kept.store, keyring_files, generation),
            shares: self.contents.shares().clone(),
            vacated: VacatedShares::new(self.contents.shares().former_numbers()),
            changes: changes.0.clone(),
            stopped,
            unstored: unstored.clone(),
            foreign: self.config.foreign.clone(),
            mailbox: giving.courier.mailbox.clone(),
        };
        self.answer_beside(&handles, giving.pushes);
        let (catalogue, addresses) = (kept.catalogue, &kept.addresses);
        let machine = self.machine(catalogue, keyring, address, generation, addresses);
        let event_loop = EventLoop::new(machine, handles.clone(), parts);
        let senders = SenderLookup::new(giving.inboxes.clone(), self.contents.clone());
        receivers.shares = senders.add_senders(receivers.shares);
        receivers.feed(
            event_loop,
            fetches,
            read_ends,
            lan_events,
            command_queue,
            deletion_queue,
        );
        let cache_check = check_cache(self.contents.cache().clone(), stopping.clone());
        let channels = NodeChannels {
            commands,
            deletions,
            control: LoopControl {
                stopping,
                unstored,
                lan: Mutex::new(lan),
                cache_check: Mutex::new(Some(cache_check)),
                changes: Some(changes.1),
            },
            inboxes: giving.inboxes,
        };
        self.into_node(handles, channels, reading, giving.courier)
    }

    /// Starts the peers of another protocol, if there are any.
    fn start_foreign(
        &self,
        handles: &NodeHandles,
        udp: &UdpPort,
        reading: &Reading,
        pushes: ForeignPushes,
        (changes, stopping): (&mpsc::Sender<Outdated>, &watch::Receiver<bool>),
    ) {
        let Some(foreign) = &self.config.foreign else {
            return;
        };
        foreign.start(ForeignHost {
            me: self.key.node_id(),
            name: self.config.name.clone(),
            address: **handles.published.own_address.load(),
            udp: udp.clone(),
            net: self.net.clone(),
            offers: self.offers(&handles.published),
            reads: self.foreign_reads(reading),
            pushes,
            traffic: foreign_traffic(handles),
            events: handles.events.clone(),
            changes: changes.clone(),
            stopping: stopping.clone(),
        });
    }

    /// Answers requests of peers beside the event loop.
    fn answer_beside(&self, handles: &NodeHandles, pushes: Pushes) {
        let (server, floods) = (&handles.server, FloodMeter::new(&handles.events));
        let answer = answer_beside(server, &handles.traffic.sent, pushes, floods);
        self.net.set_answer_beside(answer);
    }

    /// Returns how a foreign protocol reads the contents of this node.
    fn foreign_reads(&self, reading: &Reading) -> ForeignReads {
        ForeignReads {
            opener: reading.opener.clone(),
            deadline: self.config.read_deadline,
        }
    }

    /// Returns the access to what this node knows of its cluster.
    fn trust(&self) -> &TrustReader {
        self.ledger.reader()
    }

    /// Returns the parts that the handle and the event loop share, and the events of the fetcher.
    fn handles(&self, published: Published) -> (NodeHandles, mpsc::Receiver<FetchEvent>) {
        let (fetcher, fetches) = self.start_fetcher(&published);
        let events = EventLog::default();
        let names = Names::new(published.view.clone(), self.trust().clone());
        refused_joins::watch(&self.net, &events, &names);
        let handles = NodeHandles {
            net: self.net.clone(),
            server: Server::new(self.contents.clone(), ServerLimits::default()),
            fetcher,
            offenders: Offenders::watch(&self.net, &events, names.clone(), published.clone()),
            published,
            names,
            events,
            traffic: Traffic::default(),
        };
        (handles, fetches)
    }

    /// Starts the sides that give and take files.
    fn giving(&self, handles: &NodeHandles) -> GivingSides {
        giving::start(
            &self.config.giving,
            &GivingContext {
                me: self.key.node_id(),
                handles,
                trust: self.trust(),
                foreign: self.config.foreign.as_ref(),
            },
        )
    }

    /// Returns the handle of the node, and starts to follow the addresses of this machine.
    fn into_node(
        self,
        handles: NodeHandles,
        channels: NodeChannels,
        reading: Reading,
        sender: FileSender,
    ) -> Node {
        let NodeChannels {
            commands,
            deletions,
            control,
            inboxes,
        } = channels;
        let (configured, bound) = (self.config.network.advertise, self.net.local_addr());
        let advertised = **handles.published.own_address.load();
        address::follow(configured, bound, advertised, &commands);
        let commands = CommandSender::new(commands);
        let nearby = control.lan.lock().as_ref().map(Lan::announced_nodes);
        let pins = self.pins(&handles, reading);
        let trust = self.trust().clone();
        let membership = NodeMembership {
            name: self.config.name,
            secret_file: self.config.secret_file,
            key: self.key,
            ledger: self.ledger,
            invites: self.invites,
            shares: self.contents.shares().clone(),
            net: self.net,
            published: handles.published.clone(),
            commands: commands.clone(),
        };
        let keeper = NodeKeeper {
            me: membership.key.node_id(),
            settings: Arc::new(self.config.keep),
            pins: pins.clone(),
            commands: commands.clone(),
            report: Arc::default(),
        };
        let shares = NodeShares {
            set: self.contents.shares().clone(),
            server: handles.server.clone(),
            trust,
        };
        let health = NodeHealth {
            state_dir: OwnDirectory::new(self.state.path()),
            state: self.state,
            cache_dir: OwnDirectory::new(self.contents.cache().dir()),
            cache: self.contents.cache().clone(),
            shares: shares.clone(),
            inboxes,
            published: handles.published.clone(),
            events: handles.events.clone(),
        };
        Node {
            membership,
            pins,
            keeper,
            shares,
            deletions,
            peers: NodePeers {
                commands,
                handles: handles.clone(),
                nearby,
            },
            traffic: NodeTraffic { handles },
            messenger: Messenger::new(sender),
            health,
            control,
        }
    }

    /// Returns the pins, with the cache, the files and the names that they use.
    fn pins(&self, handles: &NodeHandles, reading: Reading) -> NodePins {
        let store = &self.contents;
        let names = NameLookup {
            me: self.key.node_id(),
            published: handles.published.clone(),
            foreign: self.config.foreign.clone(),
            labels: handles.names.clone(),
            store: store.clone(),
            fetcher: handles.fetcher.clone(),
            events: handles.events.clone(),
        };
        let cache = NodeCache {
            store: store.clone(),
            batches: reading.batches,
            fetcher: handles.fetcher.clone(),
            view: handles.published.view.clone(),
        };
        let files = FileAccess {
            names,
            store: store.clone(),
            opener: reading.opener,
            namespace: reading.namespace,
            fetcher: handles.fetcher.clone(),
        };
        NodePins {
            store: store.clone(),
            cache,
            files,
            changed: watch::Sender::default(),
        }
    }

    /// Returns the parts through which this machine reads contents, and the ends of their reads.
    fn reading(
        &self,
        handles: &NodeHandles,
        deletions: &Deletions,
        changes: &mpsc::Sender<Outdated>,
    ) -> (Reading, mpsc::Receiver<ReadEnd>) {
        let (read_ends, read_ends_queue) = mpsc::channel(READ_ENDS_MAX);
        let (published, fetcher) = (&handles.published, &handles.fetcher);
        let holders = holders_of(published, self.key.node_id());
        let (net, store) = (self.net.clone(), self.contents.clone());
        let batches = Batches::new(net, store.clone(), holders, fetcher.clone());
        let watch = NodeReadWatch::new(
            published.view.clone(),
            handles.events.clone(),
            fetcher.clone(),
            read_ends,
            changes.clone(),
        );
        let remote = FetchedBytes {
            fetcher: fetcher.clone(),
            batches: batches.clone(),
        };
        let (remote, watch) = (Arc::new(remote), Arc::new(watch));
        let opener = ContentOpener::new(store.clone(), remote, watch, self.config.read_deadline);
        let namespace = Arc::new(NodeNamespace {
            names: handles.names.clone(),
            published: published.clone(),
            store,
            opener: opener.clone(),
            fetcher: fetcher.clone(),
            batches: batches.clone(),
            foreign: self.config.foreign.clone(),
            writing: MountWriting::new(deletions.clone(), self.config.writing.clone()),
        });
        let reading = Reading {
            opener,
            namespace,
            batches,
        };
        (reading, read_ends_queue)
    }

    /// Returns the parts of the node that decide which files are offered to foreign peers.
    fn offers(&self, published: &Published) -> OfferSources {
        OfferSources {
            view: published.view.clone(),
            addresses: published.addresses.clone(),
            contents: self.contents.clone(),
        }
    }

    fn start_fetcher(&self, published: &Published) -> (Fetcher, mpsc::Receiver<FetchEvent>) {
        let mut config = FetchConfig::new(random_seed());
        config.plan.me = self.key.node_id();
        let holders = holders_of(published, self.key.node_id());
        Fetcher::new(config, self.net.clone(), self.contents.clone(), holders)
    }

    fn machine(
        &self,
        catalogue: Catalogue,
        keyring: Keyring,
        advertised: SocketAddr,
        generation: Generation,
        remembered: &[SocketAddr],
    ) -> Machine {
        let seeds = self
            .config
            .network
            .seeds
            .iter()
            .chain(remembered)
            .copied()
            .collect();
        let cluster = ClusterConfig {
            seeds,
            away_grace: self.config.away_grace,
            ..ClusterConfig::probing_every(self.config.probe_period)
        };
        let config = MachineConfig {
            key: self.key.clone(),
            name: self.config.name.clone(),
            advertised,
            generation,
            keyring,
            cluster,
            seed: random_seed(),
        };
        let mut machine = Machine::new(config, catalogue, Instant::now());
        machine
            .own()
            .align_haves(Instant::now(), &self.contents.cache().complete());
        machine
    }
}

fn share_config(config: &NodeConfig, catalogue: &Catalogue) -> ShareConfig {
    let mut shares = ShareConfig::new(&config.state_dir);
    shares.refuse_beneath.clone_from(&config.refuse_beneath);
    shares.allow_beneath.clone_from(&config.allow_beneath);
    shares.refuse_beneath.push(config.cache.dir.clone());
    let giving = &config.giving;
    let inboxes = [&giving.inbox, &giving.foreign_inbox].into_iter().flatten();
    shares.inboxes = inboxes.map(|inbox| inbox.dir.clone()).collect();
    shares.known = catalogue
        .own()
        .all_entries()
        .map(|(share, path, entry)| Known { share, path, entry })
        .collect();
    shares
}

fn start_lan(config: &NodeConfig, bound: SocketAddr) -> (Option<Lan>, mpsc::Receiver<LanEvent>) {
    if config.network.mdns && !bound.ip().is_loopback() {
        let (lan, events) = Lan::start(bound);
        return (Some(lan), events);
    }
    (None, mpsc::channel(1).1)
}
