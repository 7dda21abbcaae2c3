//! E2, E3: vaults and state directories that two machines use.
