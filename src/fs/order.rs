//! The files of a directory in the orders in which programs read them.

/// The largest directory whose order is known; in a larger one nothing is asked for.
pub const DIRECTORY_MAX_FILES: usize = 16_384;

/// Which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Of the names, as a listing has them.
    Name = 0,
    /// Of the inodes' numbers, as programs sort them for the sake of disks.
    Number = 1,
}

/// A file of a directory. `T` is what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed<T> {
    pub name: Box<[u8]>,
    /// Its inode's number.
    pub number: u64,
    pub size_bytes: u64,
    /// What to ask for; nothing where it is not worth it.
    pub ask: Option<T>,
}

/// The files of a directory in both orders.
#[derive(Debug)]
pub(super) struct Order<T> {
    by_name: Vec<Listed<T>>,
    /// Places in `by_name`, by the numbers.
    by_number: Vec<usize>,
    /// The place in `by_number` of each of `by_name`.
    ranks: Vec<usize>,
}

impl<T> Order<T> {
    /// `files` are in the order of their names.
    pub fn new(files: Vec<Listed<T>>) -> Self {
        let mut by_number: Vec<usize> = (0..files.len()).collect();
        by_number.sort_unstable_by_key(|place| files[*place].number);
        let mut ranks = vec![0; files.len()];
        for (rank, place) in by_number.iter().enumerate() {
            ranks[*place] = rank;
        }
        Self {
            by_name: files,
            by_number,
            ranks,
        }
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The places of a name in both orders.
    pub fn places(&self, name: &[u8]) -> Option<[usize; 2]> {
        let found = self.by_name.binary_search_by(|file| (*file.name).cmp(name));
        let place = found.ok()?;
        Some([place, self.ranks[place]])
    }

    /// The file at a place of one of the orders.
    pub fn at(&self, by: By, place: usize) -> Option<&Listed<T>> {
        match by {
            By::Name => self.by_name.get(place),
            By::Number => self.by_name.get(*self.by_number.get(place)?),
        }
    }

    /// The file at a place of the order of names.
    #[cfg(test)]
    pub fn by_name(&self, place: usize) -> &Listed<T> {
        &self.by_name[place]
    }

    /// The places in the order of names, in another order.
    #[cfg(test)]
    pub fn in_order(&self, by: By) -> Vec<usize> {
        match by {
            By::Name => (0..self.len()).collect(),
            By::Number => self.by_number.clone(),
        }
    }
}
