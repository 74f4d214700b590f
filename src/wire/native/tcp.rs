//! Length-limited frames of the native plane's TCP side.
