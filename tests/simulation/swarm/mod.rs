//! Swarms in virtual time: nodes that fetch files from those that have them and from each other,
//! each by the daemon's own fetch machine, over links that have a rate, a queue, a delay and loss.
//!
//! Contents are real, and so are their proofs: what a reader is given is compared, and a lie is a
//! proof with a byte changed. Caches have a budget, and may be smaller than what is read; nodes
//! pin, fill, cancel, die, come back with what their caches hold, lie, fall silent, pause and are
//! slow. What a call of a machine costs is counted. `world` is the nodes and the time, `node` one
//! of them, `disk` its cache; the other modules are promises. `P2PFS_SEEDS` asks for another number
//! of schedules, and a failure names its seed.

mod causes;
mod chaos;
mod crowded;
mod disk;
mod figures;
mod late;
mod node;
mod one_to_many;
mod sizes;
mod world;
