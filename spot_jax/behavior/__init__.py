"""Behaviour policies: trained here, shipped as arrays, they make the datasets."""
