"""Hosts, switches, cables and bonds as a value, loaded from TOML and checked before anything is built."""
