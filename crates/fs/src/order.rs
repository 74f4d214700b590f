//! The files of a directory in the orders in which programs read them.

/// The largest directory whose order is known; in a larger one nothing is asked for.
pub(crate) const DIRECTORY_MAX_FILES: usize = 16_384;

/// How many orders there are.
pub(super) const ORDERS: usize = 3;

/// Which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Of the names.
    Name = 0,
    /// Of the inodes' numbers, as programs sort them for the sake of disks.
    Number = 1,
    /// As a listing gives them.
    Listing = 2,
}

impl By {
    /// All of them.
    pub(crate) const ALL: [Self; ORDERS] = [Self::Name, Self::Number, Self::Listing];
}

/// A file of a directory. `T` is what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed<T> {
    pub name: Box<[u8]>,
    /// Its inode's number.
    pub number: u64,
    /// Its place in a listing.
    pub cookie: u64,
    pub size_bytes: u64,
    /// What to ask for; nothing where it is not worth it.
    pub ask: Option<T>,
}

/// The files of a directory in each order.
#[derive(Debug)]
pub(super) struct Order<T> {
    by_name: Vec<Listed<T>>,
    by_number: Sorted,
    by_listing: Sorted,
}

/// Another order than that of the names.
#[derive(Debug)]
struct Sorted {
    /// Places in the order of names.
    places: Vec<usize>,
    /// The place in `places` of each of these.
    ranks: Vec<usize>,
}

impl Sorted {
    fn new(keys: &[u64]) -> Self {
        let mut places: Vec<usize> = (0..keys.len()).collect();
        places.sort_unstable_by_key(|place| keys[*place]);
        let mut ranks = vec![0; keys.len()];
        for (rank, place) in places.iter().enumerate() {
            ranks[*place] = rank;
        }
        Self { places, ranks }
    }
}

impl<T> Order<T> {
    /// `files` are in the order of their names.
    pub(crate) fn new(files: Vec<Listed<T>>) -> Self {
        let sorted = |key: fn(&Listed<T>) -> u64| {
            let keys: Vec<u64> = files.iter().map(key).collect();
            Sorted::new(&keys)
        };
        Self {
            by_number: sorted(|file| file.number),
            by_listing: sorted(|file| file.cookie),
            by_name: files,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The places of a name in each order, as [`By::ALL`] has them.
    pub(crate) fn places(&self, name: &[u8]) -> Option<[usize; ORDERS]> {
        let found = self.by_name.binary_search_by(|file| (*file.name).cmp(name));
        let place = found.ok()?;
        Some([
            place,
            self.by_number.ranks[place],
            self.by_listing.ranks[place],
        ])
    }

    /// The file at a place of one of the orders.
    pub(crate) fn at(&self, by: By, place: usize) -> Option<&Listed<T>> {
        let place = match by {
            By::Name => place,
            By::Number => *self.by_number.places.get(place)?,
            By::Listing => *self.by_listing.places.get(place)?,
        };
        self.by_name.get(place)
    }

    /// The places in the order of names, in another order.
    #[cfg(test)]
    pub(crate) fn in_order(&self, by: By) -> Vec<usize> {
        match by {
            By::Name => (0..self.len()).collect(),
            By::Number => self.by_number.places.clone(),
            By::Listing => self.by_listing.places.clone(),
        }
    }
}
