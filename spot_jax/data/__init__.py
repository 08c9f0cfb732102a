"""Minari and HDF5 in, packed transitions out; how datasets are kept."""
