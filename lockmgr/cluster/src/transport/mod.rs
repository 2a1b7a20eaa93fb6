//! How frames travel between nodes.
