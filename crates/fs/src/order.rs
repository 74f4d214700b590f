//! The files of a directory in the orders in which programs read them.

/// Maximum files of a directory with a known order. In a larger directory no file is requested
/// ahead.
pub(crate) const DIRECTORY_MAX_FILES: usize = 16_384;

/// Number of orders.
pub(super) const ORDERS: usize = 3;

/// An order of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortKey {
    /// By name.
    Name = 0,
    /// By inode number. Some programs sort files in this way, because a hard disk then seeks less.
    Number = 1,
    /// By the cookie of a listing.
    Listing = 2,
}

impl SortKey {
    /// All orders.
    pub(crate) const ALL: [Self; ORDERS] = [Self::Name, Self::Number, Self::Listing];
}

/// A file of a directory. `T` is a file to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrderedFile<T> {
    pub name: Box<[u8]>,
    /// Its inode number.
    pub number: u64,
    /// Its cookie in a listing.
    pub cookie: u64,
    pub size_bytes: u64,
    /// The file to request. `None` if a request is not worthwhile.
    pub ask: Option<T>,
}

/// The files of a directory in each order.
#[derive(Debug)]
pub(super) struct FileOrders<T> {
    by_name: Vec<OrderedFile<T>>,
    by_number: Sorted,
    by_listing: Sorted,
}

/// An order other than by name.
#[derive(Debug)]
struct Sorted {
    /// Positions in the order of names.
    places: Vec<usize>,
    /// The inverse of `places`: the rank of each position.
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

impl<T> FileOrders<T> {
    /// Creates the orders. `files` are sorted by name.
    pub(crate) fn new(files: Vec<OrderedFile<T>>) -> Self {
        let sorted = |key: fn(&OrderedFile<T>) -> u64| {
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

    /// Returns the positions of a name in each order of [`SortKey::ALL`].
    pub(crate) fn places(&self, name: &[u8]) -> Option<[usize; ORDERS]> {
        let found = self.by_name.binary_search_by(|file| (*file.name).cmp(name));
        let place = found.ok()?;
        Some([
            place,
            self.by_number.ranks[place],
            self.by_listing.ranks[place],
        ])
    }

    /// Returns the file at a position of one of the orders.
    pub(crate) fn at(&self, by: SortKey, place: usize) -> Option<&OrderedFile<T>> {
        let place = match by {
            SortKey::Name => place,
            SortKey::Number => *self.by_number.places.get(place)?,
            SortKey::Listing => *self.by_listing.places.get(place)?,
        };
        self.by_name.get(place)
    }

    /// Returns the positions in the order of names, sorted by another order.
    #[cfg(test)]
    pub(crate) fn in_order(&self, by: SortKey) -> Vec<usize> {
        match by {
            SortKey::Name => (0..self.len()).collect(),
            SortKey::Number => self.by_number.places.clone(),
            SortKey::Listing => self.by_listing.places.clone(),
        }
    }
}
