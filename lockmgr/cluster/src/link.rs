//! A link to one peer: reliable, ordered, exactly once, as long as both are members.
