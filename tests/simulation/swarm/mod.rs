//! Swarms in virtual time: nodes that fetch files from holders and from each other, each with the
//! daemon's own fetch machine, over links with a rate, a queue, a delay and loss.
//!
//! Contents and proofs are real: readers compare their bytes, and a lie is a proof with a changed
//! byte. Caches have a budget and may be smaller than the files. Nodes pin, fill, cancel, die,
//! return with their caches, lie, fall silent, pause and are slow. The cost of each call of a
//! machine is counted. `world` has the nodes and the time, `node` is one of them, `disk` its cache.
//! The other modules are promises. `P2PFS_SEEDS` changes the number of schedules, and a failure
//! names its seed.

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
